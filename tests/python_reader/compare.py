"""Counts checks, and finds where two batches of OTLP/JSON differ."""

SHOWN_MAX = 300


class Results:
    """Counts checks, and tells of those that fail."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def check(self, name, problem):
        """One check, which failed if there is a problem."""
        if problem is None:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {name}: {problem}")


def flatten(batch):
    """The spans of a batch of OTLP/JSON, each with all that surrounds it; what is without spans, too."""
    spans = []
    for resource_spans in batch.get("resourceSpans", []):
        scopes = resource_spans.pop("scopeSpans", [])
        for scope_spans in scopes or [{}]:
            inner = scope_spans.pop("spans", [])
            around = {"of": resource_spans, "in": scope_spans}
            spans.extend({"span": span, **around} for span in inner or [None])
    return spans


def difference(ours, theirs, place=""):
    """Where two JSON values differ first, or None. 1, 1.0 and true are three values."""
    if type(ours) is not type(theirs):
        return f"{place or 'value'}: {shown(ours)}; Rust reads {shown(theirs)}"
    if isinstance(ours, dict):
        for name in ours.keys() | theirs.keys():
            if name not in ours or name not in theirs:
                whose = "Rust does not read it" if name in ours else "only Rust reads it"
                return f"{place}.{name}: {whose}: {shown(ours.get(name, theirs.get(name)))}"
            found = difference(ours[name], theirs[name], f"{place}.{name}")
            if found:
                return found
    elif isinstance(ours, list):
        for index, (our, their) in enumerate(zip(ours, theirs)):
            found = difference(our, their, f"{place}[{index}]")
            if found:
                return found
        if len(ours) != len(theirs):
            return f"{place}: {len(ours)} items; Rust reads {len(theirs)}"
    # The text of a number tells 0.0 from -0.0.
    elif repr(ours) != repr(theirs):
        return f"{place or 'value'}: {shown(ours)}; Rust reads {shown(theirs)}"
    return None


def shown(value):
    """A value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}... ({len(text)} characters)"
