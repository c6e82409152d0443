//! Finds a trace that is worth looking at, in segments.

use std::collections::HashMap;
use std::path::Path;

use spanring::StatusCode;
use spanring_exporter::batch::decode;
use spanring_exporter::model::SpanData;
use spanring_exporter::segment::find_segments;
use spanring_exporter::sink::InstanceId;

use crate::source::open_segment;

/// Spans that are looked at.
const SPANS_MAX: usize = 50_000;

/// The spans of one trace of `instance` in `dir`: a whole one, with an error and many spans if there is
/// such a one among the first. None if there is no readable span.
pub fn find_trace(dir: &Path, instance: InstanceId) -> Vec<SpanData> {
    let mut traces: HashMap<_, Vec<SpanData>> = HashMap::new();
    let mut spans = 0;
    'segments: for found in find_segments(dir).unwrap_or_default() {
        let Ok(mut reader) = open_segment(&found.path) else { continue };
        if reader.header().instance != instance {
            continue;
        }
        while let Some(frame) = reader.next_batch() {
            let Ok(batch) = frame.map_err(drop).and_then(|it| decode(it.frame).map_err(drop))
            else {
                continue;
            };
            for span in batch.batch.spans {
                spans += 1;
                traces.entry(span.trace_id).or_default().push(span);
            }
            if spans > SPANS_MAX {
                break 'segments;
            }
        }
    }
    // By ID in the end, so that the same segments show the same trace.
    let best = traces.into_iter().max_by_key(|(id, spans)| {
        let has_error = spans.iter().any(|span| span.status == StatusCode::Error);
        (is_whole(spans), has_error, spans.len(), *id)
    });
    best.map(|(_, spans)| spans).unwrap_or_default()
}

fn is_whole(spans: &[SpanData]) -> bool {
    let has_parent = |span: &SpanData| {
        let Some(parent) = span.parent_span_id else { return true };
        spans.iter().any(|other| other.span_id == parent)
    };
    spans.iter().all(has_parent)
}
