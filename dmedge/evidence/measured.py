"""What verification measured, as budget lines, as verify.json and as raw ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmedge.artifact import Artifact, download_bytes, program_bytes
from dmedge.data.evalset import EvalSet
from dmedge.environment import host_facts
from dmedge.evidence.accuracy import DIRECTIONS, Direction
from dmedge.evidence.agreement import Agreement
from dmedge.evidence.choices import Choices
from dmedge.evidence.comparison import JUDGED_K, Comparison
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.coverage import Coverage
from dmedge.evidence.groups import groups_json
from dmedge.evidence.leakage import TrainingCheck, data_digest
from dmedge.evidence.parity import ParityReport
from dmedge.evidence.reliability import Reliability
from dmedge.evidence.robustness import Robustness, judge_robustness
from dmedge.evidence.verdict import Budget, BudgetLine, judge, judge_exact, judge_retention, overall
from dmedge.runtime.session import SessionFacts
from dmedge.variants import variant_of

REPORT, RANKS = "verify.json", "ranks.npz"
RETENTIONS: Mapping[Direction, tuple[str, str]] = {  # budget lines of the mean over languages and of the worst one
    "text_to_image": ("macro_recall_at_10_retention", "worst_language_retention"),
    "image_to_text": ("image_to_text_retention", "worst_image_to_text_retention"),
}
UNBOUNDED = 1e6  # stands for an error without bounds, which JSON cannot write


@dataclass(frozen=True, eq=False, kw_only=True)
class Checked:
    """What verification looks at whatever the programs are for."""

    bundle: Artifact
    baseline: Artifact
    fp32_bundle: Artifact | None  # the baseline exported for the same target
    data: EvalSet
    parity: ParityReport
    coverage: Coverage | None
    training_checked: TrainingCheck
    is_calibration_known: bool
    facts: SessionFacts

    @property
    def parents(self) -> dict[str, str]:
        """Role -> digest of every artifact that was looked at."""
        parents = {"artifact": self.bundle.digest, "baseline": self.baseline.digest}
        return parents | ({"fp32_bundle": self.fp32_bundle.digest} if self.fp32_bundle else {})


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured(Checked):
    """What verification looks at of a bundle that embeds."""

    comparison: Comparison
    agreement: Agreement
    reliability: Mapping[str, Reliability] | None = None  # by head; None without a fusion
    robustness: Robustness | None = None  # None where it was not asked for
    embedded_by_baseline: str | None = None  # "images" or "texts": what a variant with one encoder lacks


@dataclass(frozen=True, eq=False, kw_only=True)
class Decided(Checked):
    """What verification looks at of a bundle that decides."""

    choices: Mapping[str, Choices]
    reliability: Mapping[str, Reliability] | None = None  # by head, of the variant `fused`


def judge_all(measured: Measured, budget: Budget) -> list[BudgetLine]:
    """One line for every limit that verification can judge, in the order of `Budget`."""
    lines = judge_retentions(measured.comparison, budget) + judge_checked(measured, budget)
    if (limit := budget.recall_at_10) is not None:
        found = measured.comparison.judged["text_to_image"].artifact
        lines.append(judge("recall_at_10", limit, found.value, found.low, found.high))
    if (limit := budget.robustness_drop) is not None:
        lines.append(judge_robustness(measured.robustness, limit))
    return lines


def judge_retentions(comparison: Comparison, budget: Budget) -> list[BudgetLine]:
    """What is kept of recall at 10, on the mean and in the worst language, by text and by picture.

    The two directions are judged apart: a text that comes too near to every picture spoils the answers to
    pictures, and is no worse found itself.
    """
    lines = []
    for direction, (mean, worst) in RETENTIONS.items():
        kept = comparison.judged[direction]
        if (limit := getattr(budget, mean)) is not None:
            lines.append(judge_retention(mean, limit, kept.macro))
        if (limit := getattr(budget, worst)) is not None:
            lines.append(judge_retention(worst, limit, kept.worst, languages=len(kept.languages)))
    return lines


def judge_choices(decided: Decided, budget: Budget) -> list[BudgetLine]:
    """One line for every limit that a bundle that decides can be judged by; its least agreement counts."""
    lines = judge_checked(decided, budget)
    if (limit := budget.choice_agreement) is not None:
        worst = min((choices.agreement for choices in decided.choices.values()), key=lambda found: found[0])
        lines.append(judge("choice_agreement", limit, *worst))
    return lines


def judge_checked(measured: Checked, budget: Budget) -> list[BudgetLine]:
    """Size, parity and plan."""
    size, lines = size_ratio(measured), []
    if (limit := budget.program_size_ratio) is not None:
        lines.append(judge("program_size_ratio", limit, size, size, size))
    if (limit := budget.parity_error_ratio) is not None:
        lines.append(judge_exact("parity_error_ratio", limit, min(measured.parity.error_ratio, UNBOUNDED)))
    if (limit := budget.plan_carried_out) is not None:
        coverage = measured.coverage
        share = coverage.share_carried_out if coverage else None
        lines.append(judge("plan_carried_out", limit, share, share, share))
    return lines


def size_ratio(measured: Checked) -> float | None:
    """Bytes of the programs that were judged over those of the fp32 bundle; None without one."""
    if measured.fp32_bundle is None:
        return None
    runtime = measured.facts["runtime"]
    return program_bytes(measured.bundle, runtime) / program_bytes(measured.fp32_bundle, runtime)


def report_json(measured: Measured, lines: Sequence[BudgetLine], config: VerifyConfig) -> dict[str, Any]:
    """The content of verify.json."""
    comparison = measured.comparison
    found = {
        "macro": comparison.macro_json(),
        "tags": {tag: comparison.macro_json(tag) for tag in comparison.artifact.tags()},
        "worst_language": comparison.worst_language(),
        "languages": comparison.languages_json(),
        "groups": groups_json(comparison),
        "agreement": measured.agreement.to_json(),
        "reliability": _heads_json(measured.reliability),
        "robustness": measured.robustness.to_json() if measured.robustness else None,
    }
    method = {
        "resamples": config.resamples,
        "confidence": config.confidence,
        "seed": config.seed,
        "interval": "bootstrap over emoji, paired; languages simultaneous (sup-t)",
        "ties": "count as ahead of the match",
        "embedded_by_baseline": measured.embedded_by_baseline,
    }
    return _whole_json(measured, lines, found, method)


def _heads_json(heads: Mapping[str, Reliability] | None) -> dict[str, Any] | None:
    return None if heads is None else {name: head.to_json() for name, head in heads.items()}


def choices_json(decided: Decided, lines: Sequence[BudgetLine]) -> dict[str, Any]:
    """The content of verify.json for a bundle that decides."""
    found: dict[str, Any] = {"choices": {name: choices.to_json() for name, choices in decided.choices.items()}}
    found["reliability"] = _heads_json(decided.reliability)
    return _whole_json(decided, lines, found, {"interval": "Wilson, 95 %"})


def _whole_json(
    measured: Checked, lines: Sequence[BudgetLine], found: Mapping[str, Any], method: Mapping[str, Any]
) -> dict[str, Any]:
    data = measured.data
    return {
        "verdict": overall(lines),
        "budgets": [line.to_json() for line in lines],
        "artifact_sha256": measured.bundle.digest,
        "baseline_sha256": measured.baseline.digest,
        "fp32_bundle_sha256": measured.fp32_bundle.digest if measured.fp32_bundle else None,
        "variant": variant_of(measured.bundle.manifest),
        "data": {
            "name": data.name,
            "sha256": data_digest(data),
            "n_images": len(data.images),
            "n_texts": len(data.texts),
            "n_languages": len(set(data.languages)),
            "training_checked": measured.training_checked,
            "calibration_checked": measured.is_calibration_known,
        },
        **found,
        "parity": measured.parity.to_json(),
        "coverage": measured.coverage.to_json() if measured.coverage else None,
        "size": _size_json(measured),
        "method": method,
        "runtime": {key: measured.facts[key] for key in ("runtime", "version", "threads")},
        "host": host_facts(),
    }


def _size_json(measured: Checked) -> dict[str, Any]:
    runtime = measured.facts["runtime"]
    sizes: dict[str, Any] = {
        "program_bytes": program_bytes(measured.bundle, runtime),
        "download_bytes": download_bytes(measured.bundle),
    }
    if measured.fp32_bundle is not None:
        sizes["fp32_program_bytes"] = program_bytes(measured.fp32_bundle, runtime)
        sizes["fp32_download_bytes"] = download_bytes(measured.fp32_bundle)
        sizes["ratio"] = size_ratio(measured)
    return sizes


def summary(report: Mapping[str, Any]) -> dict[str, object]:
    """The few facts of verify.json that the manifest repeats."""
    found = report["macro"]["text_to_image"]
    worst = report["worst_language"]
    return {
        "verdict": report["verdict"],
        "failed": [line["name"] for line in report["budgets"] if line["verdict"] == "fail"],
        f"recall_at_{JUDGED_K}": found["artifact"][f"recall_at_{JUDGED_K}"],
        f"baseline_recall_at_{JUDGED_K}": found["baseline"][f"recall_at_{JUDGED_K}"],
        "retention": found["retention"][f"recall_at_{JUDGED_K}"]["value"],
        "worst_language": worst,
        "worst_language_retention": report["languages"][worst]["retention_at_10"],
        "program_size_ratio": report["size"].get("ratio"),
        "n_texts": report["data"]["n_texts"],
        "n_languages": report["data"]["n_languages"],
    }


def choices_summary(report: Mapping[str, Any]) -> dict[str, object]:
    """The few facts of verify.json that the manifest repeats, for a bundle that decides."""
    return {
        "verdict": report["verdict"],
        "failed": [line["name"] for line in report["budgets"] if line["verdict"] == "fail"],
        "agreement": {name: row["agreement"] for name, row in report["choices"].items()},
        "accuracy": {name: row["accuracy"] for name, row in report["choices"].items()},
        "baseline_accuracy": {name: row["baseline_accuracy"] for name, row in report["choices"].items()},
        "program_size_ratio": report["size"].get("ratio"),
    }


def write_ranks(path: Path, comparison: Comparison) -> None:
    """Write every rank, with what it takes to judge again by another limit, another k or another method."""
    data = comparison.artifact.data
    columns: dict[str, Any] = {
        "text_language": comparison.artifact.language.astype(np.uint16),
        "languages": np.array(comparison.artifact.languages, dtype=np.str_),
        "image_cluster": comparison.cluster.astype(np.uint32),
    }
    columns |= {f"tag_{tag}": marked for tag, marked in data.tags.items()}
    for direction in DIRECTIONS:
        mine, theirs = comparison.artifact.queries[direction], comparison.baseline.queries[direction]
        columns[f"{direction}_text"] = mine.text.astype(np.uint32)
        columns[f"{direction}_image"] = mine.image.astype(np.uint32)
        columns[f"{direction}_gallery"] = mine.gallery.astype(np.uint32)
        columns[f"{direction}_artifact_rank"] = mine.rank.astype(np.uint32)
        columns[f"{direction}_baseline_rank"] = theirs.rank.astype(np.uint32)
    np.savez_compressed(path, **columns)
