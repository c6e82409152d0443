"""Finished spans for the program itself."""
from __future__ import annotations

import json
import time

from . import _spanring
from ._errors import SpanringError

_NOT_OPEN, _SHUT_DOWN, _FORKED = 7, 10, 18
# How long is waited at once, so that Python's signals are served, in nanoseconds.
_TURN = 100_000_000


class Subscription:
    """Finished spans, each a dict as docs/processors.md has it, in the order in which batches were sealed.

    Iterating waits for the next one, and ends when the pipeline does, when it is closed, and in a fork child.
    """

    def __init__(self, max_spans):
        self._number = None
        self._number = _spanring._subscription_open(max_spans)

    def next(self, timeout=None):
        """The next span: at most so many seconds are waited for it, None for as long as it takes. None if none came, or none will."""
        try:
            return self._wait(timeout)
        except StopIteration:
            return None

    def _wait(self, timeout):
        until = None if timeout is None else time.monotonic() + timeout
        while self._number is not None:
            left = _TURN if until is None else int((until - time.monotonic()) * 1e9)
            try:
                line = _spanring._subscription_next(self._number, min(max(left, 0), _TURN))
            except SpanringError as error:
                if error.code in (_NOT_OPEN, _SHUT_DOWN, _FORKED):
                    break
                raise
            if line is not None:
                return json.loads(line)
            if left <= _TURN and until is not None:
                return None
        raise StopIteration

    @property
    def dropped(self):
        """How many spans were dropped because nobody took those before them."""
        return 0 if self._number is None else _spanring._subscription_dropped(self._number)

    def close(self):
        """Ends it; what waits is given up. Calling it again is fine."""
        number, self._number = self._number, None
        if number is not None:
            try:
                _spanring._subscription_close(number)
            except SpanringError as error:
                if error.code not in (_NOT_OPEN, _FORKED):
                    raise

    def __iter__(self):
        return self

    def __next__(self):
        return self._wait(None)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()

    def __del__(self):
        try:
            self.close()
        except Exception:
            pass


def subscribe(max_spans=10_000):
    """Finished spans from now on; see Subscription. About `max_spans` wait to be taken; of more, whole batches are dropped and counted."""
    return Subscription(max_spans)
