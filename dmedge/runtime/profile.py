"""What the profiler of a runtime says of one program: its operators, and how long each takes in a run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import median

WARM_UP = 10  # runs that a profiler sees and that are not counted


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a program, as the runtime has fused it.

    Times are medians over the runs: on a busy machine a single interruption is longer than most operators.
    """

    name: str
    kind: str  # such as "Conv", or who runs it
    calls: float  # in one run
    ns: float  # of one run, all calls


@dataclass(frozen=True, slots=True)
class Profile:
    """Operators by name, the slowest first."""

    profiler: str
    runs: int
    whole_ns: float  # of one run under the profiler, which makes it longer
    operators: tuple[Operator, ...]

    @property
    def operators_ns(self) -> float:
        """All operators of one run."""
        return fsum(operator.ns for operator in self.operators)


def gathered(runs: Sequence[Iterable[tuple[str, str, float]]]) -> tuple[Operator, ...]:
    """Operators from single events.

    Args:
        runs: name, kind and nanoseconds of every event of every run that counts.
    """
    found: dict[tuple[str, str], list[list[float]]] = {}
    for number, events in enumerate(runs):
        for name, kind, ns in events:
            found.setdefault((name, kind), [[] for _ in runs])[number].append(ns)
    operators = [
        Operator(name, kind, sum(map(len, each)) / len(runs), median(map(fsum, each)))
        for (name, kind), each in found.items()
    ]
    return tuple(sorted(operators, key=lambda operator: -operator.ns))
