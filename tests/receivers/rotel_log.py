"""rotel's debug log: its spans, and how it would print a span."""

import base64
import re
from decimal import Decimal

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUSES = ("UNSET", "OK", "ERROR")
# What it says about itself, between the spans.
OF_ITSELF = re.compile(r"^\x1b\[2m\d{4}-.*\n?", re.MULTILINE)
SPAN = re.compile(r"^Span #\d+\n(?=    Trace ID       : )", re.MULTILINE)


def spans(text):
    """What is printed of each span, and what follows it up to the next one."""
    return SPAN.split(OF_ITSELF.sub("", text))[1:]


def ids(block):
    """The span's IDs."""
    found = re.match(r"    Trace ID       : (\w*)\n    Parent ID      : \w*\n    ID             : (\w*)\n", block)
    return found.groups() if found else None


def difference(block, span):
    """Where a block differs from a span of OTLP/JSON, or None."""
    expected = "".join(line + "\n" for line in render(span))
    rest = block[len(expected) :].strip("\n")
    if block.startswith(expected) and (not rest or rest.startswith(("ResourceSpans #", "ScopeSpans #"))):
        return None
    for our, their in zip(block.split("\n"), expected.split("\n")):
        if our != their:
            return f"{our[:200]!r}; Rust reads {their[:200]!r}"
    return f"it ends with {block[-200:]!r}"


def render(span):
    """A span's lines. Flags and counts of what was dropped from a span are not printed."""
    yield f"    Trace ID       : {span['traceId']}"
    yield f"    Parent ID      : {span.get('parentSpanId', '')}"
    yield f"    ID             : {span['spanId']}"
    yield f"    Name           : {span.get('name', '')}"
    yield f"    Kind           : SPAN_KIND_{KINDS[span.get('kind', 0)]}"
    if "traceState" in span:
        yield f"    TraceState     : {span['traceState']}"
    yield f"Start time: {span.get('startTimeUnixNano', 0)}"
    yield f"End time: {span.get('endTimeUnixNano', 0)}"
    if "status" in span:
        yield f"    Status code    : STATUS_CODE_{STATUSES[span['status'].get('code', 0)]}"
        yield f"    Status message : {span['status'].get('message', '')}"
    if "attributes" in span:
        yield "Attributes:"
        yield from attributes(span["attributes"], "     ")
    if "events" in span:
        yield "Events:"
    for number, event in enumerate(span.get("events", [])):
        yield f"SpanEvent #{number}"
        yield f"     -> Name: {event.get('name', '')}"
        yield f"     -> Timestamp: {event.get('timeUnixNano', 0)}"
        yield from dropped_and_attributes(event)
    if "links" in span:
        yield "Links:"
    for number, link in enumerate(span.get("links", [])):
        yield f"SpanLink #{number}"
        yield f"     -> Trace ID: {link.get('traceId', '0' * 32)}"
        yield f"     -> ID: {link.get('spanId', '0' * 16)}"
        yield f"     -> TraceState: {link.get('traceState', '')}"
        yield from dropped_and_attributes(link)


def dropped_and_attributes(item):
    """The end of an event or a link."""
    yield f"     -> DroppedAttributesCount: {item.get('droppedAttributesCount', 0)}"
    if "attributes" in item:
        yield "     -> Attributes::"
        yield from attributes(item["attributes"], "          ")


def attributes(items, indent):
    """A line for each attribute."""
    for item in items:
        yield f"{indent}-> {item.get('key', '')}: {value(item['value'])}"


def value(item):
    """An AnyValue."""
    if not item:
        return "Empty"
    ((kind, content),) = item.items()
    if kind == "stringValue":
        return f"Str({content})"
    if kind == "boolValue":
        return f"Bool({str(content).lower()})"
    if kind == "intValue":
        return f"Int({content})"
    if kind == "doubleValue":
        return f"Double({double(content)})"
    if kind == "bytesValue":
        return f"Bytes({list(base64.b64decode(content))})"
    if kind == "arrayValue":
        return f"Slice({', '.join(value(one) for one in content.get('values', []))})"
    entries = (f"{entry.get('key', '')}:{value(entry['value'])}" for entry in content.get("values", []))
    return f"Map({', '.join(entries)})"


def double(content):
    """A double with all its digits, and without an exponent."""
    if isinstance(content, str):
        return content.replace("Infinity", "inf")
    digits = format(Decimal(repr(content)), "f")
    return digits.removesuffix(".0")
