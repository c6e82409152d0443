from collections.abc import Sequence
from typing import Any

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.util import types

from . import _Setting

class Span(api.Span):
    @property
    def name(self) -> str | None: ...
    @property
    def kind(self) -> api.SpanKind | None: ...
    @property
    def context(self) -> api.SpanContext: ...
    def get_span_context(self) -> api.SpanContext: ...
    def is_recording(self) -> bool: ...
    def set_attributes(self, attributes: Any) -> None: ...
    def set_attribute(self, key: str, value: Any) -> None: ...
    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None: ...
    def add_link(self, context: api.SpanContext, attributes: types.Attributes = None) -> None: ...
    def update_name(self, name: str) -> None: ...
    def set_status(self, status: api.Status | api.StatusCode, description: str | None = None) -> None: ...
    def record_exception(
        self, exception: BaseException, attributes: types.Attributes = None, timestamp: int | None = None, escaped: bool = False
    ) -> None: ...
    def end(self, end_time: int | None = None) -> None: ...

class Tracer(api.Tracer):
    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: api.SpanKind = ...,
        attributes: types.Attributes = None,
        links: Sequence[api.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span: ...
    # For a with statement, or a decorator of functions and coroutines.
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: api.SpanKind = ...,
        attributes: types.Attributes = None,
        links: Sequence[api.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Any: ...

class TracerProvider(api.TracerProvider):
    def __init__(self, resource: Any = None, *, ignore_environment: bool = False, **settings: _Setting) -> None: ...
    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: types.Attributes = None,
    ) -> Tracer: ...
    def force_flush(self, timeout_millis: int = 30_000) -> bool: ...
    def shutdown(self) -> None: ...
