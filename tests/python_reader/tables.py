"""The tables at the beginning of a batch: names, columns, shapes, resources and scopes, edges ("Tables" of
docs/batch-format.md).

Invariant: every number in a table refers to something that exists, of the right owner.
"""

from dataclasses import dataclass, field

from streams import decode_utf8, unzigzag
from well_known import WELL_KNOWN

SPAN, EVENT, LINK, RESOURCE, SCOPE = range(5)
OWNERS = ("span", "event", "link", "resource", "scope")
UNITS_NANO = (1, 100, 256, 1_000, 1_000_000)

HAS_STATUS_MESSAGE = 1
HAS_TRACE_STATE = 2
HAS_EVENTS = 4
HAS_LINKS = 8
HAS_DROPPED = 16
SPAN_RAW = 32
TRACE_RAW = 64
IS_REMOTE = 128
# By owner: the extras that it may have.
EXTRAS = (
    HAS_STATUS_MESSAGE | HAS_TRACE_STATE | HAS_EVENTS | HAS_LINKS | HAS_DROPPED | SPAN_RAW,
    HAS_DROPPED,
    HAS_TRACE_STATE | HAS_DROPPED | SPAN_RAW | TRACE_RAW | IS_REMOTE,
    HAS_DROPPED,
    HAS_DROPPED,
)

# What an entry of a list costs here, about.
ENTRY_BYTES = 32


class Names:
    """Reads name references."""

    def __init__(self, streams):
        self.streams = streams
        self.names = []
        self.before = b""

    def read(self):
        """The name that the next reference means."""
        streams = self.streams
        reference = streams.varint()
        if reference > 1:
            if reference - 2 >= len(self.names):
                raise streams.error(f"name {reference - 2} of {len(self.names)}")
            return self.names[reference - 2]
        if reference == 1:
            name = WELL_KNOWN[streams.byte(len(WELL_KNOWN) - 1)]
        else:
            shared = streams.varint(len(self.before))
            rest = streams.string_bytes()
            streams.charge(shared + len(rest))
            self.before = self.before[:shared] + rest
            name = decode_utf8(self.before, streams)
        streams.charge(ENTRY_BYTES)
        self.names.append(name)
        return name


@dataclass
class Column:
    """A column of attribute values: `values` is filled when it is read."""

    type: int
    owner: int
    key: str = ""
    # How many values it has.
    count: int = 0
    values: object = None


@dataclass
class Shape:
    """What several spans, events, links, resources or scopes have in common."""

    owner: int
    kind: int
    status: int
    extras: int = 0
    trace_flags: int = 0
    time_base: int = 0
    duration_base: int = 0
    unit: int = 0
    scope: int = 0
    columns: list = field(default_factory=list)
    name: str = ""

    def has(self, extra):
        """Whether the shape has one of the extras."""
        return bool(self.extras & extra)


@dataclass
class Tables:
    """All tables of a batch."""

    columns: list
    shapes: list
    # Shapes of the resources, and of the scopes.
    resources: list
    scopes: list
    # For each scope: the index of its resource, its version, its schema URL.
    scope_resources: list
    scope_texts: list
    resource_dropped: list
    scope_dropped: list
    # (number of the shape, origin)
    edges: list


def read_tables(streams):
    """Reads the tables."""
    resource_count = streams.count("resources")
    scope_count = streams.count("scopes")
    names = Names(streams)
    columns = read_columns(streams, names)
    shapes = read_shapes(streams, names, columns, scope_count)

    numbers = counting_up(streams, resource_count + scope_count)
    owners = [RESOURCE] * resource_count + [SCOPE] * scope_count
    chosen = [shape_of(streams, shapes, number, owner) for number, owner in zip(numbers, owners)]
    scope_resources = [streams.varint(resource_count - 1) for _ in range(scope_count)]
    scope_texts = [(names.read(), names.read()) for _ in range(scope_count)]
    dropped = [read_dropped(streams) if shape.has(HAS_DROPPED) else 0 for shape in chosen]
    return Tables(
        columns=columns,
        shapes=shapes,
        resources=chosen[:resource_count],
        scopes=chosen[resource_count:],
        scope_resources=scope_resources,
        scope_texts=scope_texts,
        resource_dropped=dropped[:resource_count],
        scope_dropped=dropped[resource_count:],
        edges=read_edges(streams, shapes),
    )


def read_columns(streams, names):
    """Reads the table of columns."""
    count = streams.count("columns")
    streams.charge(count * ENTRY_BYTES)
    columns = []
    for _ in range(count):
        byte = streams.byte()
        if byte >> 3 > SCOPE:
            raise streams.error(f"a column of owner {byte >> 3}")
        columns.append(Column(byte & 7, byte >> 3))
    for column in columns:
        column.key = names.read()
    return columns


def read_shapes(streams, names, columns, scope_count):
    """Reads the table of shapes."""
    count = streams.count("shapes")
    streams.charge(count * ENTRY_BYTES)
    shapes = []
    for _ in range(count):
        byte = streams.byte()
        shape = Shape(byte >> 5, byte & 7, byte >> 3 & 3)
        if shape.owner > SCOPE or shape.kind > 5 or shape.status > 2:
            raise streams.error(f"{byte} is no kind, status and owner")
        if shape.owner != SPAN and byte & 0x1F:
            raise streams.error(f"a kind or status in a shape of a {OWNERS[shape.owner]}")
        shapes.append(shape)
    spans = [shape for shape in shapes if shape.owner == SPAN]
    for shape in shapes:
        shape.extras = streams.varint()
        if shape.extras & ~EXTRAS[shape.owner]:
            raise streams.error(f"extras {shape.extras} of a {OWNERS[shape.owner]}")
    for shape in shapes:
        if shape.owner in (SPAN, LINK):
            shape.trace_flags = streams.byte()
    average = streams.base()
    for shape in shapes:
        if shape.owner in (SPAN, EVENT):
            shape.time_base = read_base(streams, average)
    average = streams.base()
    for shape in spans:
        shape.duration_base = read_base(streams, average)
    for shape in spans:
        shape.unit = UNITS_NANO[streams.byte(len(UNITS_NANO) - 1)]
    scope = 0
    for shape in spans:
        scope += streams.signed_varint()
        if not 0 <= scope < scope_count:
            raise streams.error(f"scope {scope} of {scope_count}")
        shape.scope = scope
    counts = []
    for _ in shapes:
        counts.append(streams.count("attributes"))
        streams.charge(counts[-1] * ENTRY_BYTES)
    following = 0
    for shape, count in zip(shapes, counts):
        for _ in range(count):
            number = following + streams.signed_varint()
            if not 0 <= number < len(columns) or columns[number].owner != shape.owner:
                raise streams.error(f"column {number} in a shape of a {OWNERS[shape.owner]}")
            shape.columns.append(columns[number])
            following = number + 1
    for shape in shapes:
        shape.name = names.read()
    return shapes


def read_base(streams, average):
    """A base that is given by its distance from the average."""
    base = average + streams.signed_varint()
    if not 0 <= base <= 64:
        raise streams.error(f"the base {base}; a base is 0 to 64")
    return base


def read_dropped(streams):
    """How many attributes, events or links were dropped."""
    return streams.varint((1 << 32) - 1)


def counting_up(streams, count):
    """A list of numbers of which most are one more than the highest so far."""
    if count > streams.symbols.left():
        raise streams.error(f"a list of {count} numbers, but {streams.symbols.left()} bytes are left")
    numbers, following = [], 0
    for _ in range(count):
        number = following + streams.signed_varint()
        following = max(following, number + 1)
        numbers.append(number)
    return numbers


def shape_of(streams, shapes, number, owner):
    """The shape with this number, which must be of this owner."""
    if not 0 <= number < len(shapes) or shapes[number].owner != owner:
        raise streams.error(f"shape {number} of {len(shapes)} is not one of a {OWNERS[owner]}")
    return shapes[number]


def read_edges(streams, shapes):
    """Reads the table of edges: (number of the shape, origin), where the origin is ROOT, GHOST or the
    number of the parent's shape."""
    count = streams.count("edges")
    streams.charge(count * ENTRY_BYTES)
    numbers = counting_up(streams, count)
    edges = []
    for number in numbers:
        shape_of(streams, shapes, number, SPAN)
        origin = streams.varint()
        if origin >= 2:
            parent = number + 1 + unzigzag(origin - 2)
            shape_of(streams, shapes, parent, SPAN)
            edges.append((number, parent))
        else:
            edges.append((number, GHOST if origin else ROOT))
    return edges


ROOT, GHOST = -1, -2
