"""Delivers segments to real receivers, and compares what they got with what `spanring cat` reads.

    check.py --spanring SPANRING --segments DIR --logs DIR

Prints a line for each failure, and at the end "N passed, M failed".
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import urllib.request

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import otlp
import rotel_log
from processes import Failure, Receiver, end_with_signals, wait_until

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python_reader"))
from compare import Results, difference, flatten  # noqa: E402

# All that `make_segments make` makes, without the segment that is not closed.
DIRECTORIES = ("tricky", "wide", "threads", "limits", "single")
SEND_TIMEOUT = 60
ARRIVAL_TIMEOUT = 60
HTTP_TIMEOUT = 60
COMPRESSIONS = ("none", "gzip", "zstd")
# The JSON of the agent's answer nests three times as deep as its values.
JSON_DEPTH_MAX = 10 * otlp.NESTING_MAX


class Sender:
    """`spanring send`, and what it has to deliver."""

    def __init__(self, spanring, segments):
        self.spanring = spanring
        self.paths = [os.path.join(segments, name) for name in DIRECTORIES]
        printed = subprocess.run(
            [spanring, "cat", "--format", "otlp-json", *self.paths],
            stdout=subprocess.PIPE,
            check=True,
            timeout=SEND_TIMEOUT,
        )
        spans = [one for line in printed.stdout.splitlines() for one in flatten(json.loads(line))]
        self.spans = {key(one): otlp.cut(one) for one in spans if one["span"]}

    def send(self, receiver, compression):
        """Sends all; returns the report and what was said."""
        variables = {
            "PATH": os.environ["PATH"],
            "SPANRING_COMPRESSION": compression,
            "SPANRING_LOG_LEVEL": "info",
        }
        endpoint = f"http://127.0.0.1:{receiver.port}/v1/traces"
        try:
            done = subprocess.run(
                [self.spanring, "send", "--json", "--endpoint", endpoint, *self.paths],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=variables,
                timeout=SEND_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failure(f"{receiver.name}: spanring send took more than {SEND_TIMEOUT} s") from error
        said = done.stderr.decode("utf-8").strip()
        if not done.stdout:
            raise Failure(f"{receiver.name}: spanring send ended with {done.returncode}: {said}")
        return json.loads(done.stdout), said


def key(one):
    """A span's IDs."""
    return one["span"]["traceId"], one["span"]["spanId"]


def check_delivery(results, name, sender, report, said, fallbacks):
    """All was delivered, and the compression was refused so often as `fallbacks` says."""
    count = len(sender.spans)
    expected = {"delivered": count, "refused": 0, "given_up": 0, "skipped": 0, "repeated": 0}
    results.check(f"{name}: delivered", difference(report, expected))
    # The agent takes no more than 1 MiB; that it is sent smaller requests is said once.
    large = [line for line in said.splitlines() if "answered 413" in line and "smaller ones are sent" in line]
    lines = [line for line in said.splitlines() if line not in large]
    steps = [line for line in lines if "answered 400 to a request with COMPRESSION=" in line]
    problem = None
    if len(large) > 1 or len(lines) != len(steps) or [step.rsplit(" ", 1)[1] for step in steps] != fallbacks:
        problem = f"fallbacks to {fallbacks} are due, but it says: {said}"
    results.check(f"{name}: what it says", problem)


def check_spans(results, name, sender, batches):
    """Compares what was received, a list of batches of OTLP/JSON, field by field; each batch is a check."""
    seen = set()
    twice = None
    for number, batch in enumerate(batches):
        problem = None
        for one in flatten(batch):
            if key(one) in seen:
                twice = f"{key(one)} came twice"
            seen.add(key(one))
            known = sender.spans.get(key(one))
            found = difference(one, known) if known else "nobody sent it"
            if found and not problem:
                problem = f"span {one['span'].get('name')!r} {key(one)}: {found}"
        results.check(f"{name}: batch {number}", problem)
    results.check(f"{name}: no span twice", twice)
    missing = len(sender.spans) - len(seen)
    results.check(f"{name}: every span", f"{missing} of {len(sender.spans)} are missing" if missing else None)


def get(receiver, path):
    """What the receiver answers."""
    url = f"http://127.0.0.1:{receiver.port}{path}"
    with urllib.request.urlopen(url, timeout=HTTP_TIMEOUT) as answer:
        return answer.read()


def datadog(results, sender, logs):
    """The Datadog test agent takes everything, and keeps everything."""

    def command(http, trace_agent, grpc):
        ports = {"--otlp-http-port": http, "--port": trace_agent, "--otlp-grpc-port": grpc, "--web-ui-port": 0}
        arguments = [text for name, port in ports.items() for text in (name, str(port))]
        return [binary("ddapm-test-agent"), "--host", "127.0.0.1", *arguments]

    with Receiver("datadog", 3, command, logs) as receiver:
        for compression in COMPRESSIONS:
            name = f"Datadog test agent, {compression}"
            get(receiver, "/test/session/clear")
            check_delivery(results, name, sender, *sender.send(receiver, compression), [])
            requests = json.loads(get(receiver, "/test/session/requests"))
            problem = None
            for request in requests:
                headers = {header.lower(): text for header, text in request["headers"].items()}
                # The agent gives bodies out as they were before compression; their length tells.
                body, sent = len(base64.b64decode(request["body"])), int(headers["content-length"])
                encoding = headers.get("content-encoding", "none")
                if encoding != compression or (sent < body) != (compression != "none"):
                    problem = f"a body of {body} bytes came as {sent} with Content-Encoding {encoding}"
                if headers["content-type"] != "application/x-protobuf" or not request["url"].endswith("/v1/traces"):
                    problem = f"{request['url']}, {headers}"
            results.check(f"{name}: headers", problem or (None if requests else "no requests"))
            batches = [otlp.decode(base64.b64decode(request["body"])) for request in requests]
            check_spans(results, f"{name}, its requests", sender, batches)
            check_spans(results, f"{name}, its spans", sender, decoded_by_agent(receiver))


def decoded_by_agent(receiver):
    """What the agent itself decoded, as OTLP/JSON."""
    for traces in json.loads(get(receiver, "/test/session/traces")):
        request = ParseDict(traces, ExportTraceServiceRequest(), max_recursion_depth=JSON_DEPTH_MAX)
        yield otlp.message(request)


def rotel(results, sender, logs):
    """rotel takes no zstd, and prints spans."""
    import rotel as package

    agent = os.path.join(os.path.dirname(package.__file__), "rotel-agent")

    def command(http, grpc):
        return [
            agent, "start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed",
            "--otlp-http-endpoint", f"127.0.0.1:{http}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}",
        ]  # fmt: skip

    for compression in COMPRESSIONS:
        name = f"rotel, {compression}"
        with Receiver(f"rotel-{compression}", 2, command, logs) as receiver:
            fallbacks = ["gzip"] if compression == "zstd" else []
            check_delivery(results, name, sender, *sender.send(receiver, compression), fallbacks)
            arrived(receiver, "\n    Trace ID       : ", len(sender.spans))
        text = receiver.text()
        refused = text.count("Failed to decode OTLP HTTP")
        results.check(f"{name}: refusals", None if bool(refused) == bool(fallbacks) else f"{refused} in its log")
        blocks = rotel_log.spans(text)
        problem = None
        if {rotel_log.ids(block) for block in blocks} != set(sender.spans) or len(blocks) != len(sender.spans):
            problem = f"{len(blocks)} spans in its log, of {len(sender.spans)}, or others"
        results.check(f"{name}: every span", problem)
        problem = None
        for block in blocks:
            known = sender.spans.get(rotel_log.ids(block))
            found = rotel_log.difference(block, known["span"]) if known else "nobody sent it"
            problem = problem or (found and f"{rotel_log.ids(block)}: {found}")
        results.check(f"{name}: fields", problem)


def oteltap(results, sender, logs):
    """oteltap takes no compression, and prints each span as a line of OTLP/JSON."""
    spans = {ids: otlp.without_infinite(one["span"]) for ids, one in sender.spans.items()}
    for compression in COMPRESSIONS:
        name = f"oteltap, {compression}"
        fallbacks = {"none": [], "gzip": ["none"], "zstd": ["gzip", "none"]}[compression]
        command = lambda port: [binary("oteltap"), "--port", str(port)]  # noqa: E731
        with Receiver(f"oteltap-{compression}", 1, command, logs) as receiver:
            check_delivery(results, name, sender, *sender.send(receiver, compression), fallbacks)
            arrived(receiver, '{"traceId":', len(sender.spans))
        lines = [line for line in receiver.text().split("\n") if line.startswith('{"traceId":')]
        seen = set()
        problem = None
        for line in lines:
            span = otlp.bare(json.loads(line))
            ids = key({"span": span})
            seen.add(ids)
            found = difference(span, spans[ids]) if ids in spans else "nobody sent it"
            problem = problem or (found and f"span {span.get('name')!r} {ids}: {found}")
        results.check(f"{name}: fields", problem)
        problem = None
        if len(lines) != len(sender.spans) or seen != set(sender.spans):
            problem = f"{len(lines)} spans, {len(seen)} of them different, of {len(sender.spans)}"
        results.check(f"{name}: every span", problem)


def arrived(receiver, mark, count):
    """Waits until `mark` was printed so often, which may be after the answer."""
    wait_until(
        f"{receiver.name} prints {count} spans", lambda: receiver.text().count(mark) >= count, ARRIVAL_TIMEOUT
    )


def binary(name):
    """A command of the virtual environment."""
    return os.path.join(os.path.dirname(sys.executable), name)


def check_contents(results, spans):
    """Makes sure that there is something of everything to compare."""
    text = json.dumps([one for one in spans.values()], ensure_ascii=False)
    for needed in (
        '"NaN"', '"-Infinity"', '"9223372036854775807"', '"-9223372036854775808"', "-0.0", '"boolValue": false',
        '"bytesValue"', '"kvlistValue"', '"arrayValue"', '{"key": "value", "value": {}}', "🦀", "日本語", '"flags": 1023',
        "congo=t61rcWkgMzE", '"droppedAttributesCount"', '"droppedEventsCount"', '"droppedLinksCount"', '"message"',
        '"18446744073709551615"', '"1661137262123456789"', '"schemaUrl"', "service.name", '"kind": 5', '"code": 2',
    ):  # fmt: skip
        results.check(f"contents, {needed}", None if needed in text else "is nowhere in the spans")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spanring", required=True)
    parser.add_argument("--segments", required=True)
    parser.add_argument("--logs", required=True)
    arguments = parser.parse_args()
    end_with_signals()
    results = Results()
    sender = Sender(arguments.spanring, arguments.segments)
    check_contents(results, sender.spans)
    for receiver in (datadog, rotel, oteltap):
        try:
            receiver(results, sender, arguments.logs)
        except (Failure, OSError) as error:
            results.check(receiver.__name__, error)
    print(f"{len(sender.spans)} spans to each receiver, with each compression")
    print(f"{results.passed} passed, {results.failed} failed")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
