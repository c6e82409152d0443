"""Processes that end without Python's exit: what they recorded is flushed before that.

Those of multiprocessing end with os._exit. uvicorn, when it was told to stop and has answered what was asked, ends by the signal that told it so:
it puts the default handler back and raises the signal. Python itself ends by SIGINT after a KeyboardInterrupt that nobody caught.

A fork needs nothing: a child has a pipeline of its own with its first span. Other processes end as Python does, which delivers everything.
"""
from __future__ import annotations

import atexit
import functools
import os
import signal
import sys

from . import _spanring

_SECONDS = 5.0


class _Key:
    """What multiprocessing keeps its weak reference to."""


_key = _Key()


def _flush():
    try:
        _spanring._flush(_SECONDS)
    except Exception:
        # The time is up; messages() has why.
        pass


def _in_process(_key):
    from multiprocessing import util

    # After everything else that is to end there, since that may record spans.
    util.Finalize(None, _flush, exitpriority=-1_000_000)


def _hook():
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # Called at the beginning of each process of multiprocessing, when it has forgotten what its parent was to do at exit.
        util.register_after_fork(_key, _in_process)


def _at_exit():
    if issubclass(getattr(sys, "last_type", None) or object, KeyboardInterrupt):
        _flush()


_DEADLY = frozenset(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGABRT", "SIGKILL") if hasattr(signal, name)
)


def _flush_before(raise_signal):
    @functools.wraps(raise_signal)
    def flush_and_raise(signalnum, /):
        if signalnum in _DEADLY and (signalnum == signal.SIGKILL or signal.getsignal(signalnum) is signal.SIG_DFL):
            _flush()
        raise_signal(signalnum)

    return flush_and_raise


def install():
    # Now, for a process that multiprocessing has just made; and in each fork child, since it may be imported later than we.
    _hook()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_hook)
    atexit.register(_at_exit)
    signal.raise_signal = _flush_before(signal.raise_signal)
