//! The spool: batches on disk while a sink cannot take them.
