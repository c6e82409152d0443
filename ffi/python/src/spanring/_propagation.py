"""W3C trace context: from headers and into them."""
from __future__ import annotations

from . import _spanring


def _str(value):
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("latin-1")
    return value if isinstance(value, str) else None


def _found(headers, wanted):
    """The values of a header, in any case, also as WSGI (HTTP_...) and ASGI (pairs of bytes) have them."""
    try:
        pairs = headers.items() if hasattr(headers, "items") else iter(headers)
    except TypeError:
        raise TypeError(f"headers must be a mapping or pairs, not {type(headers).__name__}") from None
    names = (wanted, "http_" + wanted)
    values = []
    for pair in pairs:
        try:
            name, value = pair
        except (TypeError, ValueError):
            raise TypeError("headers must be a mapping or pairs") from None
        name = _str(name)
        if name is None or name.lower() not in names:
            continue
        for one in value if isinstance(value, (list, tuple)) else (value,):
            text = _str(one)
            if text is not None:
                values.append(text)
    return values


def extract(headers):
    """The context that a request's headers carry: for a with statement, as a parent, or for a link.

    `headers` is a mapping or pairs, of str or bytes. Without a usable traceparent, spans below it are roots.
    """
    if isinstance(headers, (str, bytes)):
        raise TypeError(f"headers must be a mapping or pairs, not {type(headers).__name__}")
    if not isinstance(headers, dict) and not hasattr(headers, "items"):
        # It is read twice.
        try:
            headers = list(headers)
        except TypeError:
            raise TypeError(f"headers must be a mapping or pairs, not {type(headers).__name__}") from None
    parents = _found(headers, "traceparent")
    # Two of them: somebody is wrong, and who is cannot be known.
    parent = parents[0] if len(parents) == 1 else ""
    return _spanring._extract(parent, ",".join(_found(headers, "tracestate")) if parent else "", True)


def attach(what):
    """A context manager that makes a parent current: headers of a request, a Span (which it does not end), a Context, or None for none."""
    if what is None or isinstance(what, (_spanring.Span, _spanring.Context)):
        return _spanring._context_of(what)
    return extract(what)


def inject(headers, span=None):
    """Writes traceparent and tracestate of the current span (or of `span`) into a mutable mapping, and returns it."""
    if span is not None and not isinstance(span, (_spanring.Span, _spanring.Context)):
        raise TypeError(f"inject() takes a Span or a Context, not {type(span).__name__}")
    parent, state = _spanring._inject(span)
    if parent:
        headers["traceparent"] = parent
        if state:
            headers["tracestate"] = state
    return headers
