//! prof
use spanring_benches::{
    recorded,
    workload::{self, Clock},
};
use spanring_exporter::otlp::Writer;
fn main() {
    let clock = Clock::default();
    let which = std::env::args().nth(1).unwrap();
    let rounds: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let w = match which.as_str() {
        "bare" => workload::bare(512),
        "four" => workload::four(512),
        f => recorded::load("/work/shared/data".as_ref(), f, 512, 1).unwrap().0,
    };
    let mut writer = Writer::new();
    let mut out = Vec::new();
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let before = spanring_benches::measure::thread_seconds();
        for records in &w.batches {
            out.clear();
            let context = workload::context(&w, &clock, 0, 1);
            writer.write_records(records, &context, &mut out).unwrap();
            std::hint::black_box(&out);
        }
        best = best
            .min((spanring_benches::measure::thread_seconds() - before) * 1e9 / w.spans() as f64);
    }
    println!("{which} best {best:.1} ns, {} spans", w.spans());
}
