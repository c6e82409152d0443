//! Attributes and their values, read from JSON. Values are where messages hold each other, so this is
//! where depth is counted.

use bytes::Bytes;
use serde::de::MapAccess;
use spanring::Value;

use super::fields::{Fields, Message, set};

const EXPECTED_INT64: &str = "an integer from -2^63 to 2^63 - 1, as a string or a number";

/// `KeyValue`.
impl Message for (String, Value) {
    const NAME: &'static str = "KeyValue";
    const FIELDS: &'static [&'static str] = &["key", "value"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "key" => set(&mut self.0, fields.string()?),
            _ => {
                fields.message(&mut self.1)?;
            }
        }
        Ok(())
    }
}

/// `AnyValue`.
impl Message for Value {
    const NAME: &'static str = "AnyValue";
    const FIELDS: &'static [&'static str] = &[
        "stringValue",
        "intValue",
        "boolValue",
        "doubleValue",
        "arrayValue",
        "kvlistValue",
        "bytesValue",
    ];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        let value = match name {
            "stringValue" => fields.string()?.map(Value::Str),
            "intValue" => fields.int(EXPECTED_INT64)?.map(Value::Int),
            "boolValue" => fields.bool()?.map(Value::Bool),
            "doubleValue" => fields.double()?.map(Value::Double),
            "bytesValue" => fields.bytes()?.map(|bytes| Value::Bytes(Bytes::from(bytes))),
            "arrayValue" => {
                let mut list = Values { is_array: true, ..Values::default() };
                fields.nested(&mut list)?.then_some(Value::Array(list.items))
            }
            _ => {
                let mut list = Values::default();
                fields.nested(&mut list)?.then_some(Value::Map(list.entries))
            }
        };
        match (&self, value) {
            (_, None) => Ok(()),
            (Value::Null, Some(value)) => {
                *self = value;
                Ok(())
            }
            (_, Some(_)) => {
                Err(fields.fail("a second kind of value", "one kind of value at a time"))
            }
        }
    }
}

/// `ArrayValue` and `KeyValueList`, which both call their contents `values`.
#[derive(Default)]
struct Values {
    is_array: bool,
    items: Vec<Value>,
    entries: Vec<(String, Value)>,
}

impl Message for Values {
    const NAME: &'static str = "ArrayValue or KeyValueList";
    const FIELDS: &'static [&'static str] = &["values"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        _: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        match self.is_array {
            true => fields.list(&mut self.items),
            false => fields.list(&mut self.entries),
        }
    }
}
