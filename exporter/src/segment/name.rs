//! Names of segment files, and how a directory's are found.
//!
//! `20220822T030102.123456789Z-<instance, 32 hex digits>-<number, 8 digits or more>.spanring`, with
//! `.part` behind it until the segment is closed. Sorted as text they are in order of creation. What
//! does not have exactly this form is never taken for a segment, whatever it holds.

use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{SegmentError, SegmentErrorKind};
use crate::sink::InstanceId;

const CLOSED_SUFFIX: &str = ".spanring";
const PART_SUFFIX: &str = ".spanring.part";

/// A segment's file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SegmentName {
    /// The name without its suffix.
    stem: String,
    closed: bool,
}

impl SegmentName {
    /// The name of a segment that was created at `created_unix_nano`, while it is written.
    pub(crate) fn new(created_unix_nano: u64, instance: InstanceId, number: u64) -> Self {
        let time = UtcTime::from_unix_nano(created_unix_nano);
        SegmentName { stem: format!("{time}-{instance}-{number:08}"), closed: false }
    }

    /// Takes a file name apart; `None` if it is not a segment's.
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, closed) = match name.strip_suffix(PART_SUFFIX) {
            Some(stem) => (stem, false),
            None => (name.strip_suffix(CLOSED_SUFFIX)?, true),
        };
        let mut parts = stem.split('-');
        let (time, instance, number) = (parts.next()?, parts.next()?, parts.next()?);
        let time_fits = time.len() == "20220822T030102.123456789Z".len()
            && time.bytes().enumerate().all(|(i, byte)| match i {
                8 => byte == b'T',
                15 => byte == b'.',
                25 => byte == b'Z',
                _ => byte.is_ascii_digit(),
            });
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let instance_fits = instance.len() == 32 && instance.bytes().all(hex);
        let number_fits =
            (8..=20).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
        (parts.next().is_none() && time_fits && instance_fits && number_fits)
            .then(|| SegmentName { stem: stem.to_owned(), closed })
    }

    /// Whether the name says that the segment was closed, so that it must have an index.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The same segment's name once it is closed.
    pub(crate) fn to_closed(&self) -> Self {
        SegmentName { stem: self.stem.clone(), closed: true }
    }

    /// The same segment's name while it is written.
    pub(crate) fn to_part(&self) -> Self {
        SegmentName { stem: self.stem.clone(), closed: false }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stem)?;
        f.write_str(if self.closed { CLOSED_SUFFIX } else { PART_SUFFIX })
    }
}

/// In order of creation.
impl Ord for SegmentName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.stem.cmp(&other.stem).then(self.closed.cmp(&other.closed))
    }
}

impl PartialOrd for SegmentName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A segment in a directory. The oldest sorts first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentPath {
    /// Its name.
    pub name: SegmentName,
    /// Where it is.
    pub path: PathBuf,
    /// Its length when it was looked for, in bytes.
    pub bytes: u64,
}

/// Lists the segments of a directory, closed and not, the oldest first.
///
/// Only regular files count, and only those whose names are segments'; a symbolic link is neither
/// followed nor listed. Directories below are left out: the spool lies in one.
///
/// # Errors
///
/// [`SegmentErrorKind::Io`] if the directory cannot be read, [`SegmentErrorKind::NoSegments`] if it
/// has none.
pub fn find_segments(directory: &Path) -> Result<Vec<SegmentPath>, SegmentError> {
    let segments = list(directory).map_err(|error| {
        SegmentError::io("cannot list the directory", &error).in_file(directory)
    })?;
    if segments.is_empty() {
        return Err(SegmentError::new(
            SegmentErrorKind::NoSegments,
            "the directory holds no segment (*.spanring, *.spanring.part)",
            "pass the directory that SPANRING_DIR names",
        )
        .in_file(directory));
    }
    Ok(segments)
}

/// As [`find_segments`], with an empty list for none.
pub(super) fn list(directory: &Path) -> io::Result<Vec<SegmentPath>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(SegmentName::parse) else { continue };
        // Of the link itself where it is one, so a link never counts as a regular file.
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                segments.push(SegmentPath { name, path: entry.path(), bytes: metadata.len() });
            }
            Ok(_) => {}
            // Renamed or deleted by its owner since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    segments.sort();
    Ok(segments)
}

/// A time in UTC, shown as `20220822T030102.123456789Z`.
struct UtcTime {
    days: u64,
    second_of_day: u64,
    nanosecond: u64,
}

impl UtcTime {
    fn from_unix_nano(unix_nano: u64) -> Self {
        let seconds = unix_nano / 1_000_000_000;
        UtcTime {
            days: seconds / 86_400,
            second_of_day: seconds % 86_400,
            nanosecond: unix_nano % 1_000_000_000,
        }
    }

    /// Year, month and day of the Gregorian calendar.
    fn date(&self) -> (u64, u64, u64) {
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
        };
        // A `u64` of ns ends in 2554, so counting years is short.
        let (mut year, mut day) = (1970, self.days);
        while day >= 365 + u64::from(is_leap(year)) {
            day -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let february = 28 + u64::from(is_leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if day < length {
                break;
            }
            day -= length;
            month += 1;
        }
        (year, month, day + 1)
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        let (hour, minute) = (self.second_of_day / 3600, self.second_of_day / 60 % 60);
        let (second, nanosecond) = (self.second_of_day % 60, self.nanosecond);
        write!(f, "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{nanosecond:09}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_show_the_time_in_utc() {
        let at = |seconds: u64| SegmentName::new(seconds * 1_000_000_000 + 7, InstanceId(1), 2);
        let rest = "-00000000000000000000000000000001-00000002.spanring.part";
        for (seconds, time) in [
            (0, "19700101T000000.000000007Z"),
            (951_782_399, "20000228T235959.000000007Z"),
            (951_782_400, "20000229T000000.000000007Z"),
            (1_709_251_200, "20240301T000000.000000007Z"),
            (1_735_689_599, "20241231T235959.000000007Z"),
            (4_107_542_400, "21000301T000000.000000007Z"),
            (18_446_744_073, "25540721T233433.000000007Z"),
        ] {
            assert_eq!(at(seconds).to_string(), format!("{time}{rest}"));
        }
    }

    #[test]
    fn names_sort_in_order_of_creation() {
        let times = [0, 999_999_999, 1_000_000_000, 86_399_000_000_000, 86_400_000_000_000];
        let later = (1..40).map(|n| n * 400_000_000_000_000_007);
        let names: Vec<String> = times
            .into_iter()
            .chain(later)
            .map(|time| SegmentName::new(time, InstanceId(u128::from(!time)), 0).to_string())
            .collect();
        assert!(names.is_sorted(), "{names:#?}");
    }

    #[test]
    fn a_name_survives_parsing_and_nothing_else_parses() {
        let part = SegmentName::new(1_661_137_262_123_456_789, InstanceId(0xabc), 42);
        assert_eq!(SegmentName::parse(&part.to_string()), Some(part.clone()));
        let closed = part.to_closed();
        assert!(closed.is_closed() && !part.is_closed());
        assert_eq!(SegmentName::parse(&closed.to_string()), Some(closed.clone()));

        let good = closed.to_string();
        let with = |from: &str, to: &str| good.replacen(from, to, 1);
        for bad in [
            String::new(),
            ".spanring".into(),
            "notes.spanring".into(),
            with(".spanring", ".spanrin"),
            with(".spanring", ".spanring.part.part"),
            with("T", "t"),
            with("2022", "2O22"),
            with("Z-", "Z-f"),
            with("abc", "ABC"),
            with("-00000042", "-0000042"),
            with("-00000042", "-00000042-1"),
            with("-00000042", "-0000004x"),
            format!("x{good}"),
            format!("{good}~"),
        ] {
            assert_eq!(SegmentName::parse(&bad), None, "{bad}");
        }
    }
}
