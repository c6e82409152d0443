//! What `spanring demo` runs: the workload, the measurement of what a span costs, and a trace to show.

mod measure;
mod shop;
mod trace;

pub use measure::{SpanCost, measure};
pub use shop::{Quota, Shop};
pub use trace::find_trace;
