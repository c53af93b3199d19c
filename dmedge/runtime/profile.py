"""What the profiler of a runtime says of one program: its operators, and how long each takes in a run."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

WARM_UP = 10  # runs that a profiler sees and that are not counted


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a program, as the runtime has fused it; means over the runs that count."""

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


def summed(found: Iterable[tuple[str, str, float]], runs: int) -> tuple[Operator, ...]:
    """Operators from single events.

    Args:
        found: name, kind and nanoseconds of every event of the runs that count.
        runs: how many runs those were.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    for name, kind, ns in found:
        sums.setdefault((name, kind), []).append(ns)
    operators = [Operator(name, kind, len(all_ns) / runs, fsum(all_ns) / runs) for (name, kind), all_ns in sums.items()]
    return tuple(sorted(operators, key=lambda operator: -operator.ns))
