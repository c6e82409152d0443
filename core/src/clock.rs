//! The clock: raw ticks on the hot path, wall-clock time in the flusher.
//!
//! Ticks are the CPU's time-stamp counter where it is invariant and the kernel itself keeps time by
//! it, and nanoseconds of `CLOCK_MONOTONIC` elsewhere. [`ClockMap`] turns them into nanoseconds since
//! the Unix epoch: one continuous, monotone, piecewise-linear map. A tick uses the piece that contains
//! it, so it maps to the same time whenever it is asked for. A correction begins a new piece where the
//! old one ended and changes its slope only. A step of the system clock changes the offset, which is
//! added last, and the number of the clock's epoch.

use std::sync::atomic::{AtomicU8, Ordering};

const UNKNOWN: u8 = 0;
const TSC: u8 = 1;
const MONOTONIC: u8 = 2;

/// Which source `ticks` reads. Chosen once, before the first span; a reader that still sees `UNKNOWN`
/// chooses for itself and comes to the same result.
static SOURCE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// The time now, in ticks.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    if SOURCE.load(Ordering::Relaxed) == TSC {
        // SAFETY: every x86-64 CPU has the instruction.
        return unsafe { std::arch::x86_64::_rdtsc() };
    }
    ticks_cold()
}

/// Whether [`ticks`] is a plain read of the CPU's counter, so that [`counter_ticks`] may be called instead.
pub(crate) fn is_counter() -> bool {
    source() == TSC
}

/// [`ticks`], by somebody who knows that it is a plain read of the CPU's counter.
#[inline(always)]
pub(crate) fn counter_ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction.
    return unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    ticks()
}

#[inline(never)]
fn ticks_cold() -> u64 {
    #[cfg(target_arch = "x86_64")]
    if source() == TSC {
        // SAFETY: as above.
        return unsafe { std::arch::x86_64::_rdtsc() };
    }
    crate::platform::monotonic_nanos()
}

fn source() -> u8 {
    match SOURCE.load(Ordering::Relaxed) {
        UNKNOWN => {
            let source = if crate::platform::has_reliable_tsc() { TSC } else { MONOTONIC };
            SOURCE.store(source, Ordering::Relaxed);
            source
        }
        source => source,
    }
}

/// Name of the source of ticks: `tsc` or `monotonic`.
pub fn source_name() -> &'static str {
    if source() == TSC { "tsc" } else { "monotonic" }
}

/// Wall-clock time now, in ns since the Unix epoch; zero before 1970.
pub fn unix_nanos() -> u64 {
    crate::platform::realtime_nanos()
}

/// One reading of all clocks at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Ticks.
    pub ticks: u64,
    /// `CLOCK_MONOTONIC`, in ns.
    pub monotonic: u64,
    /// `CLOCK_REALTIME`, in ns since the Unix epoch.
    pub realtime: u64,
}

impl Reading {
    /// Reads the clocks, several times, and keeps the reading that took least.
    pub fn now() -> Self {
        source();
        let mut best = None;
        for _ in 0..4 {
            let before = ticks();
            let monotonic = crate::platform::monotonic_nanos();
            let realtime = crate::platform::realtime_nanos();
            let took = ticks().wrapping_sub(before);
            let reading = Reading { ticks: before + took / 2, monotonic, realtime };
            if best.is_none_or(|(least, _)| took < least) {
                best = Some((took, reading));
            }
        }
        best.expect("read four times").1
    }
}

/// A piece of the map: from `ticks` on, `monotonic + (t - ticks) * slope`.
#[derive(Clone, Copy, Debug)]
struct Piece {
    ticks: u64,
    monotonic: u64,
    /// Nanoseconds a tick, times 2^32.
    slope: u64,
}

impl Piece {
    #[inline(always)]
    fn at(&self, ticks: u64) -> u64 {
        let elapsed = u128::from(ticks.saturating_sub(self.ticks));
        let nanos = (elapsed * u128::from(self.slope)) >> 32;
        self.monotonic.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Pieces that are kept; ticks before the oldest use the oldest.
const PIECES_MAX: usize = 64;
/// A correction waits at least this long after the one before.
const PIECE_NANOS_MIN: u64 = 1_000_000_000;
/// A difference between wall clock and monotonic clock above this is a step.
const STEP_NANOS_MIN: u64 = 1_000_000;

/// Maps ticks to wall-clock time. Owned by the flusher.
#[derive(Clone, Debug)]
pub struct ClockMap {
    first: Reading,
    /// In order of time; never empty.
    pieces: Vec<Piece>,
    /// `realtime - monotonic` of this epoch.
    offset: i64,
    epoch: u32,
}

impl ClockMap {
    /// A map that begins at `first` and knows the rate of the ticks from `second`.
    ///
    /// The further apart the two are, the more exact is the first piece: readings err by some 20 ns,
    /// so 5 ms give a rate within 10 parts in a million. Later corrections refine it.
    pub fn new(first: Reading, second: Reading) -> Self {
        let slope = rate(first, second);
        let piece = Piece { ticks: first.ticks, monotonic: first.monotonic, slope };
        ClockMap { first, pieces: vec![piece], offset: offset(second), epoch: 0 }
    }

    /// Number of the clock's epoch: it grows by one with every step of the system clock.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Corrects the map by a reading. Ticks up to that reading keep their times, apart from a step of
    /// the system clock, which moves all times that are mapped from now on.
    pub fn correct(&mut self, now: Reading) {
        let offset = offset(now);
        if offset.abs_diff(self.offset) > STEP_NANOS_MIN {
            self.offset = offset;
            self.epoch += 1;
        }
        let last = *self.pieces.last().expect("never empty");
        if now.monotonic.saturating_sub(last.monotonic) < PIECE_NANOS_MIN || now.ticks <= last.ticks
        {
            return;
        }
        // Begin where the old piece ends, and aim at meeting the clock as far ahead as the last
        // correction lies behind, at a rate that differs from the measured one by 1/16 at most.
        let begin = last.at(now.ticks);
        let ahead = now.ticks - last.ticks;
        let rate = rate(self.first, now);
        let target = i128::from(now.monotonic) + ((i128::from(ahead) * i128::from(rate)) >> 32);
        let slope = ((target - i128::from(begin)).max(0) << 32) / i128::from(ahead);
        let slope = u64::try_from(slope)
            .unwrap_or(u64::MAX)
            .clamp(rate - rate / 16, rate.saturating_add(rate / 16));
        if self.pieces.len() == PIECES_MAX {
            // Keep every other old piece's beginning; the last eight stay as they are.
            let mut index = 0;
            let keep_from = PIECES_MAX - 8;
            self.pieces.retain(|_| {
                index += 1;
                index > keep_from || index % 2 == 1
            });
        }
        self.pieces.push(Piece { ticks: now.ticks, monotonic: begin, slope });
    }

    #[inline]
    fn monotonic(&self, ticks: u64) -> u64 {
        let last = &self.pieces[self.pieces.len() - 1];
        if ticks >= last.ticks {
            return last.at(ticks);
        }
        self.monotonic_earlier(ticks)
    }

    fn monotonic_earlier(&self, ticks: u64) -> u64 {
        let index = self.pieces.partition_point(|piece| piece.ticks <= ticks);
        if index > 0 {
            return self.pieces[index - 1].at(ticks);
        }
        let first = self.pieces[0];
        let before = (u128::from(first.ticks - ticks) * u128::from(first.slope)) >> 32;
        first.monotonic.saturating_sub(u64::try_from(before).unwrap_or(u64::MAX))
    }

    /// Wall-clock time of `ticks`, in ns since the Unix epoch.
    #[inline]
    pub fn unix_nanos(&self, ticks: u64) -> u64 {
        self.monotonic(ticks).saturating_add_signed(self.offset)
    }
}

fn offset(reading: Reading) -> i64 {
    reading.realtime.wrapping_sub(reading.monotonic) as i64
}

/// Nanoseconds a tick, times 2^32, between two readings.
fn rate(first: Reading, second: Reading) -> u64 {
    let ticks = u128::from(second.ticks.saturating_sub(first.ticks).max(1));
    let nanos = u128::from(second.monotonic.saturating_sub(first.monotonic));
    u64::try_from((nanos << 32) / ticks).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(ticks: u64, monotonic: u64) -> Reading {
        Reading { ticks, monotonic, realtime: monotonic + 1_000_000_000_000 }
    }

    proptest! {
        /// Readings with noise and a drifting rate: the map stays monotone, continuous, and close.
        #[test]
        fn the_map_is_monotone_and_stays_close_to_the_clock(
            steps in prop::collection::vec((1_000_000_000u64..5_000_000_000, -50i64..50, -20i64..20), 1..150),
        ) {
            let mut ticks = 1_000_000u64;
            let mut nanos = 5_000_000f64;
            let mut map = ClockMap::new(
                reading(ticks, nanos as u64),
                reading(ticks + 26_000_000, nanos as u64 + 10_000_000),
            );
            let mut last = 0;
            for (elapsed, ppm, noise) in steps {
                // 2.6 ticks a nanosecond, off by some parts in a million.
                let piece = 1.0 / 2.6 * (1.0 + ppm as f64 * 1e-6);
                for _ in 0..4 {
                    ticks += elapsed * 26 / 40;
                    nanos += (elapsed * 26 / 40) as f64 * piece;
                    let mapped = map.unix_nanos(ticks);
                    prop_assert!(mapped >= last, "{mapped} after {last}");
                    last = mapped;
                    let error = mapped as f64 - nanos - 1e12;
                    prop_assert!(error.abs() < 5e6, "off by {error} ns");
                }
                map.correct(reading(ticks, (nanos as u64).saturating_add_signed(noise)));
                let mapped = map.unix_nanos(ticks);
                prop_assert!(mapped >= last);
                last = mapped;
            }
        }

        #[test]
        fn a_correction_does_not_move_ticks_before_it(offsets in prop::collection::vec(0u64..26_000_000_000, 1..50)) {
            let mut map = ClockMap::new(reading(0, 0), reading(26_000_000, 10_000_000));
            let before: Vec<_> = offsets.iter().map(|ticks| map.unix_nanos(*ticks)).collect();
            map.correct(reading(26_000_000_000, 10_000_300_000));
            let after: Vec<_> = offsets.iter().map(|ticks| map.unix_nanos(*ticks)).collect();
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn a_step_of_the_system_clock_begins_an_epoch_and_moves_times_by_the_step() {
        let mut map = ClockMap::new(reading(0, 0), reading(26_000_000, 10_000_000));
        let before = map.unix_nanos(26_000_000);
        let mut stepped = reading(52_000_000, 20_000_000);
        stepped.realtime += 3_600_000_000_000;
        map.correct(stepped);
        assert_eq!(map.epoch(), 1);
        assert_eq!(map.unix_nanos(26_000_000), before + 3_600_000_000_000);
        map.correct(stepped);
        assert_eq!(map.epoch(), 1);
    }

    #[test]
    fn the_real_clock_is_followed() {
        let first = Reading::now();
        let mut second = Reading::now();
        while second.monotonic - first.monotonic < 5_000_000 {
            second = Reading::now();
        }
        let map = ClockMap::new(first, second);
        let now = Reading::now();
        let error = map.unix_nanos(now.ticks).abs_diff(now.realtime);
        assert!(error < STEP_NANOS_MIN, "off by {error} ns");
    }
}
