"""Damages segments under the Python reader: what it reads must be right, or an error that says what is
wrong; never another exception, never wrong spans under a good checksum.
"""

import binascii
import os
import random
import struct
import tempfile

import zstandard

import otlp_json
from batch import content_of, decode, decode_content
from segment import HEADER, Segment, find_segments
from streams import FormatError

CUTS_AND_FLIPS = 300
VERSION_OFFSET = 0


def checks(directory):
    """Yields (name, problem or None)."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = os.path.join(scratch, "damaged.spanring")
        single = Original(find_segments(os.path.join(directory, "single"))[0], scratch)
        several = Original(find_segments(os.path.join(directory, "threads"))[0], scratch)
        size = len(single.data)
        yield "cut at every byte", first(single.cut(at) for at in range(size))
        yield "every bit flipped", first(single.flip(at, bit) for at in range(size) for bit in range(8))
        chance = random.Random(1)
        sizes = [chance.randrange(len(several.data)) for _ in range(CUTS_AND_FLIPS)]
        yield "several batches, cut", first(several.cut(at) for at in sizes)
        yield "several batches, bits flipped", first(several.flip(at, at % 8) for at in sizes)
        yield "bytes behind the index", single.expect_problem(single.data + b"\0")
        yield "segments joined", single.expect_problem(single.data + single.data)
        yield "another segment version", single.segment_version(2)
    frames = [
        frame
        for name in ("single", "abandoned", "limits", "tricky")
        for frame in frames_of(os.path.join(directory, name))
    ]
    yield "another batch version", first(batch_version(frame) for frame in frames[:3])
    small = [content for content in map(content_of, frames) if len(content) < 100_000]
    yield "contents to cut", None if len(small) > 3 else f"{len(small)} small batches"
    yield "content cut off under a good checksum", first(cut_contents(small))
    bomb = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(bytes(300 << 20))
    yield "a frame that decompresses to 300 MiB", expect_refusal(decode, bomb, "bytes")


def first(problems):
    """The first problem of many."""
    return next((problem for problem in problems if problem), None)


def frames_of(directory):
    """All batches of a directory's segments."""
    frames = []
    for path in find_segments(directory):
        with Segment(path) as segment:
            frames.extend(frame for _, frame, _ in segment.frames())
    return frames


class Original:
    """A segment as it was written."""

    def __init__(self, path, scratch):
        with open(path, "rb") as file:
            self.data = file.read()
        self.scratch = scratch
        self.batches, problems = self.read(self.data)
        assert not problems and self.batches, f"{path} should be whole: {problems}"

    def read(self, data):
        """The batches in `data` by offset, as OTLP/JSON, and the problems that the reader tells of."""
        with open(self.scratch, "wb") as file:
            file.write(data)
        batches, problems = {}, []
        try:
            with Segment(self.scratch) as segment:
                if segment.unclean is not None:
                    problems.append(str(segment.unclean))
                for offset, frame, _ in segment.frames():
                    try:
                        if isinstance(frame, FormatError):
                            raise frame
                        batches[offset] = otlp_json.line(decode(frame))
                    except FormatError as error:
                        problems.append(str(error))
        except FormatError as error:
            problems.append(str(error))
        return batches, problems

    def cut(self, at):
        """The first `at` bytes: whole batches of the original, and a problem."""
        batches, problems = self.read(self.data[:at])
        wrong = batches.items() - self.batches.items()
        if wrong:
            return f"cut at {at}: wrong batches {wrong}"
        return None if problems else f"cut at {at}: the reader tells of no problem"

    def flip(self, at, bit):
        """One bit flipped: batches of the original, and a problem unless all of them are there."""
        data = bytearray(self.data)
        data[at] ^= 1 << bit
        batches, problems = self.read(data)
        wrong = batches.items() - self.batches.items()
        if wrong:
            return f"bit {bit} of byte {at}: wrong batches {wrong}"
        if problems or batches == self.batches:
            return None
        return f"bit {bit} of byte {at}: the reader tells of no problem"

    def expect_problem(self, data):
        """Anything that the reader must not take for whole."""
        batches, problems = self.read(data)
        wrong = batches.items() - self.batches.items()
        return None if problems and not wrong else f"problems: {problems}; wrong batches: {wrong}"

    def segment_version(self, version):
        """Another version under a good CRC."""
        data = bytearray(self.data)
        struct.pack_into("<H", data, 16, version)
        struct.pack_into("<I", data, HEADER.size - 4, binascii.crc32(data[: HEADER.size - 4]))
        batches, problems = self.read(data)
        if batches or not any(f"version {version}" in problem for problem in problems):
            return f"batches: {batches}; problems: {problems}"
        return None


def expect_refusal(read, data, word):
    """A FormatError that has `word` in its text."""
    try:
        read(data)
    except FormatError as error:
        return None if word in str(error) else f"refused, but for another reason: {error}"
    return "was read"


def batch_version(frame):
    """A batch of the next version, under a good checksum."""
    content = bytearray(content_of(frame))
    content[VERSION_OFFSET] += 1
    return expect_refusal(decode, wrap(bytes(content)), "version")


def wrap(content):
    """A batch's frame around `content`."""
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(content)


def cut_contents(contents):
    """Contents that end too early: never read."""
    chance = random.Random(3)
    for content in contents:
        for at in {chance.randrange(len(content)) for _ in range(60)}:
            yield expect_refusal(decode_content, content[:at], "")
