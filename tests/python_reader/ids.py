"""From counters to trace IDs and span IDs ("IDs" of docs/batch-format.md)."""

from streams import MASK_64


class IdKeys:
    """The keys that follow from a batch's seed."""

    def __init__(self, seed):
        state, self.keys = seed[0], []
        for _ in range(9):
            state = (state + 0x9E3779B97F4A7C15) & MASK_64
            mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK_64
            mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & MASK_64
            self.keys.append(mixed ^ mixed >> 31 ^ seed[1])

    def span_id(self, counter):
        """The span ID of a counter; never zero."""
        return self._mix_not_zero(6, counter)

    def trace_id(self, counter):
        """The trace ID of a counter; its low half is never zero."""
        return self._mix(0, counter) << 64 | self._mix_not_zero(3, counter)

    def _mix_not_zero(self, first_key, counter):
        return self._mix(first_key, counter) or self._mix(first_key, MASK_64)

    def _mix(self, first_key, counter):
        a, b, c = self.keys[first_key : first_key + 3]
        mixed = (counter ^ a) * 0x9E3779B97F4A7C15 & MASK_64
        mixed ^= mixed >> 32
        mixed = (mixed + b) * 0xD6E8FEB86659FD93 & MASK_64
        mixed ^= mixed >> 29
        mixed = (mixed + c) * 0xBF58476D1CE4E5B9 & MASK_64
        return mixed ^ mixed >> 32
