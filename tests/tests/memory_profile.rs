//! The memory profile, against what the test itself reads of the process's memory. Alone in its process.

use spanring::settings::LogLevel;
use spanring::{Span, Value, span};
use spanring_exporter::batch::decode;
use spanring_exporter::model::SpanData;
use spanring_exporter::{MemorySink, next_message};
use spanring_tests::{LONG, memory_pipeline, settings};

const KEY: &str = "process.memory.growth";
const MIB: i64 = 1 << 20;

/// What the kernel says in another of its files.
fn memory() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: i64 = line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
    kib * 1024
}

fn spans(sink: &MemorySink) -> Vec<SpanData> {
    let batches = sink.batches();
    batches.iter().flat_map(|batch| decode(&batch.frame).unwrap().batch.spans).collect()
}

fn growth(span: &SpanData) -> Option<i64> {
    let found: Vec<_> = span.attributes.iter().filter(|(key, _)| key == KEY).collect();
    match found[..] {
        [] => None,
        [(_, Value::Int(growth))] => Some(*growth),
        _ => panic!("{found:?}"),
    }
}

/// What the memory grew by while `take` took some.
fn measured(take: impl FnOnce()) -> i64 {
    let before = memory();
    take();
    memory() - before
}

#[test]
fn spans_that_match_say_by_how_much_memory_grew_and_others_do_not() {
    let builder = settings().memory_profile("agent.*, *.heavy").flush_interval(LONG);
    let (pipeline, sink) = memory_pipeline(builder);
    let attached = pipeline.attach();
    let mut kept = Vec::new();
    let mut grow = || kept.push(vec![1u8; 24 << 20]);

    // Each way to a span: the macro, the builder, one that is not current and ends elsewhere.
    let span = span!("agent.macro", "kept" = 7);
    let by_macro = measured(&mut grow);
    drop(span);
    let span = Span::builder("agent.builder").enter();
    drop(span!("agents are not in it"));
    let by_builder = measured(&mut grow);
    drop(span);
    let span = Span::builder("very.heavy").start();
    let elsewhere = measured(&mut grow);
    std::thread::scope(|scope| _ = scope.spawn(move || drop(span)).join());
    let span = span!("agent.shrinks");
    kept.clear();
    drop(span);
    drop(span!("other"));
    pipeline.flush(LONG).unwrap();
    let found = spans(&sink);
    let of = |name: &str| found.iter().find(|span| span.name == name).expect("it is recorded");
    let expected =
        [("agent.macro", by_macro), ("agent.builder", by_builder), ("very.heavy", elsewhere)];
    for (name, expected) in expected {
        assert!(expected > 20 * MIB, "{expected}");
        let found = growth(of(name)).expect("it is in the profile");
        // The kernel counts in portions, and the engine has memory of its own.
        assert!((found - expected).abs() < 2 * MIB, "{name}: {found} {expected}");
    }
    assert!(growth(of("agent.shrinks")).unwrap() < -60 * MIB);
    assert_eq!((growth(of("other")), growth(of("agents are not in it"))), (None, None));
    assert_eq!(of("agent.macro").attributes.len(), 2);
    assert_eq!(of("agents are not in it").parent_span_id, Some(of("agent.builder").span_id));

    // It ends and begins while spans are open.
    let known = found.len();
    let open = span!("agent.open");
    pipeline.change_settings([("memory_profile", "nothing")]).unwrap();
    let without = span!("agent.without");
    drop((without, open));
    drop(span!("then.without"));
    pipeline.change_settings([("memory_profile", "*.again")]).unwrap();
    drop(span!("now.again"));
    pipeline.flush(LONG).unwrap();
    let mut has: Vec<_> = spans(&sink)[known..]
        .iter()
        .map(|span| (span.name.clone(), growth(span).is_some()))
        .collect();
    has.sort_unstable();
    let expected = [
        ("agent.open", true),
        ("agent.without", false),
        ("now.again", true),
        ("then.without", false),
    ];
    assert_eq!(has, expected.map(|(name, has)| (name.to_owned(), has)));

    // The hundredth gives a line, of what the spans themselves say.
    while next_message().is_some() {}
    for number in 0..94 {
        let span = Span::builder(&*format!("{number}.again")).enter();
        if number % 20 == 0 {
            kept.push(vec![1u8; 40 << 20]);
        }
        drop(span);
    }
    drop(attached);
    pipeline.shutdown(LONG).unwrap();
    let lines: Vec<_> = std::iter::from_fn(next_message).collect();
    let [(level, line)] = &lines[..] else { panic!("one line: {lines:?}") };
    assert_eq!(*level, LogLevel::Warn);
    let all = spans(&sink);
    let growths: Vec<i64> = all.iter().filter_map(growth).collect();
    assert_eq!(growths.len(), 100);
    let mib = |bytes: i64| bytes as f64 / MIB as f64;
    let (mean, most) = (growths.iter().sum::<i64>() / 100, *growths.iter().max().unwrap());
    let says = format!("by {:.2} MiB in the mean, {:.2} MiB at most", mib(mean), mib(most));
    assert!(line.contains(&says), "{line} {says}");
    for span in all.iter().filter(|span| growth(span).is_some_and(|growth| growth > 2 * MIB)) {
        let named = format!("{} ({:.1} MiB)", span.name, mib(growth(span).unwrap()));
        assert!(line.contains(&named), "{line} {named}");
    }
    assert!(line.ends_with("a mean above 1 MiB is much: look for what these spans keep"), "{line}");

    // The program itself set it meanwhile.
    let (pipeline, sink) = memory_pipeline(settings().memory_profile("own"));
    let _attached = pipeline.attach();
    span!("own").set_attribute(KEY, i64::MIN);
    pipeline.flush(LONG).unwrap();
    assert_eq!(growth(&spans(&sink)[0]), Some(i64::MAX));
}

#[test]
fn a_span_that_is_discarded_is_in_no_batch() {
    let ledger = spanring_tests::record(settings().memory_profile("agent.*"), |pipeline| {
        spanring::span!("another").__discard();
        spanring::Span::start("agent.run").__discard();
        assert_eq!(pipeline.stats().engine.created, 0);
    });
    assert_eq!(ledger.spans().count(), 0);
}
