//! JSON values: made of attributes, or of JSON text that an attribute holds.
//!
//! A tree, because what is sent is cut by its parts ([`super::cut`]) and some of it left out; its strings are the
//! batch's own wherever they need no unescaping. Invariant: it nests no deeper than [`DEPTH_MAX`], so that
//! whoever walks it needs no bound of its own, and it holds no number that JSON has not.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::io;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use spanring::Value;

use crate::render::base64;

/// How deep arrays and objects nest at most. What an attribute has below is null; JSON text that is deeper is sent as
/// the text that it is.
pub(super) const DEPTH_MAX: u32 = 100;
/// How many values JSON text may have, names included; one with more is sent as the text that it is. As a tree, each takes some hundred bytes
/// until the request is written.
const VALUES_MAX: u32 = 1 << 17;
/// The name by which serde_json hands over a number as text.
const NUMBER: &str = "$serde_json::private::Number";

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// What no `Int` holds.
    Unsigned(u64),
    /// A finite one.
    Double(f64),
    Str(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    /// In order; a key that occurs twice is kept twice.
    Object(Entries<'a>),
}

pub(super) type Entries<'a> = Vec<(Cow<'a, str>, Json<'a>)>;

impl<'a> From<&'a str> for Json<'a> {
    fn from(text: &'a str) -> Self {
        Json::Str(Cow::Borrowed(text))
    }
}

impl From<String> for Json<'_> {
    fn from(text: String) -> Self {
        Json::Str(Cow::Owned(text))
    }
}

impl<'a, T: Into<Json<'a>>> From<Option<T>> for Json<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Json::Null, Into::into)
    }
}

impl<'a> From<&'a Value> for Json<'a> {
    /// Bytes become base64, and numbers that are none the words that OTLP's JSON has for them.
    fn from(value: &'a Value) -> Self {
        from_value(value, 0)
    }
}

fn from_value(value: &Value, depth: u32) -> Json<'_> {
    match value {
        Value::Array(_) | Value::Map(_) if depth >= DEPTH_MAX => Json::Null,
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::Int(*value),
        Value::Double(value) if value.is_finite() => Json::Double(*value),
        Value::Double(value) if value.is_nan() => Json::from("NaN"),
        Value::Double(value) => Json::from(if *value > 0.0 { "Infinity" } else { "-Infinity" }),
        Value::Str(text) => Json::from(text.as_str()),
        Value::Bytes(bytes) => Json::from(base64(bytes)),
        Value::Array(values) => {
            Json::Array(values.iter().map(|value| from_value(value, depth + 1)).collect())
        }
        Value::Map(entries) => Json::Object(
            entries
                .iter()
                .map(|(key, value)| (key.as_str().into(), from_value(value, depth + 1)))
                .collect(),
        ),
    }
}

impl<'a> Json<'a> {
    /// An object of these fields.
    pub(super) fn object<const N: usize>(fields: [(&'a str, Json<'a>); N]) -> Self {
        Json::Object(fields.into_iter().map(|(key, value)| (Cow::Borrowed(key), value)).collect())
    }

    /// The array or object that `text` says; `None` if it is not that, or nests too deep.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if !text.trim_ascii_start().starts_with(['[', '{']) {
            return None;
        }
        let mut source = serde_json::Deserializer::from_str(text);
        let values = Cell::new(VALUES_MAX);
        let parsed = Nested { depth: 0, values: &values }.deserialize(&mut source).ok()?;
        source.end().ok()?;
        Some(parsed)
    }

    /// The field of that name, of an object.
    pub(super) fn get(&self, name: &str) -> Option<&Json<'a>> {
        let Json::Object(entries) = self else { return None };
        entries.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub(super) fn is(&self, text: &str) -> bool {
        matches!(self, Json::Str(own) if own == text)
    }

    /// Bytes that it takes when it is written.
    pub(super) fn len(&self) -> usize {
        let mut count = Count(0);
        self.write(&mut count);
        count.0
    }

    /// Writes it without white space.
    pub(super) fn write(&self, out: impl io::Write) {
        serde_json::to_writer(out, self).expect("a buffer takes all, and every key is a string");
    }

    /// As text: a string as it is, anything else as JSON.
    pub(super) fn into_text(self) -> Cow<'a, str> {
        match self {
            Json::Str(text) => text,
            other => other.to_string().into(),
        }
    }
}

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        f.write_str(&String::from_utf8_lossy(&bytes))
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => to.serialize_unit(),
            Json::Bool(value) => to.serialize_bool(*value),
            Json::Int(value) => to.serialize_i64(*value),
            Json::Unsigned(value) => to.serialize_u64(*value),
            Json::Double(value) => to.serialize_f64(*value),
            Json::Str(text) => to.serialize_str(text),
            Json::Array(values) => to.collect_seq(values),
            Json::Object(entries) => {
                let mut map = to.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(&**key, value)?;
                }
                map.end()
            }
        }
    }
}

fn number_of(text: &str) -> Option<Json<'static>> {
    if let Ok(value) = text.parse() {
        return Some(Json::Int(value));
    }
    if let Ok(value) = text.parse() {
        return Some(Json::Unsigned(value));
    }
    text.parse().ok().filter(|value: &f64| value.is_finite()).map(Json::Double)
}

/// Counts what is written.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a value.
#[derive(Clone, Copy)]
struct Nested<'c> {
    /// Inside so many arrays and objects.
    depth: u32,
    /// How many more there may be.
    values: &'c Cell<u32>,
}

impl Nested<'_> {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom("too deep"));
        }
        Ok(Nested { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Nested<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Json<'de>, D::Error> {
        let left = self.values.get().checked_sub(1);
        self.values.set(left.ok_or_else(|| D::Error::custom("too many values"))?);
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(value).map_or(Json::Unsigned(value), Json::Int))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json<'de>, E> {
        if value.is_finite() { Ok(Json::Double(value)) } else { Err(E::custom("not finite")) }
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::from(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::from(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Json<'de>, A::Error> {
        let below = self.below()?;
        let mut values = Vec::new();
        while let Some(value) = from.next_element_seed(below)? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Json<'de>, A::Error> {
        let below = self.below()?;
        let mut entries = Vec::new();
        while let Some(key) = from.next_key_seed(self)? {
            let Json::Str(key) = key else { return Err(A::Error::custom("a key is a string")) };
            if key == NUMBER {
                // Where the host has serde_json keep numbers as they were written.
                let number: String = from.next_value()?;
                return number_of(&number).ok_or_else(|| A::Error::custom("not a number"));
            }
            entries.push((key, from.next_value_seed(below)?));
        }
        Ok(Json::Object(entries))
    }
}
