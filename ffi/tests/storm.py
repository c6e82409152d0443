"""A fork storm: a program forks while its threads record and its flusher sends, and afterwards every span is looked for.

    storm.py SPANRING ROUNDS FORKS PROGRAM...

PROGRAM gets a directory, the endpoint of a receiver of OTLP, and how often to fork. Each of its processes has a number, the first one 0,
prints `NUMBER SPANS` for what it recorded, and ends with 0 if its own counts are right. Its spans have an attribute `process` with that number, and
`under` if their parent is a span of process 0.

Files and receiver must have the same spans: of each process all that it recorded, none twice, and none that another process's pipeline sent.
"""
import collections
import http.server
import json
import pathlib
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

# Far more than a round takes: what is not over by then hangs.
DEADLINE = 900


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def signed(value):
    return value - (1 << 64) if value >> 63 else value


def fields(data):
    """A protobuf message as pairs of number and value."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = varint(data, at)
        else:
            length = {1: 8, 5: 4}.get(wire)
            if length is None:
                assert wire == 2, wire
                length, at = varint(data, at)
            value = data[at : at + length]
            at += length
        yield tag >> 3, value


def of(data, *path):
    """The values of a field at the end of a path of field numbers."""
    for number, value in fields(data):
        if number == path[0]:
            if len(path) == 1:
                yield value
            else:
                yield from of(value, *path[1:])


Span = collections.namedtuple("Span", "id parent process under")


def received(body):
    """The spans of a request."""
    for span in of(body, 1, 2, 2):
        found = {2: b"", 4: b""}
        numbers = {}
        for number, value in fields(span):
            if number in found:
                found[number] = value
            elif number == 9:
                pair = dict(fields(value))
                numbers[pair[1]] = signed(dict(fields(pair[2])).get(3, 0))
        yield Span(found[2].hex(), found[4].hex(), numbers[b"process"], b"under" in numbers)


def written(spanring, place):
    """The spans in files."""
    # It says of each child that ended by _exit that its segment was not closed.
    command = [spanring, "cat", "--format", "otlp-json", str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as cat:
        for line in cat.stdout:
            for resource in json.loads(line)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        values = {pair["key"]: pair["value"] for pair in span["attributes"]}
                        yield Span(span["spanId"], span.get("parentSpanId", ""), int(values["process"]["intValue"]), "under" in values)
    assert cat.returncode == 0


class Receiver(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Takes every request; `requests` has the pipeline that each came from, and its body."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.headers["spanring-batch"].split("-")[0], body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def unique(spans, where):
    """The spans by ID."""
    found = {}
    for span in spans:
        assert span.id not in found, f"{where}: {span} came twice, first as {found[span.id]}"
        found[span.id] = span
    return found


def storm(spanring, forks, program):
    """One round: how many processes and spans there were."""
    receiver = Receiver()
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder) / "spans"
        command = [*program, str(place), receiver.endpoint, str(forks)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=DEADLINE)
        assert done.returncode == 0, f"{command} ended with {done.returncode}"
        receiver.shutdown()
        receiver.server_close()
        said = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
        recorded = dict(said)
        assert len(recorded) == len(said) > forks, f"{len(said)} processes"
        files = unique(written(spanring, place), "files")
    pipelines = collections.defaultdict(set)
    sent = []
    for pipeline, body in receiver.requests:
        for span in received(body):
            pipelines[pipeline].add(span.process)
            sent.append(span)
    assert unique(sent, "receiver") == files, "receiver and files differ"
    # A process's pipeline sends what it recorded, and nothing else does.
    owners = [process for processes in pipelines.values() for process in processes]
    assert len(owners) == len(pipelines) == len(recorded) and set(owners) == set(recorded)
    found = collections.Counter(span.process for span in sent)
    lost = {process: (count, found[process]) for process, count in recorded.items() if count != found[process]}
    assert not lost, f"recorded and found: {lost}"
    for span in sent:
        if span.under:
            assert files[span.parent].process == 0, f"{span}'s parent is {files[span.parent]}"
    return len(recorded), len(sent)


def main():
    spanring, rounds, forks, *program = sys.argv[1:]
    begin = time.monotonic()
    processes = spans = 0
    for number in range(int(rounds)):
        more = storm(spanring, int(forks), program)
        processes, spans = processes + more[0], spans + more[1]
        print(f"round {number + 1}: {more[0]} processes, {more[1]} spans", flush=True)
    seconds = time.monotonic() - begin
    print(f"{rounds} x {forks} forks: {processes} processes, {spans} spans, 0 lost, 0 duplicates, 0 hangs, {seconds:.0f} s")


if __name__ == "__main__":
    main()
