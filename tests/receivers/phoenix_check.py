"""Delivers spans to Arize Phoenix, and compares what its REST API shows with what was recorded.

    phoenix_check.py --spanring SPANRING --logs DIR --traces FILE [--screenshot FILE]

Prints a line for each failure, and at the end "N passed, M failed". A span is one check, and so is all around it.
"""

import argparse
import collections
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from backports import zstd

import phoenix_spans
from processes import Failure, Receiver, end_with_signals

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python_reader"))
from compare import Results, difference  # noqa: E402

# Phoenix inserts some 200 spans a second, after it answered.
SPANS_MIN = 300
SEND_TIMEOUT = 120
# Nothing more is waited for when none came for so long.
ARRIVAL_TIMEOUT = 20
POLL_INTERVAL = 0.2
HTTP_TIMEOUT = 60
PAGE = 1000
COMPRESSIONS = ("none", "gzip", "zstd")
# Small enough that Phoenix answers 503 until it has inserted what it took.
QUEUE_SIZE = 20
QUEUE_DEMOS = 30
FULL = "full-queue"
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
# What Phoenix adds to spans with GenAI attributes begins so.
ADDED = ("llm.", "tool.", "session.id", "input.", "output.")


class Phoenix(Receiver):
    """A running Phoenix, which keeps what it has in `directory`."""

    def __init__(self, name, directory, logs, **settings):
        def command(http, grpc):
            # It takes its ports from the environment only, and they are chosen anew with each attempt to start.
            ports = [f"PHOENIX_PORT={http}", f"PHOENIX_GRPC_PORT={grpc}"]
            return ["/usr/bin/env", *ports, binary("phoenix"), "serve"]

        environment = {
            "PHOENIX_WORKING_DIR": directory,
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_TELEMETRY_ENABLED": "false",
            "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
            "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
            **settings,
        }
        super().__init__(name, 2, command, logs, environment)
        self.url = f"http://127.0.0.1:{self.port}"

    def answers(self, status):
        """How many requests with spans it answered so."""
        return self.text().count(f'"POST /v1/traces HTTP/1.1" {status}')

    def get(self, path):
        """What its REST API answers."""
        with urllib.request.urlopen(f"{self.url}/v1/{path}", timeout=HTTP_TIMEOUT) as answer:
            return json.load(answer)

    def spans(self, project):
        """All spans of a project, which is not there before its first span."""
        spans = []
        cursor = ""
        while cursor is not None:
            try:
                page = self.get(f"projects/{project}/spans?limit={PAGE}{cursor and '&cursor='}{cursor}")
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return []
                raise
            spans += page["data"]
            cursor = page["next_cursor"]
        return spans

    def wait_for(self, project, count):
        """Polls until so many spans are there, or no more come; returns what is there then."""
        known = -1
        deadline = 0.0
        while True:
            spans = self.spans(project)
            if len(spans) > known:
                known = len(spans)
                deadline = time.monotonic() + ARRIVAL_TIMEOUT
            if len(spans) >= count or time.monotonic() > deadline:
                return spans
            time.sleep(POLL_INTERVAL)


def binary(name):
    """A command of the virtual environment."""
    return os.path.join(os.path.dirname(sys.executable), name)


class Spanring:
    """The command, in a directory for its files."""

    def __init__(self, path, directory):
        self.path = path
        self.directory = directory

    def run(self, *arguments, **variables):
        """What it printed, and the lines it said."""
        try:
            done = subprocess.run(
                [self.path, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": os.environ["PATH"], "SPANRING_LOG_LEVEL": "info", **variables},
                timeout=SEND_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failure(f"spanring {arguments[0]} took more than {SEND_TIMEOUT} s") from error
        said = done.stderr.decode("utf-8").strip()
        if not done.stdout:
            raise Failure(f"spanring {arguments[0]} ended with {done.returncode}: {said}")
        return done.stdout, said.splitlines()

    def write(self, name, batches):
        """A file of OTLP/JSON lines."""
        path = os.path.join(self.directory, f"{name}.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(batch) + "\n" for batch in batches)
        return path

    def send(self, name, batches, phoenix, **variables):
        """Sends recorded spans under their own IDs; returns them, the report and what was said."""
        path = self.write(name, batches)
        printed, said = self.run("send", "--json", "--endpoint", phoenix.url, path, **variables)
        report = json.loads(printed)
        return phoenix_spans.spans_of(batches), {"delivered": report["delivered"], "lost": report["given_up"]}, said

    def replay(self, name, batches, phoenix, **variables):
        """Performs recorded spans through the span API. They get new IDs, so those on disk are returned."""
        path = self.write(name, batches)
        directory = os.path.join(self.directory, name)
        arguments = ("--dir", directory, "--endpoint", phoenix.url)
        printed, said = self.run("replay", "--json", *arguments, path, **variables)
        report = json.loads(printed)
        printed, _ = self.run("cat", "--format", "otlp-json", directory)
        spans = phoenix_spans.spans_of(json.loads(line) for line in printed.splitlines())
        return spans, {"delivered": report["exported"], "lost": report["dropped_total"]}, said


def check_delivery(results, name, phoenix, way, batches, **variables):
    """Delivers in one way, waits, and compares each span. Returns the seconds until the last was there."""
    count = len(phoenix_spans.spans_of(batches))
    begun = time.monotonic()
    sent, report, said = way(name, batches, phoenix, **variables)
    results.check(f"{name}: report", difference(report, {"delivered": count, "lost": 0}))
    results.check(f"{name}: recorded", None if len(sent) == count else f"{len(sent)} of {count} spans")
    results.check(f"{name}: what it says", None if is_said(said, name) else f"{said}")
    kept = {span["spanId"]: span for span in sent if phoenix_spans.is_kept(span)}
    arrived = phoenix.wait_for(name, len(kept))
    seconds = time.monotonic() - begun
    for ours in kept.values():
        theirs = [span for span in arrived if span["context"]["span_id"] == ours["spanId"]]
        problem = compare(theirs[0], ours) if len(theirs) == 1 else f"it is there {len(theirs)} times"
        results.check(f"{name}: {ours.get('name')!r} {ours['traceId']} {ours['spanId']}", problem)
    extra = [span["name"] for span in arrived if span["context"]["span_id"] not in kept]
    results.check(f"{name}: no others", f"{extra} are there, too" if extra else None)
    return seconds


def is_said(said, name):
    """Whether the lines are those that are due: what was refused and what follows from that, each once."""
    due = []
    if name.endswith("zstd"):
        due = ["answered 415 to a request with COMPRESSION=zstd; from now on it is gzip"]
    if name == FULL:
        due = ["answered 503; it, or what is behind it, is down or overloaded", "works again"]
    return len(said) == len(due) and all(text in line for text, line in zip(due, said))


def compare(theirs, ours):
    """Where a span in Phoenix differs from one of OTLP/JSON, or None."""
    theirs = {name: value for name, value in theirs.items() if name != "id"}
    known = phoenix_spans.expected(ours)
    attributes = known["attributes"]
    has_genai = any(key.startswith("gen_ai.") for key in attributes)
    attributes.update(phoenix_spans.added(attributes))
    theirs["attributes"] = {
        key: value
        for key, value in theirs["attributes"].items()
        if key in attributes or not (has_genai and key.startswith(ADDED))
    }
    times = [(theirs, known, "start_time"), (theirs, known, "end_time")]
    times += [(one, other, "timestamp") for one, other in zip(theirs["events"], known["events"])]
    for one, other, name in times:
        shown = nanoseconds(one[name])
        # It keeps microseconds, rounded. Of whole ones this leaves nothing but what was sent.
        if abs(shown - other[name]) >= 1000:
            return f"{name}: {shown}, but {other[name]} was sent"
        one[name] = other[name]
    problem = difference(theirs, known)
    # The words of the comparison are those of the reader of segments.
    return problem and problem.replace("only Rust reads it", "only sent").replace(
        "Rust does not read it", "was not sent"
    ).replace("Rust reads", "sent was")


def nanoseconds(text):
    """A time of the REST API."""
    return (datetime.datetime.fromisoformat(text) - EPOCH) // datetime.timedelta(microseconds=1) * 1000


def check_all(results, spanring, phoenix, batches):
    """Every way with every compression. Returns a line for each."""
    lines = []
    number = 0
    for way in ("replay", "send"):
        for compression in COMPRESSIONS:
            number += 1
            name = f"{way}-{compression}"
            renamed = phoenix_spans.renamed(batches, name, number)
            before = collections.Counter({status: phoenix.answers(status) for status in (200, 415)})
            seconds = check_delivery(
                results, name, phoenix, getattr(spanring, way), renamed, SPANRING_COMPRESSION=compression
            )
            taken, refused = (phoenix.answers(status) - before[status] for status in (200, 415))
            is_right = taken > 0 and (refused > 0) == (compression == "zstd")
            results.check(f"{name}: answers", None if is_right else f"{taken} times 200, {refused} times 415")
            count = len(phoenix_spans.spans_of(batches))
            lines.append(f"{name}: {count} spans, {taken} requests taken, {refused} refused, there in {seconds:.1f} s")
    return lines


def check_full_queue(results, spanring, directory, logs):
    """A Phoenix that answers 503 most of the time gets everything nevertheless. Returns a line."""
    settings = {"PHOENIX_MAX_SPANS_QUEUE_SIZE": str(QUEUE_SIZE)}
    with Phoenix("phoenix-full", directory, logs, **settings) as phoenix:
        name = FULL
        demos = [phoenix_spans.renamed([phoenix_spans.demo()], name, 1 + number) for number in range(QUEUE_DEMOS)]
        batches = [batch for demo in demos for batch in demo]
        seconds = check_delivery(results, name, phoenix, spanring.send, batches, SPANRING_COMPRESSION="gzip")
        full = phoenix.answers(503)
        results.check(f"{name}: answers", None if full else "it never answered 503")
        count = len(phoenix_spans.spans_of(batches))
        return f"{name}: {count} spans, {full} requests answered 503 and repeated, there in {seconds:.1f} s"


def recorded(path):
    """A part of recorded traces, and the demo."""
    batches = [phoenix_spans.demo()]
    if not os.path.exists(path):
        print(f"{path} is not there: only the demo is sent; give recorded traces with --traces")
        return batches
    with open(path, "rb") as file:
        content = file.read()
    if path.endswith(".zst"):
        content = zstd.decompress(content)
    lines = [json.loads(line) for line in content.splitlines()]
    return phoenix_spans.part(lines, SPANS_MIN) + batches


def picture(phoenix, path):
    """One of the larger traces in Phoenix's UI."""
    import screenshot

    project = "replay-none"
    spans = phoenix.spans(project)
    traces = collections.Counter(span["context"]["trace_id"] for span in spans)
    failed = {span["context"]["trace_id"] for span in spans if span["status_code"] == "ERROR"}
    # Many spans, and an error among them if there is one.
    chosen = max(traces, key=lambda one: (one in failed, traces[one], one))
    node = phoenix.get(f"projects/{project}")["data"]["id"]
    generations = [s for s in spans if s["context"]["trace_id"] == chosen and s["span_kind"] == "LLM"]
    selected = min(generations, key=lambda span: span["start_time"])
    screenshot.take(f"{phoenix.url}/projects/{node}/traces/{chosen}?selectedSpanNodeId={selected['id']}", path)
    print(f"{path}: trace {chosen} with {traces[chosen]} spans")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spanring", required=True)
    parser.add_argument("--logs", required=True)
    parser.add_argument("--traces", required=True)
    parser.add_argument("--screenshot")
    arguments = parser.parse_args()
    end_with_signals()
    # Whoever has a Phoenix of his own has settings for it.
    for name in [name for name in os.environ if name.startswith("PHOENIX_")]:
        del os.environ[name]
    results = Results()
    batches = recorded(arguments.traces)
    with tempfile.TemporaryDirectory(prefix="spanring-phoenix-") as directory:
        spanring = Spanring(arguments.spanring, directory)
        try:
            with Phoenix("phoenix", os.path.join(directory, "phoenix"), arguments.logs) as phoenix:
                for line in check_all(results, spanring, phoenix, batches):
                    print(line)
                if arguments.screenshot:
                    picture(phoenix, arguments.screenshot)
            full = os.path.join(directory, "phoenix-full")
            print(check_full_queue(results, spanring, full, arguments.logs))
        except (Failure, OSError) as error:
            results.check("Phoenix", error)
    print(f"{results.passed} passed, {results.failed} failed")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
