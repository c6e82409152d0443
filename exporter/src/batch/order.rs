//! What the format derives instead of storing it; encoder and decoder both call this file.
//!
//! * [`start_order`]: within one thread, counters rise with start times. So the batch stores the
//!   counters in the order of start times, where nearly every one follows the one before it.
//! * [`counter_order`]: the order in which parents are looked for; a parent comes before its children.
//! * [`OpenSpans`]: a parent is most often the youngest span of its shape that is still open.
//! * [`Successors`]: what follows what, for the column of edges.

/// No entry.
const NONE: u32 = u32::MAX;

/// Fills `order` with the indices of all spans in the order in which their counters are stored.
///
/// The spans are cut into runs in which ends do not fall: what one thread recorded, drained at once.
/// Within a run they are sorted by start; of several that start together, the one recorded last comes
/// first, since a parent ends after its children.
pub(super) fn start_order(starts: &[u64], ends: &[u64], order: &mut Vec<u32>, keys: &mut Vec<u64>) {
    let len = ends.len();
    order.clear();
    let mut from = 0;
    while from < len {
        let to = (from + 1..len).find(|&at| ends[at] < ends[at - 1]).unwrap_or(len);
        sort_run(starts, from, to, order, keys);
        from = to;
    }
}

fn sort_run(starts: &[u64], from: usize, to: usize, order: &mut Vec<u32>, keys: &mut Vec<u64>) {
    let run = &starts[from..to];
    if run.windows(2).all(|pair| pair[0] < pair[1]) {
        order.extend(from as u32..to as u32);
        return;
    }
    let (min, max) =
        run.iter().fold((u64::MAX, 0), |(min, max), &start| (min.min(start), max.max(start)));
    if max - min < 1 << 48 && run.len() <= 1 << 16 {
        // Start and position fit one integer, which sorts several times as fast as a pair.
        keys.clear();
        keys.extend(
            run.iter().zip((0..run.len() as u64).rev()).map(|(start, at)| (start - min) << 16 | at),
        );
        keys.sort_unstable();
        order.extend(keys.iter().map(|key| (to - 1 - (key & 0xffff) as usize) as u32));
        return;
    }
    let at = order.len();
    order.extend((from as u32..to as u32).rev());
    order[at..].sort_by_key(|&index| starts[index as usize]);
}

/// Sorts `order` by counter where it is not sorted yet.
pub(super) fn counter_order(counters: &[u64], order: &mut [u32]) {
    if !order.is_sorted_by_key(|&index| counters[index as usize]) {
        order.sort_by_key(|&index| counters[index as usize]);
    }
}

/// The spans that have begun so far, by shape, youngest first.
#[derive(Debug, Default)]
pub(super) struct OpenSpans {
    /// By shape.
    youngest: Vec<u32>,
    /// By span: the next older one of the same shape.
    older: Vec<u32>,
}

/// Largest position that is stored; a parent further down is stored in another way.
const RANK_MAX: u32 = 255;
/// Spans that the encoder looks at before it stores the parent in another way.
const SEARCH_STEPS_MAX: u32 = 1024;

impl OpenSpans {
    pub(super) fn reset(&mut self, shapes: usize, spans: usize) {
        self.youngest.clear();
        self.youngest.resize(shapes, NONE);
        self.older.clear();
        self.older.resize(spans, NONE);
    }

    /// Adds a span, younger than those before it.
    #[inline]
    pub(super) fn add(&mut self, shape: u32, span: u32) {
        self.older[span as usize] = std::mem::replace(&mut self.youngest[shape as usize], span);
    }

    /// The position of `parent` among the open spans of `shape` at `start`, to be found with
    /// [`take`](Self::take). `None` if it is not among them, or after too long a search.
    #[inline]
    pub(super) fn rank(&self, shape: u32, start: u64, ends: &[u64], parent: u32) -> Option<u8> {
        let mut rank = 0;
        let mut at = self.youngest[shape as usize];
        for _ in 0..SEARCH_STEPS_MAX {
            if at == parent {
                return (ends[at as usize] >= start && rank <= RANK_MAX).then_some(rank as u8);
            }
            if at == NONE {
                return None;
            }
            rank += u32::from(ends[at as usize] >= start);
            at = self.older[at as usize];
        }
        None
    }

    /// The span at position `rank` among the open spans of `shape` at `start`, the youngest first.
    ///
    /// Spans met on the way that ended before `start` are removed for good: that keeps searches short,
    /// and is part of the format.
    #[inline]
    pub(super) fn take(&mut self, shape: u32, start: u64, ends: &[u64], rank: u8) -> Option<u32> {
        let mut younger = NONE;
        let mut at = self.youngest[shape as usize];
        let mut left = rank;
        while at != NONE {
            let older = self.older[at as usize];
            if ends[at as usize] < start {
                match younger {
                    NONE => self.youngest[shape as usize] = older,
                    _ => self.older[younger as usize] = older,
                }
            } else if left == 0 {
                return Some(at);
            } else {
                left -= 1;
                younger = at;
            }
            at = older;
        }
        None
    }
}

/// Predicts a sequence of small numbers: for each value, the last two that followed it.
#[derive(Debug, Default)]
pub(super) struct Successors {
    /// By value + 1 (0 is the beginning): the last two successors, the later one first.
    last: Vec<[u32; 2]>,
    current: usize,
}

/// Symbols of [`Successors`]: 0 and 1 are the two predictions, 2 the next value that was never there,
/// and from 3 on the values themselves.
const SYMBOL_NEW: u32 = 2;

impl Successors {
    /// Begins a sequence of values below `len`.
    pub(super) fn reset(&mut self, len: usize) {
        self.last.clear();
        self.last.resize(len + 1, [NONE; 2]);
        self.current = 0;
    }

    /// The symbol of `value`, given that `seen` different values came before.
    #[inline]
    pub(super) fn encode(&mut self, value: u32, seen: u32) -> u32 {
        let last = &mut self.last[self.current];
        self.current = value as usize + 1;
        if last[0] == value {
            return 0;
        }
        let symbol = match value {
            value if last[1] == value => 1,
            value if value == seen => SYMBOL_NEW,
            value => SYMBOL_NEW + 1 + value,
        };
        *last = [value, last[0]];
        symbol
    }

    /// The value of `symbol`; `None` for a symbol that no encoder makes.
    #[inline]
    pub(super) fn decode(&mut self, symbol: u32, seen: u32) -> Option<u32> {
        let len = self.last.len();
        let last = &mut self.last[self.current];
        let value = match symbol {
            0 | 1 => last[symbol as usize],
            SYMBOL_NEW => seen,
            symbol => symbol - SYMBOL_NEW - 1,
        };
        // A value that is new has one symbol only.
        let is_known = value < seen || value == seen && symbol == SYMBOL_NEW;
        if !is_known || value as usize + 1 >= len {
            return None;
        }
        if last[0] != value {
            *last = [value, last[0]];
        }
        self.current = value as usize + 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive_start_order(starts: &[u64], ends: &[u64]) -> Vec<u32> {
        let mut order: Vec<u32> = Vec::new();
        let mut run: Vec<u32> = Vec::new();
        for at in 0..=starts.len() {
            if at == starts.len() || at > 0 && ends[at] < ends[at - 1] {
                run.sort_by_key(|&span| (starts[span as usize], std::cmp::Reverse(span)));
                order.append(&mut run);
            }
            run.push(at as u32);
        }
        order
    }

    proptest! {
        #[test]
        fn starts_are_sorted_within_runs_of_rising_ends(
            times in proptest::collection::vec((0u64..20, 0u64..9), 0..60),
            scale in prop_oneof![Just(1u64), Just(1 << 59)],
        ) {
            let starts: Vec<u64> = times.iter().map(|(start, _)| start * scale).collect();
            let ends: Vec<u64> = times.iter().map(|(_, end)| end * scale).collect();
            let mut order = vec![7; 3];
            start_order(&starts, &ends, &mut order, &mut Vec::new());
            prop_assert_eq!(order, naive_start_order(&starts, &ends));
        }

        #[test]
        fn successors_give_the_sequence_back(
            values in proptest::collection::vec(0u32..6, 0..80),
        ) {
            // Numbered by first use, as edges are.
            let mut numbers: Vec<u32> = Vec::new();
            let (mut encoder, mut decoder) = (Successors::default(), Successors::default());
            encoder.reset(values.len());
            decoder.reset(values.len());
            for value in values {
                let seen = numbers.len() as u32;
                let number = numbers.iter().position(|&other| other == value).unwrap_or_else(|| {
                    numbers.push(value);
                    numbers.len() - 1
                });
                let symbol = encoder.encode(number as u32, seen);
                prop_assert_eq!(decoder.decode(symbol, seen), Some(number as u32));
            }
        }

        /// Against lists from which what has ended is removed at once where a search meets it.
        #[test]
        fn open_spans_are_found_by_rank_as_in_plain_lists(
            spans in proptest::collection::vec((0u32..3, 0u64..40, 0u64..15, 0u32..3, 0u8..4), 1..60),
        ) {
            let ends: Vec<u64> = spans.iter().map(|(_, start, len, ..)| start + len).collect();
            let mut open = OpenSpans::default();
            open.reset(3, spans.len());
            let mut lists = vec![Vec::new(); 3];
            for (span, &(shape, start, _, wanted, rank)) in spans.iter().enumerate() {
                let list: &mut Vec<u32> = &mut lists[wanted as usize];
                let (mut found, mut left) = (None, rank);
                let mut at = list.len();
                while found.is_none() && at > 0 {
                    at -= 1;
                    match ends[list[at] as usize] < start {
                        true => drop(list.remove(at)),
                        false if left == 0 => found = Some(list[at]),
                        false => left -= 1,
                    }
                }
                if let Some(parent) = found {
                    prop_assert_eq!(open.rank(wanted, start, &ends, parent), Some(rank));
                }
                prop_assert_eq!(open.take(wanted, start, &ends, rank), found);
                lists[shape as usize].push(span as u32);
                open.add(shape, span as u32);
            }
        }
    }

    #[test]
    fn a_symbol_that_no_encoder_makes_is_refused() {
        let mut successors = Successors::default();
        successors.reset(2);
        assert_eq!(successors.decode(0, 0), None, "nothing was followed by anything yet");
        assert_eq!(successors.decode(3 + 1, 0), None, "edge 1 before edge 0");
        assert_eq!(successors.decode(2, 0), Some(0));
        assert_eq!(successors.decode(2, 1), Some(1));
        assert_eq!(successors.decode(2, 2), None, "there are two edges");
    }
}
