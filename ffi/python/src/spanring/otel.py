"""An OpenTelemetry tracer provider: instrumentations that exist write into spanring without a change.

    from opentelemetry import trace
    from spanring.otel import TracerProvider

    trace.set_tracer_provider(TracerProvider(service_name="shop", endpoint="http://localhost:4318"))

Needs opentelemetry-api, and not opentelemetry-sdk. What is current for OpenTelemetry is current for spanring, and the other way round.
"""
from __future__ import annotations

import functools
import inspect
import logging
from contextvars import ContextVar

from opentelemetry import context as context_api
from opentelemetry import trace as api
from opentelemetry.trace.propagation import _SPAN_KEY

from . import _pipeline, _spanring
from ._errors import SpanringError, format_exception
from ._spanring import _current, _start_span

__all__ = ["Span", "Tracer", "TracerProvider"]

_log = logging.getLogger(__name__)
_STARTED = 6  # SPANRING_ERROR_STARTED
_KINDS = {kind: kind.name.lower() for kind in api.SpanKind}
_STATUSES = {api.StatusCode.OK: "ok", api.StatusCode.ERROR: "error"}
_NO_PARENT = _spanring._context_of(None)


def _engine_context(of):
    """The engine's context of a SpanContext."""
    parent = f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags & 0xFF:02x}"
    return _spanring._extract(parent, of.trace_state.to_header(), of.is_remote)


def _span_context(of):
    """The SpanContext of an engine's span or context."""
    parent, state = _spanring._inject(of)
    if not parent:
        return api.INVALID_SPAN_CONTEXT
    _, trace_id, span_id, flags = parent.split("-")
    return api.SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=isinstance(of, _spanring.Context) and of.is_remote,
        trace_flags=api.TraceFlags(int(flags, 16)),
        trace_state=api.TraceState.from_header([state]) if state else None,
    )


def _engine_of(span):
    """What a span of OpenTelemetry is for the engine: a parent, or None if it is none."""
    if type(span) is Span:
        return span._engine
    if not isinstance(span, api.Span):
        return None
    of = span.get_span_context()
    return _engine_context(of) if of is not None and of.is_valid else None


def _span_of(engine):
    """What is current for the engine, as a span of OpenTelemetry."""
    if isinstance(engine, _spanring.Span):
        return Span(engine, None, None)
    of = _span_context(engine) if engine is not None else api.INVALID_SPAN_CONTEXT
    return api.NonRecordingSpan(of) if of.is_valid else api.INVALID_SPAN


def _usable(attributes):
    """Attributes without the keys that are none."""
    usable = {}
    for key, value in attributes.items():
        if isinstance(key, str):
            usable[key] = value
        else:
            _log.warning("attribute keys must be str, not %s: %r is left out", type(key).__name__, key)
    return usable


def _time(time):
    return time if time is None or type(time) is int else int(time)


# What was attached last, and what it was for the engine. If something else is current for the engine by now, then it is newer.
_attached = ContextVar("spanring_otel")


class _RuntimeContext(context_api._RuntimeContext):
    """Keeps OpenTelemetry's current span and the engine's the same. What was attached before it was there stays as it is."""

    def __init__(self, before):
        self.before = before

    def attach(self, context):
        span = context.get(_SPAN_KEY)
        engine = _engine_of(span) if span is not None else None
        return _attached.set((context, engine)), _current.set(engine)

    def get_current(self):
        found = _attached.get(None)
        context, engine = found if found is not None else (self.before.get_current(), None)
        now = _current.get(None)
        return context if now is engine else context_api.set_value(_SPAN_KEY, _span_of(now), context)

    def detach(self, token):
        if type(token) is not tuple:
            self.before.detach(token)
            return
        attached, current = token
        try:
            _attached.reset(attached)
        finally:
            _current.reset(current)


def _runtime_context():
    """The process's one, in the place of what OpenTelemetry had."""
    there = context_api._RUNTIME_CONTEXT
    if not isinstance(there, _RuntimeContext):
        there = context_api._RUNTIME_CONTEXT = _RuntimeContext(there)
    return there


class Span(api.Span):
    """A span of the engine, for OpenTelemetry's interface."""

    def __init__(self, engine, name, kind, record_exception=True, set_status_on_exception=True):
        self._engine = engine
        self._name = name
        self._kind = kind
        self._context = None
        self._ended = False
        self._record_exception = record_exception
        self._set_status_on_exception = set_status_on_exception

    @property
    def name(self):
        """The name; None for a span that spanring.span() made."""
        return self._name

    @property
    def kind(self):
        """The kind; None for a span that spanring.span() made."""
        return self._kind

    @property
    def context(self):
        """The same as get_span_context()."""
        return self.get_span_context()

    def get_span_context(self):
        if self._context is None:
            self._context = _span_context(self._engine)
        return self._context

    def is_recording(self):
        return self._engine.is_recording

    def _is_over(self, what):
        if self._ended:
            _log.warning("%s() of a span that has ended does nothing", what)
        return self._ended

    def set_attributes(self, attributes):
        if self._is_over("set_attributes"):
            return
        try:
            _spanring._set(self._engine, attributes)
        except TypeError:
            _spanring._set(self._engine, _usable(attributes))

    def set_attribute(self, key, value):
        self.set_attributes({key: value})

    def add_event(self, name, attributes=None, timestamp=None):
        if self._is_over("add_event"):
            return
        try:
            _spanring._event(self._engine, name, attributes, _time(timestamp))
        except TypeError:
            _spanring._event(self._engine, name, _usable(attributes), _time(timestamp))

    def add_link(self, context, attributes=None):
        if self._is_over("add_link") or context is None or not context.is_valid:
            return
        other = _engine_context(context)
        try:
            _spanring._link(self._engine, other, attributes)
        except TypeError:
            _spanring._link(self._engine, other, _usable(attributes))

    def update_name(self, name):
        if self._is_over("update_name"):
            return
        self._name = name
        self._engine.rename(name)

    def set_status(self, status, description=None):
        if self._is_over("set_status"):
            return
        if isinstance(status, api.Status):
            if description is not None:
                _log.warning("the description %r is left out, as a Status has its own", description)
            status, description = status.status_code, status.description
        elif status is not api.StatusCode.ERROR:
            description = None
        # UNSET changes nothing, as OpenTelemetry has it.
        if status in _STATUSES:
            self._engine.status(_STATUSES[status], None if description is None else str(description))

    def record_exception(self, exception, attributes=None, timestamp=None, escaped=False):
        if not self.is_recording():
            return
        kind = type(exception)
        module = kind.__module__
        try:
            message = str(exception)
        except Exception as failed:
            message = f"(its text could not be had: {type(failed).__name__})"
        try:
            trace = format_exception(exception)
        except Exception as failed:
            trace = f"(could not be had: {type(failed).__name__})"
        self.add_event(
            "exception",
            {
                "exception.type": f"{module}.{kind.__qualname__}" if module and module != "builtins" else kind.__qualname__,
                "exception.message": message,
                "exception.stacktrace": trace,
                "exception.escaped": str(escaped),
                **(attributes or {}),
            },
            timestamp,
        )

    def end(self, end_time=None):
        if self._is_over("end"):
            return
        self._ended = True
        if end_time is None:
            self._engine.end()
        else:
            self._engine.end_at(_time(end_time))

    def _fail(self, error, record_exception, set_status, escaped):
        """What leaves a block with an exception does."""
        if self.is_recording():
            if record_exception:
                self.record_exception(error, escaped=escaped)
            if set_status:
                try:
                    said = str(error)
                except Exception:
                    said = ""
                self.set_status(api.StatusCode.ERROR, f"{type(error).__name__}: {said}")

    def __exit__(self, kind, error, trace):
        if error is not None:
            self._fail(error, self._record_exception, self._set_status_on_exception, escaped=True)
        self.end()

    def __repr__(self):
        return f"<spanring.otel.Span {self._name!r} trace_id={self._engine.trace_id} span_id={self._engine.span_id}>"


class _Current:
    """What start_as_current_span gives: for a with statement, or a decorator."""

    __slots__ = ("_make", "_span", "_token", "_record_exception", "_set_status_on_exception", "_end_on_exit")

    def __init__(self, make, record_exception, set_status_on_exception, end_on_exit):
        self._make = make
        self._record_exception = record_exception
        self._set_status_on_exception = set_status_on_exception
        self._end_on_exit = end_on_exit

    def __enter__(self):
        self._span = self._make()
        self._token = context_api.attach(api.set_span_in_context(self._span))
        return self._span

    def __exit__(self, kind, error, trace):
        context_api.detach(self._token)
        span = self._span
        # Others, as GeneratorExit and CancelledError, are no failures.
        if isinstance(error, Exception):
            span._fail(error, self._record_exception, self._set_status_on_exception, escaped=False)
        if self._end_on_exit:
            span.end()

    def _again(self):
        return _Current(self._make, self._record_exception, self._set_status_on_exception, self._end_on_exit)

    def __call__(self, function):
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_coroutine(*args, **kwargs):
                with self._again():
                    return await function(*args, **kwargs)

            return call_coroutine

        @functools.wraps(function)
        def call(*args, **kwargs):
            with self._again():
                return function(*args, **kwargs)

        return call


class Tracer(api.Tracer):
    """Makes spans of one instrumentation scope."""

    def __init__(self, scope, runtime):
        self._scope = scope
        self._runtime = runtime

    def start_span(
        self,
        name,
        context=None,
        kind=api.SpanKind.INTERNAL,
        attributes=None,
        links=None,
        start_time=None,
        record_exception=True,
        set_status_on_exception=True,
    ):
        parent = None
        if context is not None or context_api._RUNTIME_CONTEXT is not self._runtime:
            parent = _engine_of(api.get_current_span(context)) or _NO_PARENT
        start = (_KINDS.get(kind), parent, _time(start_time), self._scope, True)
        try:
            engine = _start_span(name, attributes, *start)
        except TypeError:
            engine = _start_span(name, _usable(attributes), *start)
        span = Span(engine, name, kind, record_exception, set_status_on_exception)
        for link in links or ():
            span.add_link(link.context, link.attributes)
        return span

    def start_as_current_span(
        self,
        name,
        context=None,
        kind=api.SpanKind.INTERNAL,
        attributes=None,
        links=None,
        start_time=None,
        record_exception=True,
        set_status_on_exception=True,
        end_on_exit=True,
    ):
        def make():
            return self.start_span(name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception)

        return _Current(make, record_exception, set_status_on_exception, end_on_exit)


class TracerProvider(api.TracerProvider):
    """Gives tracers whose spans go into spanring's pipeline, which it starts as spanring.start() does if there is none.

    `resource` is a Resource of opentelemetry-sdk, if there is one already. Sampling, limits and delivery are settings of the pipeline: there are
    no span processors.
    """

    def __init__(self, resource=None, *, ignore_environment=False, **settings):
        if resource is not None:
            found = {key: value for key, value in resource.attributes.items() if not key.startswith("telemetry.sdk.")}
            found.update(settings.get("resource_attributes") or {})
            settings["resource_attributes"] = found
        try:
            _pipeline.start(ignore_environment=ignore_environment, **settings)
        except SpanringError as error:
            if error.code != _STARTED or settings:
                raise
        self._runtime = _runtime_context()

    def get_tracer(self, instrumenting_module_name, instrumenting_library_version=None, schema_url=None, attributes=None):
        if not instrumenting_module_name:
            _log.error("get_tracer() needs the name of the instrumentation")
        scope = _spanring._scope(str(instrumenting_module_name or ""), str(instrumenting_library_version or ""))
        return Tracer(scope, self._runtime)

    def force_flush(self, timeout_millis=30_000):
        """As spanring.flush(); False if the time is up."""
        try:
            _pipeline.flush(timeout_millis / 1000)
        except SpanringError:
            return False
        return True

    def shutdown(self):
        """As spanring.shutdown()."""
        _pipeline.shutdown(30)

    def __getattr__(self, name):
        if name == "add_span_processor":
            raise AttributeError(
                "spanring delivers spans by itself and has no span processors: give spanring.start() or TracerProvider() an endpoint or a dir"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
