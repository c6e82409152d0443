"""gunicorn with four workers under load, which are restarted meanwhile: every span of every answer arrives at the Datadog test agent.

SPANRING_TEST_REQUESTS says how many answers there are to be.
"""
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest

for needed in ("fastapi", "gunicorn", "uvicorn_worker", "opentelemetry.instrumentation.fastapi", "ddapm_test_agent"):
    pytest.importorskip(needed)

from google.protobuf.json_format import ParseDict  # noqa: E402
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402

from conftest import ROOT  # noqa: E402

sys.path.insert(0, str(ROOT / "tests" / "receivers"))
from processes import Receiver, free_ports, wait_until  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
CLIENTS = 8
REQUESTS = int(os.environ.get("SPANRING_TEST_REQUESTS", "1200"))
PATIENCE = 120


def program(name):
    return str(pathlib.Path(sys.executable).parent / name)


def agent(folder):
    def command(http_port, trace_agent, grpc):
        return [
            program("ddapm-test-agent"), "--host", "127.0.0.1", "--otlp-http-port", str(http_port), "--port", str(trace_agent),
            "--otlp-grpc-port", str(grpc), "--web-ui-port", "0",
        ]  # fmt: skip

    return Receiver("datadog", 3, command, folder)


def arrived(receiver):
    """What the agent has: (name, attributes, trace ID, span ID, parent ID) of each span."""
    url = f"http://127.0.0.1:{receiver.port}/test/session/traces"
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        requests = json.loads(answer.read())
    for request in requests:
        for resource in ParseDict(request, ExportTraceServiceRequest(), ignore_unknown_fields=True).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}
                    yield span.name, attributes, span.trace_id, span.span_id, span.parent_span_id


class Load:
    """Clients that ask with numbers of their own, until each has had so many answers."""

    def __init__(self, port):
        self.port = port
        self.lock = threading.Lock()
        self.next = 0
        self.answered = {}
        self.unanswered = []
        self.wrong = []
        self.threads = [threading.Thread(target=self.work) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def work(self):
        connection = None
        while True:
            with self.lock:
                if len(self.answered) >= REQUESTS or len(self.unanswered) > REQUESTS or self.wrong:
                    return
                self.next += 1
                number = self.next
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
                connection.request("GET", f"/work/{number}")
                answer = connection.getresponse()
                body = answer.read()
                with self.lock:
                    if answer.status == 200:
                        self.answered[number] = json.loads(body)["pid"]
                    else:
                        self.wrong.append((number, answer.status, body))
                # Another one now and then, so that all workers have some.
                if answer.will_close or number % 10 == 0:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException):
                # A worker that leaves closes the connections that wait for a request.
                connection.close()
                connection = None
                with self.lock:
                    self.unanswered.append(number)

    def has(self, share):
        return len(self.answered) >= REQUESTS * share or self.wrong or len(self.unanswered) > REQUESTS


def leaving(log):
    """The workers that said that they end."""
    return {int(pid) for pid in re.findall(r"Finished server process \[(\d+)\]", log)}


def alive(pid):
    try:
        # It may be gone already, and its parent not have asked for it.
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


WAYS = {
    "each worker loads the application": [],
    "preloaded": ["--preload"],
    "workers end by themselves": ["--preload", "--max-requests", str(REQUESTS // 10), "--max-requests-jitter", str(REQUESTS // 20)],
}


@pytest.mark.parametrize("way", WAYS)
def test_no_span_is_lost_when_workers_restart(tmp_path, way):
    with agent(str(tmp_path)) as receiver:
        (port,) = free_ports(1)
        command = [
            program("gunicorn"), "--workers", "4", "--worker-class", "uvicorn_worker.UvicornWorker", "--bind", f"127.0.0.1:{port}",
            "--graceful-timeout", "60", *WAYS[way], "gunicorn_app:application",
        ]  # fmt: skip
        environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "SPANRING_"))},
            "SPANRING_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
        }
        with open(tmp_path / "gunicorn.log", "wb") as log:
            gunicorn = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=HERE, env=environment)
        said = (tmp_path / "gunicorn.log").read_text
        try:
            wait_until("gunicorn starts", lambda: "Application startup complete" in said() or gunicorn.poll() is not None, PATIENCE)
            load = Load(port)
            if way != "workers end by themselves":
                for share in (0.3, 0.6):
                    wait_until(f"{share} of the answers", lambda: load.has(share), PATIENCE)
                    # New workers, while the old ones end what they have begun.
                    gunicorn.send_signal(signal.SIGHUP)
            for thread in load.threads:
                thread.join(PATIENCE)
            # gunicorn sends its signal to workers that leave by themselves, too, and they no longer listen to it.
            wait_until("workers that leave are gone", lambda: not any(map(alive, leaving(said()))), PATIENCE)
            gunicorn.send_signal(signal.SIGTERM)
            assert gunicorn.wait(PATIENCE) == 0, said()
        finally:
            if gunicorn.poll() is None:
                gunicorn.kill()
                gunicorn.wait()
        assert not load.wrong and len(load.answered) >= REQUESTS, (load.wrong, len(load.unanswered), said())
        assert len(set(load.answered.values())) > 4, said()

        spans = {}
        by_number = {}
        for name, attributes, trace, span, parent in arrived(receiver):
            assert span not in spans, f"{name} came twice"
            spans[span] = (name, trace, parent)
            number = attributes.get("n") or int(attributes["http.target"].rpartition("/")[2])
            by_number.setdefault(number, []).append((name, attributes.get("index", 0), span))

        def shape(number):
            """Each span of a request with what is above it."""
            found = []
            for name, index, span in by_number.get(number, []):
                _, trace, parent = spans[span]
                above = spans.get(parent)
                assert above is None or above[1] == trace
                found.append((name, index, above[0] if above else parent.hex()))
            return sorted(found)

        whole = [
            ("GET /work/{number}", 0, ""),
            ("leaf", 0, "step"),
            ("leaf", 1, "step"),
            ("step", 0, "work"),
            ("step", 1, "work"),
            ("thread", 0, "work"),
            ("work", 0, "GET /work/{number}"),
        ]
        odd = {number: shape(number) for number in load.answered if shape(number) != whole}
        assert not odd, (len(odd), next(iter(odd.items())), said()[-3000:])
