"""trace_id and span_id in log records."""
from __future__ import annotations

from ._spanring import _current_ids


class LogFilter:
    """A filter for logging: adds trace_id and span_id of the current span to each record, empty texts if there is none. It keeps all."""

    # Not a subclass of logging.Filter, which logging does not ask for: a program without logging need not import it.
    def filter(self, record):
        record.trace_id, record.span_id = _current_ids()
        return True


def log_record_factory(*args, **kwargs):
    """For logging.setLogRecordFactory: records with trace_id and span_id."""
    from logging import LogRecord

    record = LogRecord(*args, **kwargs)
    record.trace_id, record.span_id = _current_ids()
    return record
