//! Bytes a span of the recorded traces in other formats, for the same spans in the same batches.
//!
//! - OTLP as an SDK's exporter sends a batch: protobuf, spans grouped by resource and scope; as it is, and
//!   compressed by gzip (level 6) and zstd (levels 1 and 3).
//! - Parquet with zstd (levels 1 and 3): a file a batch, since each must read alone, and one file for everything.
//!   A column for each attribute key of the batch and its type, IDs as bytes, times delta-encoded, the rest with
//!   dictionaries; events and links are JSON in a column each. Neither statistics nor page indexes.
//!
//! What is written is read back, and must hold all spans with all their attributes.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use prost::Message;
use serde_json::{Map, Value as Json, json};
use spanring::Value;
use spanring_exporter::batch::{Encoder, LEVEL_DEFAULT};
use spanring_exporter::model::SpanData;

use super::{Run, otlp, size::FILES};
use crate::measure::Numbers;
use crate::recorded;
use crate::workload::{self, Clock, Workload};

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let mut numbers = Numbers::default();
    let clock = Clock::default();
    let sizes: &[usize] = if run.quick { &[512] } else { &[50, 512, 4096] };
    for file in FILES {
        for &size in sizes {
            let (workload, expected) = recorded::load(&run.data, file, size, 1)
                .unwrap_or_else(|message| panic!("{message}"));
            let batches: Vec<Vec<SpanData>> = expected
                .into_iter()
                .map(|batch| batch.into_iter().map(|expected| expected.span).collect())
                .collect();
            let mut set = |format: &str, bytes: usize| {
                let bytes = bytes as f64 / workload.spans() as f64;
                numbers.set(format!("{file}, {size} a batch, {format} B"), bytes);
            };
            set("spanring", spanring(&workload, &clock));
            let mut sums = [0; 4];
            for (batch, records) in batches.iter().zip(&workload.batches) {
                let request = otlp::request(records, &workload, &clock);
                for (sum, bytes) in sums.iter_mut().zip(otlp_bytes(batch, &request)) {
                    *sum += bytes;
                }
            }
            for (name, bytes) in
                ["OTLP", "OTLP+gzip", "OTLP+zstd 1", "OTLP+zstd 3"].iter().zip(sums)
            {
                set(name, bytes);
            }
            for level in [1, 3] {
                let parquet = |batch: &Vec<SpanData>| parquet_bytes(batch, &workload, level);
                set(&format!("Parquet+zstd {level}"), batches.iter().map(parquet).sum());
            }
            if size == 512 {
                let all = batches.concat();
                set("Parquet+zstd 3, all in one", parquet_bytes(&all, &workload, 3));
            }
        }
    }
    numbers
}

fn spanring(workload: &Workload, clock: &Clock) -> usize {
    let mut encoder = Encoder::new().expect("there is memory");
    let batches = workload.batches.iter().enumerate();
    batches
        .map(|(sequence, records)| {
            let context = workload::context(workload, clock, sequence as u64, LEVEL_DEFAULT);
            encoder.encode(records, &context).expect("it is within all limits").frame.len()
        })
        .sum()
}

/// Plain, by gzip, by zstd at levels 1 and 3.
fn otlp_bytes(batch: &[SpanData], request: &ExportTraceServiceRequest) -> [usize; 4] {
    let bytes = request.encode_to_vec();
    let back = ExportTraceServiceRequest::decode(bytes.as_slice()).expect("it was just encoded");
    let spans = || {
        let scopes = back.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| &scope.spans)
    };
    assert_eq!(spans().count(), batch.len());
    let count = |spans: &mut dyn Iterator<Item = usize>| spans.sum::<usize>();
    assert_eq!(
        count(&mut spans().map(|span| span.attributes.len() + span.events.len())),
        count(&mut batch.iter().map(|span| span.attributes.len() + span.events.len())),
    );
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&bytes).expect("memory takes it");
    let zstd = |level| zstd::bulk::compress(&bytes, level).expect("memory takes it").len();
    [bytes.len(), gzip.finish().expect("memory takes it").len(), zstd(1), zstd(3)]
}

/// One Parquet file.
fn parquet_bytes(batch: &[SpanData], workload: &Workload, level: i32) -> usize {
    let rows: Vec<Json> = batch.iter().map(|span| Json::Object(row(span, workload))).collect();
    let schema = Arc::new(schema(&rows));
    let mut decoder = arrow_json::ReaderBuilder::new(Arc::clone(&schema))
        .with_batch_size(rows.len())
        .build_decoder()
        .expect("the schema can be read");
    decoder.serialize(&rows).expect("the rows are as the schema says");
    let records = decoder.flush().expect("likewise").expect("there are rows");

    let level = ZstdLevel::try_new(level).expect("it exists");
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true);
    for time in ["start", "duration"] {
        properties = properties
            .set_column_dictionary_enabled(time.into(), false)
            .set_column_encoding(time.into(), Encoding::DELTA_BINARY_PACKED);
    }
    for id in ["trace_id", "span_id", "parent_span_id"] {
        // A trace occurs often, a span once.
        properties = properties.set_column_dictionary_enabled(id.into(), id != "span_id");
    }
    let options = parquet::arrow::arrow_writer::ArrowWriterOptions::new()
        .with_properties(properties.build())
        .with_skip_arrow_metadata(true);
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new_with_options(&mut file, schema, options)
        .expect("the schema can be written");
    writer.write(&records).expect("memory takes it");
    writer.close().expect("likewise");
    let bytes = file.len();
    check(file, batch);
    bytes
}

/// Reads a file back: all spans and all attributes must be there.
fn check(file: Vec<u8>, batch: &[SpanData]) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file))
        .and_then(|builder| builder.build())
        .expect("it was just written");
    let (mut rows, mut attributes) = (0, 0);
    for records in reader {
        let records: RecordBatch = records.expect("it was just written");
        rows += records.num_rows();
        for (field, column) in records.schema().fields().iter().zip(records.columns()) {
            if field.name().starts_with("a.") {
                attributes += column.len() - column.null_count();
            }
        }
    }
    assert_eq!(rows, batch.len());
    assert_eq!(attributes, batch.iter().map(|span| span.attributes.len()).sum::<usize>());
}

fn row(span: &SpanData, workload: &Workload) -> Map<String, Json> {
    let scope = &workload.scopes[span.scope];
    let resource = &workload.resources[scope.resource];
    let mut row = Map::new();
    let mut set = |key: &str, value: Json| {
        row.insert(key.to_owned(), value);
    };
    set("trace_id", format!("{:032x}", span.trace_id.0).into());
    set("span_id", format!("{:016x}", span.span_id.0).into());
    if let Some(parent) = span.parent_span_id {
        set("parent_span_id", format!("{:016x}", parent.0).into());
    }
    set("flags", span.trace_flags.into());
    set("name", span.name.as_str().into());
    set("kind", (span.kind as u8).into());
    set("start", span.start_unix_nano.into());
    set("duration", (span.end_unix_nano - span.start_unix_nano).into());
    set("status", (span.status as u8).into());
    set("scope", scope.name.as_str().into());
    for (key, text) in [
        ("status_message", &span.status_message),
        ("trace_state", &span.trace_state),
        ("scope_version", &scope.version),
    ] {
        if !text.is_empty() {
            set(key, text.as_str().into());
        }
    }
    for (prefix, attributes) in [("a", &span.attributes), ("r", &resource.attributes)] {
        for (key, value) in attributes {
            let (kind, value) = match value {
                Value::Bool(value) => ("b", json!(value)),
                Value::Int(value) => ("i", json!(value)),
                Value::Double(value) => ("d", json!(value)),
                Value::Str(value) => ("s", json!(value)),
                other => ("j", json!(to_json(other).to_string())),
            };
            set(&format!("{prefix}.{key}.{kind}"), value);
        }
    }
    if !span.events.is_empty() {
        let event = |event: &spanring_exporter::model::EventData| {
            json!([event.time_unix_nano, event.name, pairs(&event.attributes)])
        };
        set("events", Json::Array(span.events.iter().map(event).collect()).to_string().into());
    }
    if !span.links.is_empty() {
        let link = |link: &spanring_exporter::model::LinkData| {
            let (trace, span) = (link.trace_id.0, link.span_id.0);
            json!([format!("{trace:032x}"), format!("{span:016x}"), pairs(&link.attributes)])
        };
        set("links", Json::Array(span.links.iter().map(link).collect()).to_string().into());
    }
    row
}

fn pairs(attributes: &[(String, Value)]) -> Json {
    attributes.iter().map(|(key, value)| (key.clone(), to_json(value))).collect()
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Double(value) => json!(value),
        Value::Str(value) => json!(value),
        Value::Bytes(value) => json!(value.to_vec()),
        Value::Array(values) => values.iter().map(to_json).collect(),
        Value::Map(attributes) => pairs(attributes),
    }
}

/// The columns that the rows have.
fn schema(rows: &[Json]) -> Schema {
    let rows = rows.iter().filter_map(Json::as_object);
    let names: BTreeSet<&str> =
        rows.clone().flat_map(|row| row.keys()).map(String::as_str).collect();
    let fields = names.into_iter().map(|name| {
        let data_type = match name {
            "trace_id" => DataType::FixedSizeBinary(16),
            "span_id" | "parent_span_id" => DataType::FixedSizeBinary(8),
            "flags" | "kind" | "status" => DataType::UInt8,
            "start" | "duration" => DataType::Int64,
            _ if name.contains('.') => match name.rsplit('.').next() {
                Some("b") => DataType::Boolean,
                Some("i") => DataType::Int64,
                Some("d") => DataType::Float64,
                _ => DataType::Utf8,
            },
            _ => DataType::Utf8,
        };
        let nullable = !rows.clone().all(|row| row.contains_key(name));
        Field::new(name, data_type, nullable)
    });
    Schema::new(fields.collect::<Vec<_>>())
}
