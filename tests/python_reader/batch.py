"""Batches, as docs/batch-format.md describes them: from a zstd frame to spans.

Never gives a batch of which anything was wrong: it is whole, or a FormatError says what is not right.
"""

import zstandard

from columns import STRING, read_column
from ids import IdKeys
from model import Batch, Header, Resource, Scope, Span
from spans import read_spans, read_what_few_have
from streams import MASK_64, Bytes, FormatError, Streams
from tables import HAS_STATUS_MESSAGE, HAS_TRACE_STATE, read_tables

FORMAT_VERSION = 1
CONTENT_BYTES_MAX = 128 << 20
WINDOW_BYTES_MAX = 8 << 20
SPANS_MAX = 65_536
REASONS_MAX = 256
REASON_BYTES_MAX = 256
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# What an attribute costs here beside its value, about.
ATTRIBUTE_BYTES = 64


def decode(frame):
    """The batch in a zstd frame; raises FormatError."""
    return decode_content(content_of(frame))


def content_of(frame):
    """What a batch's frame holds; raises FormatError."""
    if len(frame) < 5 or frame[:4] != ZSTD_MAGIC or frame[4] & 0x1F != 0x04:
        raise FormatError("the frame", "it does not begin as a batch's frame does")
    try:
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= CONTENT_BYTES_MAX:
            raise FormatError(
                "the frame", f"its content has {size} bytes; a batch states at most {CONTENT_BYTES_MAX}"
            )
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        # It allocates `size` bytes, and checks that the content has just as many.
        content = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError("the frame", str(error)) from None
    if len(content) != size:
        raise FormatError("the frame", f"its content has {len(content)} bytes, not {size}")
    return content


def decode_content(content):
    """The batch whose content this is; raises FormatError."""
    data = Bytes("the content", content)
    version = data.byte()
    if version != FORMAT_VERSION:
        raise data.error(f"batch version {version}; this reader knows version {FORMAT_VERSION} only")
    header = read_header(data)
    lengths = [data.varint(data.left()) for _ in range(3)]
    ids, bits, symbols = (data.take(length) for length in lengths)
    text = data.take(data.left())
    streams = Streams(ids, bits, symbols, text)
    batch = Batch(header)
    if header.spans:
        read_contents(streams, batch)
    streams.finish()
    return batch


def read_header(data):
    """What stands before the lengths of the streams, but for the version."""
    header = Header()
    header.instance = int.from_bytes(data.take(16), "big")
    header.seed = (data.u64(), data.u64())
    header.start_unix_nano = data.u64()
    header.end_unix_nano = (header.start_unix_nano + data.varint()) & MASK_64
    header.sequence = data.varint()
    header.clock_epoch = data.varint((1 << 32) - 1)
    header.created = data.varint()
    header.sealed = data.varint()
    header.spans = data.varint(SPANS_MAX)
    for _ in range(data.varint(REASONS_MAX)):
        reason = data.utf8(data.varint(REASON_BYTES_MAX))
        if reason in header.dropped:
            raise data.error(f"the reason {reason!r} stands there twice")
        header.dropped[reason] = data.varint()
    return header


def read_contents(streams, batch):
    """Everything that is in the streams."""
    keys = IdKeys(batch.header.seed)
    tables = read_tables(streams)
    records = read_spans(streams, tables, keys, batch.header)
    read_what_few_have(streams, tables, records, keys)
    events = [item for record in records for item in record.events]
    links = [item for record in records for item in record.links]
    read_values(streams, tables, records, events, links)

    for number, shape in enumerate(tables.resources):
        dropped = tables.resource_dropped[number]
        batch.resources.append(Resource(attributes(shape), dropped, shape.name))
    for number, shape in enumerate(tables.scopes):
        version, schema_url = tables.scope_texts[number]
        resource, dropped = tables.scope_resources[number], tables.scope_dropped[number]
        batch.scopes.append(
            Scope(resource, shape.name, version, attributes(shape), dropped, schema_url)
        )
    for shape, event in events:
        event.name = shape.name
        event.attributes = attributes(shape)
    for shape, link in links:
        link.attributes = attributes(shape)
    batch.spans = [span_of(record) for record in records]


def read_values(streams, tables, records, events, links):
    """Reads the columns of values; those that are no attributes go to their owners at once."""
    owners = [(record.shape, record) for record in records]
    messages = [record for shape, record in owners if shape.has(HAS_STATUS_MESSAGE)]
    states = [record for shape, record in owners if shape.has(HAS_TRACE_STATE)]
    link_states = [link for shape, link in links if shape.has(HAS_TRACE_STATE)]
    for record, value in zip(messages, read_column(streams, STRING, len(messages))):
        record.status_message = value
    for record, value in zip(states, read_column(streams, STRING, len(states))):
        record.trace_state = value
    for link, value in zip(link_states, read_column(streams, STRING, len(link_states))):
        link.trace_state = value

    shapes = tables.resources + tables.scopes
    shapes += [shape for shape, _ in owners + events + links]
    for shape in shapes:
        streams.charge(len(shape.columns) * ATTRIBUTE_BYTES)
        for column in shape.columns:
            column.count += 1
    for column in tables.columns:
        column.values = read_column(streams, column.type, column.count)


def attributes(shape):
    """The attributes of the next owner of this shape."""
    return [(column.key, next(column.values)) for column in shape.columns]


def span_of(record):
    """A span, put together."""
    shape = record.shape
    dropped_attributes, dropped_events, dropped_links = record.dropped
    return Span(
        scope=shape.scope,
        trace_id=record.trace_id,
        span_id=record.span_id,
        parent_span_id=record.parent_id,
        parent_is_remote=record.parent_is_remote,
        trace_flags=shape.trace_flags,
        trace_state=record.trace_state,
        name=shape.name,
        kind=shape.kind,
        start_unix_nano=record.start,
        end_unix_nano=record.end,
        attributes=attributes(shape),
        dropped_attributes=dropped_attributes,
        events=[event for _, event in record.events],
        dropped_events=dropped_events,
        links=[link for _, link in record.links],
        dropped_links=dropped_links,
        status=shape.status,
        status_message=record.status_message,
    )
