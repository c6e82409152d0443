"""The process's pipeline: settings, start, flush, shutdown, counts, messages."""
from __future__ import annotations

import os
from typing import NamedTuple

from . import _spanring

_IGNORE_ENVIRONMENT, _FLUSH_EACH_SPAN = 1, 2
_SEVERITIES = ("fatal", "error", "warn", "info", "debug")


class Message(NamedTuple):
    """What the engine had to say: `severity` is fatal, error, warn, info or debug."""

    severity: str
    text: str


def _percent(text):
    from urllib.parse import quote

    return quote(str(text), safe="")


def _text(name, value):
    """A setting as its environment variable would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, dict):
        return ",".join(f"{_percent(key)}={_percent(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        between = "; " if name in ("rules", "levels", "details") else ","
        return between.join(_text(name, item) for item in value)
    if hasattr(value, "total_seconds"):
        return _text(name, value.total_seconds())
    raise TypeError(f"setting {name} must be str, int, float, bool, a path, a timedelta, a list or a dict, not {type(value).__name__}")


def start(*, ignore_environment=False, flush_each_span=False, **settings):
    """Starts the process's pipeline.

    Settings have the names of docs/settings.md in lower case; those that are None are left out. The environment overrides them, unless
    `ignore_environment` is true. With `flush_each_span` the end of each span waits until it is delivered, at most a second. Fork children have a pipeline like this one with their first span; others start their own.
    """
    pairs = [(name.upper(), _text(name, value)) for name, value in settings.items() if value is not None]
    pairs.append(("telemetry.sdk.language", "python"))
    flags = (_IGNORE_ENVIRONMENT if ignore_environment else 0) | (_FLUSH_EACH_SPAN if flush_each_span else 0)
    _spanring._start(pairs, flags)


def change_settings(**changes):
    """Changes settings while the pipeline runs, all or, with a SpanringError, none; they are in force for the next span.

    Names and values are as for `start`; None takes back what was given here. They win over the environment, and over the file that
    `config` names until that says something new. Only settings that docs/settings.md calls live can be changed.
    """
    _spanring._change([(name.upper(), "" if value is None else _text(name, value)) for name, value in changes.items()])


def settings():
    """The settings in force, by their names in lower case: each a dict with its `value` as text (None if there is none), its `source`, and
    whether it is `live`. Secrets are not in it.
    """
    import json

    rows = json.loads(_spanring._settings_json())
    return {row.pop("name")[len("SPANRING_") :].lower(): row for row in rows}


def flush(timeout=5.0):
    """Waits until everything that was recorded is delivered or given up: at most so many seconds, None for as long as it takes.

    Raises SpanringError if the time is up. Without a pipeline there is nothing to wait for.
    """
    _spanring._flush(timeout)


def shutdown(timeout=5.0):
    """Delivers what is there and ends the pipeline within so many seconds. At process exit that happens by itself."""
    _spanring._shutdown(timeout)


def stats():
    """The counts of the pipeline, with each sink by itself."""
    import json

    return json.loads(_spanring._stats_json())


def metrics():
    """What docs/status.md lists of the engine and, with the setting `metrics`, of the spans themselves, by name and kind."""
    import json

    return json.loads(_spanring._metrics_json())


def health():
    """Whether tracing is well: `healthy`, and if it is not, the `reasons`; with the numbers that decide."""
    import json

    return json.loads(_spanring._health_json())


def alerts():
    """The alerts since the last call, with the setting `alerts` or `alert_webhook`: `alerts`, each a dict as docs/alerts.md has it, how many were
    `dropped` because nobody took them, and what became of requests to the `webhook`.
    """
    import json

    return json.loads(_spanring._alerts_json())


def errors():
    """With the setting `track_errors`, the errors that were seen: `errors`, each a dict as docs/processors.md has it, and how many spans of others
    were `forgotten`.
    """
    import json

    return json.loads(_spanring._errors_json())


def messages():
    """What the engine had to say since the last call. It is on standard error as well."""
    found = []
    while True:
        message = _spanring._next_message()
        if message is None:
            return found
        severity, text = message
        found.append(Message(_SEVERITIES[severity] if 0 <= severity < len(_SEVERITIES) else str(severity), text))
