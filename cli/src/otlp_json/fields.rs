//! Reading protobuf messages from JSON, field by field, straight into their destination.
//!
//! A type says which fields it has ([`Message`]); this module walks the JSON, keeps the path for
//! errors, passes over unknown fields, and charges what is allocated against the line's allowance
//! before it is allocated. It never builds a tree of the whole line.
//!
//! The path is pushed before a value is read and popped only when that went well, so that after a
//! failure it still names the place.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;

use serde::de::{Error, MapAccess};

use super::seeds::{ListSeed, MessageSeed, Raw, RawSeed};
use super::{VALUE_DEPTH_MAX, base64};

/// Separates the problem from what was expected in an error on its way through serde. A control
/// character: quoted text has it escaped.
pub(super) const EXPECTED_MARK: char = '\u{1}';

/// What an allocation costs beside its contents.
pub(super) const ALLOCATION_OVERHEAD_BYTES: usize = 16;

/// What one reading of a line shares.
#[derive(Debug)]
pub(super) struct Context {
    path: RefCell<Vec<Segment>>,
    bytes_left: Cell<usize>,
    bytes_max: usize,
    value_depth: Cell<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Segment {
    Field(&'static str),
    Index(usize),
}

impl Context {
    pub(super) fn new(bytes_max: usize) -> Self {
        Context {
            path: RefCell::default(),
            bytes_left: Cell::new(bytes_max),
            bytes_max,
            value_depth: Cell::new(0),
        }
    }

    /// The path at which reading stopped.
    pub(super) fn path(&self) -> String {
        let mut text = String::new();
        for segment in self.path.borrow().iter() {
            // Writing to a String does not fail.
            let _ = match segment {
                Segment::Field(name) if text.is_empty() => write!(text, "{name}"),
                Segment::Field(name) => write!(text, ".{name}"),
                Segment::Index(index) => write!(text, "[{index}]"),
            };
        }
        text
    }

    pub(super) fn push(&self, segment: Segment) {
        self.path.borrow_mut().push(segment);
    }

    pub(super) fn pop(&self) {
        self.path.borrow_mut().pop();
    }

    pub(super) fn charge<E: Error>(&self, bytes: usize) -> Result<(), E> {
        match self.bytes_left.get().checked_sub(bytes) {
            Some(left) => {
                self.bytes_left.set(left);
                Ok(())
            }
            None => {
                let found = format!("the line takes more than {} bytes in memory", self.bytes_max);
                Err(fail(&found, "fewer spans or smaller values a line"))
            }
        }
    }
}

/// An error that says what was found and what was expected.
pub(super) fn fail<E: Error>(found: &str, expected: &str) -> E {
    E::custom(format_args!("{found}{EXPECTED_MARK}{expected}"))
}

/// Puts what was read, if anything was, in its place.
pub(super) fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

/// A protobuf message that is read from a JSON object.
pub(super) trait Message {
    /// What the message is, for errors.
    const NAME: &'static str;
    /// The fields' names in lowerCamelCase; others are passed over.
    const FIELDS: &'static [&'static str];

    /// Reads the value of the field `name`, one of [`FIELDS`](Self::FIELDS), from `fields`.
    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error>;

    /// Checks the message once all its fields are read, of which `unknown` were passed over; an error
    /// names the field that is missing and what should be there.
    fn finish(&self, unknown: usize) -> Result<(), (&'static str, &'static str)> {
        let _ = unknown;
        Ok(())
    }
}

impl<M: Message> Message for &mut M {
    const NAME: &'static str = M::NAME;
    const FIELDS: &'static [&'static str] = M::FIELDS;

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        (**self).read(name, fields)
    }

    fn finish(&self, unknown: usize) -> Result<(), (&'static str, &'static str)> {
        (**self).finish(unknown)
    }
}

/// A repeated field: takes one message after the other.
pub(super) trait Repeated {
    /// What reads one message.
    type Item<'a>: Message
    where
        Self: 'a;
    /// What one message takes in memory, apart from what it points at.
    const ITEM_BYTES: usize;

    /// Appends an empty message.
    fn append(&mut self) -> Self::Item<'_>;
}

impl<M: Message + Default> Repeated for Vec<M> {
    type Item<'a>
        = &'a mut M
    where
        M: 'a;
    const ITEM_BYTES: usize = size_of::<M>();

    fn append(&mut self) -> &mut M {
        self.push(M::default());
        self.last_mut().expect("one was just pushed")
    }
}

/// The field whose value is to be read.
pub(super) struct Fields<'c, A> {
    pub(super) map: A,
    pub(super) context: &'c Context,
}

impl<'de, A: MapAccess<'de>> Fields<'_, A> {
    /// Reads a message into `target`; false for `null`, which leaves it as it is.
    pub(super) fn message(&mut self, target: &mut impl Message) -> Result<bool, A::Error> {
        self.map.next_value_seed(MessageSeed { target, context: self.context })
    }

    /// Reads a message that counts as one more level of a value's nesting; false for `null`.
    pub(super) fn nested(&mut self, target: &mut impl Message) -> Result<bool, A::Error> {
        let depth = &self.context.value_depth;
        if depth.get() == VALUE_DEPTH_MAX {
            let expected = format!("at most {VALUE_DEPTH_MAX} levels");
            return Err(fail("the value nests too deep", &expected));
        }
        depth.set(depth.get() + 1);
        let seen = self.message(target)?;
        depth.set(depth.get() - 1);
        Ok(seen)
    }

    /// Reads an array of messages, appending to `target`.
    pub(super) fn list(&mut self, target: &mut impl Repeated) -> Result<(), A::Error> {
        self.map.next_value_seed(ListSeed { target, context: self.context })
    }

    /// Reads a string.
    pub(super) fn string(&mut self) -> Result<Option<String>, A::Error> {
        let text = self.scalar("a string", |raw| match raw {
            Raw::Str(text) => Some(std::mem::take(text)),
            _ => None,
        })?;
        let Some(text) = text else { return Ok(None) };
        self.context.charge(text.len() + ALLOCATION_OVERHEAD_BYTES)?;
        Ok(Some(text.into_owned()))
    }

    /// Reads a boolean.
    pub(super) fn bool(&mut self) -> Result<Option<bool>, A::Error> {
        self.scalar("true or false", |raw| match raw {
            Raw::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// Reads an integer, given as a number or as a string; `expected` describes it.
    pub(super) fn int<T: TryFrom<i128>>(&mut self, expected: &str) -> Result<Option<T>, A::Error> {
        self.scalar(expected, |raw| {
            let value = match raw {
                Raw::Int(value) => *value,
                // An integer written with a fraction or an exponent. What lies beyond the bound fits
                // no integer that is asked for.
                Raw::Double(value) if value.fract() == 0.0 && value.abs() <= 2f64.powi(64) => {
                    *value as i128
                }
                Raw::Str(text) => text.parse().ok()?,
                _ => return None,
            };
            T::try_from(value).ok()
        })
    }

    /// Reads a double, given as a number or as a string.
    pub(super) fn double(&mut self) -> Result<Option<f64>, A::Error> {
        self.scalar("a number, \"NaN\", \"Infinity\" or \"-Infinity\"", |raw| match raw {
            Raw::Int(value) => Some(*value as f64),
            Raw::Double(value) => Some(*value),
            Raw::Str(text) => match &**text {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                // Rust reads words such as "inf" too, which protobuf does not know.
                text => text.parse().ok().filter(|value: &f64| value.is_finite()),
            },
            _ => None,
        })
    }

    /// Reads something that stands in a string, such as an ID; `expected` describes it.
    pub(super) fn parsed<T>(
        &mut self,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, A::Error> {
        self.scalar(expected, |raw| match raw {
            Raw::Str(text) => parse(text),
            _ => None,
        })
    }

    /// Reads bytes in base64.
    pub(super) fn bytes(&mut self) -> Result<Option<Vec<u8>>, A::Error> {
        let text = self.parsed("a string of base64", |text| Some(text.to_owned()))?;
        let Some(text) = text else { return Ok(None) };
        self.context.charge(text.len() + ALLOCATION_OVERHEAD_BYTES)?;
        let decoded = base64::decode(&text);
        decoded.map(Some).map_err(|found| fail(&found, "base64, padded or not"))
    }

    /// Reads an enum: its number, or its name, which is `prefix` and one of `names`, in the order of
    /// their numbers; `expected` describes both.
    pub(super) fn choice(
        &mut self,
        prefix: &str,
        names: &[&str],
        expected: &str,
    ) -> Result<Option<u8>, A::Error> {
        self.scalar(expected, |raw| match raw {
            Raw::Int(number) => {
                u8::try_from(*number).ok().filter(|&n| usize::from(n) < names.len())
            }
            Raw::Str(name) => {
                let name = name.strip_prefix(prefix)?;
                names.iter().position(|known| *known == name)?.try_into().ok()
            }
            _ => None,
        })
    }

    /// An error about the field that is being read.
    pub(super) fn fail(&self, found: &str, expected: &str) -> A::Error {
        fail(found, expected)
    }

    /// Reads a scalar and converts it; `None` for `null`.
    fn scalar<T>(
        &mut self,
        expected: &str,
        convert: impl FnOnce(&mut Raw<'de>) -> Option<T>,
    ) -> Result<Option<T>, A::Error> {
        let mut raw = self.map.next_value_seed(RawSeed { expected })?;
        match convert(&mut raw) {
            Some(value) => Ok(Some(value)),
            None if matches!(raw, Raw::Null) => Ok(None),
            None => Err(fail(&format!("found {raw}"), expected)),
        }
    }
}
