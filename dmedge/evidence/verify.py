"""The `verify` stage: a bundle on its real runtime against the float checkpoint that it came from.

Where a bundle has one encoder alone, the baseline embeds the other side in torch, as a server would. A bundle
that decides by itself is judged by its decisions, and so is any on questions, which describe no picture and so find
none: see `dmedge.evidence.decisions`.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dmedge.artifact import Artifact, new_artifact
from dmedge.data.evalset import EvalSet
from dmedge.errors import ArtifactError, ProgramError, RuntimeFailure
from dmedge.evidence.accuracy import Measurement, TextImageEncoder, measure, work_in
from dmedge.evidence.agreement import agreement, draw_sample
from dmedge.evidence.baseline import RUNS, check_baseline
from dmedge.evidence.broken import broken_json, broken_summary, is_finding
from dmedge.evidence.choices import VARIANTS
from dmedge.evidence.comparison import Comparison
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.decisions import measure_heads
from dmedge.evidence.leakage import TrainingCheck, check_calibration, check_training, find_calibration, find_training
from dmedge.evidence.measured import (
    RANKS,
    REPORT,
    Decided,
    Measured,
    decisions_json,
    decisions_summary,
    judge_all,
    judge_decisions,
    report_json,
    summary,
    write_ranks,
)
from dmedge.evidence.parity import check_parity
from dmedge.evidence.retrieval import Floats
from dmedge.evidence.trials import compare_heads, compare_robustness, plan_trials, run_baseline_trials, run_trials
from dmedge.evidence.verdict import Budget
from dmedge.patience import patient_progress
from dmedge.runtime.encoder import Encoder
from dmedge.variants import variant_of

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

    A program that its runtime cannot run, or that returns what is no embedding and no score, is a finding: evidence
    that fails, and says what became of it.

    Args:
        data: what `config` names.
        fp32_bundle: the baseline exported for the same target, which sizes are compared with; without
            it the size stays unjudged.
        measured_baseline: from `measure_baseline` with the same `data`, where it is known from before.

    Raises:
        ArtifactError: `out` exists, `bundle` is no bundle, or `baseline` is quantized or no ancestor of it.
        DataError: the bundle was trained or calibrated on the evaluation data, or the data is empty.
        ProgramError: what the baseline returned is not finite, or not of unit length.
    """
    if bundle.manifest.kind != "bundle":
        raise ArtifactError(f"{bundle.root}: found a {bundle.manifest.kind}; expected a bundle; run dmedge export")
    check_baseline(bundle, baseline)
    parents = {"artifact": bundle.digest, "baseline": baseline.digest}
    parents |= {"fp32_bundle": fp32_bundle.digest} if fp32_bundle else {}
    with new_artifact(out) as draft:
        try:
            if variant_of(bundle.manifest) in VARIANTS or data.answers:
                decided = _decide(bundle, baseline, data, config, budget, fp32_bundle)
                report = decisions_json(decided, judge_decisions(decided, budget), config)
                shown, languages = decisions_summary(report), bundle.manifest.languages
            else:
                measured = _measure(bundle, baseline, data, config, budget, fp32_bundle, measured_baseline)
                report = report_json(measured, judge_all(measured, budget), config)
                shown, languages = summary(report), measured.comparison.artifact.languages
                write_ranks(draft.path / RANKS, measured.comparison)
        except (RuntimeFailure, ProgramError) as error:
            if not is_finding(error, bundle):
                raise
            report = broken_json(bundle, parents, data, config, str(error))
            shown, languages = broken_summary(report), bundle.manifest.languages
        _write_report(draft.path / REPORT, report)
        return draft.finish(
            kind="evidence",
            stage=STAGE,
            config=asdict(config)
            | {"data": data.name, "data_sha256": report["data"]["sha256"], "budget": asdict(budget)},
            parents=parents,
            languages=languages,
            summary=shown,
            target=bundle.manifest.target,
        )


def _decide(
    bundle: Artifact,
    baseline: Artifact,
    data: EvalSet,
    config: VerifyConfig,
    budget: Budget,
    fp32_bundle: Artifact | None,
) -> Decided:
    """As `_measure`, for a variant that decides by itself, and for questions."""
    training = _check_training(bundle, baseline, data)
    calibration = find_calibration(bundle)
    with _open(bundle, config) as encoder, Encoder(baseline, threads=config.threads) as theirs:
        if calibration is not None:
            check_calibration(calibration, data, theirs.preprocess)
        return Decided(
            bundle=bundle,
            baseline=baseline,
            fp32_bundle=fp32_bundle,
            data=data,
            heads=measure_heads(encoder, theirs, bundle, data, config, budget),
            parity=check_parity(encoder.session, bundle),
            coverage=measure_coverage(bundle, encoder.facts()[0]["runtime"]),
            training_checked=training,
            is_calibration_known=calibration is not None,
            facts=encoder.facts()[0],
        )


def _write_report(path: Path, report: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _check_training(bundle: Artifact, baseline: Artifact, data: EvalSet) -> TrainingCheck:
    """As `check_training`; what the bundle comes from may stand beside its baseline too."""
    return check_training(find_training(bundle, (baseline.root.parent, RUNS)), data)


def _open(bundle: Artifact, config: VerifyConfig) -> Encoder:
    return Encoder(bundle, threads=config.threads, workers=config.workers, runtime=config.runtime, show_progress=False)


def _measure(
    bundle: Artifact,
    baseline: Artifact,
    data: EvalSet,
    config: VerifyConfig,
    budget: Budget,
    fp32_bundle: Artifact | None,
    measured_baseline: Measurement | None,
) -> Measured:
    training = _check_training(bundle, baseline, data)
    calibration = find_calibration(bundle)
    with ExitStack() as stack:
        encoder = stack.enter_context(_open(bundle, config))
        lacking = _lacking_side(encoder)
        other = None
        if lacking is not None:
            other = stack.enter_context(Encoder(baseline, threads=config.threads, show_progress=False))
            _check_widths(bundle, encoder, other)
        whole = Completed(encoder, other or encoder, lacking)
        preprocess = (other or encoder).preprocess
        if calibration is not None:
            check_calibration(calibration, data, preprocess)
        parity = check_parity(encoder.session, bundle)
        mine = _measure_all(whole, data, f"verifying {bundle.name}")
        trials = plan_trials(data, encoder.program_names, config, budget)
        my_answers = run_trials(trials, whole, encoder, mine.images, preprocess, bundle.name)
        facts = encoder.facts()[0]
    theirs = measured_baseline or measure_baseline(baseline, data, config.threads)
    their_answers = run_baseline_trials(trials, baseline, theirs.images, preprocess, config.threads)
    comparison = Comparison(mine.report, theirs.report, config.resamples, config.confidence, config.seed)
    return Measured(
        bundle=bundle,
        baseline=baseline,
        fp32_bundle=fp32_bundle,
        data=data,
        comparison=comparison,
        agreement=agreement(mine, theirs),
        heads=compare_heads(trials, my_answers, their_answers, encoder.labels, config),
        robustness=compare_robustness(trials, my_answers, their_answers, config),
        parity=parity,
        coverage=measure_coverage(bundle, facts["runtime"]),
        training_checked=training,
        is_calibration_known=calibration is not None,
        facts=facts,
        embedded_by_baseline=lacking,
    )


@dataclass(frozen=True, eq=False)
class Completed:
    """An encoder whose missing side another one embeds."""

    encoder: Encoder
    other: Encoder
    lacking: str | None  # "images" or "texts"; None: nothing

    def images(self, images: Sequence[Any]) -> Floats:
        """Embed images as [N, D] unit-norm rows."""
        return (self.other if self.lacking == "images" else self.encoder).images(images)

    def texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts as [T, D] unit-norm rows."""
        return (self.other if self.lacking == "texts" else self.encoder).texts(texts)


def _lacking_side(encoder: Encoder) -> str | None:
    sides = {"images": "encode_image", "texts": "encode_text"}
    return next((side for side, program in sides.items() if program not in encoder.program_names), None)


def _check_widths(bundle: Artifact, encoder: Encoder, baseline: Encoder) -> None:
    """The baseline can stand in only where both embed into one space.

    Raises:
        ArtifactError: the widths differ.
    """
    if encoder.embed_dim != baseline.embed_dim:
        raise ArtifactError(
            f"{bundle.root}: has one encoder, with embeddings of {encoder.embed_dim} numbers; expected "
            f"{baseline.embed_dim} as of the baseline, which embeds the other side; verify the variant dual of the "
            "same checkpoint"
        )


def measure_baseline(baseline: Artifact, data: EvalSet, threads: int) -> Measurement:
    """Evaluate the float checkpoint, in torch."""
    with Encoder(baseline, threads=threads, show_progress=False) as encoder:
        return _measure_all(encoder, data, f"measuring {baseline.name}, the baseline")


def _measure_all(encoder: TextImageEncoder, data: EvalSet, description: str) -> Measurement:
    with patient_progress(description, work_in(data)) as advance:
        return measure(encoder, data, draw_sample(data), advance)
