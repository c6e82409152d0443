"""Makes spans of every kind with the openai-agents SDK and with spanring, and compares what arrives.

    compare.py --spanring SPANRING --work DIR

Both send to an ingest on loopback: the SDK by its own exporter, spanring by `spanring send --openai`, which reads the same spans
as OTLP/JSON with the attributes that docs/openai.md names. The objects must be equal, field by field, and of the SDK's own
shapes. Prints a line for each difference, and at the end "N passed, M failed".
"""

import argparse
import datetime
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import types

import shapes
from agents import tracing
from agents.tracing.processors import BackendSpanExporter

KEY = "sk-proj-sesame"
TIMEOUT = 60
LONG = "0123456789" * 30_000


class Ingest:
    """An ingest that takes everything and keeps the bodies."""

    def __init__(self):
        self.bodies = []
        bodies = self.bodies

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                bodies.append((self.path, dict(self.headers), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def objects(self):
        return [one for _, _, body in self.bodies for one in json.loads(body)["data"]]


class Collector(tracing.TracingProcessor):
    """Keeps traces when they start and spans when they end, as they would be exported."""

    def __init__(self):
        self.items = []

    def on_trace_start(self, trace):
        self.items.append(trace)

    def on_span_end(self, span):
        self.items.append(span)

    def on_trace_end(self, trace):
        pass

    on_span_start = on_trace_end

    def shutdown(self):
        pass

    force_flush = shutdown


MESSAGES = [
    {"role": "system", "content": "Be kind.\n\u2028\x00\x1f\"\\/é漢🙂"},
    {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "thinking", "thinking": "a user's own"}]},
    {"role": "assistant", "content": "hm", "reasoning": "secret", "reasoning_content": "secret", "tool_calls": None},
    {"role": "assistant", "thinking": "x", "thinking_blocks": [1], "content": [
        {"type": "thinking", "thinking": "x"}, {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "said"}, "bare"]},
    {"type": "reasoning", "summary": []},
    {"object": "response", "output": [{"type": "reasoning"}, {"role": "assistant", "content": "x", "thinking": "y"}], "n": 1.5},
    {"type": "function_call_output", "output": {"role": "assistant", "reasoning": "a tool's own"}},
]  # fmt: skip


def record():
    """Makes the spans."""
    with tracing.trace("Support", group_id="chat-7", metadata={"tier": "gold", "n": 1}):
        with tracing.agent_span("Triage", handoffs=["Billing"], tools=["search", "lookup"], output_type="str") as agent:
            with tracing.generation_span(
                input=MESSAGES,
                output=MESSAGES[2:4],
                model="gpt-4o",
                model_config={"temperature": 0.2, "top_p": None, "stop": ["a"], "n": 1},
                usage={"input_tokens": 12, "output_tokens": 3, "total_tokens": 15, "input_tokens_details": {"cached_tokens": 2}},
            ):
                pass
            with tracing.generation_span():
                pass
            with tracing.generation_span(input=[{"role": "user", "content": LONG}, {"role": "user", "content": "short"}], output=[
                {"n": 10**9, "list": list(range(30_000)), "deep": {"deep": {"text": "é\n" * 60_000, "flag": True, "none": None}}}
            ]) as generation:  # fmt: skip
                generation.set_error({"message": "rate limit reached", "data": {"status": 429, "body": {"a": [1, "b"]}}})
            with tracing.function_span("search", input='{"q": "x"}', output="found") as search:
                search.span_data.mcp_data = {"server": "docs"}
            with tracing.function_span("long", input="x" * 100_000, output="é\"" * 100_000):
                pass
            with tracing.function_span("bare") as bare:
                bare.set_error({"message": "it broke", "data": None})
            with tracing.guardrail_span("polite", triggered=True), tracing.guardrail_span("calm"):
                pass
            with tracing.handoff_span(from_agent="Triage", to_agent="Billing"), tracing.handoff_span():
                pass
            response = types.SimpleNamespace(id="resp_1")
            with tracing.response_span(response=response) as answered:
                answered.span_data.usage = {"input_tokens": 1, "output_tokens": 1}
            with tracing.response_span():
                pass
            with tracing.mcp_tools_span(server="docs", result=["read", "write"]), tracing.mcp_tools_span():
                pass
            with tracing.custom_span("step", {"nested": {"list": [1, 2.5, None, "x"]}, "empty": {}, "é": "ü"}):
                pass
            with tracing.custom_span("empty"):
                pass
            with tracing.task_span("Runner") as task, tracing.turn_span(2, "Triage"):
                task.span_data.usage = {"input_tokens": 1}
            assert agent.parent_id is None
    with tracing.trace("Voice"):
        with tracing.speech_group_span(input="say it"):
            with tracing.speech_span(
                model="tts-1",
                input="say it",
                output="AAAA" * 40_000,
                output_format="mp3",
                model_config={"voice": "alloy"},
                first_content_at="2026-01-01T00:00:00.123456+00:00",
            ), tracing.speech_span(model="tts-1"):  # fmt: skip
                pass
            with tracing.transcription_span("whisper-1", input="BBBB", output="said", model_config={"language": "en"}):
                pass
            with tracing.transcription_span("whisper-1", input_format="wav"):
                pass
        with tracing.agent_span("bare"):
            pass


def nanoseconds(text):
    """A time of the SDK's, as OTLP has it."""
    since = datetime.datetime.fromisoformat(text) - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return str(((since.days * 86_400 + since.seconds) * 10**6 + since.microseconds) * 1000)


def digits(text, length):
    """An ID for the engine, made of one of the SDK's: its digits, or of a parent a hash."""
    tail = text.rsplit("_", 1)[1][:length]
    return tail if len(tail) == length else hashlib.sha256(text.encode()).hexdigest()[:length]


def value(it):
    """A value as OTLP/JSON."""
    if it is None:
        return {}
    if isinstance(it, bool):
        return {"boolValue": it}
    if isinstance(it, int):
        return {"intValue": str(it)}
    if isinstance(it, float):
        return {"doubleValue": it}
    if isinstance(it, str):
        return {"stringValue": it}
    if isinstance(it, list):
        return {"arrayValue": {"values": [value(one) for one in it]}}
    return {"kvlistValue": {"values": [{"key": key, "value": value(one)} for key, one in it.items()]}}


def attributes_of(item, as_text):
    """What instrumentation would say of a span; structures as JSON text, or as they are."""
    data = item.span_data
    packed = (lambda it: it if it is None else json.dumps(it)) if as_text else (lambda it: it)
    said = {"openai.span_id": item.span_id, "openai.span.type": data.type}
    if data.type == "agent":
        said |= {"agent.name": data.name, "agent.handoffs": packed(data.handoffs), "agent.tools": packed(data.tools)}
        said["agent.output_type"] = data.output_type
    elif data.type == "generation":
        said |= {"input.value": packed(data.input), "output.value": packed(data.output), "gen_ai.request.model": data.model}
        said["llm.invocation_parameters"] = packed(data.model_config)
        said |= {f"gen_ai.usage.{key}": count for key, count in (data.usage or {}).items()}
    elif data.type == "function":
        said |= {"tool.name": data.name, "input.value": data.input, "output.value": data.output}
        said["mcp.data"] = packed(data.mcp_data)
    elif data.type == "handoff":
        said |= {"handoff.from_agent": data.from_agent, "handoff.to_agent": data.to_agent}
    elif data.type == "guardrail":
        said |= {"guardrail.name": data.name, "guardrail.triggered": data.triggered}
    elif data.type == "response":
        said["gen_ai.response.id"] = data.response and data.response.id
        said |= {f"gen_ai.usage.{key}": count for key, count in (data.usage or {}).items()}
    elif data.type == "mcp_tools":
        said |= {"mcp.server": data.server, "mcp.result": packed(data.result)}
    elif data.type == "speech_group":
        said["input.value"] = data.input
    elif data.type == "speech":
        said |= {"input.value": data.input, "output.value": data.output, "speech.output_format": data.output_format}
        said |= {"llm.model_name": data.model, "llm.invocation_parameters": packed(data.model_config)}
        said["speech.first_content_at"] = data.first_content_at
    elif data.type == "transcription":
        said |= {"input.value": data.input, "output.value": data.output, "transcription.input_format": data.input_format}
        said |= {"llm.model_name": data.model, "llm.invocation_parameters": packed(data.model_config)}
    elif data.type == "custom":
        said |= {"custom.name": data.name, "custom.data": packed(data.data)}
    elif data.type == "task":
        said |= {"usage": data.usage}
    else:
        said |= {"turn": data.turn, "agent_name": data.agent_name, "usage": data.usage}
    return {key: one for key, one in said.items() if one is not None}


def otlp_span(item, as_text):
    """A trace or a span of the SDK's as OTLP/JSON."""
    span = {"traceId": digits(item.trace_id, 32), "kind": 1}
    if isinstance(item, tracing.Trace):
        said = {"openai.span.type": "trace", "trace.workflow_name": item.name}
        said |= {"trace.group_id": item.group_id} if item.group_id else {}
        if item.metadata:
            said["trace.metadata"] = json.dumps(item.metadata) if as_text else item.metadata
        span |= {"spanId": digits("x_" + hashlib.sha256(item.trace_id.encode()).hexdigest(), 16), "name": "trace"}
        span |= {"startTimeUnixNano": "1", "endTimeUnixNano": "2"}
    else:
        said = attributes_of(item, as_text)
        span |= {"spanId": digits(item.span_id, 16), "name": getattr(item.span_data, "name", None) or "span"}
        span |= {"startTimeUnixNano": nanoseconds(item.started_at), "endTimeUnixNano": nanoseconds(item.ended_at)}
        if item.parent_id:
            span["parentSpanId"] = digits(item.parent_id, 16)
        else:
            span["parentSpanId"] = digits("x_" + hashlib.sha256(item.trace_id.encode()).hexdigest(), 16)
        if item.error:
            span["status"] = {"code": 2, "message": item.error["message"]}
            if item.error["data"] is not None:
                pairs = [{"key": key, "value": value(one)} for key, one in item.error["data"].items()]
                span["events"] = [{"timeUnixNano": "1", "name": "exception", "attributes": pairs}]
    span["attributes"] = [{"key": key, "value": value(one)} for key, one in said.items()]
    return span


def by_spanring(spanring, path, items, as_text):
    """What spanring sends of the same spans; in the order in which they ended, so that a trace comes last."""
    spans = [otlp_span(one, as_text) for one in items if not isinstance(one, tracing.Trace)]
    spans += [otlp_span(one, as_text) for one in items if isinstance(one, tracing.Trace)]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    line = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {}, "spans": spans}]}]}
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    ingest = Ingest()
    variables = {"PATH": os.environ["PATH"], "SPANRING_OPENAI_BASE_URL": ingest.base_url, "OPENAI_API_KEY": KEY}
    variables |= {"OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj_1"}
    subprocess.run([spanring, "send", "--openai", path], env=variables, timeout=TIMEOUT, check=True)
    return ingest


def by_sdk(items):
    """What the SDK sends, as it does to OpenAI."""
    ingest = Ingest()
    exporter = BackendSpanExporter(KEY, "org-1", "proj_1", f"{ingest.base_url}/traces/ingest")
    # It cuts only what goes to OpenAI's own address.
    exporter._should_sanitize_for_openai_tracing_api = lambda: True
    exporter.export(items)
    return ingest


def differences(one, other, where=""):
    """Where two values differ, a line for each."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            if key not in one or key not in other:
                yield f"{where}.{key} is only on {'the SDK side' if key in one else 'our side'}"
            else:
                yield from differences(one[key], other[key], f"{where}.{key}")
    elif where in (".started_at", ".ended_at"):
        if datetime.datetime.fromisoformat(one) != datetime.datetime.fromisoformat(other):
            yield f"{where}: {one} and {other}"
    elif type(one) is not type(other) or one != other:
        yield f"{where}: {str(one)[:80]!r} ({len(str(one))}) and {str(other)[:80]!r} ({len(str(other))})"


def compare(sdk, ours, name):
    """Compares two ingests; returns how much is equal and how much is not."""
    failed = 0
    expected = {one["id"]: one for one in sdk.objects()}
    found = {one["id"]: one for one in ours.objects()}
    if len(found) != len(ours.objects()):
        print(f"{name}: an object came twice")
        failed += 1
    for one in expected.keys() | found.keys():
        if one not in expected or one not in found:
            wrong = [f"only {'the SDK' if one in expected else 'spanring'} sends it: {str(expected.get(one, found.get(one)))[:200]}"]
        else:
            wrong = list(differences(expected[one], found[one]))
        failed += bool(wrong)
        for what in wrong:
            print(f"{name}: {one} ({expected.get(one, {}).get('span_data', {}).get('type')}): {what}")
    for path, headers, body in ours.bodies:
        for what in shapes.wrong_in(body):
            print(f"{name}: {what}")
            failed += 1
        theirs = sdk.bodies[0][1]
        for header in ("authorization", "openai-beta", "openai-organization", "openai-project", "content-type"):
            pair = [next((text for key, text in each.items() if key.lower() == header), None) for each in (theirs, headers)]
            if pair[0] != pair[1] or path != sdk.bodies[0][0]:
                print(f"{name}: header {header} of {path}: {pair}")
                failed += 1
    for _, _, body in sdk.bodies:
        for what in shapes.wrong_in(body):
            print(f"the shapes are wrong, for the SDK's own body: {what}")
            failed += 1
    return max(len(expected) - failed, 0), failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--spanring", required=True)
    parser.add_argument("--work", required=True)
    arguments = parser.parse_args()
    collector = Collector()
    tracing.set_trace_processors([collector])
    record()
    sdk = by_sdk(collector.items)
    passed = failed = 0
    for as_text in (True, False):
        path = os.path.join(arguments.work, f"spans-{as_text}.jsonl")
        ours = by_spanring(arguments.spanring, path, collector.items, as_text)
        more = compare(sdk, ours, "JSON text" if as_text else "native values")
        passed, failed = passed + more[0], failed + more[1]
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
