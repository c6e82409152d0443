"""Changes the contents of batches behind the checksum, and compares what the Python reader and the Rust one make
of them: the same spans, or an error from both.

Where the page leaves room for two readings, this is what finds it.
"""

import json
import os
import random
import struct
import subprocess
import tempfile

import otlp_json
from batch import content_of, decode_content, read_header
from damage import frames_of
from page import example_content
from streams import Bytes, FormatError

SMALL_BYTES = 12_000
BYTES_TRIED = (0, 1, 2, 3, 0x7F, 0x80, 0xFF)


def checks(oracle, directory, difference, count, seed):
    """Yields (name, problem or None). `difference` compares two values of JSON."""
    names = ("single", "abandoned", "limits", "threads", "tricky")
    frames = [frame for name in names for frame in frames_of(os.path.join(directory, name))]
    contents = [content for content in map(content_of, frames) if len(content) < SMALL_BYTES]
    yield "contents to change", None if len(contents) > 20 else f"only {len(contents)} are small"
    example = example_content()
    yield from compare(oracle, "the page's example, each byte changed", all_changes(example), difference)
    chance = random.Random(seed)
    changed = [change(chance, chance.choice(contents)) for _ in range(count)]
    yield from compare(oracle, f"{count} changed contents", changed, difference)


def all_changes(content):
    """The content with every single byte changed in some ways."""
    for at, byte in enumerate(content):
        near = {byte ^ 1 << bit for bit in range(8)} | {(byte + 1) & 0xFF, (byte - 1) & 0xFF}
        for other in sorted(near.union(BYTES_TRIED) - {byte}):
            yield content[:at] + bytes((other,)) + content[at + 1 :]


def change(chance, content):
    """The content with some bytes of its streams changed, inserted or removed, and their lengths right."""
    data = Bytes("content", content)
    data.byte()
    read_header(data)
    start = data.at
    lengths = [data.varint() for _ in range(3)]
    streams = [bytearray(data.take(length)) for length in lengths]
    streams.append(bytearray(data.take(data.left())))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        # Most of a batch's structure is in its symbols, most of that at their beginning.
        stream = streams[chance.choice((0, 1, 2, 2, 2, 2, 2, 2, 3))]
        end = min(len(stream), chance.choice((100, 400, len(stream))))
        at = chance.randrange(end) if end else 0
        byte = chance.choice(BYTES_TRIED + (chance.randrange(256), chance.randrange(16)))
        kind = chance.randrange(6)
        if kind == 0:
            stream.insert(at, byte)
        elif at < len(stream) and kind == 1:
            del stream[at]
        elif at < len(stream):
            stream[at] = chance.choice((byte, stream[at] ^ 1 << chance.randrange(8)))
    lengths = b"".join(varint(len(stream)) for stream in streams[:3])
    return content[:start] + lengths + b"".join(streams)


def varint(value):
    """A number as a varint."""
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(groups + [value])


def compare(oracle, name, contents, difference):
    """Yields the check, and one for how many contents were read at all."""
    contents = list(contents)
    with tempfile.NamedTemporaryFile() as file:
        for content in contents:
            file.write(struct.pack("<I", len(content)) + content)
        file.flush()
        done = subprocess.run([oracle, "contents", file.name], stdout=subprocess.PIPE, check=True)
    lines = done.stdout.decode("utf-8").split("\n")[:-1]
    assert len(lines) == len(contents), f"{len(lines)} answers to {len(contents)} contents"
    problem, read = None, 0
    for content, line in zip(contents, lines):
        found = disagreement(content, json.loads(line), difference)
        read += found is None and not line.startswith('{"error"')
        problem = problem or found
    yield name, problem
    # Some changes are harmless, most are not; nothing but one of both would be a comparison of nothing.
    both = 0 < read < len(contents) or problem
    yield f"{name}, outcomes", None if both else f"{read} of {len(contents)} were read"


def disagreement(content, theirs, difference):
    """What the two readers do not agree on, or None."""
    try:
        ours = json.loads(otlp_json.line(decode_content(content)))
    except FormatError as error:
        ours = {"error": str(error)}
    except Exception as error:  # pylint: disable=broad-except
        return f"{type(error).__name__}: {error}, on content {content.hex()}"
    if "error" in ours and "error" in theirs:
        return None
    if "error" in ours or "error" in theirs:
        who = "Python" if "error" in ours else "Rust"
        error = ours.get("error", theirs.get("error"))
        return f"only {who} refuses this ({error}): {content.hex()}"
    found = difference(ours, theirs)
    return found and f"{found}, in content {content.hex()}"
