"""The columns that all spans have, and those that few have ("Spans" and "What few spans have" of
docs/batch-format.md).

Spans come out with their times, IDs, parents and traces; names, attributes and other values are put in
by batch.py.
"""

from dataclasses import dataclass, field

from model import Event, Link
from streams import MASK_64
from tables import (
    EVENT,
    GHOST,
    HAS_DROPPED,
    HAS_EVENTS,
    HAS_LINKS,
    IS_REMOTE,
    LINK,
    ROOT,
    SPAN_RAW,
    TRACE_RAW,
    read_dropped,
    shape_of,
)

HAS_PARENT, PARENT_RAW, PARENT_REMOTE, GHOST_TRACE_RAW = 1, 2, 4, 8
# What a span, an event or a link costs here at least, about.
SPAN_BYTES = 512
ITEM_BYTES = 128


@dataclass
class Record:
    """A span as the columns have it."""

    shape: object
    # Number of the shape, by which parents are found.
    shape_number: int
    origin: int
    start: int = 0
    end: int = 0
    # None if the ID is raw.
    counter: object = None
    span_id: int = 0
    trace_id: int = 0
    parent_id: int = 0
    parent_is_remote: object = None
    trace_state: str = ""
    status_message: str = ""
    # Attributes, events and links that were dropped.
    dropped: tuple = (0, 0, 0)
    # (shape, Event) and (shape, Link).
    events: list = field(default_factory=list)
    links: list = field(default_factory=list)

    def known_counter(self):
        """The counter; 0 if the ID is raw."""
        return self.counter or 0


def read_spans(streams, tables, keys, header):
    """Reads the spans' own columns; gives the records in their order."""
    streams.charge(header.spans * SPAN_BYTES)
    records = read_span_edges(streams, tables, header.spans)
    read_times(streams, records, header.start_unix_nano)
    order = start_order(records)
    read_counters(streams, records, order, keys)
    read_parents(streams, tables, visiting_order(order), keys)
    return records


def read_span_edges(streams, tables, count):
    """Which edge each span has, by what followed the edge before it the last two times."""
    pairs = {}
    occurred = set()
    lowest_new = 0
    before = None
    records = []
    for _ in range(count):
        symbol = streams.varint()
        pair = pairs.get(before, (None, None))
        if symbol < 2:
            edge = pair[symbol]
            if edge is None:
                raise streams.error(f"symbol {symbol}: nothing followed edge {before} yet")
        elif symbol == 2:
            while lowest_new in occurred:
                lowest_new += 1
            edge = lowest_new
            if edge >= len(tables.edges):
                raise streams.error(f"a new edge, but all {edge} have occurred")
            occurred.add(edge)
        else:
            edge = symbol - 3
            if edge not in occurred:
                raise streams.error(f"edge {edge} has not occurred yet")
        if edge != pair[0]:
            pairs[before] = (edge, pair[0])
        before = edge
        number, origin = tables.edges[edge]
        records.append(Record(tables.shapes[number], number, origin))
    return records


def read_times(streams, records, earliest_start):
    """Ends and durations."""
    pairs = [divmod(streams.byte(80), 9) for _ in records]
    symbols = [tuple(streams.byte() if part == 8 else part for part in pair) for pair in pairs]
    before = earliest_start
    for record, (end_symbol, duration_symbol) in zip(records, symbols):
        shape = record.shape
        steps = streams.signed_of(end_symbol, shape.time_base)
        duration = streams.unsigned_of(duration_symbol, shape.duration_base)
        record.end = (before - before % shape.unit + steps * shape.unit) & MASK_64
        record.start = (record.end - duration * shape.unit) & MASK_64
        before = record.end


def start_order(records):
    """The records by start, within runs in which ends do not decrease; of those that start together the
    last one first."""
    runs = []
    end = None
    for record in records:
        if end is None or record.end < end:
            runs.append([])
        runs[-1].append(record)
        end = record.end
    # Sorting keeps the order of equals, which is to be from the last to the first.
    return [record for run in runs for record in sorted(reversed(run), key=lambda r: r.start)]


def read_counters(streams, records, order, keys):
    """Counters and span IDs."""
    following = 0
    for record in order:
        if not record.shape.has(SPAN_RAW):
            record.counter = (following + streams.signed()) & MASK_64
            record.span_id = keys.span_id(record.counter)
            following = record.counter + 1
    for record in records:
        if record.shape.has(SPAN_RAW):
            record.span_id = int.from_bytes(streams.ids.take(8), "big")


def visiting_order(order):
    """Parents come before their children: counters first, from the lowest on."""
    counted = [record for record in order if record.counter is not None]
    raw = [record for record in order if record.counter is None]
    return sorted(counted, key=lambda record: record.counter) + raw


@dataclass
class Ghost:
    """A parent that is not in the batch, or a trace whose counter is not its root's."""

    child: Record
    flags: int = 0
    parent_id: int = 0
    parent_counter: object = None
    trace_id: int = 0


def read_parents(streams, tables, visited, keys):
    """Parents and traces."""
    parents = read_ranks(streams, tables, visited)
    ghosts, ghost_of = [], {}
    for record in visited:
        if record.origin == GHOST:
            reference = streams.varint(len(ghosts))
            if reference == 0:
                ghosts.append(Ghost(record))
            ghost_of[id(record)] = ghosts[reference - 1]
    read_ghosts(streams, ghosts, keys)
    for record in visited:
        if record.origin == ROOT:
            if record.counter is None:
                raise streams.error("a root whose ID is raw; its trace has no counter")
            record.trace_id = keys.trace_id(record.counter)
        elif record.origin == GHOST:
            ghost = ghost_of[id(record)]
            record.trace_id = ghost.trace_id
            if ghost.flags & HAS_PARENT:
                record.parent_id = ghost.parent_id
                record.parent_is_remote = bool(ghost.flags & PARENT_REMOTE)
        else:
            # Visited before its child, so its trace is known.
            parent = parents[id(record)]
            record.trace_id = parent.trace_id
            record.parent_id = parent.span_id
            record.parent_is_remote = False


def read_ranks(streams, tables, visited):
    """The parents, of those that are in the batch, by the child's identity."""
    lists = [[] for _ in tables.shapes]
    parents = {}
    for record in visited:
        if record.origin >= 0:
            rank = streams.byte()
            parents[id(record)] = find_parent(streams, lists[record.origin], record.start, rank)
        lists[record.shape_number].append(record)
    return parents


def find_parent(streams, candidates, start, rank):
    """The candidate with this rank among those that had not ended at `start`, from the last one on.
    Those that had ended, as far as the walk goes, leave the list."""
    at = len(candidates)
    while at > 0:
        at -= 1
        if candidates[at].end < start:
            del candidates[at]
        elif rank == 0:
            return candidates[at]
        else:
            rank -= 1
    raise streams.error("there are fewer possible parents than the rank says")


def read_ghosts(streams, ghosts, keys):
    """The table of ghosts."""
    streams.charge(len(ghosts) * ITEM_BYTES)
    for ghost in ghosts:
        ghost.flags = streams.byte(15)
        if not ghost.flags & HAS_PARENT and ghost.flags & (PARENT_RAW | PARENT_REMOTE):
            raise streams.error(f"ghost flags {ghost.flags}, but no parent")
    for ghost in ghosts:
        if ghost.flags & PARENT_RAW:
            ghost.parent_id = int.from_bytes(streams.ids.take(8), "big")
        elif ghost.flags & HAS_PARENT:
            ghost.parent_counter = (ghost.child.known_counter() - streams.signed()) & MASK_64
            ghost.parent_id = keys.span_id(ghost.parent_counter)
    for ghost in ghosts:
        if ghost.flags & GHOST_TRACE_RAW:
            ghost.trace_id = int.from_bytes(streams.ids.take(16), "big")
        else:
            near = ghost.parent_counter
            if near is None:
                near = ghost.child.known_counter()
            ghost.trace_id = keys.trace_id((near - streams.signed()) & MASK_64)


def read_what_few_have(streams, tables, records, keys):
    """Dropped counts, events and links."""
    for record in records:
        if record.shape.has(HAS_DROPPED):
            record.dropped = tuple(read_dropped(streams) for _ in range(3))
    read_events(streams, tables, records)
    read_links(streams, tables, records, keys)


def read_items(streams, tables, records, extra, owner):
    """The shapes of the events or links of those spans that have the extra: (record, shapes)."""
    spans = [record for record in records if record.shape.has(extra)]
    counts = []
    for _ in spans:
        counts.append(streams.count("events or links"))
        if counts[-1] == 0:
            raise streams.error("a span with events or links has none")
        streams.charge(counts[-1] * ITEM_BYTES)
    return [
        (record, [shape_of(streams, tables.shapes, streams.varint(), owner) for _ in range(count)])
        for record, count in zip(spans, counts)
    ]


def read_events(streams, tables, records):
    """Events without names and attributes."""
    for record, shapes in read_items(streams, tables, records, HAS_EVENTS, EVENT):
        record.events = [(shape, Event()) for shape in shapes]
    for record in records:
        time = record.start
        for shape, event in record.events:
            time = (time + streams.signed(shape.time_base)) & MASK_64
            event.time_unix_nano = time
    read_items_dropped(streams, [event for record in records for event in record.events])


def read_links(streams, tables, records, keys):
    """Links without tracestates and attributes."""
    for record, shapes in read_items(streams, tables, records, HAS_LINKS, LINK):
        record.links = [(shape, Link()) for shape in shapes]
    for record in records:
        for shape, link in record.links:
            near = record.known_counter()
            if shape.has(SPAN_RAW):
                link.span_id = int.from_bytes(streams.ids.take(8), "big")
            else:
                near = (near - streams.signed()) & MASK_64
                link.span_id = keys.span_id(near)
            if shape.has(TRACE_RAW):
                link.trace_id = int.from_bytes(streams.ids.take(16), "big")
            else:
                link.trace_id = keys.trace_id((near - streams.signed()) & MASK_64)
            link.trace_flags = shape.trace_flags
            link.is_remote = shape.has(IS_REMOTE)
    read_items_dropped(streams, [link for record in records for link in record.links])


def read_items_dropped(streams, items):
    """How many attributes of events or links were dropped."""
    for shape, item in items:
        if shape.has(HAS_DROPPED):
            item.dropped_attributes = read_dropped(streams)
