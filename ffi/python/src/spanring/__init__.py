"""A span engine that lives inside a program.

    import spanring

    spanring.start(service_name="shop", dir="spans")
    with spanring.span("db.query", rows=7) as span:
        span.event("cached")
"""
from __future__ import annotations

from . import _processes
from ._errors import SpanringError
from ._logs import LogFilter, log_record_factory
from ._overhead import Overhead, overhead
from ._pipeline import Message, alerts, change_settings, errors, flush, health, messages, metrics, settings, shutdown, start, stats
from ._propagation import attach, extract, inject
from ._spanring import Context, Span, current_span
from ._spanring import version as __version__
from ._subscription import Subscription, subscribe
from ._trace import start_span, trace

span = Span

__all__ = [
    "Context",
    "LogFilter",
    "Message",
    "Overhead",
    "Span",
    "SpanringError",
    "Subscription",
    "alerts",
    "attach",
    "change_settings",
    "current_span",
    "errors",
    "extract",
    "flush",
    "health",
    "inject",
    "log_record_factory",
    "messages",
    "metrics",
    "overhead",
    "settings",
    "shutdown",
    "span",
    "start",
    "start_span",
    "stats",
    "subscribe",
    "trace",
]

# No __getattr__ here: with it, Python looks `spanring.span` up anew each time, which costs a fifth of a span.
_processes.install()
