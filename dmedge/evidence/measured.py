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
from dmedge.evidence.comparison import JUDGED_K, Comparison
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.coverage import Coverage
from dmedge.evidence.groups import groups_json
from dmedge.evidence.heads import Head
from dmedge.evidence.leakage import TrainingCheck, data_digest
from dmedge.evidence.paired import worst_drop
from dmedge.evidence.parity import ParityReport
from dmedge.evidence.robustness import Robustness, judge_robustness
from dmedge.evidence.verdict import (
    HEAD_DROPS,
    WORST_DROPS,
    Budget,
    BudgetLine,
    judge,
    judge_drop,
    judge_exact,
    judge_retention,
    overall,
)
from dmedge.runtime.session import SessionFacts
from dmedge.variants import variant_of

REPORT, RANKS = "verify.json", "ranks.npz"
SCHEMA_VERSION = 2  # of verify.json; 1, which did not say so, had `reliability` and `choices` in place of `heads`
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


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured(Checked):
    """What verification looks at of a bundle that embeds."""

    comparison: Comparison
    agreement: Agreement
    heads: Mapping[str, Head] | None = None  # by name; None without a fusion
    robustness: Robustness | None = None  # None where it was not asked for
    embedded_by_baseline: str | None = None  # "images" or "texts": what a variant with one encoder lacks


@dataclass(frozen=True, eq=False, kw_only=True)
class Decided(Checked):
    """What verification looks at of a bundle that decides, or that is asked questions."""

    heads: Mapping[str, Head]


def judge_all(measured: Measured, budget: Budget) -> list[BudgetLine]:
    """One line for every limit that verification can judge, in the order of `Budget`."""
    lines = judge_retentions(measured.comparison, budget) + judge_checked(measured, budget)
    if (limit := budget.recall_at_10) is not None:
        found = measured.comparison.judged["text_to_image"].artifact
        lines.append(judge("recall_at_10", limit, found.value, found.low, found.high))
    if (limit := budget.robustness_drop) is not None:
        lines.append(judge_robustness(measured.robustness, limit))
    return lines + judge_heads(measured.heads or {}, budget)


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


def judge_decisions(decided: Decided, budget: Budget) -> list[BudgetLine]:
    """One line for every limit that a bundle that decides can be judged by; its least agreement counts."""
    lines = judge_checked(decided, budget)
    if (limit := budget.choice_agreement) is not None:
        worst = min((head.agreement for head in decided.heads.values()), key=lambda found: found.value)
        lines.append(judge("choice_agreement", limit, *worst))
    return lines + judge_heads(decided.heads, budget)


def judge_heads(heads: Mapping[str, Head], budget: Budget) -> list[BudgetLine]:
    """One line for every limit of a head; not enough data where there is no such head, or its truth is not known."""
    lines = []
    for name, (head, figure) in {**HEAD_DROPS, **WORST_DROPS}.items():
        if (limit := getattr(budget, name)) is not None:
            found = heads[head] if head in heads and figure in heads[head].figures else None
            if found is None:
                lines.append(judge_drop(name, limit, None, 0))
            elif name in WORST_DROPS and (of := found.languages.values()):
                drop, hits = worst_drop([row.figures[figure] for row in of]), min(row.hits for row in of)
                lines.append(judge_drop(name, limit, drop, hits, languages=len(of)))
            else:
                lines.append(judge_drop(name, limit, found.figures[figure].drop, found.hits))
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
        "heads": None if measured.heads is None else _heads_json(measured.heads),
        "robustness": measured.robustness.to_json() if measured.robustness else None,
    }
    method = _draws_json(config) | {
        "interval": "bootstrap over emoji, paired; languages simultaneous (sup-t)",
        "ties": "count as ahead of the match",
        "embedded_by_baseline": measured.embedded_by_baseline,
    }
    return _whole_json(measured, lines, found, method)


def _heads_json(heads: Mapping[str, Head]) -> dict[str, Any]:
    return {name: head.to_json() for name, head in heads.items()}


def decisions_json(decided: Decided, lines: Sequence[BudgetLine], config: VerifyConfig) -> dict[str, Any]:
    """The content of verify.json for a bundle that decides."""
    interval = "agreement: Wilson, 95 %; figures: bootstrap over emoji or pictures, paired"
    return _whole_json(
        decided, lines, {"heads": _heads_json(decided.heads)}, _draws_json(config) | {"interval": interval}
    )


def _draws_json(config: VerifyConfig) -> dict[str, Any]:
    return {"resamples": config.resamples, "confidence": config.confidence, "seed": config.seed}


def _whole_json(
    measured: Checked, lines: Sequence[BudgetLine], found: Mapping[str, Any], method: Mapping[str, Any]
) -> dict[str, Any]:
    data = measured.data
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": overall(lines),
        "budgets": [line.to_json() for line in lines],
        "artifact_sha256": measured.bundle.digest,
        "baseline_sha256": measured.baseline.digest,
        "fp32_bundle_sha256": measured.fp32_bundle.digest if measured.fp32_bundle else None,
        "variant": variant_of(measured.bundle.manifest),
        "data": data_json(data)
        | {"training_checked": measured.training_checked, "calibration_checked": measured.is_calibration_known},
        **found,
        "parity": measured.parity.to_json(),
        "coverage": measured.coverage.to_json() if measured.coverage else None,
        "size": _size_json(measured),
        "method": method,
        "runtime": {key: measured.facts[key] for key in ("runtime", "version", "threads")},
        "host": host_facts(),
    }


def data_json(data: EvalSet) -> dict[str, Any]:
    """Which evaluation set it was."""
    return {
        "name": data.name,
        "sha256": data_digest(data),
        "n_images": len(data.images),
        "n_texts": len(data.texts),
        "n_languages": len(set(data.languages)),
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


def decisions_summary(report: Mapping[str, Any]) -> dict[str, object]:
    """The few facts of verify.json that the manifest repeats, for a bundle that decides."""
    heads: Mapping[str, Mapping[str, Any]] = report["heads"]
    leading: dict[str, Mapping[str, Any]] = {
        name: next(iter(head["figures"].values()), {}) for name, head in heads.items()
    }
    return {
        "verdict": report["verdict"],
        "failed": [line["name"] for line in report["budgets"] if line["verdict"] == "fail"],
        "agreement": {name: head["agreement"]["value"] for name, head in heads.items()},
        "accuracy": {name: row.get("artifact") for name, row in leading.items()},
        "baseline_accuracy": {name: row.get("baseline") for name, row in leading.items()},
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
