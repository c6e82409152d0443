"""Reads OTLP/JSON lines and the program's counts: every span carries its process's ID, none came twice, none is missing."""

import collections
import json
import sys

expected = {}
with open(sys.argv[1]) as counts:
    for line in counts:
        pid, count = line.split()
        expected[int(pid)] = int(count)
found = collections.Counter()
ids = set()
instances = collections.defaultdict(set)
for line in sys.stdin:
    for resource in json.loads(line)["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                values = {pair["key"]: pair["value"] for pair in span.get("attributes", [])}
                found[int(values["pid"]["intValue"])] += 1
                assert span["spanId"] not in ids, f"{span['spanId']} came twice"
                ids.add(span["spanId"])
assert dict(found) == expected, f"found {dict(found)}, recorded {expected}"
print(f"{len(ids)} spans of {len(expected)} processes")
