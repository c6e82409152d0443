//! Conservation over the batches of one instance, in order: each header continues the one before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use spanring_exporter::batch::BatchHeader;
use spanring_exporter::segment::SegmentHeader;
use spanring_exporter::sink::InstanceId;

use super::{DEFECT, Options, Place, Problem};

const LOST: &str = "a file is missing, or the sink could not take them, which its process counted";
const NOT_CLOSED: &str =
    "its process was killed or still runs, or the file with the last batches is missing";

/// What the batches of one pipeline say together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// Its instance ID.
    pub instance: String,
    /// Segments.
    pub segments: u64,
    /// Batches that could be decoded, the closing one included.
    pub batches: u64,
    /// Spans in these.
    pub spans: u64,
    /// Number of the first batch that is there.
    pub first_sequence: Option<u64>,
    /// Number of the last batch that is there.
    pub last_sequence: Option<u64>,
    /// Batches that are missing between these two.
    pub batches_missing: u64,
    /// Spans in them, as far as the others' counts tell.
    pub spans_missing: u64,
    /// Spans in the batches before the first that is there.
    pub spans_before: u64,
    /// Spans created, as the last batch says.
    pub created: u64,
    /// Spans sealed, likewise.
    pub sealed: u64,
    /// Spans dropped by reason, likewise.
    pub dropped: BTreeMap<String, u64>,
    /// Whether the closing batch is there, so that nothing can be missing at the end.
    pub is_closed: bool,
}

/// The check while it goes on.
#[derive(Debug)]
pub(super) struct Chain {
    id: InstanceId,
    options: Options,
    instance: Instance,
    /// Number and file of the segment that was begun last.
    segment: Option<(u64, PathBuf)>,
    /// Whether the segment is another one's copy, whose batches do not count.
    is_copy: bool,
}

impl Chain {
    pub(super) fn new(id: InstanceId, options: Options) -> Self {
        let instance = Instance { instance: id.to_string(), ..Instance::default() };
        Chain { id, options, instance, segment: None, is_copy: false }
    }

    pub(super) fn is_of(&self, instance: InstanceId) -> bool {
        self.id == instance
    }

    /// Goes on with the batches of another segment.
    pub(super) fn begin_segment(
        &mut self,
        header: &SegmentHeader,
        path: &Path,
        report: &mut dyn FnMut(Problem),
    ) {
        self.instance.segments += 1;
        self.is_copy = self.segment.as_ref().is_some_and(|(number, _)| *number == header.number);
        match &self.segment {
            Some((number, first)) if self.is_copy => {
                let what =
                    format!("it is segment {number} of its instance, as {} is", first.display());
                let advice = "pass each segment once: of this one only the structure is checked";
                report(Problem::new(Place { path, offset: None }, what, advice));
            }
            _ => self.segment = Some((header.number, path.to_owned())),
        }
    }

    /// Goes on with the next batch.
    pub(super) fn add(
        &mut self,
        header: &BatchHeader,
        place: Place<'_>,
        report: &mut dyn FnMut(Problem),
    ) {
        if self.is_copy {
            return;
        }
        let mut problem = |what: String, advice: &str| report(Problem::new(place, what, advice));
        let before = &mut self.instance;
        before.batches += 1;
        before.spans += u64::from(header.spans);
        let sequence = header.sequence;
        let Some(sealed_before) = header.sealed.checked_sub(u64::from(header.spans)) else {
            let (spans, sealed) = (header.spans, header.sealed);
            let what = format!("the batch has {spans} spans, but counts {sealed} sealed so far");
            return problem(what, DEFECT);
        };
        match before.last_sequence {
            None => {
                before.first_sequence = Some(sequence);
                before.spans_before = sealed_before;
                if sequence > 0 && !self.options.allow_deleted {
                    let what = format!(
                        "the batches 0 to {} of the instance are missing: {sealed_before} spans",
                        sequence - 1
                    );
                    let advice = "pass all of its segments, or --allow-deleted if RETENTION_BYTES \
                                  deleted the first ones";
                    problem(what, advice);
                } else if sequence == 0 && sealed_before > 0 {
                    let what = format!("the first batch counts {sealed_before} spans before it");
                    problem(what, DEFECT);
                }
            }
            Some(last) if sequence <= last => {
                let what = format!("batch {sequence} stands after batch {last}");
                return problem(what, DEFECT);
            }
            Some(last) => {
                if before.is_closed {
                    let what = format!("batch {sequence} follows {last}, the closing batch");
                    problem(what, DEFECT);
                }
                let missing = sequence - last - 1;
                let spans = sealed_before.saturating_sub(before.sealed);
                before.batches_missing += missing;
                before.spans_missing += spans;
                if missing > 0 {
                    let which = match missing {
                        1 => format!("batch {} is", last + 1),
                        _ => format!("the batches {} to {} are", last + 1, sequence - 1),
                    };
                    problem(format!("{which} missing: {spans} spans"), LOST);
                } else if sealed_before != before.sealed {
                    let what = format!(
                        "the batch counts {sealed_before} spans before it, the one before it {}",
                        before.sealed
                    );
                    problem(what, DEFECT);
                }
                if header.created < before.created {
                    let (now, before) = (header.created, before.created);
                    let what = format!("the created spans fell from {before} to {now}");
                    problem(what, DEFECT);
                }
                for (reason, count) in &header.dropped {
                    let before = before.dropped.get(reason).copied().unwrap_or_default();
                    if *count < before {
                        let what = format!("the drops by {reason} fell from {before} to {count}");
                        problem(what, DEFECT);
                    }
                }
            }
        }
        before.last_sequence = Some(sequence);
        before.created = header.created;
        before.sealed = header.sealed;
        before.dropped = header.dropped.iter().cloned().collect();
        before.is_closed = header.spans == 0;
        let accounted = before.accounted();
        let created = header.created;
        if before.is_closed && accounted != u128::from(created) || accounted > u128::from(created) {
            let (sealed, dropped) = (header.sealed, accounted - u128::from(header.sealed));
            let what =
                format!("{created} spans were created, but {sealed} sealed and {dropped} dropped");
            problem(what, DEFECT);
        }
    }

    /// All batches were added.
    pub(super) fn finish(self, report: &mut dyn FnMut(Problem)) -> Instance {
        if let Some((_, path)) = self.segment.filter(|_| !self.instance.is_closed) {
            let what = match self.instance.last_sequence {
                None => "unclean: the instance has no batch, its tail is unknown".to_owned(),
                Some(last) => {
                    let accounted = self.instance.accounted();
                    let lost = u128::from(self.instance.created).saturating_sub(accounted);
                    format!(
                        "unclean: batch {last} is the last and no closing batch, the tail is \
                         unknown: at least {lost} more spans were recorded"
                    )
                }
            };
            report(Problem::new(Place { path: &path, offset: None }, what, NOT_CLOSED));
        }
        self.instance
    }
}

impl Instance {
    /// Spans sealed or dropped. Counts of a hostile file may exceed 64 bits together.
    fn accounted(&self) -> u128 {
        self.dropped.values().map(|count| u128::from(*count)).sum::<u128>()
            + u128::from(self.sealed)
    }
}
