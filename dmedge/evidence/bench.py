"""The `bench` stage: how long a bundle takes beside the fp32 bundle for the same target."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dmedge.artifact import Artifact, download_bytes, new_artifact, program_bytes
from dmedge.data.evalset import EvalSet
from dmedge.devices.browser import BrowserDevice
from dmedge.devices.local import LocalDevice
from dmedge.devices.names import BROWSERS, timing_device
from dmedge.devices.protocol import Device
from dmedge.devices.webgpu import Adapter
from dmedge.errors import ArtifactError, ConfigError
from dmedge.evidence.config import CONFIDENCE, BenchConfig
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.latency import Nanoseconds, Paired, case_json, median_interval, paired_ratio, percentiles_ms
from dmedge.evidence.timings import Timings, take_timings
from dmedge.evidence.verdict import Budget, BudgetLine, judge, overall
from dmedge.files import digest_file
from dmedge.runtime.browser_session import check_loader

STAGE = "bench"
SCHEMA = 2  # of bench.json; docs/artifacts.md says what each brought
REPORT, SAMPLES = "bench.json", "samples.npz"
LOCAL = LocalDevice.name
LABEL = "host figure, not a phone"
FRONT = {"encode_image": "decode_resize", "encode_text": "tokenise", "encode_text_longest": "tokenise"}
FRONT |= {"classify": "decode_resize"}


def bench_bundle(
    bundle: Artifact,
    find_twin: Callable[[], Artifact],
    baseline: Artifact,
    out: Path,
    *,
    data: EvalSet,
    config: BenchConfig,
    budget: Budget,
    accuracy: Mapping[str, Any] | None = None,
    find_probe: Callable[[], Artifact] | None = None,
) -> Artifact:
    """Time `bundle` and its full-precision twin in turns and write the evidence.

    Args:
        find_twin: finds or exports the twin; asked when `bundle` has run on the device and computes what it should.
        baseline: the float checkpoint that the twin is exported from.
        data: what `config` names; its pictures and texts are run.
        accuracy: what verification found of `bundle`; a latency without it is no result.
        find_probe: finds or exports what measures the peaks of the runtime, for the roofline that `config` asks for.

    Raises:
        ArtifactError: `out` exists, or the two are no bundles for one target.
        ConfigError: there is no such device.
        DmedgeError: the device is not reached, cannot run the bundle, or is software in place of a GPU.
        VerifyError: a bundle does not compute what it should; wrong answers have no latency.
    """
    check_passes(config)
    device = timing_device(config.device, Path(config.runner) if config.runner else None)
    if isinstance(device, BrowserDevice):
        check_loader(bundle)
    target = bundle.manifest.target
    _check_side(bundle, target)
    with new_artifact(out) as draft:
        timings = take_timings(
            bundle,
            lambda: _check_side(find_twin(), target),
            data,
            config,
            device,
            find_probe if config.roofline else None,
            baseline=baseline,
        )
        label = _label(device, timings)
        report = _report(timings, baseline, budget) | {"label": label, "device": config.device, "accuracy": accuracy}
        _write(draft.path, report, timings)
        return draft.finish(
            kind="evidence",
            stage=STAGE,
            config=asdict(config) | {"data": data.name, "budget": asdict(budget), "runner": runner_digest(config)},
            parents={
                "artifact": bundle.digest,
                "baseline": baseline.digest,
                "fp32_bundle": timings.sides["fp32"].digest,
            },
            summary={"label": label, "verdict": report["verdict"]}
            | {f"{name}_ratio": round(row["ratio"]["value"], 4) for name, row in report["programs"].items()},
            target=target,
        )


def _write(folder: Path, report: Mapping[str, Any], timings: Timings) -> None:
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / REPORT).write_text(text, encoding="utf-8")
    np.savez_compressed(folder / SAMPLES, **_raw(timings))


def _label(device: Device | BrowserDevice | None, timings: Timings) -> str:
    """Whose figures these are; a browser on this host is neither a phone nor its browser."""
    if isinstance(device, BrowserDevice):
        browser = str(timings.runtime["version"]).rpartition(", ")[2]
        adapter = timings.runtime.get("adapter")
        gpu = f", WebGPU by {Adapter(**adapter)}" if adapter else ""
        return f"headless {browser} on this host{gpu}, not a phone"
    return LABEL if device is None else f"measured on {device.name}"


def runner_digest(config: BenchConfig) -> str | None:
    """What evidence says of a runner of one's own: its sha256, since a path tells a stranger nothing.

    Raises:
        ConfigError: there is no such file.
    """
    if config.runner is None:
        return None
    if not Path(config.runner).is_file():
        raise ConfigError(f"{config.runner}: no such file; expected a runner built for {config.device}")
    return digest_file(Path(config.runner)).sha256


def check_passes(config: BenchConfig) -> None:
    """Refuse what cannot be measured on the device, before any work.

    Raises:
        ConfigError: a profile is asked for elsewhere, or a roofline in a browser.
    """
    if config.roofline and config.device in BROWSERS:
        raise ConfigError(
            f"roofline on {config.device}: the products that measure a peak are made for runtimes outside of browsers; "
            f"expected another device, such as {LOCAL}; leave --roofline out there"
        )
    if config.profile and config.device != LOCAL:
        raise ConfigError(
            f"profile on {config.device}: the profilers of the runtimes are asked through their Python packages; "
            f"expected --device {LOCAL}; leave --profile out there"
        )


def _check_side(side: Artifact, target: str | None) -> Artifact:
    if side.manifest.kind != "bundle" or side.manifest.target != target:
        raise ArtifactError(
            f"{side.root}: a {side.manifest.kind} for target {side.manifest.target}; expected a bundle for "
            f"{target}; only bundles for one target are compared; run dmedge export"
        )
    return side


def _report(timings: Timings, baseline: Artifact, budget: Budget) -> dict[str, Any]:
    """The content of bench.json."""
    sides = timings.sides
    lines = judge_latency(timings.cases, budget)
    runtime = timings.runtime["runtime"]
    coverage = measure_coverage(sides["artifact"], runtime)
    return {
        "schema_version": SCHEMA,
        "verdict": overall(lines) if lines else None,
        "budgets": [line.to_json() for line in lines],
        "artifact_sha256": sides["artifact"].digest,
        "baseline_sha256": baseline.digest,
        "fp32_bundle_sha256": sides["fp32"].digest,
        "target": sides["artifact"].manifest.target,
        "programs": {case.case.name: case_json(case) | _end_to_end(case, timings.front) for case in timings.cases},
        "front_end": {name: percentiles_ms(samples) for name, samples in timings.front.items()},
        "start": {side: _start_json(starts) for side, starts in timings.starts.items()},
        "size": {
            side: {"program_bytes": program_bytes(artifact, runtime), "download_bytes": download_bytes(artifact)}
            for side, artifact in sides.items()
        },
        "parity": {side: parity.to_json() for side, parity in timings.parity.items()},
        "coverage": coverage.to_json() if coverage else None,
        "profile": timings.profile,
        "roofline": timings.roofline,
        "sustained": timings.sustained,
        "runtime": timings.runtime,
        "host": timings.host,
    }


def judge_latency(cases: Sequence[Paired], budget: Budget) -> list[BudgetLine]:
    """One line for the program that gained least, if the budget names a limit.

    One of several programs is slow by chance more often than one alone, so the intervals are widened for their
    number. Where there are too few rounds for an interval, nothing is decided.
    """
    if budget.latency_ratio is None:
        return []
    value = max(paired_ratio(case).value for case in cases)
    confidence = 1 - (1 - CONFIDENCE) / len(cases)
    intervals = [median_interval(case, confidence=confidence) for case in cases]
    known = [interval for interval in intervals if interval is not None]
    low, high = (max((interval[end] for interval in known), default=None) for end in (0, 1))
    return [judge("latency_ratio", budget.latency_ratio, value, low, high if len(known) == len(cases) else None)]


def _end_to_end(case: Paired, front: Mapping[str, Nanoseconds]) -> dict[str, Any]:
    """Front end plus program, sample by sample; nothing where there is no front end, or none was timed."""
    if FRONT.get(case.case.name) not in front:
        return {}
    before = front[FRONT[case.case.name]]
    sides = {"artifact": case.artifact_ns.ravel(), "fp32": case.baseline_ns.ravel()}
    return {"end_to_end": {name: percentiles_ms(np.resize(before, ns.size) + ns) for name, ns in sides.items()}}


def _start_json(starts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the repeats, and every repeat."""
    programs = starts[0]["first_ms"]
    medians = {key: float(np.median([start[key] for start in starts])) for key in starts[0] if key != "first_ms"}
    first = {program: float(np.median([start["first_ms"][program] for start in starts])) for program in programs}
    return medians | {"first_ms": first, "repeats": list(starts)}


def _raw(timings: Timings) -> dict[str, Any]:
    """Every sample in ns: [rounds, samples] per case and side, [runs] of the front end."""
    raw: dict[str, Any] = dict(timings.front)
    for case in timings.cases:
        raw[f"{case.case.name}_artifact_ns"] = case.artifact_ns
        raw[f"{case.case.name}_fp32_ns"] = case.baseline_ns
    return raw
