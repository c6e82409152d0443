//! What the benches share: measuring, recorded traces, and what the numbers should be.

pub mod docs;
pub mod machine;
pub mod measure;
pub mod performed;
pub mod plot;
pub mod recorded;
pub mod sections;
pub mod targets;
pub mod workload;
