"""What a quantized model may cost, and by how much a plan goes beyond that."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from dmedge.compress.config import CompressConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Upper limits; None is no limit. Drops are relative: 0.01 of a recall of 0.80 is 0.008."""

    max_drop: float | None = None
    max_drop_worst_language: float | None = None
    max_size_mb: float | None = None
    max_latency_ratio: float | None = None

    def overshoots(self, cost: "PlanCost") -> dict[str, float]:
        """By how much `cost` goes beyond each limit that it does not keep; empty if it fits."""
        found = {
            "max_drop": cost.drop,
            "max_drop_worst_language": cost.worst_drop,
            "max_size_mb": cost.size_mb,
            "max_latency_ratio": cost.latency_ratio,
        }
        limits = {name: limit for name, limit in asdict(self).items() if limit is not None}
        return {name: found[name] - limit for name, limit in limits.items() if found[name] > limit}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCost:
    """What one plan costs on validation data; `latency_ratio` is an estimate."""

    size_mb: float
    recall_at_10: float
    drop: float
    worst_language: str
    worst_drop: float
    latency_ratio: float


class Kept(NamedTuple):
    """Groups of modules that a plan gives more bits than were asked for, the most sensitive first."""

    float32: tuple[str, ...] = ()
    int8: tuple[str, ...] = ()  # in place of int4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One plan that was tried."""

    kept: Kept
    cost: PlanCost
    overshoots: Mapping[str, float]
    score: float

    @property
    def fits(self) -> bool:
        """Whether the plan keeps the whole budget."""
        return not self.overshoots

    def row(self) -> dict[str, object]:
        """As JSON."""
        return {
            "kept_float32": list(self.kept.float32),
            "kept_int8": list(self.kept.int8),
            **asdict(self.cost),
            "overshoots": dict(self.overshoots),
            "fits": self.fits,
        }


def asked_budget(config: CompressConfig) -> Budget | None:
    """The limits that the settings name; None if there are none, so that nothing is searched for."""
    budget = Budget(
        max_drop=config.max_drop,
        max_drop_worst_language=config.max_drop_worst_language,
        max_size_mb=config.max_size_mb,
        max_latency_ratio=config.max_latency_ratio,
    )
    return None if budget == Budget() else budget


def relative_drops(baseline: Mapping[str, float], found: Mapping[str, float]) -> dict[str, float]:
    """Share of its recall that each language loses; negative is a gain.

    A language in which the baseline finds nothing has nothing to lose and is left out.
    """
    return {tag: (recall - found[tag]) / recall for tag, recall in baseline.items() if recall > 0}


def score(budget: Budget, baseline: float, recall: float, overshoots: Mapping[str, float]) -> float:
    """One number, higher is better, that a tuner with one tolerable relative loss judges as the budget does.

    Recall itself wherever that agrees. A plan that fits is raised to `least_score` if rounding left it below;
    one that does not falls short of it by what it goes beyond the limits, relative to each limit.

    Args:
        baseline: macro recall of the float model, above 0.
        recall: that of the plan.
    """
    least = least_score(budget, baseline)
    if not overshoots:
        return max(recall, least)
    limits = asdict(budget)
    beyond = sum(over / limits[name] if limits[name] else over for name, over in overshoots.items())
    return min(recall, least) - baseline * max(beyond, 1e-9)


def least_score(budget: Budget, baseline: float) -> float:
    """The score at which a plan is good enough: `baseline` less the tolerable loss."""
    return baseline * (1 - tolerable_loss(budget))


def tolerable_loss(budget: Budget) -> float:
    """The relative loss of recall that is allowed; all of it if no limit says otherwise."""
    return 1.0 if budget.max_drop is None else budget.max_drop
