//! Rules of sampling, levels and details, through whole pipelines.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::Command;
use std::thread;

use spanring::TraceParent;
use spanring::export::{Drainer, Engine, EngineOptions, Reason};
use spanring::record::Records;
use spanring::settings::SettingsBuilder;
use spanring::{
    Detail, Level, RootSampler, Span, SpanContext, SpanId, SpanKind, StatusCode, TraceFlags,
    TraceId, TraceState, Tracer, Value, span,
};
use spanring_exporter::model::SpanData;
use spanring_tests::ledger::Ledger;
use spanring_tests::{LONG, memory_pipeline, record, settings};

fn rules(text: &str) -> SettingsBuilder {
    settings().rules(text.parse().expect("the rules of a test are right"))
}

fn attribute<'a>(span: &'a SpanData, key: &str) -> Option<&'a Value> {
    span.attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value)
}

fn rule(span: &SpanData) -> Option<&str> {
    match attribute(span, "spanring.sampling.rule") {
        Some(Value::Str(text)) => Some(text),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_the_span_says_which() {
    let rules = rules(
        "name=health* -> never; scope=http*, kind=server -> always; message.length>3 -> every_nth:2; \
         rows>=100 -> always; user^=test- -> never",
    );
    let rules = rules.sampler(spanring::settings::SamplerSetting {
        parent_based: true,
        root: RootSampler::AlwaysOff,
    });
    let http = Tracer::named("http.server", "1");
    let ledger = record(rules, |_| {
        drop(span!("healthy", "rows" = 200));
        drop(http.span("POST").kind(SpanKind::Server).start());
        drop(http.span("GET").kind(SpanKind::Client).start());
        for round in 0..4 {
            drop(span!("chat", "message" = format!("é{round}öü"), "round" = round));
        }
        drop(span!("chat short", "message" = "éöü"));
        drop(span!("query", "rows" = 100));
        drop(span!("query less", "rows" = 99.5));
        let user = String::from("test-7");
        drop(
            Span::builder("built")
                .attribute("rows", 10)
                .attribute("rows", 1000u64)
                .attribute("user", &user)
                .start(),
        );
        Span::builder("set later").start().set_attribute("rows", 1000);
        // Children do as their parents did.
        let root = span!("root", "rows" = 1 << 30);
        drop(span!("healthy child"));
        drop(root);
    });
    let found: Vec<_> = ledger.spans().map(|span| (span.name.as_str(), rule(span))).collect();
    let rows = Some("rows>=100 -> always");
    let nth = Some("message.length>3 -> every_nth:2");
    assert_eq!(
        found,
        [
            ("POST", Some("scope=http*, kind=server -> always")),
            ("chat", nth),
            ("chat", nth),
            ("query", rows),
            ("built", rows),
            ("healthy child", None),
            ("root", rows),
        ]
    );
    let chat: Vec<_> = ledger.spans().filter(|span| span.name == "chat").collect();
    assert_eq!(attribute(chat[1], "round"), Some(&Value::Int(2)));
    assert_eq!(attribute(chat[1], "spanring.sampling.rate"), Some(&Value::Double(0.5)));
    let built = ledger.span("built");
    assert_eq!(attribute(built, "rows"), Some(&Value::Int(1000)));
    assert_eq!(attribute(built, "user"), Some(&Value::Str("test-7".to_owned())));
    assert_eq!(attribute(built, "spanring.sampling.rate"), None);
}

#[test]
fn a_ratio_in_a_rule_lets_its_share_of_traces_through_and_says_so_in_tracestate() {
    const TRACES: u64 = 20_000;
    let mut sampled = 0;
    let ledger = record(rules("tenant=a -> ratio:0.25; * -> never"), |_| {
        for _ in 0..TRACES {
            let root = span!("root", "tenant" = "a");
            let randomness = root.context().trace_id().0 as u64 & ((1 << 56) - 1);
            assert_eq!(root.is_recording(), randomness >= 3 << 54);
            assert_eq!(span!("child", "tenant" = "b").is_recording(), root.is_recording());
            sampled += u64::from(root.is_recording());
        }
    });
    // Six standard deviations of the binomial distribution.
    assert!(sampled.abs_diff(TRACES / 4) < 370, "{sampled}");
    assert_eq!(ledger.spans().count() as u64, 2 * sampled);
    assert!(ledger.spans().all(|span| span.trace_state == "ot=th:c"));
}

#[test]
fn a_rate_limit_in_a_rule_lets_a_burst_of_a_second_s_worth_and_little_more_through() {
    let mut took = std::time::Duration::ZERO;
    let ledger = record(rules("limited -> rate_limit:50"), |_| {
        let begun = std::time::Instant::now();
        for _ in 0..5000 {
            drop(span!("limited"));
        }
        took = begun.elapsed();
        drop(span!("other"));
    });
    let passed = ledger.spans().filter(|span| span.name == "limited").count();
    let allowed = 50.0 + 50.0 * took.as_secs_f64();
    assert!(passed >= 50 && passed as f64 <= allowed + 1.0, "{passed} of {allowed}");
    assert_eq!(rule(ledger.span("other")), None);
}

/// What starts while a span's own attributes are computed is under it, as ever.
#[test]
fn a_span_is_decided_about_before_anything_under_it() {
    let ledger =
        record(rules("load*, id=1 -> never; left* -> never; outer*, id=1 -> never"), |_| {
            let load = |id: i64| {
                let span = span!("load", "id" = id);
                assert!(span.is_recording(), "it follows its parent");
                id
            };
            let load_unsampled = || {
                assert!(!span!("load").is_recording() && !span!("load", "id" = 2).is_recording());
                1
            };
            let outer = span!("outer", "id" = load(1));
            // The rule saw none of its attributes.
            assert!(outer.is_recording());
            drop(outer);
            let wanted = span!(
                "outer context",
                "id" = {
                    let context = SpanContext::current();
                    assert!(context.is_valid() && context.is_sampled());
                    1
                }
            );
            drop(wanted);
            // None that is left halfway stays behind.
            let leaves = || -> Option<()> {
                let _span = span!("outer left", "id" = None::<i64>?);
                Some(())
            };
            assert_eq!(leaves(), None);
            let leaves = || -> Option<()> {
                let _span = span!("left", "id" = None::<i64>?);
                Some(())
            };
            assert_eq!(leaves(), None);
            // One that is refused while another starts under it.
            let left = span!("left with", "id" = load_unsampled());
            assert!(!left.is_recording());
            drop(span!("left below"));
            drop(left);
            let panics = std::panic::catch_unwind(|| {
                let _span = span!(
                    "outer thrown",
                    "id" = {
                        std::panic::resume_unwind(Box::new(()));
                        #[allow(unreachable_code)]
                        1
                    }
                );
            });
            assert!(panics.is_err());
            assert!(!SpanContext::current().is_valid());
            assert!(!span!("outer after", "id" = 1).is_recording());
            assert!(span!("outer two", "id" = 2).is_recording());
        });
    let outer = ledger.span("outer");
    assert_eq!(ledger.span("load").parent_span_id, Some(outer.span_id));
    assert_eq!(
        ledger.names(),
        ["load", "outer", "outer context", "outer left", "outer thrown", "outer two"]
    );
    assert_eq!(attribute(outer, "id"), Some(&Value::Int(1)));
}

#[test]
fn what_starts_under_a_span_before_it_is_decided_about_has_its_tracestate_and_so_has_what_comes_later()
 {
    let ledger = record(rules("id=7 -> never; * -> ratio:0.9999999"), |_| {
        let _root = span!(
            "root",
            "id" = {
                drop(span!("in it"));
                1
            }
        );
        drop(span!("below"));
        drop(span!("below", "id" = 7));
    });
    assert_eq!(ledger.names(), ["in it", "below", "below", "root"]);
    assert!(
        ledger.spans().all(|span| span.trace_state.starts_with("ot=th:00000")),
        "{:?}",
        ledger.names()
    );
}

#[test]
fn a_span_that_is_not_sampled_has_a_context_and_its_children_follow() {
    let ledger = record(rules("root, id=1 -> never"), |_| {
        let root = span!("root", "id" = 1);
        assert!(root.context().is_valid() && !root.context().is_sampled());
        let child = span!("child", "id" = 2);
        assert!(!child.is_recording());
        assert_eq!(child.context().trace_id(), root.context().trace_id());
        assert_eq!(SpanContext::current(), child.context());
        drop(child);
        assert_eq!(SpanContext::current(), root.context());
    });
    assert_eq!(ledger.names(), [""; 0]);
}

#[test]
fn rules_change_while_threads_record_and_every_span_is_accounted_for() {
    let (pipeline, sink) = memory_pipeline(settings().max_spans(1 << 16));
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _root = span!("root", "id" = 1);
                    drop(span!("child", "id" = 2));
                }
            });
        }
        for round in 0..300 {
            let text = [
                "id=1 -> ratio:0.5",
                "",
                "root -> never",
                "id>=2 -> every_nth:3; id=1 -> rate_limit:1000",
            ][round % 4];
            pipeline
                .change_settings([("rules", text), ("level", ["", "minimal", "none"][round % 3])])
                .unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // What is in force now holds for the next span.
    pipeline.change_settings([("rules", "id=7 -> never"), ("level", "full")]).unwrap();
    {
        let _attached = pipeline.attach();
        assert!(!span!("root", "id" = 7).is_recording() && span!("root", "id" = 8).is_recording());
        assert!(pipeline.change_settings([("rules", "id=7 -> maybe")]).is_err());
        assert!(!span!("root", "id" = 7).is_recording(), "a bad change changes nothing");
    }
    pipeline.shutdown(LONG).unwrap();
    Ledger::read(&sink.batches()).check_against(&pipeline.stats());
}

#[test]
fn a_span_of_level_none_is_as_if_it_were_not_there() {
    let db = Tracer::named("db", "1");
    let levels = settings().levels("scope:db=none; name:inner*=none; quiet=none".parse().unwrap());
    let ledger = record(levels, |_| {
        let root = span!("root");
        let hidden = db.span("select").enter();
        assert!(!hidden.is_recording());
        assert_eq!(hidden.context(), root.context());
        let second = span!("inner one", "rows" = 1);
        drop(span!("leaf"));
        drop((second, hidden));
        drop(span!("second leaf"));
        drop(root);
        let root = span!("identified");
        let hidden = db.span("select").ids(TraceId(1), SpanId(1 << 40)).enter();
        assert_eq!(hidden.context(), root.context());
        drop(span!("fourth leaf"));
        drop((hidden, root));
        // Without a parent, its children are roots.
        let hidden = span!("quiet");
        assert!(!hidden.context().is_valid());
        drop(span!("own root"));
        drop(hidden);
        // One that is not current is a parent that leads to its own.
        let root = Span::start("second root");
        let hidden = db.span("update").parent(&root.context()).start();
        drop(Span::builder("third leaf").parent(&hidden.context()).start());
        drop(Span::builder("loud").level(Level::None).start());
        drop(db.span("wanted").level(Level::Full).start());
    });
    let parent = |name: &str| ledger.span(name).parent_span_id;
    assert_eq!(parent("leaf"), Some(ledger.span("root").span_id));
    assert_eq!(parent("second leaf"), Some(ledger.span("root").span_id));
    assert_eq!(parent("third leaf"), Some(ledger.span("second root").span_id));
    assert_eq!(parent("fourth leaf"), Some(ledger.span("identified").span_id));
    assert_eq!(parent("own root"), None);
    assert_eq!(
        ledger.names(),
        [
            "leaf",
            "second leaf",
            "root",
            "fourth leaf",
            "identified",
            "own root",
            "third leaf",
            "wanted",
            "second root"
        ]
    );
}

#[test]
fn at_the_level_minimal_there_are_roots_and_errors_and_the_rest_is_counted() {
    let (pipeline, sink) = memory_pipeline(settings().level(Level::Minimal));
    let remote =
        SpanContext::remote(TraceId(7), SpanId(8), TraceFlags::SAMPLED, TraceState::default());
    {
        let _attached = pipeline.attach();
        for _ in 0..10 {
            let _root = span!("root");
            drop(span!("fine", "a" = 1));
            span!("failed", "a" = 1).set_status(StatusCode::Error, "why");
            drop(Span::start("detached"));
            span!("large").set_attribute("text", "x".repeat(5000));
            Span::start("ended before").end_at(spanring::WallTime(1));
        }
        drop(Span::builder("entry").parent(&remote).start());
        thread::scope(|scope| {
            let child = Span::builder("elsewhere").parent(&remote).level(Level::Minimal).start();
            let inner = Span::builder("elsewhere").parent(&child.context()).start();
            scope.spawn(move || drop(inner));
        });
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    let ledger = Ledger::read(&sink.batches());
    ledger.check_against(&stats);
    let count = |name: &str| ledger.spans().filter(|span| span.name == name).count();
    assert_eq!(
        (count("root"), count("failed"), count("entry"), count("elsewhere")),
        (10, 10, 1, 1)
    );
    assert_eq!(ledger.spans().count(), 22);
    assert_eq!(stats.engine.dropped.0[Reason::ByRule as usize], 41);
    assert_eq!(stats.engine.dropped.total(), 41);
    assert_eq!(stats.engine.bytes_free + stats.engine.ring_bytes as u64, 64 << 20, "nothing leaks");
}

#[test]
fn the_level_smart_keeps_what_is_worth_it_and_a_tenth_of_the_rest() {
    const TRACES: u64 = 20_000;
    let mut sampled = 0;
    let ledger = record(settings().level(Level::Smart), |_| {
        drop(span!("long", "message" = "é".repeat(101)));
        drop(span!("high", "message" = "short", "priority" = "high"));
        for _ in 0..TRACES {
            let root = span!("rest", "message" = "m");
            drop(span!("child"));
            sampled += u64::from(root.is_recording());
        }
    });
    assert!(sampled.abs_diff(TRACES / 10) < 6 * 43, "{sampled}");
    assert_eq!(rule(ledger.span("long")), Some("smart: message.length>100 -> always"));
    assert_eq!(rule(ledger.span("high")), Some("smart: priority=high -> always"));
    let rest: Vec<_> = ledger.spans().filter(|span| span.name == "rest").collect();
    assert_eq!(rest.len() as u64, sampled);
    assert!(rest.iter().all(|span| rule(span) == Some("smart: * -> ratio:0.1")));
    assert_eq!(ledger.spans().count() as u64, 2 + 2 * sampled);
    // Rules come before, and a sampler that was set takes the place of the tenth.
    let all = spanring::settings::SamplerSetting::default();
    let ledger = record(rules("no* -> never").level(Level::Smart).sampler(all), |_| {
        drop(span!("not", "priority" = "high"));
        (0..100).for_each(|_| drop(span!("rest")));
    });
    assert_eq!(ledger.spans().count(), 100);
}

#[test]
fn a_scope_of_level_smart_is_thinned_out_within_its_traces() {
    const SPANS: u64 = 5000;
    let http = Tracer::named("smart.http", "1");
    let levels = settings().levels("scope:smart.*=smart; thin*=smart".parse().unwrap());
    let (mut kept, mut kept_too) = (0, 0);
    let ledger = record(levels, |_| {
        for _ in 0..SPANS {
            let root = Span::start("root").enter();
            let thin = http.span("GET").enter();
            kept += u64::from(thin.is_recording());
            drop(span!("leaf"));
            drop(thin);
            let thin = span!("thin too", "priority" = "low");
            assert_eq!(SpanContext::current(), thin.context());
            kept_too += u64::from(thin.is_recording());
            drop(span!("second leaf", "a" = 1));
            drop(thin);
            drop(root);
        }
        // Under a parent whose IDs came from elsewhere, and under none that is sampled.
        let foreign = Span::builder("foreign").root().ids(TraceId(1), SpanId(1 << 40)).enter();
        let thin = span!("thin too", "priority" = "low");
        assert_eq!(thin.context(), foreign.context());
        drop(Span::start("third leaf"));
        drop((thin, foreign));
        let _root = span!("last");
        drop(http.span("POST").attribute("priority", "high").start());
        drop(span!("thin", "priority" = "high"));
    });
    assert!(kept.abs_diff(SPANS / 10) < 6 * 22, "{kept}");
    // By trace ID, so both alike.
    assert_eq!(kept_too, kept);
    let count = |name: &str| ledger.spans().filter(|span| span.name == name).count() as u64;
    assert_eq!((count("root"), count("leaf"), count("GET")), (SPANS, SPANS, kept));
    assert_eq!((count("POST"), count("thin"), count("second leaf")), (1, 1, SPANS));
    assert_eq!(ledger.span("third leaf").parent_span_id, Some(SpanId(1 << 40)));
    let ids: std::collections::HashSet<_> = ledger.spans().map(|span| span.span_id).collect();
    let parents = ledger.spans().filter_map(|span| span.parent_span_id);
    assert!(parents.collect::<Vec<_>>().iter().all(|id| ids.contains(id)), "every parent is there");
    assert!(
        ledger.spans().filter(|span| span.name == "root").all(|span| span.trace_state.is_empty())
    );
}

#[test]
fn details_are_there_when_they_are_wanted() {
    let http = Tracer::named("details.http", "1");
    let (pipeline, sink) = memory_pipeline(settings());
    let round = |name: &str| {
        let _root = Span::builder(name).enter();
        drop(Span::builder("detail").detail(Detail::Detailed).start());
        drop(http.span("http detail").detail(Detail::Detailed).start());
        drop(span!("basic"));
    };
    {
        let _attached = pipeline.attach();
        round("by default");
        pipeline.change_settings([("details", "scope:details.*=detailed")]).unwrap();
        round("for a scope");
        pipeline
            .change_settings([("details", "basic=none"), ("detailed_tracing", "true")])
            .unwrap();
        round("for all but one");
        pipeline
            .change_settings([
                ("basic_tracing", "false"),
                ("detailed_tracing", "false"),
                ("details", ""),
            ])
            .unwrap();
        round("for none");
    }
    pipeline.shutdown(LONG).unwrap();
    let ledger = Ledger::read(&sink.batches());
    ledger.check_against(&pipeline.stats());
    assert_eq!(
        ledger.names(),
        [
            "basic",
            "by default",
            "http detail",
            "basic",
            "for a scope",
            "detail",
            "http detail",
            "for all but one"
        ]
    );
}

/// Two processes that know of each other only what `traceparent` and `tracestate` say.
#[test]
fn two_processes_decide_alike_about_a_trace() {
    const RULES: &str = "tenant=a -> ratio:0.3; * -> ratio:0.05";
    const PARENTS: &str = "RULES_TEST_PARENTS";
    let settings = || {
        // Each process decides for itself.
        rules(RULES).sampler(spanring::settings::SamplerSetting {
            parent_based: false,
            root: RootSampler::AlwaysOn,
        })
    };
    let decide = |trace: u128, tenant: &str| {
        let header = TraceParent::new(TraceId(trace), SpanId(1), TraceFlags::RANDOM).to_string();
        let parent = TraceParent::parse(&header).unwrap();
        let parent = SpanContext::remote(
            parent.trace_id,
            parent.span_id,
            parent.flags,
            TraceState::default(),
        );
        Span::builder("span").parent(&parent).attribute("tenant", tenant).start().is_recording()
    };
    let traces = || {
        (0..2000u128).map(|n| {
            (n + 1) << 64 | n.wrapping_mul(0x9e37_79b9_7f4a_7c15_1234_5678_9abc_def1) >> 64
        })
    };
    let all = |tenant: &str| -> String {
        traces().map(|trace| if decide(trace, tenant) { '1' } else { '0' }).collect()
    };
    if std::env::var_os(PARENTS).is_some() {
        record(settings(), |_| println!("\ndecided:{},{}", all("a"), all("b")));
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "two_processes_decide_alike_about_a_trace", "--nocapture"])
        .env(PARENTS, "1")
        .output()
        .unwrap();
    let said = String::from_utf8(child.stdout).unwrap();
    let theirs = said.lines().find_map(|line| line.strip_prefix("decided:")).expect(&said);
    record(settings(), |_| {
        let (a, b) = (all("a"), all("b"));
        assert_eq!(theirs, format!("{a},{b}"));
        let share = |of: &str| of.matches('1').count();
        assert!(
            share(&a).abs_diff(600) < 6 * 21 && share(&b).abs_diff(100) < 6 * 10,
            "{} {}",
            share(&a),
            share(&b)
        );
        // A trace that is sampled at the lower ratio is at the higher one.
        assert!(a.bytes().zip(b.bytes()).all(|(a, b)| a >= b));
    });
}

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, with a count beside it that neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised to us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_span_that_a_rule_refuses_allocates_nothing() {
    let options = EngineOptions {
        rules: "kind=client, a>1 -> always; message^=xx, scope=*y -> always; message=x* -> ratio:0; a=1 -> never".parse().unwrap(),
        levels: "scope:rules.out=none; over*=minimal".parse().unwrap(),
        ..EngineOptions::default()
    };
    let engine = Engine::start(&options);
    let _attached = engine.attach();
    let out = Tracer::named("rules.out", "1");
    let message = "x".repeat(5000);
    let state = TraceState::parse("vendor=value").unwrap();
    let remote = SpanContext::remote(TraceId(1), SpanId(2), TraceFlags(0), state);
    let burst = || {
        for _ in 0..100 {
            let root = span!("root", "message" = &*message, "a" = 1);
            assert!(!root.is_recording());
            drop(span!("child", "message" = &*message));
            drop(root);
            drop(span!("second", "a" = 1));
            drop(Span::builder("third").attribute("message", &message).start());
            drop(out.span("out").attribute("message", &message).start());
            drop(Span::builder("fourth").parent(&remote).attribute("message", &message).start());
        }
    };
    burst();
    let before = COUNT.with(Cell::get);
    burst();
    assert_eq!(COUNT.with(Cell::get) - before, 0);
    let mut drainer = Drainer::new(engine);
    assert_eq!(drainer.drain(&mut Records::new(), 10), 0);
}
