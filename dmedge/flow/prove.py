"""Verification and benchmarks as people ask for them: the baseline found, its fp32 bundle exported once."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from dmedge.artifact import Artifact, find_artifacts, load_artifact
from dmedge.data.evalset import EvalSet, EvalSplit
from dmedge.errors import ArtifactError, DataError
from dmedge.evidence.accuracy import Measurement
from dmedge.evidence.baseline import check_baseline, find_baseline
from dmedge.evidence.choices import VARIANTS as DECIDING
from dmedge.evidence.config import BenchConfig, VerifyConfig
from dmedge.evidence.verdict import Budget, budget_of
from dmedge.flow.evaluate import open_evalset
from dmedge.flow.twins import CACHE, fp32_twin
from dmedge.manifest import read_manifest
from dmedge.runtime.session import runtime_of
from dmedge.variants import variant_of

__all__ = ["BenchConfig", "VerifyConfig", "bench", "verify"]


def verify(
    bundle: Artifact, config: VerifyConfig, out: Path, *, baseline: Artifact | None = None, budget: Budget | None = None
) -> Artifact:
    """Judge a bundle against its float baseline and write the evidence.

    Args:
        baseline: the float checkpoint [default: the eldest that the bundle was made from].
        budget: what it may cost [default: what it was exported with].

    Raises:
        ArtifactError: `out` exists, or bundle and baseline do not belong together.
        DataError: the data cannot be used, has no text in a language of the bundle, or bundle or baseline
            were trained or calibrated on it.
        ProgramError: what the baseline returned is not finite, or not of unit length.
    """
    from dmedge.evidence.verify import verify_bundle

    _check_free(out)
    baseline = baseline or find_baseline(bundle)
    check_baseline(bundle, baseline)  # before any work
    data, measured = _open_data(config), None
    dropped = dropped_languages(bundle, baseline)
    if variant_of(bundle.manifest) not in DECIDING:
        if data.answers:
            data = without_languages(data, dropped)
        else:
            data, measured = _baseline_side(baseline.root.resolve(), baseline.digest, config, dropped)
    return verify_bundle(
        bundle,
        baseline,
        out,
        data=data,
        config=config,
        budget=budget or budget_of(bundle.manifest.summary),
        fp32_bundle=fp32_twin(baseline, bundle, out.parent / CACHE, config.runtime),
        measured_baseline=measured,
    )


def bench(
    bundle: Artifact, config: BenchConfig, out: Path, *, baseline: Artifact | None = None, budget: Budget | None = None
) -> Artifact:
    """Time a bundle in turns with its fp32 twin and write the evidence.

    Args:
        baseline: the float checkpoint [default: the eldest that the bundle was made from].
        budget: its `latency_ratio` is judged, if it names one [default: that of the export].

    The twin is exported when the bundle has run on the device: one that cannot is refused before that.

    Raises:
        ArtifactError: `out` exists, or bundle and baseline do not belong together.
        ConfigError: there is no such device.
        DmedgeError: the device is not reached, cannot run the bundle, or is software in place of a GPU.
        VerifyError: a bundle does not compute what it should.
    """
    from dmedge.evidence.bench import bench_bundle

    check_bench(bundle, config)
    _check_free(out)
    baseline = baseline or find_baseline(bundle)
    check_baseline(bundle, baseline)
    is_deciding = variant_of(bundle.manifest) in DECIDING
    dropped = frozenset[str]() if is_deciding else dropped_languages(bundle, baseline)
    return bench_bundle(
        bundle,
        partial(fp32_twin, baseline, bundle, out.parent / CACHE, config.runtime),
        baseline,
        out,
        data=without_languages(open_evalset(config.data, style=config.style), dropped),
        config=config,
        budget=budget or budget_of(bundle.manifest.summary),
        accuracy=find_accuracy(bundle),
        find_probe=partial(_probe, bundle, config.runtime, out.parent / CACHE),
    )


def check_bench(bundle: Artifact, config: BenchConfig) -> None:
    """Refuse what cannot be timed, before anything else is looked at.

    Raises:
        ArtifactError: the bundle has no loader for a browser.
        ConfigError: there is no such device, or it cannot measure what is asked for.
        DmedgeError: the device has no time.
    """
    from dmedge.devices.names import BROWSERS, check_device
    from dmedge.evidence.bench import check_passes
    from dmedge.runtime.browser_session import check_loader

    if check_device(config.device) in BROWSERS:
        check_loader(bundle)
    check_passes(config)


def _probe(bundle: Artifact, runtime: str | None, cache: Path) -> Artifact:
    """What measures the peaks of a roofline."""
    from dmedge.export.probe import probe_bundle

    return probe_bundle(runtime_of(bundle, runtime), cache)


def find_accuracy(bundle: Artifact) -> Mapping[str, Any] | None:
    """What the newest verification beside `bundle` found; None if there is none, or it could not judge it."""
    for folder in find_artifacts(bundle.root.parent):
        with suppress(ArtifactError):  # a damaged neighbour says nothing
            manifest = read_manifest(folder)
            if manifest.stage == "verify" and manifest.parents.get("artifact") == bundle.digest:
                found = {**manifest.summary, "data": manifest.config.get("data"), "evidence_sha256": manifest.digest}
                return None if "failure" in found else found
    return None


@lru_cache(maxsize=1)
def _baseline_side(
    root: Path, digest: str, config: VerifyConfig, dropped: frozenset[str]
) -> tuple[EvalSet, Measurement]:
    """The data and how the baseline does on it, remembered for the next bundle of the same checkpoint."""
    from dmedge.evidence.leakage import check_training, find_training
    from dmedge.evidence.verify import measure_baseline

    data = without_languages(_open_data(config), dropped)
    baseline = load_artifact(root, kind="checkpoint")
    assert baseline.digest == digest
    check_training(find_training(baseline), data)  # before any work
    return data, measure_baseline(baseline, data, config.threads)


@lru_cache(maxsize=1)
def _open_data(config: VerifyConfig) -> EvalSet:
    return open_evalset(
        config.data,
        style=config.style,
        split=cast(EvalSplit, config.split),
        max_per_language=config.max_per_language,
        seed=config.seed,
    )


def dropped_languages(bundle: Artifact, baseline: Artifact) -> frozenset[str]:
    """Languages of the baseline that compression gave up: a bundle is not judged by them."""
    return frozenset(baseline.manifest.languages) - frozenset(bundle.manifest.languages)


def without_languages(data: EvalSet, languages: Collection[str]) -> EvalSet:
    """The same gallery without the texts of some languages.

    Raises:
        DataError: no text is left.
    """
    if not languages:
        return data
    rest = data.subset(np.array([language not in languages for language in data.languages], bool))
    if not rest.texts:
        raise DataError(
            f"{data.name}: has text only in {', '.join(sorted(set(data.languages)))}, which the bundle gave up; "
            "expected one of its own languages; choose other --data"
        )
    return rest


def _check_free(out: Path) -> None:
    if out.exists():
        raise ArtifactError(f"{out}: exists already; expected a new directory; choose another --out or remove it")
