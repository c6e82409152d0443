"""Spans as lines of OTLP/JSON, in the form that `spanring cat --format otlp-json` prints.

64-bit integers are strings, enums numbers, IDs hexadecimal digits; fields that are empty or zero are left
out. A container that nests deeper than VALUE_DEPTH_MAX levels is written as a null value.
"""

import base64
import json
import math

VALUE_DEPTH_MAX = 100
HAS_IS_REMOTE = 0x100
IS_REMOTE = 0x200


def line(batch):
    """A batch as a line, without its end."""
    scopes_of = [[] for _ in batch.resources]
    for scope in batch.scopes:
        scopes_of[scope.resource].append(scope)
    spans_of = {id(scope): [] for scope in batch.scopes}
    for span in batch.spans:
        spans_of[id(batch.scopes[span.scope])].append(span)
    resource_spans = [
        fields(
            resource=fields(
                attributes=attributes(resource.attributes),
                droppedAttributesCount=resource.dropped_attributes,
            ),
            scopeSpans=[scope_spans(scope, spans_of[id(scope)]) for scope in scopes],
            schemaUrl=resource.schema_url,
        )
        for resource, scopes in zip(batch.resources, scopes_of)
    ]
    message = fields(resourceSpans=resource_spans)
    return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def scope_spans(scope, spans):
    """`ScopeSpans` of a scope."""
    return fields(
        scope=fields(
            name=scope.name,
            version=scope.version,
            attributes=attributes(scope.attributes),
            droppedAttributesCount=scope.dropped_attributes,
        ),
        spans=[span_object(span) for span in spans],
        schemaUrl=scope.schema_url,
    )


def span_object(span):
    """`Span`."""
    message = fields(
        traceState=span.trace_state,
        parentSpanId=span_id(span.parent_span_id),
        flags=flags(span.trace_flags, span.parent_is_remote),
        name=span.name,
        kind=span.kind,
        startTimeUnixNano=decimal(span.start_unix_nano),
        endTimeUnixNano=decimal(span.end_unix_nano),
        attributes=attributes(span.attributes),
        droppedAttributesCount=span.dropped_attributes,
        events=[event_object(event) for event in span.events],
        droppedEventsCount=span.dropped_events,
        links=[link_object(link) for link in span.links],
        droppedLinksCount=span.dropped_links,
        status=fields(message=span.status_message, code=span.status),
    )
    # Invalid IDs of a span are written, too.
    return {"traceId": f"{span.trace_id:032x}", "spanId": f"{span.span_id:016x}"} | message


def event_object(event):
    """`Span.Event`."""
    return fields(
        timeUnixNano=decimal(event.time_unix_nano),
        name=event.name,
        attributes=attributes(event.attributes),
        droppedAttributesCount=event.dropped_attributes,
    )


def link_object(link):
    """`Span.Link`."""
    return fields(
        traceId=f"{link.trace_id:032x}" if link.trace_id else None,
        spanId=span_id(link.span_id),
        traceState=link.trace_state,
        attributes=attributes(link.attributes),
        droppedAttributesCount=link.dropped_attributes,
        flags=flags(link.trace_flags, link.is_remote),
    )


def attributes(pairs, depth=0):
    """A list of `KeyValue`."""
    return [fields(key=key) | {"value": value_object(value, depth)} for key, value in pairs]


def value_object(value, depth):
    """`AnyValue`: None, bool, int, float, str, bytes, a list, or a dict's place taken by a Map."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": double(value)}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if depth >= VALUE_DEPTH_MAX:
        return {}
    if isinstance(value, list):
        return {"arrayValue": fields(values=[value_object(item, depth + 1) for item in value])}
    return {"kvlistValue": fields(values=attributes(value.entries, depth + 1))}


def double(value):
    """A double as JSON has it, or as protobuf's JSON names what JSON has not."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def flags(trace_flags, is_remote):
    """W3C trace flags, and whether the other span is remote, in OTLP's field."""
    if is_remote is None:
        return trace_flags
    return trace_flags | HAS_IS_REMOTE | (IS_REMOTE if is_remote else 0)


def span_id(number):
    """A span ID, or None if it is none."""
    return f"{number:016x}" if number else None


def decimal(number):
    """A 64-bit integer, or None if it is zero."""
    return str(number) if number else None


def fields(**members):
    """An object of those members that are not empty, zero or None."""
    return {name: member for name, member in members.items() if member}
