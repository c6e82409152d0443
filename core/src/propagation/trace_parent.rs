//! The `traceparent` header of W3C Trace Context level 2.
//!
//! Reading follows the version that the header names, as far as it is known; writing is always in
//! version 00, the highest there is. Flags that version 00 does not define are cleared both ways, as
//! it demands: what they will mean is not ours to pass on.

use std::fmt;
use std::ops::Range;

use super::{PropagationError, TRACEPARENT};
use crate::context::TraceFlags;
use crate::id::{SpanId, TraceId};

const VERSION: Range<usize> = 0..2;
const TRACE_ID: Range<usize> = 3..35;
const SPAN_ID: Range<usize> = 36..52;
const FLAGS: Range<usize> = 53..55;
/// Length of a header of version 00, in bytes, and of what all later versions begin with.
const LENGTH: usize = FLAGS.end;
const VERSION_FORBIDDEN: u8 = 0xff;
const FLAGS_DEFINED: u8 = TraceFlags::SAMPLED.0 | TraceFlags::RANDOM.0;

/// What a `traceparent` header says: which span of which trace the request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The version that the header named; it is always written as 00.
    pub version: u8,
    /// The trace.
    pub trace_id: TraceId,
    /// The caller's span (`parent-id`), the parent of spans made for the request.
    pub span_id: SpanId,
    /// Sampled and random; parsing clears the other bits, and so does printing.
    pub flags: TraceFlags,
}

impl TraceParent {
    /// A header of version 00.
    pub fn new(trace_id: TraceId, span_id: SpanId, flags: TraceFlags) -> Self {
        TraceParent { version: 0, trace_id, span_id, flags }
    }

    /// Parses a header's value; blanks around it must have been taken off.
    ///
    /// A version above 00 is read as far as 00 goes, if it goes on with `-` or not at all.
    ///
    /// # Errors
    ///
    /// Version ff, a wrong length, anything but lower-case hexadecimal digits in a field, anything
    /// but `-` between fields, an ID of zeros.
    ///
    /// ```
    /// use spanring::propagation::TraceParent;
    ///
    /// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// assert_eq!(TraceParent::parse(header)?.to_string(), header);
    ///
    /// let error = TraceParent::parse(&header.to_uppercase()).unwrap_err();
    /// assert!(error.to_string().starts_with("traceparent, byte 4 ('B'): not a lower-case"));
    /// # Ok::<(), spanring::propagation::PropagationError>(())
    /// ```
    pub fn parse(header: &str) -> Result<Self, PropagationError> {
        let fail = |at, problem| Err(PropagationError::new(TRACEPARENT, header, at, problem));
        let bytes = header.as_bytes();
        if bytes.len() < LENGTH {
            return fail(bytes.len(), "shorter than the 55 bytes of version 00; start a new trace");
        }
        for field in [VERSION, TRACE_ID, SPAN_ID, FLAGS] {
            if let Some(offset) = bytes[field.clone()].iter().position(|&b| !is_hex_lower(b)) {
                let problem = "not a lower-case hexadecimal digit; start a new trace";
                return fail(field.start + offset, problem);
            }
            match bytes.get(field.end) {
                Some(b'-') | None => {}
                Some(_) => return fail(field.end, "not the '-' after a field; start a new trace"),
            }
        }
        // All digits are ASCII, so the ranges fall between characters.
        let byte = |field| u8::from_str_radix(&header[field], 16).expect("two checked digits");
        let version = byte(VERSION);
        if version == VERSION_FORBIDDEN {
            return fail(VERSION.start, "version ff is forbidden; start a new trace");
        }
        if version == 0 && bytes.len() > LENGTH {
            return fail(LENGTH, "more than the 55 bytes of version 00; start a new trace");
        }
        let Some(trace_id) = TraceId::from_hex(&header[TRACE_ID]) else {
            return fail(TRACE_ID.start, "the trace ID is all zeros; start a new trace");
        };
        let Some(span_id) = SpanId::from_hex(&header[SPAN_ID]) else {
            return fail(SPAN_ID.start, "the parent's span ID is all zeros; start a new trace");
        };
        Ok(TraceParent {
            version,
            trace_id,
            span_id,
            flags: TraceFlags(byte(FLAGS) & FLAGS_DEFINED),
        })
    }
}

impl fmt::Display for TraceParent {
    /// The header's value in version 00, 55 bytes. One with an ID of zeros does not parse.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags.0 & FLAGS_DEFINED)
    }
}

fn is_hex_lower(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-12345678901234567890123456789012-1234567890123456-01";

    fn with_byte(at: usize, byte: u8) -> String {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = byte;
        String::from_utf8(bytes).expect("ASCII")
    }

    fn error_byte(header: &str) -> usize {
        TraceParent::parse(header).expect_err(header).at_byte()
    }

    #[test]
    fn every_field_is_read_from_its_place() {
        let parent = TraceParent::parse(GOOD).expect("it is valid");
        assert_eq!(parent.version, 0);
        assert_eq!(parent.trace_id, TraceId(0x1234_5678_9012_3456_7890_1234_5678_9012));
        assert_eq!(parent.span_id, SpanId(0x1234_5678_9012_3456));
        assert_eq!(parent.flags, TraceFlags::SAMPLED);
    }

    #[test]
    fn any_byte_that_is_not_lower_case_hex_or_its_dash_is_refused_where_it_stands() {
        for at in 0..LENGTH {
            for byte in *b".G-F g/:`@" {
                let dash = [2, 35, 52].contains(&at);
                if dash && byte == b'-' {
                    continue;
                }
                assert_eq!(error_byte(&with_byte(at, byte)), at, "byte {at} is {byte}");
            }
        }
    }

    #[test]
    fn fields_that_are_too_long_or_too_short_are_refused() {
        let (trace, span) = ("12345678901234567890123456789012", "1234567890123456");
        for bad in [
            format!("000-{trace}-{span}-01"),
            format!("0000-{trace}-{span}-01"),
            format!("0-{trace}-{span}-01"),
            format!("00-{trace}3-{span}-01"),
            format!("00-{}-{span}-01", &trace[1..]),
            format!("00-{trace}-{span}7-01"),
            format!("00-{trace}-{}-01", &span[1..]),
            format!("00-{trace}-{span}-001"),
            format!("00-{trace}-{span}-1"),
            format!("00-{trace}-{span}-"),
            format!(" 00-{trace}-{span}-01"),
            format!("cc-{trace}-{span}-001"),
            format!("cc-{trace}-{span}-1-0"),
            String::new(),
        ] {
            assert!(TraceParent::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_proper_prefix_is_refused() {
        for length in 0..LENGTH {
            assert_eq!(error_byte(&GOOD[..length]), length);
        }
    }

    #[test]
    fn ids_of_zeros_are_refused() {
        let zero = |ids: Range<usize>| {
            let mut header = GOOD.to_owned();
            header.replace_range(ids.clone(), &"0".repeat(ids.len()));
            header
        };
        assert_eq!(error_byte(&zero(TRACE_ID)), TRACE_ID.start);
        assert_eq!(error_byte(&zero(SPAN_ID)), SPAN_ID.start);
    }

    #[test]
    fn version_00_ends_after_the_flags() {
        assert_eq!(error_byte(&format!("{GOOD}.")), LENGTH);
        assert_eq!(error_byte(&format!("{GOOD}-")), LENGTH);
        assert_eq!(error_byte(&format!("{GOOD}-what-the-future-will-be-like")), LENGTH);
    }

    #[test]
    fn later_versions_may_go_on_after_a_dash_and_are_written_as_00() {
        for version in ["01", "cc", "fe"] {
            let base = format!("{version}{}", &GOOD[2..]);
            for header in [base.clone(), format!("{base}-"), format!("{base}-what-Future-ü")] {
                let parent = TraceParent::parse(&header).expect(&header);
                assert_eq!(format!("{:02x}", parent.version), version);
                assert_eq!(parent.to_string(), GOOD);
            }
            assert_eq!(error_byte(&format!("{base}.what-the-future-will-be-like")), LENGTH);
        }
    }

    #[test]
    fn version_ff_is_refused() {
        assert_eq!(error_byte(&format!("ff{}", &GOOD[2..])), 0);
        assert_eq!(error_byte(&format!("ff{}-more", &GOOD[2..])), 0);
    }

    #[test]
    fn only_sampled_and_random_survive_reading_and_writing() {
        for flags in 0..=u8::MAX {
            let header = format!("{}{flags:02x}", &GOOD[..FLAGS.start]);
            let parent = TraceParent::parse(&header).expect(&header);
            assert_eq!(parent.flags.0, flags & 3);
            assert_eq!(parent.flags.is_sampled(), flags & 1 != 0);
            assert_eq!(parent.flags.is_random(), flags & 2 != 0);
            let written = TraceParent { flags: TraceFlags(flags), ..parent }.to_string();
            assert_eq!(written, parent.to_string());
        }
    }

    #[test]
    fn text_that_is_not_ascii_is_refused_and_never_cut_inside_a_character() {
        for at in 0..LENGTH {
            let mut header = GOOD.to_owned();
            header.replace_range(at..at + 1, "é");
            assert_eq!(error_byte(&header), at);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(
            trace_id in 1u128..,
            span_id in 1u64..,
            flags in 0u8..4,
        ) {
            let parent = TraceParent::new(TraceId(trace_id), SpanId(span_id), TraceFlags(flags));
            prop_assert_eq!(TraceParent::parse(&parent.to_string()), Ok(parent));
        }

        #[test]
        fn what_parses_is_what_a_slow_reading_of_the_rules_accepts(
            header in "[0-9a-fF]{2}-[0-9a-f]{31,33}-(0{16}|[0-9a-g]{15,17})-[0-9a-f]{1,3}(|-|\\.|-.*)",
        ) {
            let parsed = TraceParent::parse(&header);
            prop_assert_eq!(parsed.is_ok(), is_valid_slowly(&header), "{:?}", parsed);
        }

        #[test]
        fn arbitrary_text_never_panics(header in "\\PC{0,80}") {
            let _ = TraceParent::parse(&header);
        }
    }

    /// The rules field by field, on a split header.
    fn is_valid_slowly(header: &str) -> bool {
        let fields: Vec<&str> = header.splitn(5, '-').collect();
        let hex = |text: &str, length: usize| {
            text.chars().count() == length && text.chars().all(|c| "0123456789abcdef".contains(c))
        };
        let nonzero = |text: &str| text.chars().any(|c| c != '0');
        let [version, trace, span, flags, rest @ ..] = &fields[..] else { return false };
        hex(version, 2)
            && *version != "ff"
            && hex(trace, 32)
            && nonzero(trace)
            && hex(span, 16)
            && nonzero(span)
            && hex(flags, 2)
            && (rest.is_empty() || *version != "00")
    }
}
