"""Spans as plain data. Field names are OTLP's."""

from dataclasses import dataclass, field
from typing import Optional


@dataclass
class Header:
    """Who sealed a batch, and the pipeline's counts at that time."""

    instance: int = 0
    seed: tuple = (0, 0)
    start_unix_nano: int = 0
    end_unix_nano: int = 0
    sequence: int = 0
    clock_epoch: int = 0
    created: int = 0
    sealed: int = 0
    spans: int = 0
    # Spans dropped so far, by reason.
    dropped: dict = field(default_factory=dict)


@dataclass
class Map:
    """An attribute value of keys and values. A key may occur twice, hence no dict."""

    entries: list


@dataclass
class Resource:
    """What produced the spans."""

    attributes: list = field(default_factory=list)
    dropped_attributes: int = 0
    schema_url: str = ""


@dataclass
class Scope:
    """The instrumentation scope; `resource` is an index."""

    resource: int = 0
    name: str = ""
    version: str = ""
    attributes: list = field(default_factory=list)
    dropped_attributes: int = 0
    schema_url: str = ""


@dataclass
class Event:
    """An event of a span."""

    name: str = ""
    time_unix_nano: int = 0
    attributes: list = field(default_factory=list)
    dropped_attributes: int = 0


@dataclass
class Link:
    """A link to another span."""

    trace_id: int = 0
    span_id: int = 0
    trace_state: str = ""
    trace_flags: int = 0
    is_remote: bool = False
    attributes: list = field(default_factory=list)
    dropped_attributes: int = 0


@dataclass
class Span:
    """A finished span; `scope` is an index, the parent's ID is zero for a root."""

    scope: int = 0
    trace_id: int = 0
    span_id: int = 0
    parent_span_id: int = 0
    parent_is_remote: Optional[bool] = None
    trace_flags: int = 0
    trace_state: str = ""
    name: str = ""
    kind: int = 0
    start_unix_nano: int = 0
    end_unix_nano: int = 0
    attributes: list = field(default_factory=list)
    dropped_attributes: int = 0
    events: list = field(default_factory=list)
    dropped_events: int = 0
    links: list = field(default_factory=list)
    dropped_links: int = 0
    status: int = 0
    status_message: str = ""


@dataclass
class Batch:
    """Spans in the order in which they were recorded, with their scopes and resources."""

    header: Header
    resources: list = field(default_factory=list)
    scopes: list = field(default_factory=list)
    spans: list = field(default_factory=list)
