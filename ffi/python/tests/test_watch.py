"""Alerts, the tracking of errors, redaction, and subscriptions."""
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import spanring


def alerts(count):
    """So many of them, in the time that it takes."""
    found = []
    until = time.monotonic() + 60
    while len(found) < count and time.monotonic() < until:
        found += spanring.alerts()["alerts"]
    return found


def fail(count, name="buy"):
    for number in range(count):
        with pytest.raises(ValueError), spanring.span(name, password="hunter2"):
            raise ValueError(f"order {number} is lost")


def test_alerts_and_errors(pipeline):
    spanring.change_settings(alerts=True, alert_interval=0.05, track_errors=True, redact="pass*")
    assert spanring.alerts() == {"alerts": [], "dropped": 0, "webhook": {"delivered": 0, "failures": 0, "dropped": 0}}
    fail(30)
    spanring.flush()
    (alert,) = alerts(1)
    assert (alert["type"], alert["severity"], alert["over"]) == ("error_rate", "warning", False)
    assert alert["value"] == 1 and alert["limit"] == 0.05 and "30 of the last 30 spans" in alert["message"]
    found = spanring.errors()
    (group,) = found["errors"]
    assert (group["name"], group["type"], group["message"], group["count"]) == ("buy", "ValueError", "order # is lost", 30)
    assert found["forgotten"] == 0 and group["first_seen"] <= group["last_seen"]
    assert {span.attributes["password"] for span in pipeline.spans()} == {"[REDACTED]"}


def test_a_webhook_gets_alerts(tmp_path):
    bodies = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hook = f"http://127.0.0.1:{server.server_port}/hook"
    spanring.start(dir=tmp_path, alert_webhook=hook, service_name="shop", ignore_environment=True)
    fail(30)
    spanring.shutdown(30)
    server.shutdown()
    server.server_close()
    (body,) = bodies
    assert (body["type"], body["service"]) == ("error_rate", "shop")
    assert hook not in str(spanring.settings())


def test_a_subscription_gives_what_is_recorded(pipeline):
    with spanring.subscribe() as subscription:
        assert subscription.next(0) is None
        with spanring.span("parent", rows=7, text="é") as parent, spanring.span("child"):
            parent.event("seen", at=1)
        spanring.flush()
        recorded = {span.name: span for span in pipeline.spans()}
        for _ in range(2):
            span = subscription.next(60)
            same = recorded.pop(span["name"])
            assert (span["trace_id"], span["span_id"], span["parent_span_id"]) == (same.trace_id, same.span_id, same.parent)
            assert span["attributes"] == same.attributes
            assert [(event["name"], event["attributes"]) for event in span["events"]] == same.events
            assert (span["start_unix_nano"], span["end_unix_nano"]) == (int(same.raw["startTimeUnixNano"]), int(same.raw["endTimeUnixNano"]))
            assert span["resource"]["service.name"] == "tests" and span["status"]["code"] == "unset"
        assert subscription.next(0.01) is None and subscription.dropped == 0
    assert subscription.next() is None and list(subscription) == []
    subscription.close()


def test_a_subscription_is_iterated_on_a_thread_until_the_pipeline_ends(tmp_path):
    spanring.start(dir=tmp_path, batch_size=50, ignore_environment=True)
    subscription = spanring.subscribe(max_spans=100_000)
    names = []
    taking = threading.Thread(target=lambda: names.extend(span["attributes"]["number"] for span in subscription))
    taking.start()
    for number in range(1000):
        with spanring.span("numbered", number=number):
            pass
    spanring.shutdown(30)
    taking.join(60)
    assert names == list(range(1000)) and subscription.dropped == 0


def test_who_takes_nothing_loses_batches_and_nobody_else_does(pipeline):
    spanring.change_settings(batch_size=10)
    subscription = spanring.subscribe(max_spans=20)
    for _ in range(10):
        for _ in range(10):
            with spanring.span("many"):
                pass
        spanring.flush()
    came = 0
    while subscription.next(0) is not None:
        came += 1
    assert came + subscription.dropped == 100 and 0 < came <= 29
    assert len(pipeline.spans()) == 100
    subscription.close()


def test_a_fork_child_has_none_of_its_parents(script):
    script.run(
        """
        begin()
        subscription = spanring.subscribe()
        with spanring.span("parents"): pass
        spanring.flush()
        if os.fork() == 0:
            assert subscription.next(60) is None
            subscription.close()
            # Its own pipeline starts with its first span.
            with spanring.span("first"): pass
            spanring.flush()
            with spanring.subscribe() as own:
                with spanring.span("childs"): pass
                spanring.flush()
                assert own.next(60)["name"] == "childs"
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
        assert subscription.next(60)["name"] == "parents"
        """
    )


def test_there_is_no_subscription_without_a_pipeline(script):
    script.run(
        """
        try:
            spanring.subscribe()
        except spanring.SpanringError as error:
            assert error.code == 5, error
        else:
            sys.exit(1)
        begin()
        spanring.shutdown()
        try:
            spanring.subscribe()
        except spanring.SpanringError as error:
            assert error.code == 10, error
        else:
            sys.exit(1)
        """
    )
