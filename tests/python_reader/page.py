"""Holds docs/batch-format.md to its word: its well-known names, its ID vectors and its example, read from the
page itself."""

import os
import re

import otlp_json
from batch import decode_content
from ids import IdKeys
from streams import FormatError
from well_known import WELL_KNOWN

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/batch-format.md")


def checks():
    """Yields (name, problem or None)."""
    page = text_of_page()
    names = re.findall(r"`([^`]+)`", section(page, "Well-known names"))
    same = tuple(names) == WELL_KNOWN
    yield "page, well-known names", None if same else f"{len(names)} on the page: {names}"
    yield from vectors(section(page, "IDs"))
    yield "page, example", example()


def text_of_page():
    """The whole page."""
    with open(PAGE, encoding="utf-8") as file:
        return file.read()


def example_content():
    """The bytes of the example, which the page gives in hexadecimal digits."""
    return bytes.fromhex(section(text_of_page(), "Example").split("```\n")[1])


def section(page, title):
    """The text below a heading of the second level."""
    return page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def vectors(text):
    """The table of counters and the IDs that follow from them."""
    rows = re.findall(r"^\| (.+) \| (\w+) \| `(\w{32})` \| `(\w{16})` \|$", text, re.MULTILINE)
    yield "page, ID vectors", None if len(rows) > 3 else f"{len(rows)} rows are in the table"
    seed = None
    for words, counter, trace_id, span_id in rows:
        if words != "the same":
            seed = tuple(int(word, 0) for word in words.split(", "))
        keys, counter = IdKeys(seed), int(counter, 0)
        found = f"{keys.trace_id(counter):032x}", f"{keys.span_id(counter):016x}"
        problem = None if found == (trace_id, span_id) else f"{found}"
        yield f"page, IDs of counter {counter} under {seed}", problem


def example():
    """The example says what the page tells of it."""
    try:
        batch = decode_content(example_content())
    except FormatError as error:
        return str(error)
    names = [span.name for span in batch.spans]
    parents = [span.parent_span_id for span in batch.spans]
    root = batch.spans[names.index("GET /")]
    attributes = [dict(span.attributes) for span in batch.spans]
    told = {
        "instance": (batch.header.instance, 0x00112233445566778899AABBCCDDEEFF),
        "earliest start": (batch.header.start_unix_nano, 1_700_000_000_000_000_000),
        "latest end": (batch.header.end_unix_nano, 1_700_000_000_000_009_999),
        "sequence and counts": (
            (batch.header.sequence, batch.header.created, batch.header.sealed, batch.header.dropped),
            (3, 12, 10, {"budget": 2}),
        ),
        "names": (names, ["query", "query", "GET /", "flush"]),
        "children of GET /": (parents[:3], [root.span_id, root.span_id, 0]),
        "parent of flush": (parents[3] not in [0] + [span.span_id for span in batch.spans], True),
        "attributes": (attributes, [{"db.system": "sqlite", "rows": 17}, {}, {}, {}]),
        "message": (batch.spans[1].status_message, "no such table"),
        "resource": (batch.resources[0].attributes, [("service.name", "shop")]),
        "scope": ((batch.scopes[0].name, batch.scopes[0].version), ("app", "1.0")),
        "kinds": ([span.kind for span in batch.spans], [3, 3, 2, 1]),
        "flags": ([span.trace_flags for span in batch.spans], [3, 3, 3, 3]),
    }
    for what, (found, expected) in told.items():
        if found != expected:
            return f"{what}: {found}; the page says {expected}. {otlp_json.line(batch)}"
    return None
