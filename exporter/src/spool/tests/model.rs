//! Random operations against a model that knows which spans must still be delivered.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    /// Spans, and how long the batch is.
    Append(u32, usize),
    /// Which of the pending parts; where in it the settled part begins and ends, in 8ths.
    Done(usize, u32, u32),
    Read(usize),
    Kill,
    Close,
    Adopt,
    Enforce(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0_u32..20, 0_usize..400).prop_map(|(spans, filler)| Op::Append(spans, filler)),
        8 => (any::<usize>(), 0_u32..8, 0_u32..9).prop_map(|(which, a, b)| Op::Done(which, a, b)),
        2 => any::<usize>().prop_map(Op::Read),
        1 => Just(Op::Kill),
        1 => Just(Op::Close),
        2 => Just(Op::Adopt),
        3 => prop_oneof![Just(0), 1_u64..15, 1_u64..300].prop_map(Op::Enforce),
    ]
}

#[derive(Default)]
struct Model {
    /// Of each batch, the spans that were neither delivered nor dropped as ours.
    open: Spans,
    /// What this process was given and has not settled.
    pending: Vec<(Part, u64)>,
    appended: u64,
    delivered: u64,
    dropped: u64,
    /// Dropped without having been adopted: nobody knows of which batches.
    dropped_unseen: u64,
}

impl Model {
    fn open_spans(&self) -> u64 {
        self.open.values().map(|spans| spans.len() as u64).sum()
    }

    fn pending_spans(&self) -> u64 {
        self.pending.iter().map(|(part, _)| u64::from(part.spans)).sum()
    }

    fn adopt(&mut self, spool: &mut Spool) {
        let adopted = spool.adopt().unwrap();
        assert!(adopted.errors.is_empty(), "{:?}", adopted.errors);
        let sum: u64 = adopted.parts.iter().map(|part| u64::from(part.spans)).sum();
        assert_eq!(sum, adopted.spans);
        for part in adopted.parts {
            let sequence = spool.read(part.place).unwrap().sequence;
            let spans = part.first..part.first + part.spans;
            assert!(spans.clone().all(|span| self.open[&sequence].contains(&span)), "again");
            let twice = self.pending.iter().any(|(other, of)| {
                *of == sequence
                    && (other.first.max(part.first)
                        < (other.first + other.spans).min(part.first + part.spans))
            });
            assert!(!twice, "{part:?} is pending twice");
            self.pending.push((part, sequence));
        }
        if !adopted.more {
            assert_eq!(self.open_spans(), self.pending_spans() + self.dropped_unseen);
        }
    }

    fn enforce(&mut self, spool: &mut Spool, now: Instant) {
        for dropped in spool.enforce(now) {
            assert!(!dropped.is_unreadable);
            let Some(place) = dropped.place else {
                self.dropped_unseen += dropped.spans;
                continue;
            };
            let (gone, kept) =
                self.pending.drain(..).partition::<Vec<_>, _>(|(part, _)| part.place == place);
            self.pending = kept;
            assert!(!gone.is_empty());
            assert_eq!(
                gone.iter().map(|(part, _)| u64::from(part.spans)).sum::<u64>(),
                dropped.spans
            );
            self.dropped += dropped.spans;
            for (part, sequence) in gone {
                let open = self.open.get_mut(&sequence).unwrap();
                open.retain(|span| !(part.first..part.first + part.spans).contains(span));
            }
        }
    }

    fn done(&mut self, spool: &mut Spool, which: usize, from: u32, to: u32) {
        if self.pending.is_empty() {
            return;
        }
        let which = which % self.pending.len();
        let (part, sequence) = self.pending[which];
        let cut = |eighths: u32| part.spans * eighths / 8;
        let (from, to) = (cut(from.min(to)), cut(from.max(to)));
        if from == to && part.spans > 0 {
            return;
        }
        self.pending.swap_remove(which);
        spool.done(part.place, part.first + from, to - from).unwrap();
        for (first, end) in [(0, from), (to, part.spans)] {
            if first < end {
                let rest = Part { first: part.first + first, spans: end - first, ..part };
                self.pending.push((rest, sequence));
            }
        }
        self.delivered += u64::from(to - from);
        let open = self.open.get_mut(&sequence).unwrap();
        for span in part.first + from..part.first + to {
            assert!(open.remove(&span));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_span_is_delivered_or_dropped_or_pending(
        ops in proptest::collection::vec(op(), 1..120),
        max_bytes in prop_oneof![Just(6_000_u64), Just(64 * 1200)],
    ) {
        let directory = tempfile::tempdir().unwrap();
        let time = Time::new();
        let open = || Spool::open(time.options(directory.path(), 1200, max_bytes)).unwrap();
        let mut spool = open();
        let mut model = Model::default();
        for (sequence, op) in ops.into_iter().enumerate() {
            match op {
                Op::Append(spans, filler) => {
                    let sequence = sequence as u64;
                    let batch = batch_of(INSTANCE, sequence, spans, filler);
                    let place = spool.append(&batch, time.now()).unwrap();
                    model.open.insert(sequence, (0..spans).collect());
                    model.pending.push((Part { place, first: 0, spans }, sequence));
                    model.appended += u64::from(spans);
                }
                Op::Done(which, from, to) => model.done(&mut spool, which, from, to),
                Op::Read(which) if model.pending.is_empty() => _ = which,
                Op::Read(which) => {
                    let (part, sequence) = model.pending[which % model.pending.len()];
                    prop_assert_eq!(spool.read(part.place).unwrap().sequence, sequence);
                }
                Op::Kill => {
                    spool.kill();
                    spool = open();
                    model.pending.clear();
                }
                Op::Close => {
                    spool.close().unwrap();
                    spool = open();
                    model.pending.clear();
                }
                Op::Adopt => model.adopt(&mut spool),
                Op::Enforce(seconds) => {
                    time.advance(seconds);
                    model.enforce(&mut spool, time.now());
                    prop_assert!(directory_bytes(directory.path()) <= max_bytes);
                    prop_assert!(spool.bytes() >= directory_bytes(directory.path()));
                }
            }
            prop_assert_eq!(model.appended, model.delivered + model.dropped + model.open_spans());
        }
        spool.kill();
        spool = open();
        model.pending.clear();
        while !model.pending.is_empty() || spool.adopt().is_ok_and(|adopted| {
            for part in adopted.parts {
                let sequence = spool.read(part.place).unwrap().sequence;
                model.pending.push((part, sequence));
            }
            !model.pending.is_empty()
        }) {
            while !model.pending.is_empty() {
                model.done(&mut spool, 0, 0, 8);
            }
        }
        prop_assert_eq!(model.appended, model.delivered + model.dropped + model.dropped_unseen);
        spool.close().unwrap();
        prop_assert_eq!(names(directory.path()), [""; 0]);
    }
}
