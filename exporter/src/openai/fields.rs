//! Attributes by name, in the forms that fields of spans take.

use std::borrow::Cow;

use spanring::Value;

use super::json::{Entries, Json};

/// The attributes of a span or an event.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [(String, Value)]);

impl<'a> Fields<'a> {
    /// The attribute of the first of these names that is there; null counts as not there.
    pub(super) fn first(self, names: &[&str]) -> Option<&'a Value> {
        names.iter().find_map(|name| {
            let mut found = self.0.iter().rev().filter(|(key, _)| key == name);
            found.next().map(|(_, value)| value).filter(|value| !matches!(value, Value::Null))
        })
    }

    /// What must be text: other values are written as JSON.
    pub(super) fn text(self, names: &[&str]) -> Option<Cow<'a, str>> {
        self.first(names).map(|value| Json::from(value).into_text())
    }

    /// What should be an array or an object, or JSON text of one; other text stays as it is.
    pub(super) fn structure(self, names: &[&str]) -> Json<'a> {
        self.first(names).map(structure).into()
    }

    /// What must be an object, or JSON text of one: anything else becomes one, as its `value`.
    pub(super) fn object(self, names: &[&str]) -> Json<'a> {
        self.first(names).map(object).into()
    }

    /// What must be an array of strings, or JSON text of one: anything else becomes one.
    pub(super) fn strings(self, names: &[&str]) -> Json<'a> {
        let Some(value) = self.first(names) else { return Json::Null };
        match structure(value) {
            Json::Array(values) => {
                let texts = values.into_iter().map(Json::into_text).map(Json::Str);
                Json::Array(texts.collect())
            }
            other => Json::Array(vec![Json::Str(other.into_text())]),
        }
    }

    /// Attributes whose names begin so, by what follows, but for those that are null and those in `but`.
    pub(super) fn under(self, prefix: &str, but: &[&str]) -> Entries<'a> {
        let named = self.0.iter().filter_map(|(key, value)| {
            let rest = key.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
            let counts = !but.contains(&rest) && !matches!(value, Value::Null);
            counts.then(|| (Cow::Borrowed(rest), structure(value)))
        });
        named.collect()
    }
}

fn structure(value: &Value) -> Json<'_> {
    match value {
        Value::Str(text) => Json::parse(text).unwrap_or_else(|| text.as_str().into()),
        other => other.into(),
    }
}

pub(super) fn object(value: &Value) -> Json<'_> {
    match structure(value) {
        object @ Json::Object(_) => object,
        other => Json::object([("value", other)]),
    }
}
