"""Segments: files of batches, as docs/segment-format.md describes them.

Takes a file apart into the zstd frames of its batches, and checks what stands around them: header,
index, lengths. It never looks inside a frame; batch.py does.

Invariant: a length from the file is compared with the file's size and with the page's maximum before
anything is read with it.
"""

import binascii
import mmap
import os
import re
import struct
from dataclasses import dataclass

from streams import MASK_64, Bytes, FormatError

FORMAT_VERSION = 1
FRAME_BYTES_MAX = 64 << 20
BATCHES_MAX = 1 << 18
INDEX_BYTES_MAX = 16 << 20
U32_MAX = (1 << 32) - 1
BLOCK_BYTES_MAX = 131_072

HEADER = struct.Struct("<II8sH16sQIQI")
INDEX_START = struct.Struct("<II8s")
TRAILER = struct.Struct("<QIII8s")
HEADER_MAGIC = 0x184D2A5A
INDEX_MAGIC = 0x184D2A5B
ZSTD_MAGIC = 0xFD2FB528

NAME = re.compile(
    r"\d{8}T\d{6}\.\d{9}Z-[0-9a-f]{32}-\d{8,20}\.spanring(\.part)?", re.ASCII
)


@dataclass
class Header:
    """The first frame of a segment."""

    instance: int
    created_unix_nano: int
    process_id: int
    number: int


@dataclass
class IndexEntry:
    """What the index says about a batch."""

    offset: int
    length: int
    sequence: int
    spans: int
    start_unix_nano: int
    end_unix_nano: int


def find_segments(path):
    """The segments that `path` stands for: itself, or those in the directory, in order of creation."""
    if not os.path.isdir(path):
        return [path]
    names = sorted(name for name in os.listdir(path) if NAME.fullmatch(name))
    paths = [os.path.join(path, name) for name in names]
    paths = [path for path in paths if os.path.isfile(path) and not os.path.islink(path)]
    if not paths:
        raise FileNotFoundError(f"{path}: there are no segments in this directory")
    return paths


class Segment:
    """A segment that is open for reading.

    `header` is its header, `index` the entries of its index, or None if it was not closed; then
    `unclean` says why its end is unknown.
    """

    def __init__(self, path):
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # An empty file cannot be mapped.
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self.header = read_header(self.data)
        self.unclean = None
        try:
            self.index, self.batches_end = read_index(self.data)
        except FormatError as error:
            self.index, self.batches_end = None, len(self.data)
            self.unclean = error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if isinstance(self.data, mmap.mmap):
            self.data.close()

    def frames(self):
        """Yields (offset, frame or FormatError, index entry or None) for each batch.

        Without an index it ends at the first byte that is no batch, and yields that as an error.
        """
        if self.index is None:
            yield from self._frames_without_index()
            return
        for entry in self.index:
            end = entry.offset + entry.length
            try:
                found = frame_end(self.data, entry.offset, end)
                if found != end:
                    raise at_byte(
                        entry.offset,
                        f"the frame has {found - entry.offset} bytes; the index says {entry.length}",
                    )
                yield entry.offset, self.data[entry.offset : end], entry
            except FormatError as error:
                yield entry.offset, error, entry

    def _frames_without_index(self):
        offset = HEADER.size
        while offset < len(self.data):
            try:
                end = frame_end(self.data, offset, len(self.data))
            except FormatError as error:
                yield offset, error, None
                return
            yield offset, self.data[offset:end], None
            offset = end


def read_header(data):
    """The header of a segment; raises FormatError."""
    if len(data) < 16 or struct.unpack_from("<I", data)[0] != HEADER_MAGIC:
        raise at_byte(0, "this is not a segment: there is no header")
    if data[8:16] != b"spanring":
        raise at_byte(8, f"this is not a segment: found {bytes(data[8:16])!r}, not b'spanring'")
    version = int.from_bytes(data[16:18], "little")
    if len(data) >= 18 and version != FORMAT_VERSION:
        raise at_byte(
            16, f"format version {version}; this reader knows version {FORMAT_VERSION} only"
        )
    if len(data) < HEADER.size:
        raise at_byte(len(data), f"the header is cut off; it has {HEADER.size} bytes")
    _, length, _, _, instance, created, process_id, number, crc = HEADER.unpack_from(data)
    if length != HEADER.size - 8:
        raise at_byte(4, f"the header's length is {length}, not {HEADER.size - 8}")
    check_crc(data, 0, HEADER.size - 4, crc)
    return Header(int.from_bytes(instance, "big"), created, process_id, number)


def read_index(data):
    """The index's entries, and where the batches end; raises FormatError."""
    trailer = len(data) - TRAILER.size
    if trailer < HEADER.size + INDEX_START.size:
        raise at_byte(len(data), "the segment was not closed: there is no index")
    offset, batches, length, crc, text = TRAILER.unpack_from(data, trailer)
    if text != b"spanrend":
        raise at_byte(len(data), "the segment was not closed: no index ends the file")
    if length > INDEX_BYTES_MAX or batches > BATCHES_MAX:
        raise at_byte(trailer, f"the index is too large: {length} bytes, {batches} batches")
    if offset < HEADER.size or offset + length != len(data):
        raise at_byte(trailer, f"the index at byte {offset} does not end with the file")
    entries_start = offset + INDEX_START.size
    if entries_start > trailer:
        raise at_byte(trailer, f"an index of {length} bytes is too short")
    magic, content_length, text = INDEX_START.unpack_from(data, offset)
    if magic != INDEX_MAGIC or text != b"spanridx":
        raise at_byte(offset, "the index does not begin as an index does")
    if content_length != length - 8:
        raise at_byte(offset + 4, f"the index's frame has {length} bytes, not {content_length + 8}")
    check_crc(data, offset, len(data) - 12, crc)
    entries = Bytes("the index's entries", data[entries_start:trailer])
    return read_entries(entries, batches, offset), offset


def read_entries(entries, batches, batches_end):
    """The index's `batches` entries, of which `entries` holds the bytes."""
    read = []
    offset, sequence, start = HEADER.size, 0, 0
    for _ in range(batches):
        length = entries.varint(U32_MAX)
        sequence = (sequence + entries.signed_varint()) & MASK_64
        spans = entries.varint(U32_MAX)
        start = (start + entries.signed_varint()) & MASK_64
        finish = (start + entries.signed_varint()) & MASK_64
        read.append(IndexEntry(offset, length, sequence, spans, start, finish))
        offset += length
        sequence += 1
        if offset > batches_end:
            raise entries.error("the batches of the index reach into it")
    if entries.left():
        raise entries.error(f"{entries.left()} bytes are left behind the last entry")
    if offset != batches_end:
        raise entries.error(f"the batches end at byte {offset}, the index begins at {batches_end}")
    return read


def frame_end(data, start, limit):
    """Where the zstd frame that begins at `start` ends, at most `limit`; raises FormatError."""

    def take(count):
        nonlocal at
        if at + count > limit:
            raise at_byte(start, "a batch begins here and is cut off")
        at += count
        if at - start > FRAME_BYTES_MAX:
            raise at_byte(start, f"the batch has more than {FRAME_BYTES_MAX} bytes")
        return data[at - count : at]

    at = start
    magic = int.from_bytes(take(4), "little")
    if magic != ZSTD_MAGIC:
        raise at_byte(start, f"no batch begins here: found 0x{magic:08x}")
    descriptor = take(1)[0]
    single_segment = bool(descriptor & 0x20)
    if descriptor & 0x0F != 0x04:
        raise at_byte(start + 4, f"frame descriptor 0x{descriptor:02x} is not a batch's")
    if not single_segment:
        take(1)
    size_code = descriptor >> 6
    take((0, 2, 4, 8)[size_code] or int(single_segment))
    last = False
    while not last:
        block_at = at
        block = int.from_bytes(take(3), "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        if kind == 3 or size > BLOCK_BYTES_MAX:
            raise at_byte(block_at, f"a block of type {kind} with {size} bytes")
        take(1 if kind == 1 else size)
    take(4)
    return at


def at_byte(offset, problem):
    """An error at a place in the file."""
    return FormatError(f"byte {offset}", problem)


def check_crc(data, start, end, crc):
    """Compares the CRC-32 of the bytes from `start` to `end`; raises FormatError."""
    found = binascii.crc32(data[start:end])
    if found != crc:
        raise at_byte(end, f"the CRC is 0x{crc:08x}, but that of the bytes is 0x{found:08x}")
