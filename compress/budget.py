"""What compression may cost, and how far a plan is from keeping to it."""

from collections.abc import Mapping
from dataclasses import dataclass

from dmedge.compress.config import CompressConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a search; None is no limit. Drops are relative to the float model's recall@10."""

    drop: float | None = None  # of the mean over languages
    drop_worst_language: float | None = None  # of the language that loses most
    size_mb: float | None = None  # weights on disk, 1e6 bytes
    latency_ratio: float | None = None  # estimated, of the float model on this host

    def given(self) -> dict[str, float]:
        """Those that are set, by name."""
        named = {name: getattr(self, name) for name in ("drop", "drop_worst_language", "size_mb", "latency_ratio")}
        return {name: limit for name, limit in named.items() if limit is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One plan that was tried, and what it came to."""

    keep: tuple[str, ...]  # groups of modules that stay float32
    recall_at_10: float
    drop: float
    worst_language: str
    drop_worst_language: float
    size_mb: float
    latency_ratio: float

    def overshoots(self, limits: Limits) -> dict[str, float]:
        """How far each limit is missed, as a share of it (of 1 % for a limit of 0); empty where all are kept."""
        missed = {}
        for name, limit in limits.given().items():
            value = float(getattr(self, name))
            if value > limit:
                missed[name] = (value - limit) / max(abs(limit), 0.01)
        return missed

    def score(self, limits: Limits) -> float:
        """1 where every limit is kept, and less the farther the worst of them is missed."""
        return 1 / (1 + max(self.overshoots(limits).values(), default=0.0))


def limits_of(config: CompressConfig) -> Limits | None:
    """The limits that `config` sets; None if it sets none, and there is nothing to search."""
    limits = Limits(
        drop=config.max_drop,
        drop_worst_language=config.max_drop_worst_language,
        size_mb=config.max_size_mb,
        latency_ratio=config.max_latency_ratio,
    )
    return limits if limits.given() else None


def relative_drop(before: float, after: float) -> float:
    """Share of a recall that is lost; 0 where there was none."""
    return (before - after) / before if before > 0 else 0.0


def worst_drop(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[str, float]:
    """The language that loses the largest share, and that share; ties go to the first name."""
    drops = {tag: relative_drop(recall, after[tag]) for tag, recall in before.items()}
    worst = min(drops, key=lambda tag: (-drops[tag], tag))
    return worst, drops[worst]


def missed_words(trial: Trial, limits: Limits) -> str:
    """What a trial missed, in words."""
    parts = [f"{name} {getattr(trial, name):.4g} (limit {limits.given()[name]:g})" for name in trial.overshoots(limits)]
    return ", ".join(parts)
