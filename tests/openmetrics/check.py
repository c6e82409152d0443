"""What the status endpoint serves, as the official parser of OpenMetrics reads it, against the same facts as JSON."""

import json
import math
import subprocess
import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def close(found, expected):
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)


def checks(url, metrics):
    """Yields each thing that must hold, with what it is about."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        kind, text = answer.headers["content-type"], answer.read().decode()
    yield "the content type", kind == CONTENT_TYPE
    families = {family.name: family for family in text_string_to_metric_families(text)}

    def value(sample_name, /, **labels):
        ends = range(len(sample_name), 0, -1)
        family = next(sample_name[:end] for end in ends if sample_name[:end] in families)
        found = [
            sample.value
            for sample in families[family].samples
            if sample.name == sample_name and sample.labels == labels
        ]
        assert len(found) == 1, (sample_name, labels, found)
        return found[0]

    engine, batches = metrics["engine"], metrics["batches"]
    yield "created", value("spanring_spans_created_total") == engine["created"] > 0
    yield "sealed", value("spanring_spans_sealed_total") == engine["sealed"]
    for reason, count in engine["dropped"].items():
        yield reason, value("spanring_spans_dropped_total", reason=reason) == count
    yield "bytes in", value("spanring_batch_in_bytes_total") == batches["bytes_in"] > 0
    yield "bytes out", value("spanring_batch_out_bytes_total") == batches["bytes_out"] > 0
    yield "flush count", value("spanring_flush_duration_seconds_count") == batches["flush_duration"]["count"] > 0
    yield "flush sum", close(value("spanring_flush_duration_seconds_sum"), batches["flush_duration"]["sum"])
    yield "rings", value("spanring_memory_bytes", part="rings") == metrics["memory"]["rings"]
    yield "flusher's time", value("spanring_flusher_cpu_seconds_total") >= metrics["flusher"]["cpu_time"] > 0
    for number, sink in enumerate(metrics["sinks"]):
        labels = {"sink": sink["name"], "number": str(number)}
        yield "delivered", value("spanring_sink_spans_delivered_total", **labels) == sink["delivered"] > 0
        yield "queued", value("spanring_sink_spans_queued", **labels) == sink["queued"]
        for reason, count in sink["dropped"].items():
            yield reason, value("spanring_sink_spans_dropped_total", **labels, reason=reason) == count
    yield "units", families["spanring_span_duration_seconds"].unit == "seconds"
    yield "types", families["spanring_span_errors"].type == "counter"
    all_series = metrics["spans"]["series"] + [dict(metrics["spans"]["other"], name="(other)", kind="(other)")]
    counted = families["spanring_span_duration_seconds"].samples
    counted = [sample for sample in counted if sample.name.endswith("_count")]
    yield "every series", len(counted) == len(all_series) > 20
    for series in all_series:
        labels = {"name": series["name"], "kind": series["kind"]}
        duration = "spanring_span_duration_seconds"
        yield f"count of {labels}", value(f"{duration}_count", **labels) == series["count"]
        yield f"sum of {labels}", close(value(f"{duration}_sum", **labels), series["sum"])
        yield f"errors of {labels}", value("spanring_span_errors_total", **labels) == series["errors"]
        yield f"max of {labels}", close(value("spanring_span_duration_max_seconds", **labels), series["max"])
        for quantile, name in (("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99")):
            yield f"{name} of {labels}", close(value(duration, **labels, quantile=quantile), series[name])
    for kind, of in metrics["spans"]["by_kind"].items():
        yield kind, value("spanring_spans_by_kind_total", kind=kind) == of["count"]


def main():
    process = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    url, metrics = process.stdout.readline().strip(), json.loads(process.stdout.readline())
    passed = failed = 0
    try:
        for name, holds in checks(url, metrics):
            passed += holds
            failed += not holds
            if not holds:
                print(f"FAILED: {name}")
    finally:
        process.stdin.close()
        process.wait(timeout=60)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or process.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
