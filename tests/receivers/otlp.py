"""OTLP: protobuf as the official Python types read it, in the form of OTLP/JSON that `spanring cat` prints."""

import base64

from google.protobuf.descriptor import FieldDescriptor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

# What the exporter's limits say: deeper arrays and maps are not sent, and null stands for them.
NESTING_MAX = 31

IDS = ("trace_id", "span_id", "parent_span_id")
INTEGERS_64 = (
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
)


def decode(body):
    """A request's body as OTLP/JSON."""
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    return message(request)


def message(value):
    """A message as OTLP/JSON: every field that is set, whatever it is called."""
    fields = {}
    for field, content in value.ListFields():
        if field.is_repeated:
            fields[field.json_name] = [scalar(field, item) for item in content]
        else:
            fields[field.json_name] = scalar(field, content)
    # An empty message is said by leaving it out; an empty value is null.
    for name in ("resource", "scope"):
        if fields.get(name) == {}:
            del fields[name]
    # An ID of zeros is none.
    return {name: item for name, item in fields.items() if not (name.endswith("Id") and not item.strip("0"))}


def scalar(field, value):
    """A field's value, or one of its values, as JSON."""
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return message(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value.hex() if field.name in IDS else base64.b64encode(value).decode("ascii")
    if field.type in INTEGERS_64:
        return str(value)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return double(value)
    return value


def double(value):
    """A double as protobuf's JSON has it."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def cut(value, depth=0):
    """OTLP/JSON whose values nest no deeper than they are sent. `depth` counts the arrays and maps around."""
    if isinstance(value, list):
        return [cut(item, depth) for item in value]
    if not isinstance(value, dict):
        return value
    if "arrayValue" in value or "kvlistValue" in value:
        if depth == NESTING_MAX:
            return {}
        depth += 1
    return {name: cut(item, depth) for name, item in value.items()}


def without_infinite(value):
    """OTLP/JSON as a writer has it that knows finite doubles only, and null for the others."""
    if isinstance(value, list):
        return [without_infinite(item) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("doubleValue"), str):
        return {"doubleValue": None}
    return {name: without_infinite(item) for name, item in value.items()}


def bare(value):
    """OTLP/JSON of a writer that spells defaults out, without them."""
    if isinstance(value, list):
        return [bare(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "key" in value or set(value) == {"value"}:
        named = {"key": value["key"]} if value.get("key") else {}
        return {**named, "value": bare_value(value.get("value"))}
    fields = {name: bare(item) for name, item in value.items()}
    return {
        name: item
        for name, item in fields.items()
        if item not in (None, "", 0, "0", [])
        and not (name == "status" and item == {})
        and not (name.endswith("Id") and not item.strip("0"))
    }


def bare_value(value):
    """An AnyValue, of which empty strings and zeros are kept."""
    if not value:
        return {}
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        items = [bare_value(item) for item in content.get("values", [])]
        return {kind: {"values": items} if items else {}}
    if kind == "kvlistValue":
        entries = [bare(item) for item in content.get("values", [])]
        return {kind: {"values": entries} if entries else {}}
    return {kind: content}
