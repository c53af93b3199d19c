"""What verification measured, as budget lines, as verify.json and as raw ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmedge.artifact import Artifact, download_bytes, program_bytes
from dmedge.data.evalset import EvalSet
from dmedge.environment import host_facts
from dmedge.evidence.accuracy import DIRECTIONS
from dmedge.evidence.agreement import Agreement
from dmedge.evidence.comparison import JUDGED_K, Comparison
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.coverage import Coverage
from dmedge.evidence.leakage import data_digest
from dmedge.evidence.parity import ParityReport
from dmedge.evidence.verdict import Budget, BudgetLine, judge, judge_exact, judge_retention, overall
from dmedge.runtime.session import SessionFacts

REPORT, RANKS = "verify.json", "ranks.npz"
UNBOUNDED = 1e6  # stands for an error without bounds, which JSON cannot write


@dataclass(frozen=True, eq=False)
class Measured:
    """Everything that verification looked at."""

    bundle: Artifact
    baseline: Artifact
    fp32_bundle: Artifact | None  # the baseline exported for the same target
    data: EvalSet
    comparison: Comparison
    agreement: Agreement
    parity: ParityReport
    coverage: Coverage | None
    is_calibration_known: bool
    facts: SessionFacts

    @property
    def parents(self) -> dict[str, str]:
        """Role -> digest of every artifact that was looked at."""
        parents = {"artifact": self.bundle.digest, "baseline": self.baseline.digest}
        return parents | ({"fp32_bundle": self.fp32_bundle.digest} if self.fp32_bundle else {})


def judge_all(measured: Measured, budget: Budget) -> list[BudgetLine]:
    """One line for every limit that verification can judge, in the order of `Budget`."""
    kept = measured.comparison.judged["text_to_image"]
    size = size_ratio(measured)
    lines = []
    if (limit := budget.macro_recall_at_10_retention) is not None:
        lines.append(judge_retention("macro_recall_at_10_retention", limit, kept.macro))
    if (limit := budget.worst_language_retention) is not None:
        n = len(kept.languages)
        lines.append(judge_retention("worst_language_retention", limit, kept.worst, languages=n))
    if (limit := budget.program_size_ratio) is not None:
        lines.append(judge("program_size_ratio", limit, size, size, size))
    if (limit := budget.parity_error_ratio) is not None:
        lines.append(judge_exact("parity_error_ratio", limit, min(measured.parity.error_ratio, UNBOUNDED)))
    if (limit := budget.plan_carried_out) is not None:
        coverage = measured.coverage
        share = coverage.share_carried_out if coverage else None
        lines.append(judge("plan_carried_out", limit, share, share, share))
    if (limit := budget.recall_at_10) is not None:
        found = kept.artifact
        lines.append(judge("recall_at_10", limit, found.value, found.low, found.high))
    return lines


def size_ratio(measured: Measured) -> float | None:
    """Bytes of the programs that were judged over those of the fp32 bundle; None without one."""
    if measured.fp32_bundle is None:
        return None
    runtime = measured.facts["runtime"]
    return program_bytes(measured.bundle, runtime) / program_bytes(measured.fp32_bundle, runtime)


def report_json(measured: Measured, lines: Sequence[BudgetLine], config: VerifyConfig) -> dict[str, Any]:
    """The content of verify.json."""
    comparison, data = measured.comparison, measured.data
    return {
        "verdict": overall(lines),
        "budgets": [line.to_json() for line in lines],
        "artifact_sha256": measured.bundle.digest,
        "baseline_sha256": measured.baseline.digest,
        "fp32_bundle_sha256": measured.fp32_bundle.digest if measured.fp32_bundle else None,
        "data": {
            "name": data.name,
            "sha256": data_digest(data),
            "n_images": len(data.images),
            "n_texts": len(data.texts),
            "n_languages": len(comparison.artifact.languages),
            "calibration_checked": measured.is_calibration_known,
        },
        "macro": comparison.macro_json(),
        "tags": {tag: comparison.macro_json(tag) for tag in comparison.artifact.tags()},
        "worst_language": comparison.worst_language(),
        "languages": comparison.languages_json(),
        "agreement": measured.agreement.to_json(),
        "parity": measured.parity.to_json(),
        "coverage": measured.coverage.to_json() if measured.coverage else None,
        "size": _size_json(measured),
        "method": {
            "resamples": config.resamples,
            "confidence": config.confidence,
            "seed": config.seed,
            "interval": "bootstrap over emoji, paired; languages simultaneous (sup-t)",
            "ties": "count as ahead of the match",
        },
        "runtime": {key: measured.facts[key] for key in ("runtime", "version", "threads")},
        "host": host_facts(),
    }


def _size_json(measured: Measured) -> dict[str, Any]:
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
