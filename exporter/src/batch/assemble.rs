//! The decoder's last step: what the columns hold becomes spans, resources and scopes.
//!
//! Values are taken from the columns in the order in which the encoder put them there: resource by
//! resource, scope by scope, and span by span, each with its events and links.

use spanring::Value;

use super::BatchError;
use super::decode::{Columns, Extras, Ghost, Spans};
use super::parent::ORIGIN_GHOST;
use super::read_column::ReadColumn;
use super::read_table::{ShapeEntry, Tables};
use super::shape::extra;
use super::value::Budget;
use crate::model::{EventData, LinkData, ResourceData, ScopeData, SpanData};

/// Takes counts of what was dropped, and pieces of lists, one after another.
struct Take<I>(I);

impl<I: Iterator<Item = u32>> Take<I> {
    fn next(&mut self) -> u32 {
        self.0.next().unwrap_or(0)
    }
}

pub(super) fn assemble_spans(
    budget: &mut Budget,
    tables: &Tables,
    from: &Spans,
    ghosts: &[Ghost],
    extras: Extras,
    columns: &mut Columns,
) -> Result<Vec<SpanData>, BatchError> {
    let Columns { special: [status, state, link_state], attributes: columns } = columns;
    let mut span_dropped = Take(extras.span_dropped.into_iter());
    let mut event_counts = Take(extras.event_counts.into_iter());
    let mut event_dropped = Take(extras.event_dropped.into_iter());
    let mut link_counts = Take(extras.link_counts.into_iter());
    let mut link_dropped = Take(extras.link_dropped.into_iter());
    let mut events = extras.events.into_iter();
    let mut links = extras.links.into_iter();
    let mut spans = Vec::with_capacity(from.shapes.len());
    for (index, &shape) in from.shapes.iter().enumerate() {
        let shape = &tables.shapes[shape as usize];
        let has = |bit: u32| shape.has(bit);
        let ghost = match from.origins[index] {
            ORIGIN_GHOST => Some(&ghosts[from.ghosts[index] as usize]),
            _ => None,
        };
        let parent = from.parents[index];
        let parent_span_id = match parent {
            Some(parent) => Some(from.span_ids[parent as usize]),
            None => ghost.and_then(|ghost| ghost.parent),
        };
        let mut span = SpanData {
            scope: shape.scope,
            trace_id: from.trace_ids[index],
            span_id: from.span_ids[index],
            parent_span_id,
            parent_is_remote: parent_span_id.map(|_| ghost.is_some_and(|ghost| ghost.remote)),
            trace_flags: shape.trace_flags,
            name: owned(budget, tables.name(shape.name))?,
            kind: shape.kind,
            start_unix_nano: from.starts[index],
            end_unix_nano: from.ends[index],
            status: shape.status,
            attributes: take_attributes(budget, tables, shape, columns)?,
            ..SpanData::default()
        };
        if has(extra::STATUS_MESSAGE) {
            span.status_message = status.take_string(budget)?;
        }
        if has(extra::TRACE_STATE) {
            span.trace_state = state.take_string(budget)?;
        }
        if has(extra::DROPPED) {
            span.dropped_attributes = span_dropped.next();
            span.dropped_events = span_dropped.next();
            span.dropped_links = span_dropped.next();
        }
        let mut time = span.start_unix_nano;
        let event_count = if has(extra::EVENTS) { event_counts.next() as usize } else { 0 };
        for (shape, since) in events.by_ref().take(event_count) {
            let shape = &tables.shapes[shape as usize];
            time = time.wrapping_add(since as u64);
            let dropped = shape.has(extra::DROPPED);
            span.events.push(EventData {
                time_unix_nano: time,
                name: owned(budget, tables.name(shape.name))?,
                attributes: take_attributes(budget, tables, shape, columns)?,
                dropped_attributes: if dropped { event_dropped.next() } else { 0 },
            });
        }
        let link_count = if has(extra::LINKS) { link_counts.next() as usize } else { 0 };
        for (shape, trace_id, span_id) in links.by_ref().take(link_count) {
            let shape = &tables.shapes[shape as usize];
            let has = |bit: u32| shape.has(bit);
            span.links.push(LinkData {
                trace_id,
                span_id,
                trace_state: match has(extra::TRACE_STATE) {
                    true => link_state.take_string(budget)?,
                    false => String::new(),
                },
                trace_flags: shape.trace_flags,
                is_remote: Some(has(extra::REMOTE)),
                attributes: take_attributes(budget, tables, shape, columns)?,
                dropped_attributes: if has(extra::DROPPED) { link_dropped.next() } else { 0 },
            });
        }
        spans.push(span);
    }
    Ok(spans)
}

pub(super) fn assemble_sources(
    budget: &mut Budget,
    tables: &Tables,
    columns: &mut [ReadColumn],
) -> Result<(Vec<ResourceData>, Vec<ScopeData>), BatchError> {
    let mut dropped = Take(tables.source_dropped.iter().copied());
    let mut resources = Vec::with_capacity(tables.resources.len());
    for &shape in &tables.resources {
        let shape = &tables.shapes[shape];
        resources.push(ResourceData {
            attributes: take_attributes(budget, tables, shape, columns)?,
            dropped_attributes: if shape.has(extra::DROPPED) { dropped.next() } else { 0 },
            schema_url: owned(budget, tables.name(shape.name))?,
        });
    }
    let mut scopes = Vec::with_capacity(tables.scopes.len());
    for scope in &tables.scopes {
        let shape = &tables.shapes[scope.shape];
        scopes.push(ScopeData {
            resource: scope.resource,
            name: owned(budget, tables.name(shape.name))?,
            version: owned(budget, tables.name(scope.version))?,
            attributes: take_attributes(budget, tables, shape, columns)?,
            dropped_attributes: if shape.has(extra::DROPPED) { dropped.next() } else { 0 },
            schema_url: owned(budget, tables.name(scope.schema_url))?,
        });
    }
    Ok((resources, scopes))
}

fn owned(budget: &mut Budget, text: &str) -> Result<String, BatchError> {
    budget.take(1, text.len())?;
    Ok(text.to_owned())
}

fn take_attributes(
    budget: &mut Budget,
    tables: &Tables,
    shape: &ShapeEntry,
    columns: &mut [ReadColumn],
) -> Result<Vec<(String, Value)>, BatchError> {
    let mut attributes = Vec::with_capacity(shape.columns.len());
    for &column in &shape.columns {
        let key = owned(budget, tables.name(tables.columns[column as usize].key))?;
        attributes.push((key, columns[column as usize].take(budget)?));
    }
    Ok(attributes)
}
