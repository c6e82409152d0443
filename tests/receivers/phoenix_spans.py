"""Spans for Phoenix: a part of recorded traces, a demo of a GenAI program, and how Phoenix shows what it got."""

import base64
import copy
import json
import math

# Phoenix takes the project's name from the resource.
PROJECT = "openinference.project.name"
KIND = "openinference.span.kind"
# Strings of JSON that Phoenix takes apart.
JSON_STRINGS = ("metadata", "tool.parameters", "document.metadata", "llm.prompt_template.variables")
# Of an exception Phoenix keeps these, and a message in any case.
EXCEPTION = ("exception.type", "exception.message", "exception.escaped", "exception.stacktrace")
STATUS = {0: "UNSET", 1: "OK", 2: "ERROR"}
DEMO_START = 1_795_401_200_123_456_789


def spans_of(batches):
    """All spans of batches of OTLP/JSON."""
    return [
        span
        for batch in batches
        for around in batch.get("resourceSpans", [])
        for within in around.get("scopeSpans", [])
        for span in within.get("spans", [])
    ]


def part(batches, count):
    """Whole traces with at least `count` spans together, those with errors first; in batches as they were recorded."""
    traces = {}
    for span in spans_of(batches):
        traces.setdefault(span["traceId"], []).append(span)
    failed = [one for one, spans in traces.items() if any(span.get("status", {}).get("code") for span in spans)]
    chosen = set()
    size = 0
    for one in [*failed, *traces]:
        if size >= count:
            break
        size += len(traces[one]) if one not in chosen else 0
        chosen.add(one)
    result = []
    for batch in copy.deepcopy(batches):
        for around in batch["resourceSpans"]:
            for within in around["scopeSpans"]:
                within["spans"] = [span for span in within["spans"] if span["traceId"] in chosen]
        if spans_of([batch]):
            result.append(batch)
    return result


def renamed(batches, project, number):
    """The same spans under IDs of their own, for the project of that name."""
    batches = copy.deepcopy(batches)
    for batch in batches:
        for around in batch["resourceSpans"]:
            resource = around.setdefault("resource", {})
            resource["attributes"] = [*resource.get("attributes", []), keyed(PROJECT, project)]
    for span in spans_of(batches):
        for name in ("traceId", "spanId", "parentSpanId"):
            if span.get(name):
                # The first digits tell the runs apart; the others were drawn at random.
                span[name] = f"{number:04x}{span[name][4:]}"
    return batches


def keyed(key, value):
    """An attribute in OTLP/JSON."""
    return {"key": key, "value": wrapped(value)}


def wrapped(value):
    """A value in OTLP/JSON."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value if math.isfinite(value) else {"nan": "NaN"}.get(repr(value), repr(value).replace("inf", "Infinity"))}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode("ascii")}
    if isinstance(value, list):
        return {"arrayValue": {"values": [wrapped(item) for item in value]}}
    return {"kvlistValue": {"values": [keyed(key, item) for key, item in value.items()]}}


def unwrapped(value):
    """The value that OTLP/JSON says."""
    if not value:
        return None
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "doubleValue":
        return float(content.replace("Infinity", "inf") if isinstance(content, str) else content)
    if kind == "arrayValue":
        return [unwrapped(item) for item in content.get("values", [])]
    if kind == "kvlistValue":
        return unkeyed(content.get("values", []))
    if kind == "bytesValue":
        return content.encode("ascii")
    return content


def unkeyed(attributes):
    """Attributes of OTLP/JSON as a dict."""
    return {one.get("key", ""): unwrapped(one.get("value")) for one in attributes}


def demo():
    """A batch with a trace of an agent, and spans that are hard to keep."""
    spans = []

    def span(number, parent, name, attributes, **more):
        start = DEMO_START + number * 1_000_003
        spans.append({
            "traceId": "0000" + "d" * 28,
            "spanId": f"0000{number:012x}",
            **({"parentSpanId": f"0000{parent:012x}"} if parent else {}),
            "name": name,
            "kind": 1,
            "startTimeUnixNano": str(start),
            "endTimeUnixNano": str(start + 2_345_678),
            "attributes": [keyed(key, value) for key, value in attributes.items()],
            **more,
        })  # fmt: skip

    def event(name, attributes):
        time = str(DEMO_START + 1_234_567)
        return {"timeUnixNano": time, "name": name, "attributes": [keyed(*one) for one in attributes.items()]}

    # As OpenInference says it.
    span(2, 1, "ChatCompletion", {
        KIND: "LLM", "llm.model_name": "gpt-4o", "llm.provider": "openai", "llm.token_count.prompt": 31,
        "llm.token_count.completion": 12, "llm.token_count.total": 43,
        "llm.invocation_parameters": '{"temperature": 0.2}',
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": "Where is order 7?",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "lookup_order",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"order": 7}',
    }, kind=3, events=[event("first token", {"after_ms": 0.75, "index": 0, "cached": False, "parts": ["On", " its"]})])
    span(3, 1, "lookup_order", {
        KIND: "TOOL", "tool.name": "lookup_order", "tool.parameters": '{"order": 7, "with": {"items": ["a", "b"]}}',
        "input.value": '{"order": 7}', "input.mime_type": "application/json", "output.value": "日本語 🦀 sent\n",
    })  # fmt: skip
    span(4, 1, "search", {
        KIND: "RETRIEVER", "input.value": "order 7",
        "retrieval.documents.0.document.id": "d-1", "retrieval.documents.0.document.score": 0.875,
        "retrieval.documents.0.document.content": "Orders are sent within a day.",
        "retrieval.documents.1.document.id": "d-2", "retrieval.documents.1.document.score": 1.0,
        "retrieval.documents.1.document.content": "",
    })  # fmt: skip
    # As OpenTelemetry's GenAI conventions say it.
    span(5, 1, "chat gpt-4o", {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.temperature": 0.2, "gen_ai.request.max_tokens": 100, "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3, "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.input.messages": '[{"role": "user", "parts": [{"type": "text", "content": "Is it sent?"}]}]',
    }, kind=3)  # fmt: skip
    span(6, 1, "execute_tool refund", {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "refund"},
         status={"code": 2, "message": "no such order: 日本語"}, events=[event("exception", {
             "exception.type": "KeyError", "exception.message": "7", "exception.stacktrace": "Traceback\n  …",
             "exception.escaped": True, "retries": 3,
         })])  # fmt: skip
    # Hard to keep.
    span(7, 1, "values", {
        "max": 2**63 - 1, "min": -(2**63), "above.2^53": 2**53 + 1, "one": 1.0, "minus zero": -0.0, "tiny": 5e-324,
        "yes": True, "no": False, "empty": "", "list": [], "mixed": [1, "a", 2.5, False], "nul": "a\0b", "": "no key",
        "map": {"a": 1, "b": {"c": "x", "d": [True]}}, "maps": [{"a": 1}, {"b": 2}], "prefix": 1, "prefix.of": 2,
        "nan": math.nan, "infinite": -math.inf, "null": None,
    }, kind=5, links=[{"traceId": "e" * 32, "spanId": "e" * 16, "attributes": [keyed("a", 1)]}])  # fmt: skip
    span(8, 1, "bytes", {"raw": b"\x00\xff"})
    span(9, 1, "", {}, status={"code": 1})
    span(1, 0, "agent shop", {
        KIND: "AGENT", "session.id": "s-1", "user.id": "u-1", "tag.tags": ["shop", "demo"], "metadata": '{"tier": 2}',
        "input.value": "Where is order 7?", "output.value": "It is on its way.",
    }, kind=2)  # fmt: skip
    return {
        "resourceSpans": [{
            "resource": {"attributes": [keyed("service.name", "demo")]},
            "scopeSpans": [{"scope": {"name": "demo", "version": "1"}, "spans": spans}],
        }]
    }  # fmt: skip


def is_kept(span):
    """Phoenix cannot store bytes, and forgets a span that has some, after it answered 200."""
    return '"bytesValue"' not in json.dumps(span)


def expected(span):
    """What Phoenix's REST API shows of a span of OTLP/JSON, apart from what it adds, and times in nanoseconds."""
    attributes = unkeyed(span.get("attributes", []))
    status = span.get("status", {})
    return {
        "name": span.get("name", ""),
        "context": {"trace_id": span["traceId"], "span_id": span["spanId"]},
        "parent_id": span.get("parentSpanId") or None,
        "span_kind": attributes.pop(KIND, None) or inferred_kind(attributes),
        "start_time": int(span["startTimeUnixNano"]),
        "end_time": int(span["endTimeUnixNano"]),
        "status_code": STATUS[status.get("code", 0)],
        "status_message": status.get("message", ""),
        "attributes": dict(flattened(attributes)),
        "events": [expected_event(event) for event in span.get("events", [])],
    }


def inferred_kind(attributes):
    """The kind of a span that only GenAI attributes describe."""
    kinds = {"chat": "LLM", "execute_tool": "TOOL", "invoke_agent": "AGENT", "embeddings": "EMBEDDING"}
    return kinds.get(attributes.get("gen_ai.operation.name"), "UNKNOWN")


def expected_event(event):
    name = event.get("name", "")
    attributes = unkeyed(event.get("attributes", []))
    if name == "exception":
        attributes = {key: attributes[key] for key in EXCEPTION if key in attributes}
        attributes.setdefault("exception.message", "")
    return {"name": name, "timestamp": int(event["timeUnixNano"]), "attributes": attributes}


def flattened(attributes):
    """Maps and strings of JSON taken apart. Null, doubles that are not finite and empty maps are not kept."""
    for key, value in attributes.items():
        if key.endswith(JSON_STRINGS) and isinstance(value, str):
            value = json.loads(value)
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            yield from flattened({f"{key}.{name}": item for name, item in value.items()})
        elif value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            yield key, value


def added(attributes):
    """What Phoenix must have understood of GenAI attributes, in OpenInference's words."""
    names = {
        "gen_ai.request.model": "llm.model_name",
        "gen_ai.usage.input_tokens": "llm.token_count.prompt",
        "gen_ai.usage.output_tokens": "llm.token_count.completion",
        "gen_ai.tool.name": "tool.name",
    }
    return {new: attributes[old] for old, new in names.items() if old in attributes}
