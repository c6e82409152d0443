//! Edits against a model of them: spans as plain values.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Key;
use crate::record::{LARGE_BYTES_MIN, LinkWords};

type Attributes = Vec<(String, Value)>;

/// A span's payload as plain values.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    attributes: Attributes,
    events: Vec<(String, u64, bool, Attributes)>,
    links: Vec<(u64, u32, String, Attributes)>,
    message: String,
    trace_state: String,
    dropped: (u32, u32, u32),
}

/// By the first letter of the key: `r` is removed, `s` is set, `i` is interned.
fn decide(key: &str) -> Change {
    match key.chars().next() {
        Some('r') => Change::Remove,
        Some('s') => Change::Set(Value::Array(vec![Value::Int(7), Value::Str("seven".into())])),
        Some('i') => Change::SetInterned(Interned::new("[interned]").unwrap()),
        _ => Change::Keep,
    }
}

fn edited(attributes: &[(String, Value)]) -> Attributes {
    let one = |(key, value): &(String, Value)| {
        let value = match decide(key) {
            Change::Remove => return None,
            Change::Set(value) => value,
            Change::SetInterned(text) => Value::Str(text.as_str().to_owned()),
            Change::Keep => edited_value(value),
        };
        Some((key.clone(), value))
    };
    attributes.iter().filter_map(one).collect()
}

fn edited_value(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(edited_value).collect()),
        Value::Map(entries) => Value::Map(edited(entries)),
        other => other.clone(),
    }
}

impl Model {
    fn write(&self, records: &mut Records, number: u64) {
        let mut payload = Payload::unlimited();
        for (key, value) in &self.attributes {
            payload.attribute_set(Key::Str(key), value);
        }
        let fill = |to: &mut crate::Attributes<'_>, attributes: &Attributes| {
            for (key, value) in attributes {
                to.set(key, value);
            }
        };
        for (name, time, wall, attributes) in &self.events {
            payload.event(Key::Str(name), *time, *wall, |to| fill(to, attributes));
        }
        for (trace_lo, flags, trace_state, attributes) in &self.links {
            let link =
                LinkWords { trace_lo: *trace_lo, trace_hi: 3, span: 4, flags: *flags, trace_state };
            payload.link(&link, |to| fill(to, attributes));
        }
        payload.status_message(&self.message);
        payload.trace_state(&self.trace_state);
        (payload.dropped_attributes, payload.dropped_events, payload.dropped_links) = self.dropped;
        records.push_parts(Header { span: number, name: 1, ..Header::default() }, payload);
    }

    fn read(record: &RecordRef<'_>) -> Model {
        let attributes = |items: Items<'_>| {
            items
                .attributes()
                .map(|(key, value)| (key.as_str().to_owned(), value.to_value()))
                .collect()
        };
        let mut model = Model { attributes: attributes(record.items()), ..Model::default() };
        for item in record.items() {
            match item {
                Item::Attribute(..) | Item::Name(_) => {}
                Item::Event(event) => model.events.push((
                    event.name().as_str().to_owned(),
                    event.time,
                    event.wall,
                    attributes(event.items()),
                )),
                Item::Link(link) => {
                    let state = link.items().find_map(|item| match item {
                        Item::TraceState(state) => Some(state.to_owned()),
                        _ => None,
                    });
                    let flags = u32::from(link.flags) << 8 | u32::from(link.trace_flags);
                    let state = state.unwrap_or_default();
                    model.links.push((link.trace_lo, flags, state, attributes(link.items())));
                }
                Item::StatusMessage(message) => model.message = message.to_owned(),
                Item::TraceState(state) => model.trace_state = state.to_owned(),
                Item::Dropped { attributes, events, links } => {
                    assert_eq!(model.dropped, (0, 0, 0), "it is said once");
                    model.dropped = (attributes, events, links);
                }
            }
        }
        model
    }

    fn edited(&self) -> Model {
        let mut model = Model { attributes: edited(&self.attributes), ..self.clone() };
        model.attributes.retain(|(key, _)| key != "added");
        model.attributes.push(("added".to_owned(), Value::Bool(true)));
        model.events.iter_mut().for_each(|event| event.3 = edited(&event.3));
        model.links.iter_mut().for_each(|link| link.3 = edited(&link.3));
        model
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-100i64..100).prop_map(Value::Int),
        (-1e9f64..1e9).prop_map(Value::Double),
        "[a-zé]{0,20}".prop_map(Value::Str),
        vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytes(bytes.into())),
        (LARGE_BYTES_MIN + 1..LARGE_BYTES_MIN * 3).prop_map(|len| Value::Str("x".repeat(len))),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            vec((key(), inner), 0..4).prop_map(Value::Map),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    // The long ones are not interned.
    prop_oneof![4 => "[risk][ab]", 1 => "added", 1 => "[rk]{1}x{300}"]
}

/// The last of each key, in the order in which these came.
fn attributes() -> impl Strategy<Value = Attributes> {
    vec((key(), value()), 0..6).prop_map(|list| {
        let mut unique = Attributes::new();
        for (key, value) in list {
            unique.retain(|(known, _)| *known != key);
            unique.push((key, value));
        }
        unique
    })
}

fn model() -> impl Strategy<Value = Model> {
    (
        attributes(),
        vec(("[a-z]{1,9}", any::<u64>(), any::<bool>(), attributes()), 0..3),
        vec((any::<u64>(), 0u32..1 << 20, "[a-z=]{0,9}", attributes()), 0..3),
        "[a-z]{0,30}",
        "[a-z=]{0,9}",
        (0u32..9, 0u32..9, 0u32..9),
    )
        .prop_map(|(attributes, events, links, message, trace_state, dropped)| Model {
            attributes,
            events,
            links,
            message,
            trace_state,
            dropped,
        })
}

proptest! {
    // A failure prints its input; files of old failures beside the sources would only go stale.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_edited_dropped_and_kept_is_what_the_model_says(
        spans in vec((model(), 0u8..3), 0..12),
    ) {
        let mut records = Records::new();
        for (number, (model, _)) in spans.iter().enumerate() {
            model.write(&mut records, number as u64);
        }
        let added = Value::Bool(true);
        let mut fates = Vec::new();
        for (index, (_, fate)) in spans.iter().enumerate() {
            match fate {
                0 => {}
                1 => fates.push((index, Fate::Drop)),
                _ => {
                    let record = records.get(index);
                    let payload = record.edit(
                        &mut |_, key, _| decide(key.as_str()),
                        [("added", &added)],
                    );
                    fates.push((index, Fate::Replace(payload)));
                }
            }
        }
        let dropped = records.apply(fates);
        let expect = |fate: u8| move |(_, (_, of)): &(usize, &(Model, u8))| *of == fate;
        let of = |fate| spans.iter().enumerate().filter(expect(fate));
        let gone: Vec<_> = dropped.iter().map(|record| (record.header.span, Model::read(&record))).collect();
        let expected: Vec<_> = of(1).map(|(number, (model, _))| (number as u64, model.clone())).collect();
        prop_assert_eq!(gone, expected);
        let kept: Vec<_> = records.iter().map(|record| (record.header.span, Model::read(&record))).collect();
        let expected: Vec<_> = spans
            .iter()
            .enumerate()
            .filter(|(_, (_, fate))| *fate != 1)
            .map(|(number, (model, fate))| {
                (number as u64, if *fate == 2 { model.edited() } else { model.clone() })
            })
            .collect();
        prop_assert_eq!(kept, expected);
        // What they own is counted as if they had been written so.
        let mut anew = Records::new();
        records.iter().for_each(|record| Model::read(&record).write(&mut anew, 0));
        prop_assert_eq!(records.heap_bytes(), anew.heap_bytes());
    }

    #[test]
    fn a_key_is_found_wherever_it_is(model in model()) {
        let mut records = Records::new();
        model.write(&mut records, 1);
        fn holds(attributes: &[(String, Value)]) -> bool {
            attributes.iter().any(|(key, value)| key.starts_with('r') || inside(value))
        }
        fn inside(value: &Value) -> bool {
            match value {
                Value::Array(items) => items.iter().any(inside),
                Value::Map(entries) => holds(entries),
                _ => false,
            }
        }
        let expected = holds(&model.attributes)
            || model.events.iter().any(|event| holds(&event.3))
            || model.links.iter().any(|link| holds(&link.3));
        let found = records.get(0).has_key(&mut |key| key.as_str().starts_with('r'));
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn large_values_are_let_go_once_and_not_before() {
    struct Owner(Vec<u8>, #[expect(dead_code, reason = "it counts")] Arc<()>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let alive = Arc::new(());
    let mut records = Records::new();
    for number in 0..6 {
        let mut payload = Payload::unlimited();
        let large = || Bytes::from_owner(Owner(vec![1; 5000], alive.clone()));
        payload.attribute_set(Key::Str("kept"), large());
        payload.attribute_set(Key::Str("removed"), large());
        records.push_parts(Header { span: number, ..Header::default() }, payload);
    }
    assert_eq!(Arc::strong_count(&alive), 13);
    let edit = |index: usize| {
        Fate::Replace(records.get(index).edit(&mut |_, key, _| decide(key.as_str()), []))
    };
    let fates = vec![(1, edit(1)), (2, Fate::Drop), (4, edit(4))];
    let dropped = records.apply(fates);
    // Two less of those that were edited; what was dropped is still there.
    assert_eq!(Arc::strong_count(&alive), 11);
    assert_eq!((records.heap_bytes(), dropped.heap_bytes()), (8 * 5000, 2 * 5000));
    drop(dropped);
    assert_eq!(Arc::strong_count(&alive), 9);
    records.clear();
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut records = Records::new();
    let mut payload = Payload::unlimited();
    payload.attribute_set(Key::Str("first"), 1);
    payload.dropped_attributes = 2;
    records.push_parts(Header { name: 1, ..Header::default() }, payload);
    let too_much = Value::Array(vec![Value::Int(1 << 40); 140_000]);
    let payload = records.get(0).edit(&mut |_, _, _| Change::Keep, [("lost", &too_much)]);
    assert!(records.apply(vec![(0, Fate::Replace(payload))]).is_empty());
    let model = Model::read(&records.get(0));
    assert_eq!(model.attributes, [("first".to_owned(), Value::Int(1))]);
    assert_eq!(model.dropped, (3, 0, 0));
}
