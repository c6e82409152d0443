//! What tracing costs a piece of work: it is run traced and untraced in turn.

use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{Duration, Instant};

use spanring::export::{Engine, EngineOptions};

/// What [`overhead`] found. Times are of the calling thread's clock on the wall: what the flusher does on its own thread is not among
/// them, unless it takes the work's core away; [`Pipeline::cpu_share`](crate::Pipeline::cpu_share) tells of it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Overhead {
    /// How often each was run.
    pub rounds: u32,
    /// How long the work took untraced, in the median.
    pub baseline: Duration,
    /// How long it took traced.
    pub traced: Duration,
    /// How much longer a traced run took than the untraced one beside it, in the median, in milliseconds; negative if it was faster.
    pub overhead_ms: f64,
    /// How far the middle half of these differences lies around it, in milliseconds. An overhead that is not larger is not
    /// to be told from chance.
    pub noise_ms: f64,
}

impl Overhead {
    /// The overhead as a part of the baseline, in percent; zero if the baseline is.
    pub fn percent(&self) -> f64 {
        self.percent_of(self.overhead_ms)
    }

    /// The noise likewise.
    pub fn noise_percent(&self) -> f64 {
        self.percent_of(self.noise_ms)
    }

    /// Whether the overhead is larger than the noise.
    pub fn is_measurable(&self) -> bool {
        self.overhead_ms.abs() > self.noise_ms
    }

    fn percent_of(&self, millis: f64) -> f64 {
        if self.baseline.is_zero() { 0.0 } else { millis / self.baseline.as_secs_f64() / 10.0 }
    }

    /// Of pairs: untraced, traced.
    fn of(pairs: &[(Duration, Duration)]) -> Self {
        let nanos = |of: fn(&(Duration, Duration)) -> f64| {
            let mut all: Vec<f64> = pairs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let at =
            |sorted: &[f64], part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
        let middle = |sorted: Vec<f64>| Duration::from_nanos(at(&sorted, 0.5) as u64);
        let differences =
            nanos(|(baseline, traced)| traced.as_nanos() as f64 - baseline.as_nanos() as f64);
        Overhead {
            rounds: pairs.len() as u32,
            baseline: middle(nanos(|(baseline, _)| baseline.as_nanos() as f64)),
            traced: middle(nanos(|(_, traced)| traced.as_nanos() as f64)),
            overhead_ms: at(&differences, 0.5) / 1e6,
            noise_ms: (at(&differences, 0.75) - at(&differences, 0.25)) / 2e6,
        }
    }
}

impl fmt::Display for Overhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "untraced {:.3} ms, traced {:.3} ms: {:+.3} ms ({:+.2} %), noise ±{:.3} ms, {} rounds",
            millis(self.baseline),
            millis(self.traced),
            self.overhead_ms,
            self.percent(),
            self.noise_ms,
            self.rounds
        )?;
        if !self.is_measurable() {
            f.write_str("; not to be told from chance")?;
        }
        Ok(())
    }
}

/// Runs `work` untraced and traced in turn, `rounds` times each (once at least) after one of each that does not count, and says what tracing
/// costs it.
///
/// Untraced means that spans of the calling thread are not made, which then cost a few nanoseconds each; other threads record
/// theirs as ever, also those that `work` starts. Traced means that the installed pipeline, or the one attached to this thread, gets its spans: work that
/// is run often should send them where they do no harm. Without a pipeline both are the same.
///
/// ```
/// use spanring::span;
/// use spanring_exporter::{MemorySink, Pipeline, overhead};
///
/// let pipeline = Pipeline::builder().sink(MemorySink::new()).build()?;
/// let _attached = pipeline.attach();
/// let cost = overhead(20, || {
///     let _span = span!("sum");
///     std::hint::black_box((0..10_000u64).sum::<u64>())
/// });
/// println!("{cost}");
/// # Ok::<(), spanring_exporter::StartError>(())
/// ```
pub fn overhead<T>(rounds: u32, mut work: impl FnMut() -> T) -> Overhead {
    let mut timed = |is_traced: bool| {
        let _untraced = (!is_traced).then(|| off().attach());
        let begin = Instant::now();
        // What it returns may take long to drop, and is part of the work.
        drop(std::hint::black_box(work()));
        begin.elapsed()
    };
    let mut pair = |traced_first: bool| match traced_first {
        true => {
            let traced = timed(true);
            (timed(false), traced)
        }
        false => (timed(false), timed(true)),
    };
    pair(false);
    // The second of two may find the caches warm, or the machine hot: each is it as often as the other.
    let pairs: Vec<_> = (0..rounds.max(1)).map(|round| pair(round % 2 == 1)).collect();
    Overhead::of(&pairs)
}

/// Spans of the calling thread are not made from now on, or are again: for the C ABI.
#[doc(hidden)]
pub fn set_thread_untraced(is_untraced: bool) {
    match is_untraced {
        true => std::mem::forget(off().attach()),
        false => Engine::__detach(),
    }
}

/// An engine that records nothing.
fn off() -> &'static Engine {
    /// Not a `OnceLock`: in a fork child, one that a lost thread was filling would never be full.
    static OFF: AtomicPtr<Engine> = AtomicPtr::new(ptr::null_mut());
    // SAFETY: what is there is an engine, and engines are there for good.
    if let Some(engine) = unsafe { OFF.load(Ordering::Acquire).as_ref() } {
        return engine;
    }
    let options = EngineOptions {
        disabled: true,
        max_spans: 16,
        max_bytes: 1 << 20,
        ..EngineOptions::default()
    };
    // Of threads that come at once, each has its own this time.
    let engine = Engine::start(&options);
    OFF.store(ptr::from_ref(engine).cast_mut(), Ordering::Release);
    engine
}

#[cfg(test)]
mod tests {
    use spanring::settings::Settings;
    use spanring::span;

    use super::*;
    use crate::{MemorySink, Pipeline};

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn medians_and_noise_are_those_of_the_pairs() {
        let pairs = [(100, 102), (100, 104), (200, 206), (100, 103), (50, 50)];
        let overhead = Overhead::of(&pairs.map(|(a, b)| (millis(a), millis(b))));
        assert_eq!((overhead.baseline, overhead.traced), (millis(100), millis(103)));
        assert_eq!((overhead.overhead_ms, overhead.noise_ms), (3.0, 1.0));
        assert!((overhead.percent() - 3.0).abs() < 1e-9);
        assert!((overhead.noise_percent() - 1.0).abs() < 1e-9);
        assert!(overhead.is_measurable());
        let said = "untraced 100.000 ms, traced 103.000 ms: +3.000 ms (+3.00 %), noise ±1.000 ms, 5 rounds";
        assert_eq!(overhead.to_string(), said);
        let chance = Overhead::of(&[(millis(9), millis(8)), (millis(8), millis(9))]);
        assert!(!chance.is_measurable());
        assert!(chance.to_string().ends_with("; not to be told from chance"), "{chance}");
    }

    #[test]
    fn the_work_is_traced_every_second_time_and_untraced_the_others() {
        let settings = Settings::builder().ignore_environment().build();
        let pipeline =
            Pipeline::builder().settings(settings).sink(MemorySink::new()).build().unwrap();
        let _attached = pipeline.attach();
        let mut recorded = Vec::new();
        let overhead = overhead(3, || recorded.push(span!("work").is_recording()));
        assert_eq!(overhead.rounds, 3);
        // First the one pair that does not count; then who goes first changes.
        assert_eq!(recorded, [false, true, false, true, true, false, false, true]);
        assert!(span!("afterwards").is_recording());
        pipeline.flush(Duration::from_secs(60)).unwrap();
        assert_eq!(pipeline.stats().engine.created, 5);
        let mut runs = 0;
        super::overhead(0, || runs += 1);
        assert_eq!(runs, 4);
    }
}
