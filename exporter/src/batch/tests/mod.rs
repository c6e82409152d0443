//! Batches against a plain oracle: spans as owned data are written into records, encoded, decoded and
//! compared.

mod cases;
mod damage;
pub(crate) mod oracle;

use proptest::prelude::*;
use spanring::Value;

use self::oracle::{assert_same, encode_with, records, spans};
use super::value::Budget;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 1000 }))]

    #[test]
    fn arbitrary_spans_come_back(batches in proptest::collection::vec(spans(0..40), 1..4)) {
        let mut encoder = Encoder::new().unwrap();
        for spans in &batches {
            let encoded = encode_with(&mut encoder, &records(spans)).unwrap();
            let decoded = decode(&encoded.frame).unwrap();
            assert_same(&decoded, spans);
            prop_assert_eq!(encoded.spans as usize, spans.len());
            prop_assert_eq!(decoded.header.end_unix_nano, encoded.end_unix_nano);
            prop_assert_eq!(&decode_header(&encoded.frame).unwrap(), &decoded.header);
            let starts = spans.iter().map(|span| span.data.start_unix_nano);
            prop_assert_eq!(encoded.start_unix_nano, starts.min().unwrap_or(0));
        }
    }

    /// What the encoder lets through, the decoder never refuses for its size; and the decoder counts at
    /// least what it returns.
    #[test]
    fn encoder_and_decoder_reckon_with_enough_memory(spans in spans(0..40)) {
        let mut encoder = Encoder::new().unwrap();
        let encoded = encode_with(&mut encoder, &records(&spans)).unwrap();
        let mut budget = Budget::new();
        let before = budget.left();
        let content = frame::decompress(&encoded.frame).unwrap();
        let decoded = decode::decode_within(&content, &mut budget).unwrap();
        prop_assert!(before - budget.left() <= encoder.decoded_bytes());
        prop_assert!(before - budget.left() >= batch_bytes(&decoded.batch));
    }
}

/// Bytes that a batch takes in memory.
fn batch_bytes(batch: &SpanBatch) -> usize {
    let mut bytes = std::mem::size_of_val(&batch.spans[..]);
    for span in &batch.spans {
        bytes += span.name.len() + span.status_message.len() + span.trace_state.len();
        bytes += attributes_bytes(&span.attributes);
        bytes += std::mem::size_of_val(&span.events[..]) + std::mem::size_of_val(&span.links[..]);
        for event in &span.events {
            bytes += event.name.len() + attributes_bytes(&event.attributes);
        }
        for link in &span.links {
            bytes += link.trace_state.len() + attributes_bytes(&link.attributes);
        }
    }
    for resource in &batch.resources {
        bytes += size_of::<ResourceData>() + attributes_bytes(&resource.attributes);
    }
    for scope in &batch.scopes {
        bytes += size_of::<ScopeData>() + scope.name.len() + attributes_bytes(&scope.attributes);
    }
    bytes
}

fn attributes_bytes(attributes: &[(String, Value)]) -> usize {
    let own = |(key, value): &(String, Value)| key.len() + value_bytes(value);
    std::mem::size_of_val(attributes) + attributes.iter().map(own).sum::<usize>()
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Str(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Array(values) => {
            std::mem::size_of_val(&values[..]) + values.iter().map(value_bytes).sum::<usize>()
        }
        Value::Map(entries) => attributes_bytes(entries),
        _ => 0,
    }
}
