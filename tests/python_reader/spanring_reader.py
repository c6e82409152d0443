#!/usr/bin/env python3
"""A second reader of spanring's segments, written from docs/segment-format.md and docs/batch-format.md
alone: it proves that the pages are enough to write one from.

    spanring_reader.py PATH...            a line of OTLP/JSON a batch
    spanring_reader.py --summary PATH...  what the segments hold, for people
    spanring_reader.py --headers PATH...  a line of JSON a batch: what its header says

A path is a segment or a directory of them. A problem is told on standard error, as is a segment that was
not closed; the rest is read nevertheless. Exit code 0: all is well; 1: something is damaged, missing or of
an unknown version; 2: wrong usage. It needs Python 3.9 and `zstandard` from PyPI.
"""

import argparse
import json
import os
import sys
from collections import Counter

import otlp_json
from batch import decode
from segment import Segment, find_segments
from streams import FormatError


class Checks:
    """Counts what is read, checks that batches fit together, and tells of problems."""

    def __init__(self):
        self.problems = 0
        self.batches = 0
        self.spans = 0
        self.segments = 0
        # By instance: the header of its latest batch.
        self.latest = {}
        self.batches_by_instance = Counter()

    def report(self, path, problem):
        """Tells of a problem."""
        self.problems += 1
        self.notice(path, problem)

    def notice(self, path, text):
        """Tells of something that is no problem of the format."""
        print(f"{path}: {text}", file=sys.stderr)

    def check(self, path, offset, batch, segment, entry):
        """Compares a batch's header with its spans and with what stands around it."""
        header = batch.header

        def expect(what, found, expected):
            if found != expected:
                self.report(path, f"byte {offset}: {what} is {found}; expected {expected}")

        expect("the batch's instance", f"{header.instance:032x}", f"{segment.header.instance:032x}")
        earliest = min((span.start_unix_nano for span in batch.spans), default=0)
        latest = max((span.end_unix_nano for span in batch.spans), default=0)
        expect("the batch's earliest start", header.start_unix_nano, earliest)
        expect("the batch's latest end", header.end_unix_nano, latest)
        if entry is not None:
            expect("the index's sequence number", entry.sequence, header.sequence)
            expect("the index's count of spans", entry.spans, header.spans)
            expect("the index's earliest start", entry.start_unix_nano, header.start_unix_nano)
            expect("the index's latest end", entry.end_unix_nano, header.end_unix_nano)
        dropped = sum(header.dropped.values())
        if header.created < header.sealed + dropped:
            self.report(
                path,
                f"byte {offset}: {header.created} spans were created, which is less than "
                f"{header.sealed} sealed and {dropped} dropped",
            )
        before = self.latest.get(header.instance)
        if before is None:
            # Retention deletes the oldest segments first, so a sequence may begin anywhere.
            if header.sequence == 0:
                expect("the sealed spans of the first batch", header.sealed, header.spans)
        elif header.sequence != before.sequence + 1:
            expect("the batch's sequence number", header.sequence, before.sequence + 1)
        else:
            expect("the count of sealed spans", header.sealed, before.sealed + header.spans)
        self.latest[header.instance] = header
        self.batches += 1
        self.spans += header.spans
        self.batches_by_instance[header.instance] += 1


def read(paths, checks, visit):
    """Calls `visit` with each segment's path, and each batch of it, in order."""
    for path in paths:
        try:
            segments = find_segments(path)
        except OSError as error:
            checks.report(path, error.strerror or str(error))
            continue
        for segment in segments:
            try:
                read_segment(segment, checks, visit)
            except OSError as error:
                checks.report(segment, error.strerror)
            except FormatError as error:
                checks.report(segment, error)


def read_segment(path, checks, visit):
    """Reads one segment; raises FormatError if its header is not one."""
    with Segment(path) as segment:
        checks.segments += 1
        for offset, frame, entry in segment.frames():
            if isinstance(frame, FormatError):
                checks.report(path, frame)
                continue
            try:
                batch = decode(frame)
            except FormatError as error:
                checks.report(path, f"the batch at byte {offset} cannot be read: {error}")
                continue
            checks.check(path, offset, batch, segment, entry)
            visit(path, batch)
        if segment.unclean is not None and path.endswith(".part"):
            checks.notice(path, f"{segment.unclean}; what followed is unknown")
        elif segment.unclean is not None:
            checks.report(path, segment.unclean)


def print_headers(path, batch):
    """Prints what a batch's header says."""
    header = batch.header
    members = {
        "segment": os.path.basename(path),
        "instance": f"{header.instance:032x}",
        "sequence": header.sequence,
        "clockEpoch": header.clock_epoch,
        "created": header.created,
        "sealed": header.sealed,
        "dropped": header.dropped,
        "spans": header.spans,
        "startUnixNano": header.start_unix_nano,
        "endUnixNano": header.end_unix_nano,
    }
    print(json.dumps(members, ensure_ascii=False, separators=(",", ":")))


def print_summary(checks):
    """Prints what was read, and the last counts of each instance."""
    print(f"{checks.spans} spans in {checks.batches} batches of {checks.segments} segments")
    for instance, header in checks.latest.items():
        print(f"instance {instance:032x}")
        print(f"  batches   {checks.batches_by_instance[instance]}, the last has number {header.sequence}")
        print(f"  created   {header.created}")
        print(f"  sealed    {header.sealed}")
        for reason, count in header.dropped.items():
            print(f"  dropped   {count} ({reason})")


def main():
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Reads spanring's segments.")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a segment, or a directory of them")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--summary", action="store_true", help="print counts")
    form.add_argument("--headers", action="store_true", help="print the batches' headers as JSON")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8")
    checks = Checks()
    if arguments.summary:
        read(arguments.paths, checks, lambda path, batch: None)
        print_summary(checks)
    elif arguments.headers:
        read(arguments.paths, checks, print_headers)
    else:
        read(arguments.paths, checks, lambda path, batch: print(otlp_json.line(batch)))
    return 1 if checks.problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing is left to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
