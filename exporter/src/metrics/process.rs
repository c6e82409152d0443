//! What the operating system says of the process.

use std::time::{Duration, Instant};

use super::CpuShare;

/// Resident memory in bytes; `None` where the system does not tell.
pub(crate) fn memory() -> Option<u64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Processor time of the process, all its threads.
pub(crate) fn cpu_time() -> Option<Duration> {
    crate::thread::cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Processor time that was used up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuSample {
    pub(crate) at: Instant,
    pub(crate) flusher: Duration,
    pub(crate) process: Duration,
}

/// How short a time a share may be of.
const SHARE_MIN: Duration = Duration::from_secs(1);

/// The last two samples that are a second apart or more.
#[derive(Debug)]
pub(crate) struct CpuShares {
    before: CpuSample,
    last: CpuSample,
}

impl CpuShares {
    pub(crate) fn new(first: CpuSample) -> Self {
        CpuShares { before: first, last: first }
    }

    /// The share up to `now`.
    pub(crate) fn share(&mut self, now: CpuSample) -> CpuShare {
        if now.at.saturating_duration_since(self.last.at) >= SHARE_MIN {
            (self.before, self.last) = (self.last, now);
        }
        let over = now.at.saturating_duration_since(self.before.at);
        let flusher = now.flusher.saturating_sub(self.before.flusher).as_secs_f64();
        let process = now.process.saturating_sub(self.before.process).as_secs_f64();
        let part = |of: f64| if of > 0.0 { (flusher / of).min(1.0) } else { 0.0 };
        CpuShare { of_process: part(process), of_core: part(over.as_secs_f64()), over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_last_second_or_longer() {
        let begin = Instant::now();
        let sample = |at: f64, flusher: f64, process: f64| CpuSample {
            at: begin + Duration::from_secs_f64(at),
            flusher: Duration::from_secs_f64(flusher),
            process: Duration::from_secs_f64(process),
        };
        let mut shares = CpuShares::new(sample(0.0, 0.0, 8.0));
        let mut share = |at, flusher, process| {
            let share = shares.share(sample(at, flusher, process));
            (share.of_process, share.of_core, share.over.as_secs_f64())
        };
        assert_eq!(share(0.5, 0.125, 8.25), (0.5, 0.25, 0.5));
        // A second: the next ones are of what comes after the first sample, until there is another second.
        assert_eq!(share(1.0, 0.5, 10.0), (0.25, 0.5, 1.0));
        assert_eq!(share(1.5, 0.75, 11.0), (0.25, 0.5, 1.5));
        assert_eq!(share(2.0, 1.0, 11.0), (0.5, 0.5, 1.0));
        assert_eq!(share(4.0, 1.0, 12.0), (0.0, 0.0, 2.0));
        assert_eq!(share(8.0, 1.0, 12.0), (0.0, 0.0, 4.0));
        // What is used cannot be more than there is, whatever two clocks say.
        assert_eq!(share(10.0, 9.0, 13.0), (1.0, 1.0, 2.0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_is_used_is_seen() {
        let before = super::memory().unwrap();
        let used = vec![1u8; 64 << 20];
        let after = super::memory().unwrap();
        // Other tests may give memory back meanwhile.
        assert!(after > before + (48 << 20), "{before} {after}");
        drop(used);
    }
}
