//! What is current on a thread, under random sequences of everything that changes it, against a plain stack.
//!
//! Guards end in any order or never, spans become guards and guards spans, contexts are attached, nesting goes
//! beyond what a thread keeps, and the thread changes between two pipelines. After each step the current context
//! must be the oracle's, and in the end each span must have been recorded once, by the pipeline that it began
//! with, under the parent that was current when it began.

use std::collections::HashMap;

use proptest::prelude::*;
use spanring::{Span, SpanContext, SpanGuard, span};
use spanring_tests::ledger::Ledger;
use spanring_tests::{LONG, memory_pipeline, settings};

#[derive(Clone, Debug)]
enum Step {
    /// `span!`, with an attribute or without.
    Guard(bool),
    /// A span that is not current.
    Start,
    /// The n-th span that is kept becomes current.
    Enter(usize),
    /// The n-th guard ends.
    EndGuard(usize),
    /// The innermost guard ends.
    EndLast,
    /// The n-th guard is leaked.
    Leak(usize),
    /// The n-th guard becomes a span.
    IntoSpan(usize),
    /// The n-th span ends, here or on another thread.
    EndSpan(usize, bool),
    /// The context of the n-th span is attached, or none.
    Attach(Option<usize>),
    /// So many guards are nested, and end.
    Nest(u8),
    /// The thread records for this pipeline from now on.
    Use(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let n = any::<usize>;
    prop_oneof![
        6 => any::<bool>().prop_map(Step::Guard),
        2 => Just(Step::Start),
        2 => n().prop_map(Step::Enter),
        2 => n().prop_map(Step::EndGuard),
        4 => Just(Step::EndLast),
        1 => n().prop_map(Step::Leak),
        1 => n().prop_map(Step::IntoSpan),
        2 => (n(), any::<bool>()).prop_map(|(n, away)| Step::EndSpan(n, away)),
        1 => prop::option::of(n()).prop_map(Step::Attach),
        1 => (1u8..=255).prop_map(Step::Nest),
        1 => any::<bool>().prop_map(Step::Use),
    ]
}

/// What keeps an entry of the stack.
enum Kept {
    Guard(SpanGuard, Began),
    Context(#[allow(dead_code, reason = "kept for its destructor")] spanring::ContextGuard),
}

/// A span as it should be recorded.
#[derive(Clone)]
struct Began {
    context: SpanContext,
    parent: SpanContext,
    pipeline: usize,
}

/// The stack of current contexts as the documentation defines it.
#[derive(Default)]
struct Oracle {
    stack: Vec<(u64, SpanContext)>,
    next: u64,
}

impl Oracle {
    fn current(&self) -> SpanContext {
        self.stack.last().map_or_else(SpanContext::default, |(_, context)| context.clone())
    }

    fn push(&mut self, context: SpanContext) -> u64 {
        self.next += 1;
        self.stack.push((self.next, context));
        self.next
    }

    /// The outer one wins: what lies above it goes with it, and later changes nothing.
    fn end(&mut self, number: u64) {
        if let Some(at) = self.stack.iter().position(|(other, _)| *other == number) {
            self.stack.truncate(at);
        }
    }
}

fn check(steps: &[Step]) {
    let pipelines = [memory_pipeline(settings()), memory_pipeline(settings())];
    let mut oracle = Oracle::default();
    let mut guards: Vec<(u64, Kept)> = vec![];
    let mut spans: Vec<(Span, Began)> = vec![];
    let mut ended: Vec<Began> = vec![];
    let mut using = 0;
    let mut attached = Some(pipelines[0].0.attach());
    for step in steps {
        let current = oracle.current();
        match *step {
            Step::Guard(with) => {
                let guard = if with { span!("guard", "key" = 7) } else { span!("guard") };
                let began = Began { context: guard.context(), parent: current, pipeline: using };
                guards.push((oracle.push(guard.context()), Kept::Guard(guard, began)));
            }
            Step::Start => {
                let span = Span::start("span");
                let began = Began { context: span.context(), parent: current, pipeline: using };
                spans.push((span, began));
            }
            Step::Enter(n) if !spans.is_empty() => {
                let (span, began) = spans.swap_remove(n % spans.len());
                let guard = span.enter();
                guards.push((oracle.push(guard.context()), Kept::Guard(guard, began)));
            }
            Step::EndGuard(n) if !guards.is_empty() => {
                let (number, kept) = guards.remove(n % guards.len());
                end(number, kept, &mut oracle, &mut ended);
            }
            Step::EndLast => {
                if let Some((number, kept)) = guards.pop() {
                    end(number, kept, &mut oracle, &mut ended);
                }
            }
            Step::Leak(n) if !guards.is_empty() => {
                std::mem::forget(guards.remove(n % guards.len()).1);
            }
            Step::IntoSpan(n) if !guards.is_empty() => {
                let at = n % guards.len();
                if let (_, Kept::Guard(..)) = guards[at]
                    && let (number, Kept::Guard(guard, began)) = guards.remove(at)
                {
                    spans.push((guard.into_span(), began));
                    oracle.end(number);
                }
            }
            Step::EndSpan(n, away) if !spans.is_empty() => {
                let (span, began) = spans.swap_remove(n % spans.len());
                ended.push(began);
                if away {
                    std::thread::scope(|scope| {
                        scope.spawn(move || drop(span));
                    });
                } else {
                    drop(span);
                }
            }
            Step::Attach(n) => {
                let context = match n {
                    Some(n) if !spans.is_empty() => spans[n % spans.len()].0.context(),
                    _ => SpanContext::default(),
                };
                guards.push((oracle.push(context.clone()), Kept::Context(context.attach())));
            }
            Step::Nest(depth) => {
                let mut parent = current;
                let mut nested = vec![];
                for _ in 0..depth {
                    let guard = span!("nested");
                    ended.push(Began { context: guard.context(), parent, pipeline: using });
                    parent = guard.context();
                    nested.push(guard);
                }
                while let Some(guard) = nested.pop() {
                    assert_eq!(SpanContext::current(), guard.context());
                    drop(guard);
                }
            }
            Step::Use(other) => {
                // The one before first, so that each restores what it found.
                drop(attached.take());
                using = usize::from(other);
                attached = Some(pipelines[using].0.attach());
            }
            Step::Enter(_)
            | Step::EndGuard(_)
            | Step::Leak(_)
            | Step::IntoSpan(_)
            | Step::EndSpan(..) => {}
        }
        assert_eq!(SpanContext::current(), oracle.current(), "after {step:?}");
    }
    for (number, kept) in guards.into_iter().rev() {
        end(number, kept, &mut oracle, &mut ended);
        assert_eq!(SpanContext::current(), oracle.current());
    }
    ended.extend(spans.into_iter().map(|(_, began)| began));
    // A leaked guard stays current on its thread, which ends with this test.
    drop(attached);

    for (number, (pipeline, batches)) in pipelines.into_iter().enumerate() {
        pipeline.shutdown(LONG).expect("the flusher runs");
        let ledger = Ledger::read(&batches.batches());
        let mut recorded: HashMap<_, _> = ledger.spans().map(|span| (span.span_id, span)).collect();
        for began in ended.iter().filter(|began| began.pipeline == number) {
            let span = recorded.remove(&began.context.span_id()).expect("it was recorded here");
            assert_eq!(span.trace_id, began.context.trace_id());
            let parent = began.parent.is_valid().then(|| began.parent.span_id());
            assert_eq!(span.parent_span_id, parent);
            if began.parent.is_valid() {
                assert_eq!(span.trace_id, began.parent.trace_id());
            }
        }
        assert!(recorded.is_empty(), "recorded, but never ended: {recorded:?}");
    }
}

fn end(number: u64, kept: Kept, oracle: &mut Oracle, ended: &mut Vec<Began>) {
    if let Kept::Guard(_, began) = &kept {
        ended.push(began.clone());
    }
    drop(kept);
    oracle.end(number);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_current_context_is_the_one_of_a_plain_stack(steps in prop::collection::vec(step(), 1..120)) {
        // A thread of its own, since leaked guards stay current on theirs.
        let result = std::thread::spawn(move || check(&steps)).join();
        prop_assert!(result.is_ok());
    }
}
