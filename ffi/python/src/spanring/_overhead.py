"""What tracing costs a piece of work."""
from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

from . import _spanring


class Overhead(NamedTuple):
    """What `overhead` found; milliseconds.

    `overhead` is how much longer a traced run took than the untraced one beside it, in the median, and `noise` how far the middle half of
    these differences lies around it: an overhead that is not larger is not to be told from chance.
    """

    rounds: int
    baseline: float
    traced: float
    overhead: float
    noise: float

    @property
    def percent(self):
        """The overhead as a part of the baseline."""
        return self.overhead / self.baseline * 100 if self.baseline else 0.0

    @property
    def is_measurable(self):
        """Whether the overhead is larger than the noise."""
        return abs(self.overhead) > self.noise

    def __str__(self):
        chance = "" if self.is_measurable else "; not to be told from chance"
        return (
            f"untraced {self.baseline:.3f} ms, traced {self.traced:.3f} ms: {self.overhead:+.3f} ms ({self.percent:+.2f} %), "
            f"noise \u00b1{self.noise:.3f} ms, {self.rounds} rounds{chance}"
        )


def _at(numbers, part):
    return sorted(numbers)[round((len(numbers) - 1) * part)]


def _timed(work, is_traced):
    _spanring._pause(not is_traced)
    try:
        begin = perf_counter()
        work()
        return (perf_counter() - begin) * 1e3
    finally:
        _spanring._pause(False)


def overhead(work, rounds=20):
    """Calls `work` untraced and traced in turn, `rounds` times each after one of each that does not count, and says what tracing costs it.

    Untraced means that the calling thread's spans are not made; those of other threads are, also of those that `work` starts.
    """
    pairs = []
    for number in range(max(rounds, 1) + 1):
        order = (True, False) if number % 2 == 0 and number > 0 else (False, True)
        times = {is_traced: _timed(work, is_traced) for is_traced in order}
        pairs.append((times[False], times[True]))
    del pairs[0]
    differences = [traced - baseline for baseline, traced in pairs]
    return Overhead(
        rounds=len(pairs),
        baseline=_at([baseline for baseline, _ in pairs], 0.5),
        traced=_at([traced for _, traced in pairs], 0.5),
        overhead=_at(differences, 0.5),
        noise=(_at(differences, 0.75) - _at(differences, 0.25)) / 2,
    )
