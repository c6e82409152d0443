"""Holds bodies for OpenAI's trace ingest against the types of the openai-agents SDK.

    shapes.py FILE...

Each line of a file is a request's body, as JSON. Prints what is wrong with which object, and at the end "N passed, M failed",
where each body counts. Ends with 0 if none failed. `wrong_in` does the same for one body.

Which fields a span's data has, and of what types, is read off the SDK: its classes are made with every argument given and
with none that may be left out, and what its exporter sends of them is taken for the shape.
"""

import collections.abc
import datetime
import json
import sys
import types
import typing

from agents.tracing import span_data
from agents.tracing.processor_interface import TracingProcessor
from agents.tracing.processors import BackendSpanExporter
from agents.tracing.spans import SpanImpl
from agents.tracing.traces import TraceImpl

FIELD_BYTES_MAX = BackendSpanExporter._OPENAI_TRACING_MAX_FIELD_BYTES
FREE = {"key": "value"}
USAGE = {"input_tokens": 1, "output_tokens": 2, "details": FREE}
# Beside a list of messages: an application may have recorded something else, or no JSON at all.
ALSO = {("generation", "input"): ("string", "object"), ("generation", "output"): ("string", "object")}


def sample(name, annotation):
    """A value for an argument of that name, of the type that it is annotated with."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if name == "usage":
        return USAGE
    if origin in (typing.Union, types.UnionType):
        return sample(name, next(one for one in arguments if one is not type(None)))
    if origin in (list, collections.abc.Sequence):
        return [sample(name, arguments[0])]
    if origin in (dict, collections.abc.Mapping):
        return FREE
    if annotation in (str, typing.Any):
        return "text"
    if annotation in (bool, int):
        return annotation(1)
    # A response of the API, of which only the ID is sent.
    return types.SimpleNamespace(id="resp_1")


def kind(value):
    """What a JSON value is, down to what an array holds."""
    if isinstance(value, list):
        return "array of " + (" and ".join(sorted({kind(one) for one in value})) or "nothing")
    if isinstance(value, dict):
        return "object"
    if isinstance(value, (bool, type(None))):
        return type(value).__name__
    return "string" if isinstance(value, str) else "number"


def sent(data):
    """What the SDK's exporter sends of a span's data."""
    exporter = BackendSpanExporter(api_key="none")
    return exporter._sanitize_for_openai_tracing_api({"span_data": data.export()})["span_data"]


class Shape:
    """The fields of an object: the kinds that each may be of, and the shapes of those that are objects with fixed fields."""

    def __init__(self, samples, of=None):
        self.kinds = {name: {kind(one[name]) for one in samples} for name in samples[0]}
        # An argument that need not be given may be null, and is not always by default.
        for name in self.kinds:
            self.kinds[name].update(ALSO.get((of, name), ()))
        objects = {name: [one[name] for one in samples if isinstance(one[name], dict)] for name in samples[0]}
        self.inner = {name: Shape(found) for name, found in objects.items() if found and found[0] not in (FREE, USAGE)}

    def wrong_in(self, value, where):
        """What is wrong with an object."""
        if set(value) != set(self.kinds):
            yield f"{where} has the fields {sorted(value)} and not {sorted(self.kinds)}"
        for name in set(value) & set(self.kinds):
            found, allowed = kind(value[name]), self.kinds[name]
            is_empty_array = found == "array of nothing" and any(one.startswith("array of ") for one in allowed)
            if found not in allowed and not is_empty_array:
                yield f"{where}.{name} is {found} and not {' or '.join(sorted(allowed))}"
            elif name in self.inner and found == "object":
                yield from self.inner[name].wrong_in(value[name], f"{where}.{name}")


def data_shapes():
    """The shapes of all kinds of span data, by type."""
    shapes = {}
    for made in vars(span_data).values():
        if not (isinstance(made, type) and issubclass(made, span_data.SpanData) and made is not span_data.SpanData):
            continue
        names = {"Response": types.SimpleNamespace, "ResponseInputItemParam": str}
        hints = typing.get_type_hints(made.__init__, localns=names)
        hints.pop("return", None)
        full = {name: sample(name, annotation) for name, annotation in hints.items()}
        bare = {name: None if type(None) in typing.get_args(hints[name]) else full[name] for name in hints}
        samples = [sent(made(**full)), sent(made(**bare))]
        # Tasks and turns are sent as custom, and what is in their data is free.
        if samples[0]["type"] == made.type.fget(made(**full)):
            shapes[samples[0]["type"]] = Shape(samples, samples[0]["type"])
    return shapes


class NoProcessor(TracingProcessor):
    def on_trace_start(self, trace):
        pass

    on_trace_end = on_span_start = on_span_end = on_trace_start

    def shutdown(self):
        pass

    force_flush = shutdown


def object_shapes():
    """The shapes of traces and of spans around their data."""
    trace = [TraceImpl("name", "trace_1", group, metadata, NoProcessor()).export() for group, metadata in (("g", FREE), (None, None))]
    spans = []
    for parent, error in (("span_1", {"message": "m", "data": FREE}), (None, {"message": "m", "data": None})):
        data = span_data.CustomSpanData("name", FREE)
        span = SpanImpl("trace_1", "span_2", parent, NoProcessor(), data, None)
        span.start()
        span.set_error(error)
        span.finish()
        spans.append(span.export() | {"span_data": FREE})
    shapes = {"trace": Shape(trace), "trace.span": Shape(spans)}
    shapes["trace.span"].kinds["error"].add("NoneType")
    return shapes


DATA = data_shapes()
OBJECTS = object_shapes()


def wrong_in_object(value):
    """What is wrong with a trace or a span."""
    shape = OBJECTS.get(value.get("object"))
    if shape is None:
        yield f"object is {value.get('object')!r}"
        return
    yield from shape.wrong_in(value, value["object"])
    if not value.get("id") or not value.get("trace_id", "x"):
        yield "an ID is empty"
    if value["object"] == "trace":
        return
    if value.get("parent_id") == "":
        yield "parent_id is empty"
    for name in ("started_at", "ended_at"):
        try:
            if datetime.datetime.fromisoformat(value[name]).utcoffset() != datetime.timedelta():
                yield f"{name} is not in UTC: {value[name]}"
        except (KeyError, TypeError, ValueError):
            yield f"{name} is no time: {value.get(name)!r}"
    data = value.get("span_data")
    if not isinstance(data, dict):
        return
    shape = DATA.get(data.get("type"))
    if shape is None:
        yield f"span_data.type is {data.get('type')!r}"
        return
    yield from shape.wrong_in(data, "span_data")
    for name in ("input", "output"):
        size = len(json.dumps(data.get(name), ensure_ascii=False, separators=(",", ":")).encode())
        if size > FIELD_BYTES_MAX:
            yield f"span_data.{name} has {size} bytes"
    usage = data.get("usage")
    if isinstance(usage, dict):
        fine = all(kind(usage.get(name)) == "number" for name in ("input_tokens", "output_tokens"))
        if not fine or set(usage) - set(USAGE) or not isinstance(usage.get("details", {}), dict):
            yield f"span_data.usage is {usage}"


def no_constant(text):
    raise ValueError(f"{text} is no JSON")


def wrong_in(body):
    """What is wrong with a body, as text: a line for each, with the number of the object and its ID."""
    try:
        parsed = json.loads(body, parse_constant=no_constant)
    except ValueError as error:
        return [f"it is no JSON: {error}"]
    if not isinstance(parsed, dict) or set(parsed) != {"data"} or not isinstance(parsed["data"], list):
        return ["it is not an object with an array `data` alone"]
    if not parsed["data"]:
        return ["it is empty"]
    wrong = []
    for number, value in enumerate(parsed["data"]):
        if not isinstance(value, dict):
            wrong.append(f"object {number} is {kind(value)}")
            continue
        wrong += [f"object {number} ({value.get('id')}): {what}" for what in wrong_in_object(value)]
    return wrong


def main(paths):
    passed = failed = 0
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                wrong = wrong_in(line)
                for what in wrong:
                    print(f"{path}:{number}: {what}")
                passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
