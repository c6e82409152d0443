"""What the extension module takes from Python: its error, and how an exception is written out."""
from __future__ import annotations


class SpanringError(Exception):
    """What the engine could not do: `code` is one of SPANRING_ERROR_... in spanring.h, the text says why."""

    def __init__(self, code: int, text: str):
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.text


def format_exception(exception: BaseException) -> str:
    # Not at import: most programs import it anyway, some never need it.
    import traceback

    return "".join(traceback.format_exception(type(exception), exception, exception.__traceback__))
