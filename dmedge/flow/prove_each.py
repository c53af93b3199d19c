"""Several bundles judged or timed one after another, each with evidence of its own, and what became of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmedge.artifact import Artifact
from dmedge.errors import ArtifactError, DmedgeError, ProgramError, RuntimeFailure, VerifyError
from dmedge.evidence.baseline import check_baseline, find_baseline
from dmedge.evidence.bench import REPORT as BENCH
from dmedge.evidence.broken import PROGRAMS_WORK
from dmedge.evidence.config import BenchConfig, VerifyConfig
from dmedge.evidence.judgeable import check_judgeable
from dmedge.evidence.measured import REPORT
from dmedge.evidence.standing import Standing, standing
from dmedge.evidence.verdict import Budget, BudgetLine, budget_of
from dmedge.flow.prove import bench, check_bench, verify
from dmedge.runtime.session import runtime_of

__all__ = ["BenchConfig", "Proof", "VerifyConfig", "bench_each", "places_of", "verify_each"]


@dataclass(frozen=True, eq=False)
class Proof:
    """One bundle, its evidence, and what that holds; or the error that left none."""

    bundle: Artifact
    evidence: Artifact | None
    report: dict[str, Any]
    error: DmedgeError | None = None

    @property
    def standing(self) -> Standing:
        """The row of this bundle, if it was verified."""
        return standing(self.bundle.name, self.bundle.manifest.target, self.report)

    @property
    def failed(self) -> list[str]:
        """Names of the budgets that failed."""
        return [line["name"] for line in self.report["budgets"] if line["verdict"] == "fail"]


def places_of(bundles: Sequence[Artifact], out: Path | None, suffix: str) -> list[Path]:
    """Where the evidence of every bundle goes: beside it, or `out`, which holds one for each of several.

    Raises:
        ArtifactError: two would go to one place, or something stands there.
    """
    if out is None or len(bundles) == 1:
        places = [out or bundle.sibling(suffix) for bundle in bundles]
    else:
        places = [out / f"{bundle.name}-{suffix}" for bundle in bundles]
    for place, bundle in zip(places, bundles, strict=True):
        if places.count(place) > 1:
            raise ArtifactError(
                f"{place}: would hold the evidence of several bundles called {bundle.name}; expected names that "
                "differ, or each bundle once; leave out --out, or judge them one by one"
            )
        if place.exists():
            raise ArtifactError(f"{place}: exists already; expected a new directory; choose another --out or remove it")
    return places


def verify_each(
    bundles: Sequence[Artifact],
    config: VerifyConfig,
    places: Sequence[Path],
    *,
    baseline: Artifact | None = None,
    budgets: Sequence[Budget] | None = None,
) -> list[Proof]:
    """Judge every bundle as `verify` does; nothing is begun if a baseline does not fit, or one lacks what it takes.

    A baseline that several share is measured once, where they kept the same languages.

    Args:
        budgets: what each of them may cost [default: what it was exported with].

    Raises:
        ArtifactError: a place is taken, bundle and baseline do not belong together, or a bundle lacks a program, a file
            or a golden case.
        DataError: the data cannot be used.
        ProgramError: what a baseline returned is not finite, or not of unit length.
    """
    jobs = _jobs(bundles, places, baseline, budgets)
    for bundle in bundles:
        check_judgeable(bundle, config.runtime)
    return [
        _proof(bundle, verify(bundle, config, place, baseline=theirs, budget=budget), REPORT)
        for bundle, theirs, place, budget in jobs
    ]


def bench_each(
    bundles: Sequence[Artifact],
    config: BenchConfig,
    places: Sequence[Path],
    *,
    baseline: Artifact | None = None,
    budgets: Sequence[Budget] | None = None,
) -> list[Proof]:
    """Time every bundle as `bench` does; nothing is begun if a baseline does not fit.

    One of several whose runtime fails, or that computes something else, leaves the others their turn; any other error
    ends it, and what was found until then is returned. All begin as cool as the first did.

    Raises:
        As `bench`, for one bundle, or where nothing is found yet.
    """
    for bundle in bundles:
        check_bench(bundle, config)
    proofs: list[Proof] = []
    for bundle, theirs, place, budget in _jobs(bundles, places, baseline, budgets):
        try:
            proof = _proof(bundle, bench(bundle, config, place, baseline=theirs, budget=budget), BENCH)
        except DmedgeError as error:
            is_finding = isinstance(error, (ProgramError, RuntimeFailure, VerifyError))
            if len(bundles) == 1 or not (proofs or is_finding):
                raise
            proofs.append(Proof(bundle, None, _broken_json(bundle, config, error), error))
            if not is_finding:
                break
        else:
            proofs.append(proof)
            config = _as_cool_as(proof.report, config)
    return proofs


def _as_cool_as(report: Mapping[str, Any], config: BenchConfig) -> BenchConfig:
    """The same settings, with the temperature that counted as cool."""
    cooling = report["cooling"]
    return replace(config, cool_c=cooling["limit_c"]) if cooling else config


def _broken_json(bundle: Artifact, config: BenchConfig, error: DmedgeError) -> dict[str, Any]:
    """What is said of a bundle that could not be timed to the end."""
    runtime = runtime_of(bundle, config.runtime)
    version = bundle.manifest.tools.get(runtime, "unknown")
    return {
        "verdict": "fail",
        "budgets": [BudgetLine(PROGRAMS_WORK, 1.0, 0.0, 0.0, 0.0, "fail").to_json()],
        "failure": str(error),
        "artifact_sha256": bundle.digest,
        "programs": {},
        "runtime": {"runtime": runtime, "version": version, "threads": config.threads},
    }


def _proof(bundle: Artifact, evidence: Artifact, report: str) -> Proof:
    return Proof(bundle, evidence, json.loads(evidence.file(report).read_text(encoding="utf-8")))


def _jobs(
    bundles: Sequence[Artifact], places: Sequence[Path], baseline: Artifact | None, budgets: Sequence[Budget] | None
) -> list[tuple[Artifact, Artifact, Path, Budget]]:
    """Each bundle with its baseline, place and budget, once all baselines are known to fit."""
    baselines = [baseline or find_baseline(bundle) for bundle in bundles]
    for bundle, theirs in zip(bundles, baselines, strict=True):
        check_baseline(bundle, theirs)
    limits = budgets or [budget_of(bundle.manifest.summary) for bundle in bundles]
    return list(zip(bundles, baselines, places, limits, strict=True))
