"""Columns of values ("Columns of values" of docs/batch-format.md).

A column is read as an iterator over its values in order. Equal values of a column are one object here.
"""

import struct

from model import Map
from streams import MASK_64, Bytes

NULL, BOOL, INT, DOUBLE, STRING, BYTES, ARRAY, MAP = range(8)
DISTINCT_MAX = 128
LEVELS_MAX = 128
# What a reference to a value costs here, and a value itself, about.
REFERENCE_BYTES = 8
VALUE_BYTES = 32


def read_column(streams, column_type, count):
    """Reads a column of `count` values; gives an iterator over them."""
    if count == 0:
        return iter(())
    streams.charge(count * REFERENCE_BYTES)
    if column_type == NULL:
        return iter([None] * count)
    mode = streams.byte()
    if column_type in (BOOL, INT):
        return iter(read_ints(streams, mode, count, column_type == BOOL))
    if column_type == DOUBLE:
        return iter(read_doubles(streams, mode, count))
    return iter(read_entries(streams, column_type, mode, count))


def read_ints(streams, mode, count, is_bool=False):
    """Integers, or booleans."""
    if mode == 0:
        values = [streams.signed()] * count
    elif mode == 1:
        minimum, base = streams.signed(), streams.base()
        values = [as_signed(minimum + streams.unsigned(base)) for _ in range(count)]
    elif mode == 2:
        values = read_distinct(streams, count, streams.signed)
    elif mode == 3:
        base, value, values = streams.base(), 0, []
        for _ in range(count):
            value = as_signed(value + streams.signed(base))
            values.append(value)
    else:
        raise streams.error(f"mode {mode} of a column of integers or booleans")
    if not is_bool:
        return values
    for value in values:
        if value not in (0, 1):
            raise streams.error(f"{value} in a column of booleans")
    return [value == 1 for value in values]


def read_distinct(streams, count, read_value):
    """Few values, of which each row names one."""
    distinct = [read_value() for _ in range(streams.varint(DISTINCT_MAX))]
    if not distinct:
        raise streams.error("a column with values, of which none is distinct")
    return [distinct[streams.byte(len(distinct) - 1)] for _ in range(count)]


def as_signed(value):
    """A sum modulo 2^64 as a signed integer."""
    value &= MASK_64
    return value - (1 << 64) if value >> 63 else value


def read_doubles(streams, mode, count):
    """Doubles."""
    if mode == 0:
        return [read_double(streams.ids)] * count
    if mode == 1:
        highest = [streams.byte() for _ in range(count)]
        second = [streams.byte() for _ in range(count)]
        parts = zip(highest, second)
        return [
            struct.unpack("<d", streams.ids.take(6) + bytes((low, high)))[0] for high, low in parts
        ]
    if mode == 2:
        return read_distinct(streams, count, lambda: read_double(streams.ids))
    if mode == 4:
        divisor = float(10 ** streams.byte(6))
        return [float(value) / divisor for value in read_ints(streams, streams.byte(), count)]
    raise streams.error(f"mode {mode} of a column of doubles")


def read_double(data):
    """A double of 8 bytes, the lowest first."""
    return struct.unpack("<d", data.take(8))[0]


def read_entries(streams, column_type, mode, count):
    """Strings, bytes, arrays or maps."""
    if mode == 0:
        references, entry_count = [0] * count, 1
    elif mode == 1:
        references, entry_count = range(count), count
    elif mode == 2:
        references, entry_count = [], 0
        for _ in range(count):
            reference = streams.varint(entry_count)
            references.append((reference or entry_count + 1) - 1)
            entry_count += reference == 0
    else:
        raise streams.error(f"mode {mode} of a column of strings, bytes, arrays or maps")
    if entry_count > streams.symbols.left():
        raise streams.error(f"{entry_count} entries, but {streams.symbols.left()} bytes are left")
    shares = [0] + [streams.varint() for _ in range(entry_count - 1)]
    entries, before = [], b""
    for shared in shares:
        if shared > len(before):
            raise streams.error(f"{shared} bytes shared with an entry of {len(before)}")
        rest = streams.string_bytes()
        streams.charge(VALUE_BYTES + shared + len(rest))
        before = before[:shared] + rest
        entries.append(read_entry(streams, column_type, Bytes("an entry", before)))
    return [entries[reference] for reference in references]


def read_entry(streams, column_type, data):
    """A value that takes up an entry's bytes."""
    if column_type == STRING:
        return data.utf8(data.left())
    if column_type == BYTES:
        return data.take(data.left())
    value = read_container(streams, column_type, data, 0)
    if data.left():
        raise data.error(f"{data.left()} bytes are left behind the value")
    return value


def read_container(streams, value_type, data, levels):
    """An array or a map that has `levels` levels above it."""
    if levels > LEVELS_MAX:
        raise data.error(f"more than {LEVELS_MAX} levels of arrays and maps")
    count = data.varint(data.left())
    streams.charge(count * VALUE_BYTES)
    if value_type == ARRAY:
        return [read_value(streams, data, levels) for _ in range(count)]
    entries = []
    for _ in range(count):
        key = data.utf8(data.varint())
        entries.append((key, read_value(streams, data, levels)))
    return Map(entries)


def read_value(streams, data, levels):
    """A type byte and a body."""
    value_type = data.byte()
    if value_type == NULL:
        return None
    if value_type == BOOL:
        value = data.byte()
        if value > 1:
            raise data.error(f"{value} is no boolean")
        return value == 1
    if value_type == INT:
        return data.signed_varint()
    if value_type == DOUBLE:
        return read_double(data)
    if value_type == STRING:
        return data.utf8(data.varint())
    if value_type == BYTES:
        return data.take(data.varint())
    if value_type in (ARRAY, MAP):
        return read_container(streams, value_type, data, levels + 1)
    raise data.error(f"{value_type} is no type of a value")
