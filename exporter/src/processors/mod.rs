//! Processors: what sees finished spans on the flusher's thread, before they are sealed, and may drop or change them.
//!
//! First those of the application, in the order in which they were set; then redaction (`redact`), so that it sees what they
//! added; then the tracking of errors (`errors`), which sees what was redacted. While there is none of all that, a batch is
//! sealed as it is.
//!
//! A processor of the application that panics leaves that span as it was. One that panics or takes longer than
//! `PROCESSOR_MAX_TIME` in three batches running is switched off.

pub mod errors;
mod redact;
#[cfg(test)]
mod tests;
mod view;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use spanring::export::Drainer;
use spanring::record::{Fate, Records};
use spanring::settings::Settings;

use self::redact::Redaction;
pub use self::view::SpanView;
use crate::batch::TickClock;
use crate::delivery::panic_text;
use crate::log;

/// After so many bad batches running a processor is switched off.
const BAD_BATCHES_MAX: u32 = 3;
/// Rules of which drops are counted; of more, under `(other)`.
const RULES_MAX: usize = 64;
const OTHER_RULES: &str = "(other)";

/// Sees each finished span once, on the flusher's thread, before anything is written or sent.
///
/// It should be quick: while it runs, nothing is sealed. It must not wait for the pipeline; spans that it makes itself are dropped.
/// Any closure that takes a view is one:
///
/// ```
/// use spanring_exporter::{MemorySink, Pipeline, SpanView};
///
/// let pipeline = Pipeline::builder().sink(MemorySink::new()).build()?;
/// pipeline.set_processor("no health checks", |span: &mut SpanView<'_>| {
///     if span.name() == "GET /health" {
///         span.drop_span("health check");
///     }
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Processor: Send {
    /// Looks at a span, and says through the view what becomes of it.
    fn process(&mut self, span: &mut SpanView<'_>);
}

impl<F: FnMut(&mut SpanView<'_>) + Send> Processor for F {
    fn process(&mut self, span: &mut SpanView<'_>) {
        self(span);
    }
}

/// What a processor did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessorStats {
    /// Its name.
    pub name: String,
    /// Spans that it saw.
    pub spans: u64,
    /// Spans that it changed.
    pub changed: u64,
    /// Spans that it dropped, by rule; 64 rules at most.
    pub dropped: Vec<(String, u64)>,
    /// Spans at which it panicked; they went on as they were.
    pub panics: u64,
    /// Batches for which it took longer than `PROCESSOR_MAX_TIME`.
    pub overruns: u64,
    /// Whether it was switched off, because it panicked or took too long again and again.
    pub is_off: bool,
}

impl ProcessorStats {
    pub(crate) fn new(name: &str) -> Self {
        ProcessorStats { name: name.to_owned(), ..ProcessorStats::default() }
    }

    fn count_drop(&mut self, rule: &str) {
        let known = self.dropped.iter_mut().find(|(known, _)| known == rule);
        if let Some((_, count)) = known {
            *count += 1;
        } else if self.dropped.len() < RULES_MAX || rule == OTHER_RULES {
            self.dropped.push((rule.to_owned(), 1));
        } else {
            self.count_drop(OTHER_RULES);
        }
    }
}

/// What the application asked for while the flusher runs.
pub(crate) enum ProcessorChange {
    /// In the place of the one of that name, or after all others.
    Set(String, Box<dyn Processor>),
    Remove(String),
}

struct Slot {
    processor: Box<dyn Processor>,
    stats: ProcessorStats,
    /// Bad batches running.
    bad: u32,
}

/// All processors of a pipeline.
#[derive(Default)]
pub(crate) struct Processing {
    slots: Vec<Slot>,
    redaction: Option<Redaction>,
    redacted: ProcessorStats,
    tracked: Option<ProcessorStats>,
}

impl Processing {
    /// What the application asked for.
    pub(crate) fn change(&mut self, change: ProcessorChange) {
        match change {
            ProcessorChange::Set(name, processor) => {
                let stats = ProcessorStats::new(&name);
                let slot = Slot { processor, stats, bad: 0 };
                match self.slots.iter_mut().find(|slot| slot.stats.name == name) {
                    Some(known) => let_go(std::mem::replace(known, slot)),
                    None => self.slots.push(slot),
                }
            }
            ProcessorChange::Remove(name) => {
                self.slots.extract_if(.., |slot| slot.stats.name == name).for_each(let_go);
            }
        }
    }

    /// Takes what settings say; whether that is something new.
    pub(crate) fn follow(&mut self, settings: &Settings) -> bool {
        let known = self.redaction.as_ref().map_or("", Redaction::patterns);
        let redacts_anew = known != settings.redact;
        if redacts_anew {
            self.redaction = Redaction::new(&settings.redact);
            self.redacted.name = "redact".to_owned();
        }
        let tracks_anew = self.tracked.is_some() != settings.track_errors;
        if tracks_anew {
            self.tracked = settings.track_errors.then(|| ProcessorStats::new("errors"));
        }
        redacts_anew || tracks_anew
    }

    /// Whether nothing sees the spans.
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.stats.is_off)
            && self.redaction.is_none()
            && self.tracked.is_none()
    }

    /// Lets all see the spans, and does with them what they say.
    pub(crate) fn run(
        &mut self,
        records: &mut Records,
        drainer: &mut Drainer,
        clock: &dyn TickClock,
        settings: &Settings,
    ) {
        for slot in &mut self.slots {
            if !slot.stats.is_off && !records.is_empty() {
                let fates = slot.run(records, clock, settings);
                if !fates.is_empty() {
                    drainer.edit(records, fates);
                }
            }
        }
        if let Some(redaction) = &mut self.redaction {
            let fates = redaction.run(records);
            self.redacted.spans += records.len() as u64;
            self.redacted.changed += fates.len() as u64;
            if !fates.is_empty() {
                drainer.edit(records, fates);
            }
        }
        if let Some(stats) = &mut self.tracked {
            stats.spans += records.len() as u64;
        }
    }

    pub(crate) fn stats(&self) -> Vec<ProcessorStats> {
        let redacted = self.redaction.as_ref().map(|_| &self.redacted);
        let slots = self.slots.iter().map(|slot| &slot.stats);
        slots.chain(redacted).chain(&self.tracked).cloned().collect()
    }
}

impl Slot {
    fn run(
        &mut self,
        records: &Records,
        clock: &dyn TickClock,
        settings: &Settings,
    ) -> Vec<(usize, Fate)> {
        let begun = Instant::now();
        let mut fates = Vec::new();
        let mut panic_said = None;
        let mut edits = view::Edits::default();
        for (index, record) in records.iter().enumerate() {
            edits.clear();
            let processor = &mut *self.processor;
            let result = catch_unwind(AssertUnwindSafe(|| {
                processor.process(&mut SpanView::new(record, clock, &mut edits));
            }));
            match result {
                Ok(()) => {
                    if let Some(rule) = edits.dropped_by() {
                        self.stats.count_drop(rule);
                        fates.push((index, Fate::Drop));
                    } else if let Some(payload) = edits.payload(&record) {
                        self.stats.changed += 1;
                        fates.push((index, Fate::Replace(payload)));
                    }
                }
                Err(panic) => {
                    self.stats.panics += 1;
                    panic_said = Some(panic_text(&*panic).to_owned());
                    // What was thrown may panic when it is dropped, too.
                    std::mem::forget(panic);
                }
            }
        }
        self.stats.spans += records.len() as u64;
        let took = begun.elapsed();
        let is_late = took > settings.processor_max_time;
        self.stats.overruns += u64::from(is_late);
        let problem = match panic_said {
            Some(said) => Some(format!("it panicked: {said}")),
            None => is_late.then(|| {
                format!(
                    "it took {:.3} s for a batch, and PROCESSOR_MAX_TIME is {} s",
                    took.as_secs_f64(),
                    settings.processor_max_time.as_secs_f64()
                )
            }),
        };
        self.judge(problem);
        fates
    }

    fn judge(&mut self, problem: Option<String>) {
        let Some(problem) = problem else {
            self.bad = 0;
            return;
        };
        self.bad += 1;
        let name = &self.stats.name;
        if self.bad >= BAD_BATCHES_MAX {
            self.stats.is_off = true;
            log::error!(
                "processor {name} is switched off, after {BAD_BATCHES_MAX} batches running: {problem}; spans go on without it, until it is \
                 set again"
            );
        } else if self.bad == 1 {
            log::warning!("processor {name}: {problem}");
        }
    }
}

/// Drops a processor, whose destructor is others' code.
fn let_go(slot: Slot) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(slot.processor))) {
        log::warning!(
            "processor {} panicked when it was dropped: {}",
            slot.stats.name,
            panic_text(&*panic)
        );
        std::mem::forget(panic);
    }
}

impl Drop for Processing {
    fn drop(&mut self) {
        self.slots.drain(..).for_each(let_go);
    }
}
