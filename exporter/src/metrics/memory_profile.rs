//! What the memory profile found: a line in the log after each [`REPORT_SPANS`] spans that are in it.

use std::fmt::Write;

use spanring::export::MEMORY_GROWTH;
use spanring::record::{Records, ValueRef};
use spanring::settings::LogLevel;

use crate::log;

const REPORT_SPANS: u64 = 100;
/// A mean growth beyond which the line is a warning.
const MEAN_WARNS: i64 = 1 << 20;
/// Growth beyond which a span is named.
const NAMED: i64 = 2 << 20;
/// Spans that one line names.
const NAMED_MAX: usize = 10;
const MIB: f64 = (1 << 20) as f64;

/// Spans since the last report.
#[derive(Debug, Default)]
pub(crate) struct MemoryProfile {
    spans: u64,
    sum: i64,
    max: i64,
    /// Those that grew most, the most first.
    named: Vec<(i64, String)>,
    /// How many exceed [`NAMED`].
    above: u64,
}

impl MemoryProfile {
    pub(crate) fn add(&mut self, records: &Records) {
        for record in records.iter() {
            let growth = record.items().attributes().find(|(key, _)| key.as_str() == MEMORY_GROWTH);
            let Some((_, ValueRef::Int(growth))) = growth else { continue };
            if let Some((level, line)) = self.add_span(record.name().as_str(), growth) {
                log::write_asked(level, format_args!("{line}"));
            }
        }
    }

    /// The report, if one is due now.
    fn add_span(&mut self, name: &str, growth: i64) -> Option<(LogLevel, String)> {
        self.max = if self.spans == 0 { growth } else { self.max.max(growth) };
        self.spans += 1;
        self.sum = self.sum.saturating_add(growth);
        if growth > NAMED {
            self.above += 1;
            let at = self.named.partition_point(|(known, _)| *known >= growth);
            self.named.insert(at, (growth, name.to_owned()));
            self.named.truncate(NAMED_MAX);
        }
        if self.spans < REPORT_SPANS {
            return None;
        }
        Some(std::mem::take(self).report())
    }

    fn report(&self) -> (LogLevel, String) {
        let mean = self.sum / self.spans as i64;
        let mib = |bytes: i64| bytes as f64 / MIB;
        let mut line = format!(
            "memory profile: during the last {} spans in it the process's memory grew by {:.2} MiB in the mean, {:.2} MiB at most",
            self.spans,
            mib(mean),
            mib(self.max)
        );
        for (number, (growth, name)) in self.named.iter().enumerate() {
            let begin = if number == 0 { "; by more than 2 MiB: " } else { ", " };
            let _ =
                write!(line, "{begin}{} ({:.1} MiB)", crate::render::printable(name), mib(*growth));
        }
        if self.above > self.named.len() as u64 {
            let _ = write!(line, " and {} more", self.above - self.named.len() as u64);
        }
        if mean > MEAN_WARNS {
            line.push_str("; a mean above 1 MiB is much: look for what these spans keep");
            return (LogLevel::Warn, line);
        }
        (LogLevel::Info, line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_that_shrinks_is_less_than_nothing() {
        let mut profile = MemoryProfile::default();
        let report = (0..100).find_map(|n| profile.add_span("shrinks", (n - 200) << 20)).unwrap();
        let says = "grew by -150.50 MiB in the mean, -101.00 MiB at most";
        assert!(report.0 == LogLevel::Info && report.1.ends_with(says), "{report:?}");
    }

    proptest! {
        // A failure prints its input; files of old failures beside the sources would only go stale.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_report_says_what_a_slow_count_finds(
            growths in prop::collection::vec(prop_oneof![-1i64 << 30..1 << 30, 0i64..3 << 20], 0..350),
        ) {
            let mut profile = MemoryProfile::default();
            let mut reports = Vec::new();
            for (number, growth) in growths.iter().enumerate() {
                reports.extend(profile.add_span(&format!("span {number}"), *growth));
            }
            let expected = growths.as_chunks::<100>().0.iter().enumerate();
            prop_assert_eq!(reports.len(), expected.len());
            for ((chunk, growths), (level, line)) in expected.zip(reports) {
                let mean = growths.iter().sum::<i64>() / 100;
                prop_assert_eq!(level == LogLevel::Warn, mean > 1_048_576);
                prop_assert_eq!(line.contains("a mean above 1 MiB"), mean > 1_048_576);
                let mib = |bytes: i64| bytes as f64 / 1_048_576.0;
                let (mean, most) = (mib(mean), mib(*growths.iter().max().unwrap()));
                let says = format!("the last 100 spans in it the process's memory grew by {mean:.2} MiB in the mean, {most:.2} MiB at most");
                prop_assert!(line.contains(&says), "{} {}", line, says);
                let mut above: Vec<_> = growths.iter().zip(chunk * 100..).filter(|(growth, _)| **growth > 2_097_152).collect();
                above.sort_by_key(|(growth, _)| -**growth);
                for (growth, number) in above.iter().take(10) {
                    let named = format!("span {number} ({:.1} MiB)", mib(**growth));
                    prop_assert!(line.contains(&named), "{} {}", line, named);
                }
                prop_assert_eq!(line.matches("span ").count(), above.len().min(10));
                prop_assert_eq!(line.contains("more;") || line.ends_with("more"), above.len() > 10);
            }
        }
    }
}
