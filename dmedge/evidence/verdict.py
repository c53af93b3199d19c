"""Budgets, and the rule that turns a measured interval into pass, fail or not enough data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

from dmedge.config import load_config
from dmedge.evidence.bootstrap import Estimate
from dmedge.evidence.config import CONFIDENCE

Verdict = Literal["pass", "fail", "not enough data"]

_MISS = 0.05  # accepted chance that a loss beyond the limit leaves no trace in the sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What an artifact may cost; the `[budget]` table of a recipe.

    The defaults are a gate, not an ambition. A line that is None is not judged.
    """

    macro_recall_at_10_retention: float | None = 0.98  # text to image, mean over languages, at least
    worst_language_retention: float | None = 0.95  # text to image recall at 10, every language, at least
    image_to_text_retention: float | None = 0.98  # image to text recall at 10, mean over languages, at least
    worst_image_to_text_retention: float | None = 0.95  # image to text recall at 10, every language, at least
    program_size_ratio: float | None = 0.30  # of the fp32 programs for the same target, at most
    parity_error_ratio: float | None = 1.0  # greatest error over its tolerance, at most
    plan_carried_out: float | None = 1.0  # share of the planned modules that are really quantized, at least
    choice_agreement: float | None = 0.95  # of the variants prompts and fused: decisions as the baseline's, at least
    recall_at_10: float | None = None  # text to image, mean over languages, of the artifact itself, at least
    robustness_drop: float | None = None  # recall lost under perturbations beyond the baseline's loss, at most
    match_auc_drop: float | None = None  # AUC of the match head below the baseline's, at most; so the next five
    class_accuracy_drop: float | None = None  # of the class head
    class_macro_f1_drop: float | None = None
    label_accuracy_drop: float | None = None  # of the labels of the variant prompts
    label_macro_f1_drop: float | None = None
    vqa_accuracy_drop: float | None = None  # of the answers to questions
    worst_match_accuracy_drop: float | None = None  # accuracy in every language below the baseline's, at most
    worst_class_accuracy_drop: float | None = None  # of the class head
    worst_vqa_accuracy_drop: float | None = None  # of the answers to questions
    latency_ratio: float | None = None  # of the fp32 bundle for the same target, every program, at most

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if limit is not None and not (math.isfinite(limit) and limit >= 0):
                raise ValueError(f"{name} is {limit}; expected a number from 0, or no such line")


def changed_limits(budget: Budget) -> dict[str, float | None]:
    """The limits that are not the defaults, by name: what a bundle says of its budget in its summary."""
    defaults = asdict(Budget())
    return {name: limit for name, limit in asdict(budget).items() if limit != defaults[name]}


def budget_of(summary: Mapping[str, Any]) -> Budget:
    """The budget that a bundle was exported with, by the summary of its manifest.

    Raises:
        ConfigError: it names a limit that is not known here.
    """
    return load_config(Budget, dict(summary.get("budget", {})), where="budget of the bundle")


HEAD_DROPS: Mapping[str, tuple[str, str]] = {  # limit -> head and figure that it is of
    "match_auc_drop": ("match", "auc"),
    "class_accuracy_drop": ("class", "accuracy"),
    "class_macro_f1_drop": ("class", "macro_f1"),
    "label_accuracy_drop": ("label", "accuracy"),
    "label_macro_f1_drop": ("label", "macro_f1"),
    "vqa_accuracy_drop": ("answer", "vqa_accuracy"),
}
WORST_DROPS: Mapping[str, tuple[str, str]] = {  # the same, of every language
    "worst_match_accuracy_drop": ("match", "accuracy"),
    "worst_class_accuracy_drop": ("class", "accuracy"),
    "worst_vqa_accuracy_drop": ("answer", "vqa_accuracy"),
}
AT_MOST = frozenset(
    {"program_size_ratio", "parity_error_ratio", "robustness_drop", "latency_ratio", *HEAD_DROPS, *WORST_DROPS}
)


EXACT = frozenset({"program_size_ratio", "parity_error_ratio", "plan_carried_out", "programs_work"})  # counted


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """One limit, what was measured against it, and the verdict."""

    name: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """The line as it stands in verify.json."""
        return asdict(self)


def judge(name: str, limit: float, value: float | None, low: float | None, high: float | None) -> BudgetLine:
    """Pass when the whole interval keeps the limit, fail when all of it breaks it, else not enough data.

    An exact figure, such as a size, has `low == high == value`. An end that is None is unknown:
    nothing passes or fails on its account.
    """
    if name in AT_MOST:
        passes, fails = high is not None and high <= limit, low is not None and low > limit
    else:
        passes, fails = low is not None and low >= limit, high is not None and high < limit
    verdict: Verdict = "pass" if passes else "fail" if fails else "not enough data"
    return BudgetLine(name, limit, value, low, high, verdict)


def judge_exact(name: str, limit: float, value: float) -> BudgetLine:
    """Judge a figure that is counted, not estimated."""
    return judge(name, limit, value, value, value)


def judge_retention(name: str, limit: float, estimate: Estimate, *, languages: int = 1) -> BudgetLine:
    """Judge a retention, and pass it only if the sample could have shown a loss.

    When none of n hits is lost the bootstrap sees no spread, yet a loss rate of r goes unseen with
    probability (1 - r)^n. So a pass takes at least ln(languages / 0.05) / (1 - limit) hits of the
    baseline: 150 for a limit of 0.98, and 153 in every one of 100 languages for a limit of 0.95. A
    limit above 0.99 asks for no more hits than 0.99 does.

    Source: the rule of three, Hanley and Lippman-Hand 1983, JAMA 249:1743.

    Args:
        languages: how many languages the floor is for; each of them is tried.
    """
    line = judge(name, limit, estimate.value, estimate.low, estimate.high)
    if line.verdict == "pass" and estimate.hits < hits_needed(limit, languages):
        return BudgetLine(name, limit, estimate.value, estimate.low, estimate.high, "not enough data")
    return line


def judge_drop(name: str, limit: float, drop: Sequence[float] | None, hits: int, *, languages: int = 1) -> BudgetLine:
    """Judge what is lost of a figure, and pass it only if the sample could have shown a loss, as a retention is.

    Args:
        drop: baseline less artifact, and the ends of its interval; None where it was not measured.
        hits: what the baseline has right, and could have been lost.
        languages: how many languages the limit is for; each of them is tried.
    """
    known = [end if math.isfinite(end) else None for end in drop] if drop else [None] * 3
    line = judge(name, limit, *known)
    if line.verdict == "pass" and hits < hits_needed(1 - limit, languages):
        return replace(line, verdict="not enough data")
    return line


def hits_needed(limit: float, languages: int = 1) -> int:
    """Least number of baseline hits (in each language) on which a retention limit can pass."""
    loss = max(1.0 - limit, 0.01)  # no sample could show that nothing at all is lost
    return math.ceil(math.log(languages / _MISS) / loss - 1e-9)


def pairs_needed(budget: Budget, languages: int) -> int:
    """Least number of texts of each language on which the limits of the worst one can pass, 0 without such a limit.

    As many as `hits_needed` asks for if the baseline has half of them right.
    """
    limits = [limit for name in WORST_DROPS if (limit := getattr(budget, name)) is not None]
    return max((2 * hits_needed(1 - limit, languages) for limit in limits), default=0)


def hits_to_fail(limit: float, kept: float, languages: int = 1, *, chance: float = 0.9) -> int:
    """Least number of independent baseline hits (in each language) that show a retention `kept` below `limit`.

    By the normal approximation: the interval of the loss must stay clear of the limit in `chance` of all samples.
    Hits on one picture are not independent of each other, so real data needs more.

    Raises:
        ValueError: `kept` is not below `limit`, which no sample can show.
    """
    if not 0 < kept < limit:
        raise ValueError(f"kept {kept}, limit {limit}; expected a retention between 0 and the limit")
    normal = NormalDist()
    reach = normal.inv_cdf(1 - (1 - CONFIDENCE) / 2 / languages) + normal.inv_cdf(chance)
    return math.ceil(reach**2 * kept * (1 - kept) / (limit - kept) ** 2)


def overall(lines: Sequence[BudgetLine]) -> Verdict:
    """Fail if a line fails, else not enough data if a line says so or there is none, else pass."""
    verdicts = {line.verdict for line in lines}
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts == {"pass"} else "not enough data"
