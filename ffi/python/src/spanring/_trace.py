"""The decorator, and spans that are given more than a call's keywords."""
from __future__ import annotations

import functools
import inspect

from ._spanring import Span, _current, _start_span


def start_span(name, attributes=None, *, kind=None, parent=None, start_time=None, level=None, detailed=False):
    """Starts a span as span() does, if need be at a time that is past: nanoseconds since 1970, as time.time_ns() gives them.

    The level is none, minimal, smart or full, and comes before those of the settings. A span that is detailed is there only where the settings
    want details.
    """
    return _start_span(name, attributes, kind, parent, start_time, 0, False, level, detailed)


def trace(function=None, attributes=None, kind=None, /, **keywords):
    """Makes each call of a function a span: @trace, @trace("name"), @trace("name", key=value).

    For functions, coroutines, generators and async generators. A generator's span begins with its first item and ends with its last; it is
    current while the generator's own code runs, not while its items are used.
    """
    if callable(function) and not isinstance(function, str):
        if attributes is not None or kind is not None or keywords:
            raise TypeError("with attributes, write @trace(\"name\", key=value) or @trace(None, key=value)")
        return _wrap(function, None, None, None, {})
    if function is not None and not isinstance(function, str):
        raise TypeError(f"@trace takes a function or a name, not {type(function).__name__}")

    def decorate(wrapped):
        return _wrap(wrapped, function, attributes, kind, keywords)

    return decorate


def _wrap(function, name, attributes, kind, keywords):
    if isinstance(function, type) or not callable(function) or isinstance(function, (staticmethod, classmethod)):
        raise TypeError(f"@trace takes a function, not {function!r}; below @staticmethod and @classmethod, not above")
    if name is None:
        name = getattr(function, "__qualname__", type(function).__qualname__).rpartition("<locals>.")[2]
    if attributes is not None:
        keywords = {**dict(attributes), **keywords}
    # Wrong names and kinds are found where they are written, not at the first call. Nothing records it: it never ends alone.
    _check(name, keywords, kind)
    if inspect.isasyncgenfunction(function):
        return _async_generator(function, name, keywords, kind)
    if inspect.isgeneratorfunction(function):
        return _generator(function, name, keywords, kind)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_coroutine(*args, **kwargs):
            with Span(name, keywords, kind):
                return await function(*args, **kwargs)

        return call_coroutine

    if not keywords and kind is None:

        @functools.wraps(function)
        def call_plainly(*args, **kwargs):
            with Span(name):
                return function(*args, **kwargs)

        return call_plainly

    @functools.wraps(function)
    def call(*args, **kwargs):
        with Span(name, keywords, kind):
            return function(*args, **kwargs)

    return call


_KINDS = ("internal", "server", "client", "producer", "consumer")


def _check(name, keywords, kind):
    for key in keywords:
        if not isinstance(key, str):
            raise TypeError(f"attribute keys must be str, not {type(key).__name__}")
    if kind is not None and not isinstance(kind, str):
        raise TypeError(f"kind must be str, not {type(kind).__name__}")
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"kind must be internal, server, client, producer or consumer, not {kind!r}")


class _Suspended:
    """What is current in a generator's body; used around each of its steps."""

    __slots__ = ("inside", "token")

    def __init__(self, span):
        self.inside = span
        self.token = None

    def __enter__(self):
        self.token = _current.set(self.inside)

    def __exit__(self, *_):
        # A span that the body left open is current again when it goes on.
        self.inside = _current.get(None)
        _current.reset(self.token)
        self.token = None


def _finish(span, error):
    """Ends a span as a with statement does."""
    if error is None:
        span.__exit__(None, None, None)
    else:
        span.__exit__(type(error), error, error.__traceback__)


def _generator(function, name, keywords, kind):
    @functools.wraps(function)
    def steps(*args, **kwargs):
        span = Span(name, keywords, kind)

        inside = _Suspended(span)
        error = None
        try:
            with inside:
                body = function(*args, **kwargs)
            sent, thrown = None, None
            while True:
                try:
                    with inside:
                        item = body.send(sent) if thrown is None else body.throw(thrown)
                except StopIteration as stop:
                    return stop.value
                sent, thrown = None, None
                try:
                    sent = yield item
                except GeneratorExit:
                    with inside:
                        body.close()
                    raise
                except BaseException as given:
                    thrown = given
        except BaseException as failed:
            error = failed
            raise
        finally:
            _finish(span, error)
            error = None

    return steps


def _async_generator(function, name, keywords, kind):
    @functools.wraps(function)
    async def steps(*args, **kwargs):
        span = Span(name, keywords, kind)
        inside = _Suspended(span)
        error = None
        try:
            with inside:
                body = function(*args, **kwargs)
            sent, thrown = None, None
            while True:
                try:
                    with inside:
                        item = await (body.asend(sent) if thrown is None else body.athrow(thrown))
                except StopAsyncIteration:
                    return
                sent, thrown = None, None
                try:
                    sent = yield item
                except GeneratorExit:
                    with inside:
                        await body.aclose()
                    raise
                except BaseException as given:
                    thrown = given
        except BaseException as failed:
            error = failed
            raise
        finally:
            _finish(span, error)
            error = None

    return steps
