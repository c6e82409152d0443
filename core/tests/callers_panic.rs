//! Code of the caller's that runs inside the engine (closures given as values, what fills an event, the
//! destructors of large values) and panics, or starts spans of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::record::{Item, Records, StrRef};
use spanring::{Span, Value, WallTime, span};

fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, ()> {
    std::panic::set_hook(Box::new(|_| {}));
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| ())
}

/// The items of the one span that `f` records: attributes as text, and the names of events.
fn items_of(f: impl FnOnce(&mut Span)) -> Vec<String> {
    let engine = Engine::start(&EngineOptions::default());
    let _attached = engine.attach();
    let mut drainer = Drainer::new(engine);
    let mut span = Span::start("root");
    f(&mut span);
    drop(span);
    let mut records = Records::new();
    drainer.drain(&mut records, 100);
    let items = records
        .iter()
        .flat_map(|record| record.items())
        .map(|item| match item {
            Item::Attribute(key, value) => format!("{}={:?}", key.as_str(), value.to_value()),
            Item::Event(event) => format!("event {}", StrRef::as_str(event.name())),
            other => format!("{other:?}"),
        })
        .collect();
    drainer.settle(&mut records, None);
    // Spans that destructors started.
    while drainer.drain(&mut records, 100) > 0 {
        drainer.settle(&mut records, None);
    }
    assert_eq!(engine.stats().resident, 0);
    assert_eq!(engine.stats().bytes_free as usize + engine.stats().ring_bytes, 64 << 20);
    items
}

#[test]
fn an_event_whose_filling_panics_leaves_nothing_behind() {
    let items = items_of(|span| {
        span.set_attribute("large", "x".repeat(5000));
        // As an item, the time would be a large value that begins at the attribute's words.
        let time = WallTime(9);
        let panicked = quietly(|| {
            span.add_event_at("gone", time, |event| {
                event.set("a", 1i64 << 40).set("b", "y".repeat(3000)).set("c", 1i64 << 41);
                panic!("while filling");
            });
        });
        assert!(panicked.is_err());
        span.set_attribute("after", 1);
        span.add_event("kept");
    });
    let large = format!("large={:?}", Value::Str("x".repeat(5000)));
    assert_eq!(items, [large.as_str(), "after=Int(1)", "event kept"]);
}

#[test]
fn a_value_that_panics_leaves_neither_its_key_nor_its_array_behind() {
    let long_key = "k".repeat(300);
    let items = items_of(|span| {
        let bomb = || -> i64 { panic!("while computing") };
        assert!(quietly(|| span.set_attribute(&long_key, bomb).is_recording()).is_err());
        let array: [fn() -> i64; 2] = [|| 1, || panic!("in an array")];
        assert!(quietly(|| span.set_attribute("array", array).is_recording()).is_err());
        assert!(
            quietly(|| {
                span.add_link_with(&other(), |link| {
                    link.set("x", bomb);
                });
            })
            .is_err()
        );
        span.set_attribute("after", 2);
    });
    assert_eq!(items, ["after=Int(2)"]);
}

fn other() -> spanring::SpanContext {
    spanring::SpanContext::from_ids(
        spanring::TraceId(1),
        spanring::SpanId(2),
        spanring::TraceFlags::SAMPLED,
        spanring::TraceState::default(),
    )
}

/// Counts its destructions, each of which panics.
struct Bomb {
    text: Vec<u8>,
    dropped: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        let _span = span!("inside a destructor");
        panic!("while dropping");
    }
}

#[test]
fn large_values_whose_destructors_panic_are_dropped_exactly_once() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let bomb = || Bytes::from_owner(Bomb { text: vec![7; 2000], dropped: dropped.clone() });
    let items = items_of(|span| {
        let set = quietly(|| {
            span.set_attribute("replaced", bomb());
            span.set_attribute("replaced", bomb());
            span.set_attribute("recorded", bomb());
        });
        assert!(set.is_ok());
    });
    assert_eq!(items.len(), 2);
    assert_eq!(dropped.load(Ordering::Relaxed), 3);
}

#[test]
fn a_value_may_start_spans_and_look_at_the_current_context() {
    let items = items_of(|span| {
        span.set_attribute("outer", || {
            let mut inner = span!("inner", "n" = 1);
            inner.set_attribute("context", || spanring::SpanContext::current().is_valid());
            7
        });
    });
    assert_eq!(items, ["n=Int(1)", "context=Bool(true)", "outer=Int(7)"]);
}
