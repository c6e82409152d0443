//! OTLP: spans as protobuf, written straight from records.
