"""The `verify` stage: a bundle on its real runtime against the float checkpoint that it came from."""

import json
from dataclasses import asdict
from pathlib import Path

from dmedge.artifact import Artifact, new_artifact
from dmedge.data.evalset import EvalSet
from dmedge.errors import ArtifactError
from dmedge.evidence.accuracy import Measurement, measure
from dmedge.evidence.agreement import agreement, draw_sample
from dmedge.evidence.baseline import check_baseline
from dmedge.evidence.comparison import Comparison
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.leakage import check_calibration, find_calibration
from dmedge.evidence.measured import (
    RANKS,
    REPORT,
    Measured,
    judge_all,
    report_json,
    summary,
    write_ranks,
)
from dmedge.evidence.parity import check_parity
from dmedge.evidence.verdict import Budget
from dmedge.runtime.encoder import Encoder
from dmedge.runtime.patience import patient_progress

STAGE = "verify"


def verify_bundle(
    bundle: Artifact,
    baseline: Artifact,
    out: Path,
    *,
    data: EvalSet,
    config: VerifyConfig,
    budget: Budget,
    fp32_bundle: Artifact | None = None,
    measured_baseline: Measurement | None = None,
) -> Artifact:
    """Measure `bundle`, judge it by `budget`, and write the evidence; the bundle is only read.

    Args:
        data: what `config` names.
        fp32_bundle: the baseline exported for the same target, which sizes are compared with; without
            it the size stays unjudged.
        measured_baseline: from `measure_baseline` with the same `data`, where it is known from before.

    Raises:
        ArtifactError: `out` exists, `bundle` is no bundle, or `baseline` is quantized or no ancestor of it.
        DataError: the bundle was calibrated on the evaluation data, or the data is empty.
        VerifyError: an embedding is not finite, or not of unit length.
    """
    if bundle.manifest.kind != "bundle":
        raise ArtifactError(f"{bundle.root}: found a {bundle.manifest.kind}; expected a bundle; run dmedge export")
    check_baseline(bundle, baseline)
    with new_artifact(out) as draft:
        measured = _measure(bundle, baseline, data, config, fp32_bundle, measured_baseline)
        lines = judge_all(measured, budget)
        report = report_json(measured, lines, config)
        digest = report["data"]["sha256"]
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (draft.path / REPORT).write_text(text, encoding="utf-8")
        write_ranks(draft.path / RANKS, measured.comparison)
        return draft.finish(
            kind="evidence",
            stage=STAGE,
            config=asdict(config) | {"data": data.name, "data_sha256": digest, "budget": asdict(budget)},
            parents=measured.parents,
            languages=measured.comparison.artifact.languages,
            summary=summary(report),
            target=bundle.manifest.target,
        )


def _measure(
    bundle: Artifact,
    baseline: Artifact,
    data: EvalSet,
    config: VerifyConfig,
    fp32_bundle: Artifact | None,
    measured_baseline: Measurement | None,
) -> Measured:
    calibration = find_calibration(bundle)
    with Encoder(
        bundle, threads=config.threads, workers=config.workers, runtime=config.runtime, show_progress=False
    ) as encoder:
        if calibration is not None:
            check_calibration(calibration, data, encoder.preprocess)
        parity = check_parity(encoder.session, bundle)
        mine = _measure_all(encoder, data, f"verifying {bundle.name}")
        facts = encoder.facts()[0]
    theirs = measured_baseline or measure_baseline(baseline, data, config.threads)
    comparison = Comparison(mine.report, theirs.report, config.resamples, config.confidence, config.seed)
    return Measured(
        bundle=bundle,
        baseline=baseline,
        fp32_bundle=fp32_bundle,
        data=data,
        comparison=comparison,
        agreement=agreement(mine, theirs),
        parity=parity,
        coverage=measure_coverage(bundle, facts["runtime"]),
        is_calibration_known=calibration is not None,
        facts=facts,
    )


def measure_baseline(baseline: Artifact, data: EvalSet, threads: int) -> Measurement:
    """Evaluate the float checkpoint, in torch."""
    with Encoder(baseline, threads=threads, show_progress=False) as encoder:
        return _measure_all(encoder, data, f"measuring {baseline.name}, the baseline")


def _measure_all(encoder: Encoder, data: EvalSet, description: str) -> Measurement:
    with patient_progress(description, len(data.texts)) as advance:
        return measure(encoder, data, draw_sample(data), advance)
