"""The `bench` stage: how long a bundle takes beside the fp32 bundle for the same target."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dmedge.artifact import Artifact, new_artifact
from dmedge.data.evalset import EvalSet
from dmedge.devices.browser import BrowserDevice
from dmedge.devices.local import LocalDevice
from dmedge.devices.names import BROWSERS, timing_device
from dmedge.devices.protocol import Device
from dmedge.devices.webgpu import Adapter
from dmedge.errors import ArtifactError, ConfigError, DmedgeError
from dmedge.evidence.bench_json import bench_json, samples_of
from dmedge.evidence.config import BenchConfig
from dmedge.evidence.timings import Timings, take_timings
from dmedge.evidence.unfinished import keep_unfinished
from dmedge.evidence.verdict import Budget
from dmedge.files import digest_file
from dmedge.runtime.browser_session import check_loader

logger = logging.getLogger(__name__)

STAGE = "bench"
REPORT, SAMPLES = "bench.json", "samples.npz"
LOCAL = LocalDevice.name
LABEL = "host figure, not a phone"


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

    After an error, what was finished until then is kept: see `keep_unfinished`.
    """
    check_passes(config)
    device = timing_device(config.device, Path(config.runner) if config.runner else None)
    if isinstance(device, BrowserDevice):
        check_loader(bundle)
    target = bundle.manifest.target
    _check_side(bundle, target)
    timings = Timings()
    with new_artifact(out) as draft:
        with _kept_unfinished(out, timings, config):
            take_timings(
                timings,
                bundle,
                lambda: _check_side(find_twin(), target),
                data,
                config,
                device,
                find_probe if config.roofline else None,
                baseline=baseline,
            )
        label = _label(device, timings)
        report = bench_json(timings, baseline, budget, config)
        report |= {"label": label, "device": config.device, "accuracy": accuracy}
        _write(draft.path, report, samples_of(timings, config))
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


@contextmanager
def _kept_unfinished(out: Path, timings: Timings, config: BenchConfig) -> Iterator[None]:
    """Keep what was finished when an error ends it, and have the error say where."""
    try:
        yield
    except (DmedgeError, KeyboardInterrupt) as error:
        kept = None
        try:
            kept = keep_unfinished(out, timings, config, str(error) or "interrupted")
        except OSError as second:  # it would hide what broke off
            logger.warning("what was finished until then cannot be kept: %s", second)
        if kept is not None and isinstance(error, DmedgeError):
            error.args = (f"{error}; what was finished until then is in {kept}",)
        raise


def _write(folder: Path, report: Mapping[str, Any], samples: Mapping[str, Any]) -> None:
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / REPORT).write_text(text, encoding="utf-8")
    np.savez_compressed(folder / SAMPLES, **samples)


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
