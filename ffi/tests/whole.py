"""Reads OTLP/JSON lines of what whole.c recorded, and compares every field that has a fixed value."""

import json
import sys

spans = {}
scopes = {}
for line in sys.stdin:
    for resource in json.loads(line)["resourceSpans"]:
        service = {pair["key"]: pair["value"] for pair in resource["resource"]["attributes"]}
        assert service["service.name"] == {"stringValue": "c-tests"}, service
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                spans.setdefault(span["name"], []).append(span)
                scopes[span["spanId"]] = scope.get("scope", {})


def attributes(of):
    return {pair["key"]: pair["value"] for pair in of.get("attributes", [])}


def equal(found, expected):
    assert found == expected, f"{found} is not {expected}"


equal(sorted((name, len(many)) for name, many in spans.items()),
      [("all from the start", 1), ("first", 1), ("from remote", 1), ("given", 1), ("given child", 1), ("query", 1), ("recorded", 1), ("refused", 1), ("root", 3),
       ("some from the start", 1), ("twice", 1)])
roots = sorted(spans["root"], key=lambda span: int(span["startTimeUnixNano"]))
once, root, _subscribed = roots
(query,), (remote,), (recorded,) = spans["query"], spans["from remote"], spans["recorded"]

equal(query["traceId"], root["traceId"])
equal(query["parentSpanId"], root["spanId"])
equal(query["kind"], 3)
equal(query["status"], {"code": 2, "message": "no rows"})
equal({key: scopes[query["spanId"]].get(key) for key in ("name", "version")}, {"name": "c.scope", "version": "1.2"})
equal(attributes(query), {
    "db.rows": {"intValue": "8"},
    "db.system": {"stringValue": "postgresql"},
    "cost": {"doubleValue": 1.5},
    "cached": {"boolValue": True},
    "list": {"arrayValue": {"values": [{"intValue": "-1"}, {"stringValue": "two"}, {}]}},
    "map": {"kvlistValue": {"values": [{"key": "half", "value": {"doubleValue": 0.5}}]}},
    "raw": {"bytesValue": "YWI="},
    "known": {"stringValue": "root"},
})
(first,), (refused,), (twice,) = spans["first"], spans["refused"], spans["twice"]
equal(attributes(first), {
    "db.rows": {"intValue": "-3"},
    "big": {"intValue": str(-2**63)},
    "cached": {"boolValue": False},
    "cost": {"doubleValue": 0.25},
    "db.system": {"stringValue": "café redis"},
    "empty": {"stringValue": ""},
    "known": {"stringValue": "root"},
})
equal(attributes(refused), {})
equal(attributes(twice), {"db.rows": {"intValue": "2"}})
for span in (first, refused, twice):
    equal((span["traceId"], span["parentSpanId"], span["kind"]), (root["traceId"], root["spanId"], 1))
(event,) = query["events"]
equal((event["name"], attributes(event)), ("retry", {"try": {"boolValue": True}}))

equal((remote["traceId"], remote["parentSpanId"]), (query["traceId"], query["spanId"]))
equal(remote["traceState"], "vendor=1")
(link,) = remote["links"]
equal((link["traceId"], link["spanId"], attributes(link)),
      (query["traceId"], query["spanId"], {"try": {"boolValue": True}}))

equal((recorded["traceId"], recorded["parentSpanId"]), (root["traceId"], root["spanId"]))
for span in (recorded, once):
    equal((span["startTimeUnixNano"], span["endTimeUnixNano"]), ("1700000000000000000", "1700000000000001000"))
    equal(span["status"], {"code": 1})
equal(attributes(recorded), {"try": {"boolValue": True}})
assert once["traceId"] != root["traceId"] and not once.get("parentSpanId")
# It was told to end before it began.
equal(root["startTimeUnixNano"], root["endTimeUnixNano"])
given, given_child = spans["given"][0], spans["given child"][0]
equal((given["traceId"], given["spanId"], given.get("parentSpanId", "")), (b"sixteen bytes id".hex(), b"parent's".hex(), ""))
equal((given_child["traceId"], given_child["spanId"]), (given["traceId"], b"child's ".hex()))
equal(given_child["parentSpanId"], given["spanId"])
print("8 spans are as they should be")
(some,), (whole,) = spans["some from the start"], spans["all from the start"]
equal((attributes(some), some["parentSpanId"]), ({"try": {"boolValue": True}}, root["spanId"]))
equal(attributes(whole), {key: value for key, value in attributes(query).items() if key not in ("db.system", "cost", "cached")})
equal(whole["parentSpanId"], root["spanId"])
