"""Compares the Python reader with the Rust one, and damages segments under it.

    check.py --oracle MAKE_SEGMENTS PATH...      compares on segments or directories of them
    check.py --oracle MAKE_SEGMENTS --made DIR   compares on what `make_segments make DIR` made, makes
                                                 sure that it holds what it should, and damages it

Prints a line for each failure, and at the end "N passed, M failed".
"""

import argparse
import json
import os
import subprocess
import sys

import agreement
import damage
import page
from compare import Results, difference, flatten

READER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spanring_reader.py")


def lines_of(command):
    """What a command prints, line by line, its exit code, and what it says on standard error."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    lines = done.stdout.decode("utf-8").split("\n")
    assert lines.pop() == "", f"{command[0]} ends within a line"
    return lines, done.returncode, done.stderr.decode("utf-8").strip()


def compare(results, oracle, path):
    """Compares what both readers say about `path`; returns how many spans they agree on."""
    name = os.path.basename(os.path.normpath(path))
    spans = 0
    for subject, options in (("headers", ["--headers"]), ("spans", [])):
        theirs, code, problems = lines_of([oracle, subject, path])
        results.check(f"{name}, {subject}, Rust", problems if code or problems else None)
        ours, code, problems = lines_of([sys.executable, READER, *options, path])
        # What a killed process left behind is a notice, which comes with exit code 0.
        results.check(f"{name}, {subject}, Python", problems if code else None)
        count = None
        if len(ours) != len(theirs) or not ours:
            count = f"{len(ours)} batches; Rust reads {len(theirs)}"
        results.check(f"{name}, {subject}, count of batches", count)
        for number, (our, their) in enumerate(zip(ours, theirs)):
            our, their = json.loads(our), json.loads(their)
            if subject == "headers":
                results.check(f"{name}, header of batch {number}", difference(our, their))
            else:
                spans += compare_spans(results, f"{name}, batch {number}", our, their)
    return spans


def compare_spans(results, name, ours, theirs):
    """Compares the spans of a batch one by one; returns how many there are."""
    ours, theirs = flatten(ours), flatten(theirs)
    problem = None
    if len(ours) != len(theirs):
        problem = f"{len(ours)} spans; Rust reads {len(theirs)}"
    for our, their in zip(ours, theirs):
        problem = problem or difference(our, their)
    results.check(name, problem)
    return len(ours)


def check_contents(results, directory):
    """Makes sure that the made segments hold what they are there to test, so that no comparison is of
    nothing."""

    def spans(name):
        batches, _, _ = lines_of([sys.executable, READER, os.path.join(directory, name)])
        return [item["span"] for batch in batches for item in flatten(json.loads(batch))]

    def headers(name):
        lines, _, _ = lines_of([sys.executable, READER, "--headers", os.path.join(directory, name)])
        return [json.loads(line) for line in lines]

    tricky = [span for span in spans("tricky") if span]
    text = json.dumps(tricky, ensure_ascii=False)
    for needed in (
        '"NaN"', '"-Infinity"', '"9223372036854775807"', '"-9223372036854775808"', "-0.0",
        '"bytesValue"', '"kvlistValue"', '"arrayValue"', '"boolValue": false', '{"key": "value", "value": {}}',
        "🦀", "日本語", "congo=t61rcWkgMzE", '"droppedAttributesCount"', "18446744073709551615",
    ):  # fmt: skip
        absent = needed not in text
        if needed == '"droppedAttributesCount"':
            absent = needed not in json.dumps(spans("limits"))
        results.check(f"contents, {needed}", "is nowhere in the spans" if absent else None)
    longest = max(
        len(attribute["value"].get("stringValue", ""))
        for span in tricky
        for attribute in span.get("attributes", [])
    )
    results.check("contents, large", None if longest > 60_000 else f"longest: {longest}")
    found = {(span.get("kind"), span.get("status", {}).get("code")) for span in tricky}
    wanted = {(kind, code) for kind in (None, 1, 2, 3, 4, 5) for code in (None, 1, 2)}
    results.check("contents, kinds and statuses", f"{wanted - found}" if wanted - found else None)
    flags = {span.get("flags", 0) & 0x300 for span in tricky}
    results.check("contents, remote parents", None if {0x100, 0x300} <= flags else f"{flags}")
    for name in ("tricky", "wide", "threads", "limits", "single"):
        last = headers(name)[-1]
        problem = None if last["spans"] == 0 else f"the last batch has {last['spans']} spans"
        results.check(f"contents, {name}, empty closing batch", problem)
    dropped = headers("limits")[-1]["dropped"]
    results.check("contents, drops", None if dropped.get("budget") else f"{dropped}")
    segments = {header["segment"] for header in headers("threads")}
    results.check("contents, several segments", None if len(segments) > 1 else f"{segments}")


def main():
    """Runs the checks; returns the exit code."""
    parser = argparse.ArgumentParser(description="Compares the Python reader with the Rust one.")
    parser.add_argument("--oracle", required=True, help="the make_segments program")
    parser.add_argument("--made", metavar="DIR", help="what `make_segments make` made")
    parser.add_argument("--changes", type=int, default=4000, help="how many changed contents to try")
    parser.add_argument("--seed", type=int, default=1, help="of the changes")
    parser.add_argument("paths", metavar="PATH", nargs="*", help="segments or directories of them")
    arguments = parser.parse_args()
    results = Results()
    paths = arguments.paths
    if arguments.made:
        paths = paths + [entry.path for entry in sorted(os.scandir(arguments.made), key=lambda e: e.name)]
    if not paths:
        parser.error("nothing to compare on")
    spans = sum(compare(results, arguments.oracle, path) for path in paths)
    if arguments.made:
        check_contents(results, arguments.made)
        for name, problem in page.checks():
            results.check(name, problem)
        made, oracle = arguments.made, arguments.oracle
        changes = agreement.checks(oracle, made, difference, arguments.changes, arguments.seed)
        for name, problem in changes:
            results.check(name, problem)
        for name, problem in damage.checks(arguments.made):
            results.check(name, problem)
    print(f"{spans} spans compared")
    print(f"{results.passed} passed, {results.failed} failed")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
