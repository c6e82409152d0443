//! Spans that together exceed what a batch may hold are sealed in several.

use std::time::Duration;

use spanring::export::Reason;
use spanring::settings::Settings;
use spanring::{Span, Value};
use spanring_exporter::batch::decode;
use spanring_exporter::{MemorySink, Pipeline};

const MIB: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn spans_too_large_for_one_batch_go_into_several_and_only_one_too_large_by_itself_is_dropped() {
    let memory = MemorySink::new();
    let settings = Settings::builder().max_bytes(1 << 30).batch_size(8).ignore_environment();
    let pipeline = Pipeline::builder().settings(settings.build()).sink(memory.clone());
    let pipeline = pipeline.build().expect("it starts");
    let attached = pipeline.attach();
    // A batch takes 64 MiB of text; the fourth span exceeds that alone.
    for (number, mib) in [25, 25, 25, 65, 25].into_iter().enumerate() {
        let mut span = Span::start("large");
        span.set_attribute("number", number as i64);
        span.set_attribute("text", "x".repeat(mib * MIB));
    }
    drop(attached);
    pipeline.shutdown(TIMEOUT).expect("it ends");
    let stats = pipeline.stats().engine;
    let dropped = stats.dropped.0[Reason::Encode as usize];
    assert_eq!((stats.created, stats.sealed, dropped), (5, 4, 1), "{stats:?}");
    assert_eq!((stats.resident, stats.dropped.total()), (0, 1), "{stats:?}");
    assert_eq!(stats.bytes_free, 1 << 30, "all memory is given back");
    let mut numbers = Vec::new();
    for (index, batch) in memory.batches().iter().enumerate() {
        let decoded = decode(&batch.frame).expect("the batch is whole");
        assert_eq!(decoded.header.sequence, index as u64);
        for span in &decoded.batch.spans {
            assert_eq!(span.attributes[1].0, "text");
            assert!(matches!(&span.attributes[1].1, Value::Str(text) if text.len() == 25 * MIB));
            numbers.push(span.attributes[0].1.clone());
        }
        let so_far = numbers.len() as u64;
        assert_eq!(decoded.header.sealed, so_far, "each header counts what came before");
    }
    assert_eq!(numbers, [0, 1, 2, 4].map(Value::Int));
}
