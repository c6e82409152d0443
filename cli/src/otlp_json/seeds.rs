//! What serde calls back while the JSON of a line goes by: one seed for a scalar, an object, an array
//! and a field's name. They do the walking for [`super::fields`], which says what is asked for.
//!
//! None of them consumes an array or an object that is not expected: that is an error at once, so what
//! the recursion can be driven into is only what messages hold.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::fields::{ALLOCATION_OVERHEAD_BYTES, Context, Fields, Message, Repeated, Segment, fail};
use crate::error::quoted;

/// A JSON scalar as it stands in the line.
#[derive(Debug)]
pub(super) enum Raw<'de> {
    Null,
    Bool(bool),
    Int(i128),
    Double(f64),
    Str(Cow<'de, str>),
}

impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raw::Null => f.write_str("null"),
            Raw::Bool(value) => write!(f, "{value}"),
            Raw::Int(value) => write!(f, "{value}"),
            Raw::Double(value) => write!(f, "{value}"),
            Raw::Str(text) => f.write_str(&quoted(text)),
        }
    }
}

pub(super) struct RawSeed<'e> {
    pub(super) expected: &'e str,
}

impl<'de> DeserializeSeed<'de> for RawSeed<'_> {
    type Value = Raw<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RawSeed<'_> {
    type Value = Raw<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_unit<E: Error>(self) -> Result<Raw<'de>, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Raw<'de>, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Raw<'de>, E> {
        Ok(Raw::Int(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Raw<'de>, E> {
        Ok(Raw::Int(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Raw<'de>, E> {
        Ok(Raw::Double(value))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Raw<'de>, E> {
        Ok(Raw::Str(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Raw<'de>, E> {
        Ok(Raw::Str(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Raw<'de>, A::Error> {
        Err(fail("found an array", self.expected))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Raw<'de>, A::Error> {
        Err(fail("found an object", self.expected))
    }
}

/// Implements the visitor methods of scalars for a seed with `expected()`: all are errors, but for
/// `null`, which gives `$null`.
macro_rules! refuse_scalars {
    ($value:ty, $null:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.expected())
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<$value, E> {
            Err(fail(&format!("found {value}"), &self.expected()))
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<$value, E> {
            Err(fail(&format!("found {value}"), &self.expected()))
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<$value, E> {
            Err(fail(&format!("found {value}"), &self.expected()))
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<$value, E> {
            Err(fail(&format!("found {value}"), &self.expected()))
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<$value, E> {
            Err(fail(&format!("found {}", quoted(value)), &self.expected()))
        }

        fn visit_unit<E: Error>(self) -> Result<$value, E> {
            Ok($null)
        }
    };
}

/// Reads one object into a message; the answer is false for `null`.
pub(super) struct MessageSeed<'t, 'c, M> {
    pub(super) target: &'t mut M,
    pub(super) context: &'c Context,
}

impl<M: Message> MessageSeed<'_, '_, M> {
    fn expected(&self) -> Cow<'static, str> {
        Cow::Owned(format!("an object ({})", M::NAME))
    }
}

impl<'de, M: Message> DeserializeSeed<'de> for MessageSeed<'_, '_, M> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, M: Message> Visitor<'de> for MessageSeed<'_, '_, M> {
    type Value = bool;

    refuse_scalars!(bool, false);

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<bool, A::Error> {
        Err(fail("found an array", &self.expected()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        let mut fields = Fields { map, context: self.context };
        let mut unknown = 0;
        while let Some(name) = fields.map.next_key_seed(NameSeed { known: M::FIELDS })? {
            let Some(name) = name else {
                fields.map.next_value::<IgnoredAny>()?;
                unknown += 1;
                continue;
            };
            self.context.push(Segment::Field(name));
            self.target.read(name, &mut fields)?;
            self.context.pop();
        }
        match self.target.finish(unknown) {
            Ok(()) => Ok(true),
            Err((field, expected)) => {
                self.context.push(Segment::Field(field));
                Err(fail("missing or empty", expected))
            }
        }
    }
}

/// Reads an array of objects into a repeated field.
pub(super) struct ListSeed<'t, 'c, R> {
    pub(super) target: &'t mut R,
    pub(super) context: &'c Context,
}

impl<R: Repeated> ListSeed<'_, '_, R> {
    fn expected(&self) -> Cow<'static, str> {
        Cow::Owned(format!("an array of objects ({})", R::Item::<'_>::NAME))
    }
}

impl<'de, R: Repeated> DeserializeSeed<'de> for ListSeed<'_, '_, R> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, R: Repeated> Visitor<'de> for ListSeed<'_, '_, R> {
    type Value = ();

    refuse_scalars!((), ());

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(fail("found an object", &self.expected()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        for index in 0.. {
            self.context.push(Segment::Index(index));
            let item = ItemSeed { target: &mut *self.target, context: self.context, index };
            if list.next_element_seed(item)?.is_none() {
                self.context.pop();
                break;
            }
            self.context.pop();
        }
        Ok(())
    }
}

/// Appends one message to a repeated field once the array is known to go on.
struct ItemSeed<'t, 'c, R> {
    target: &'t mut R,
    context: &'c Context,
    index: usize,
}

impl<'de, R: Repeated> DeserializeSeed<'de> for ItemSeed<'_, '_, R> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // A vector begins with room for four.
        match self.index {
            0 => self.context.charge(4 * R::ITEM_BYTES + ALLOCATION_OVERHEAD_BYTES)?,
            1..4 => {}
            _ => self.context.charge(R::ITEM_BYTES)?,
        }
        let mut item = self.target.append();
        MessageSeed { target: &mut item, context: self.context }.deserialize(deserializer)?;
        Ok(())
    }
}

/// Reads a field's name: the known one that it is, or `None`.
struct NameSeed {
    known: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self
            .known
            .iter()
            .find(|known| **known == name || is_snake_case_of(name, known))
            .copied())
    }
}

/// Whether `name` is `camel`, a lowerCamelCase name, in snake_case.
fn is_snake_case_of(name: &str, camel: &str) -> bool {
    let mut rest = name.bytes();
    camel.bytes().all(|expected| match expected.is_ascii_uppercase() {
        true => rest.next() == Some(b'_') && rest.next() == Some(expected.to_ascii_lowercase()),
        false => rest.next() == Some(expected),
    }) && rest.next().is_none()
}
