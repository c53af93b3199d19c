"""What a benchmark measures beside latency: operators, on real programs in both runtimes."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.bench import _print_report
from dmedge.cli.main import cli
from dmedge.data.evalset import EvalSet
from dmedge.devices.energy import is_metered
from dmedge.devices.local import local_facts
from dmedge.errors import ConfigError, DmedgeError
from dmedge.evidence.bench import bench_bundle, check_passes
from dmedge.evidence.config import BenchConfig
from dmedge.evidence.latency import DRIFT, Case, Nanoseconds
from dmedge.evidence.profile import HOTTEST, profile_json
from dmedge.evidence.report import render
from dmedge.evidence.report_data import collect
from dmedge.evidence.roofline import Peaks, counted_inputs, exported_from, roofline_row
from dmedge.evidence.sustained import TURNS, Window, run_sustained, slowdown
from dmedge.evidence.verdict import Budget
from dmedge.export.probe import FLOAT, INT8, SIZE, probe_bundle
from dmedge.manifest import Runtime
from dmedge.model.quantized import DynamicLinear
from dmedge.model.traffic import count_traffic
from dmedge.runtime.onnx_profile import read_profile
from dmedge.runtime.profile import Profile, gathered
from dmedge.runtime.session import open_session
from dmedge.runtime.wire import Array
from dmedge.runtime.worker_session import WorkerSession
from tests.proven_bundles import data, pictures
from tests.tiny_bundles import (
    example_inputs,
    int8_checkpoint,
    onnx_bundle,
    onnx_int8_bundle,
    pte_int8_bundle,
    tiny_checkpoint,
)

__all__ = [
    "data",
    "int8_checkpoint",
    "onnx_bundle",
    "onnx_int8_bundle",
    "pictures",
    "pte_int8_bundle",
    "tiny_checkpoint",
]  # fixtures


SECTIONS = {
    "profile": "hottest operators</h2>",
    "roofline": ": roofline</h2>",
}  # key of bench.json -> what shows that the page has its section
PASSES = BenchConfig(rounds=2, repeats=1, profile=True, roofline=True, minutes=0.05)


@pytest.fixture(scope="module")
def evidence(
    tmp_path_factory: pytest.TempPathFactory,
    onnx_int8_bundle: Artifact,
    onnx_bundle: Artifact,
    tiny_checkpoint: Artifact,
    data: EvalSet,
) -> Artifact:
    """With every pass."""
    folder = tmp_path_factory.mktemp("passes")
    find_probe = partial(probe_bundle, "onnxruntime", folder / "cache")
    assert find_probe().root == find_probe().root  # made once
    return bench_bundle(
        onnx_int8_bundle,
        lambda: onnx_bundle,
        tiny_checkpoint,
        folder / "bench",
        data=data,
        config=PASSES,
        budget=Budget(),
        find_probe=find_probe,
    )


@pytest.fixture(scope="module")
def report(evidence: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(evidence.file("bench.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def page(evidence: Artifact) -> str:
    return render(collect(evidence.root))


# Operators


def test_operators_of_a_run_add_up_to_less_than_the_run(report: dict[str, Any]) -> None:
    profile = report["profile"]
    assert profile["profiler"] == "onnxruntime's profiler"
    assert set(profile["programs"]) == set(report["programs"])
    for row in profile["programs"].values():
        assert 0 < row["operators_us"] <= row["whole_us"]
        assert len(row["hottest"]) == min(HOTTEST, row["n_operators"])
        shares = [operator["share"] for operator in row["hottest"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1 + 1e-9
        assert all(operator["calls"] == 1 for operator in row["hottest"])
    kinds = {operator["kind"] for operator in profile["programs"]["encode_image"]["hottest"]}
    assert kinds & {"QLinearConv", "Conv"}


def test_the_command_and_the_page_name_the_hottest_operator(
    report: dict[str, Any], evidence: Artifact, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hottest = report["profile"]["programs"]["encode_image"]["hottest"][0]
    _print_report(report, evidence)
    said = capsys.readouterr().out
    assert "no latency" in said
    assert hottest["name"] in said
    assert f"Hottest operators of encode_image: {hottest['name']}" in page


def test_evidence_of_before_has_no_section_of_what_it_lacks(evidence: Artifact, page: str) -> None:
    collection = collect(evidence.root)
    (entry,) = collection.judged
    assert entry.bench is not None
    old = {key: value for key, value in entry.bench.items() if key not in SECTIONS and key != "schema_version"}
    before = render(replace(collection, judged=[replace(entry, bench=old)]))
    for heading in SECTIONS.values():
        assert heading in page
        assert heading not in before


def test_executorch_tells_the_operators_within_its_delegates(pte_int8_bundle: Artifact) -> None:
    with open_session(pte_int8_bundle) as session:
        assert isinstance(session, WorkerSession)
        profile = session.profile("encode_image", example_inputs("encode_image"), 20)
    found = profile_json(profile)
    assert found["runs"] == 20
    assert 0 < found["operators_us"] <= found["whole_us"]
    # XNNPACK counts whole microseconds, so a quick processor has a tiny convolution in none of them.
    assert any("onvolution" in operator.name for operator in profile.operators)
    assert all(operator["calls"] == 1 for operator in found["hottest"])


def test_elsewhere_a_profile_is_refused_before_any_work(onnx_int8_bundle: Artifact) -> None:
    done = CliRunner().invoke(cli, ["bench", str(onnx_int8_bundle.root), "--profile", "--device", "ssh:nobody@nowhere"])
    assert done.exit_code == 1
    assert "profile on ssh:nobody@nowhere" in " ".join(done.stderr.split())


def test_events_of_a_run_are_summed_and_the_median_run_counts() -> None:
    calm = [("a", "Conv", 2.0), ("b", "MatMul", 10.0), ("a", "Conv", 3.0)]
    interrupted = [("a", "Conv", 2.0), ("b", "MatMul", 10.0), ("a", "Conv", 4000.0)]
    operators = gathered([calm, interrupted, calm])
    assert [(operator.name, operator.calls, operator.ns) for operator in operators] == [("b", 1, 10), ("a", 2, 5)]
    assert Profile("p", 3, 30.0, operators).operators_ns == 15
    assert profile_json(Profile("p", 3, 30.0, ()))["hottest"] == []


def test_a_profile_without_its_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps([{"cat": "Session", "name": "model_run", "ts": 1, "dur": 5}]), encoding="utf-8")
    assert read_profile(path, 1).whole_ns == 5000
    with pytest.raises(DmedgeError, match="wrote 1 runs; expected 2"):
        read_profile(path, 2)


# Roofline


class Products(nn.Module):
    """A convolution, a linear layer and a product of two activations."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), linear

    def run(self, picture: Tensor) -> Tensor:
        rows = self.linear(self.conv(picture).flatten(2).relu())  # [1, 4, 64] to [1, 4, 8]
        return torch.bmm(rows, rows.transpose(1, 2))


def test_bytes_are_those_of_weights_and_of_what_products_read_and_write() -> None:
    pictures = [torch.ones(1, 3, 8, 8)]
    plain = count_traffic(Products(nn.Linear(64, 8)), "run", pictures)
    assert plain.weight_bytes == 4 * (4 * 3 * 9 + 8 * 64)
    assert plain.activation_bytes == 4 * ((3 * 64 + 4 * 64) + (4 * 64 + 4 * 8) + (4 * 8 + 4 * 8 + 4 * 4))
    rounded = count_traffic(Products(DynamicLinear(64, 8, has_bias=True)), "run", pictures)
    assert plain.weight_bytes - rounded.weight_bytes == 3 * 8 * 64
    assert rounded.activation_bytes == plain.activation_bytes


PEAKS = Peaks(float32_macs_per_s=1e10, int8_macs_per_s=4e10, bytes_per_s=1e9, size=1024)


def test_the_peak_of_mixed_work_lies_between_those_of_its_parts() -> None:
    assert PEAKS.of(100, 0) == 1e10
    assert PEAKS.of(100, 100) == 4e10
    assert PEAKS.of(100, 50) == pytest.approx(1.6e10)  # half at one speed, half at the other: their harmonic mean


def test_the_lower_roof_binds() -> None:
    work = {"macs": 10**6, "macs_int8": 0, "parameters": 1, "weight_bytes": 10**5, "activation_bytes": 0, "p50_ms": 1.0}
    bound = roofline_row(work, PEAKS)  # ten a byte, of which memory brings 1e9 a second
    assert (bound["bound"], bound["macs_per_byte"], bound["roof_macs_per_s"]) == ("compute", 10, 1e10)
    assert bound["of_roof"] == bound["of_float32_peak"] == pytest.approx(0.1)
    assert bound["of_int8_peak"] == pytest.approx(0.025)
    starved = roofline_row(work | {"weight_bytes": 10**6}, PEAKS)
    assert (starved["bound"], starved["roof_macs_per_s"], starved["of_roof"]) == ("memory", 1e9, pytest.approx(1))
    elsewhere = roofline_row(work | {"weight_bytes": 10**6}, replace(PEAKS, bytes_per_s=None))
    assert elsewhere["bound"] == "compute"
    assert roofline_row({"p50_ms": 1.0, "weight_bytes": None}, PEAKS)["of_roof"] is None


def test_a_twin_far_from_its_checkpoint_is_counted_by_the_baseline(
    onnx_bundle: Artifact, onnx_int8_bundle: Artifact, tiny_checkpoint: Artifact, tmp_path: Path
) -> None:
    shutil.copytree(onnx_bundle.root, tmp_path / "far")
    assert exported_from(load_artifact(tmp_path / "far"), tiny_checkpoint) == tiny_checkpoint
    found = exported_from(onnx_int8_bundle, tiny_checkpoint)
    assert found is not None and found.digest in onnx_int8_bundle.manifest.parents.values()


def test_texts_get_the_length_that_work_was_counted_for(onnx_bundle: Artifact) -> None:
    (text,) = [program for program in onnx_bundle.manifest.programs if program.name == "encode_text"]
    ids, mask = counted_inputs(text, [np.array([[5, 6, 7]], np.int32), np.ones((1, 3), np.int32)], 7)
    assert ids.tolist() == [[5, 6, 7, 5, 6, 7, 5]]
    assert mask.shape == (1, 7)


def test_every_program_of_both_sides_stands_beside_the_peaks(
    report: dict[str, Any], onnx_bundle: Artifact, onnx_int8_bundle: Artifact, page: str
) -> None:
    found = report["roofline"]
    assert found["peaks"]["size"] == 1024
    assert min(found["peaks"][f"{kind}_macs_per_s"] for kind in ("float32", "int8")) > 1e9
    assert found["programs"].keys() == {"artifact", "fp32"}
    for side, rows in found["programs"].items():
        towers: Any = {"artifact": onnx_int8_bundle, "fp32": onnx_bundle}[side].manifest.summary["towers"]
        counted = {tower["program"]: tower["coverage"]["onnxruntime"]["macs"] for tower in towers.values()}
        assert {name: row["macs"] for name, row in rows.items()} == counted
        for row in rows.values():
            assert 0 < row["of_float32_peak"] < 1
            assert 0 < row["macs_per_byte"] <= row["macs"]
            assert (row["macs_int8"] > 0) == (side == "artifact")
    for name, row in found["programs"]["artifact"].items():
        assert row["weight_bytes"] < found["programs"]["fp32"][name]["weight_bytes"]
    share = 100 * found["programs"]["artifact"]["fuse"]["of_roof"]
    assert f"fuse of artifact at {share:.0f} % of its roof" in page


@pytest.mark.parametrize(
    "runtime",
    ["onnxruntime", pytest.param("executorch", marks=[pytest.mark.slow, pytest.mark.thorough])],  # lowers for a minute
)
def test_a_probe_multiplies(runtime: Runtime, tmp_path: Path) -> None:
    probe = probe_bundle(runtime, tmp_path)
    rng = np.random.default_rng(0)
    with open_session(probe) as session:
        assert {program.name for program in session.programs} == {FLOAT, INT8}
        for program in session.programs:
            x = rng.integers(0, 100, (SIZE, SIZE)).astype(program.inputs[0].dtype)
            once, twice = session.run(program.name, [x])[0], session.run(program.name, [2 * x])[0]
            assert once.shape == (SIZE, SIZE) and once.std() > 0
            np.testing.assert_allclose(twice, 2 * once, rtol=1e-4, atol=1e-3 * np.abs(once).max())


def test_a_roofline_in_a_browser_is_refused() -> None:
    with pytest.raises(ConfigError, match="roofline on web: .*leave --roofline out"):
        check_passes(BenchConfig(device="web", roofline=True))


# Sustained


class Machine:
    """A session whose program takes `ns`, on a clock of its own; every second makes it slower by `slope`.

    To talk with it takes `talk` seconds each time.
    """

    def __init__(self, ns: float, slope: float = 0.0, talk: float = 0.0) -> None:
        self.ns, self.slope, self.talk, self.seconds = ns, slope, talk, 0.0

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> Nanoseconds:
        taken = np.full(runs, self.ns * (1 + self.slope * self.seconds)).astype(np.int64)
        self.seconds += taken.sum() / 1e9 + self.talk
        return taken

    def clock(self) -> float:
        return self.seconds


CASE = Case("encode_image", "encode_image", [[np.zeros(1)], [np.ones(1)]], [])


def sustain(machine: Machine, minutes: float, frequencies: Sequence[float | None] = (None,)) -> list[Window]:
    told = iter([*frequencies, *[frequencies[-1]] * 100])
    state = lambda: {"frequency_mhz": next(told), "temperature_c": None}  # noqa: E731
    return list(run_sustained(machine, CASE, minutes, state, machine.clock))  # type: ignore[arg-type]


@pytest.mark.parametrize(("minutes", "windows"), [(0.05, 6), (1, 6), (10, 10)])
def test_a_run_is_cut_into_minutes_or_into_parts_of_less(minutes: float, windows: int) -> None:
    machine = Machine(1e6)
    found = sustain(machine, minutes)
    assert len(found) == windows
    assert machine.seconds == pytest.approx(60 * minutes, rel=0.1)
    for window in found:
        assert window.turn_medians_ns.size >= TURNS
        assert window.to_json()["busy"] == pytest.approx(1)
        assert window.to_json()["median_ms"] == 1.0


def test_a_device_that_takes_longer_to_talk_with_than_the_run_is_not_judged() -> None:
    found = sustain(Machine(1e6, talk=5.0), 0.02)
    assert found[0].busy < 0.01
    assert slowdown(found)["verdict"] == "not enough data"


def test_a_machine_that_slows_down_is_throttled_and_one_that_does_not_is_steady() -> None:
    steady = slowdown(sustain(Machine(1e6), 10))
    assert (steady["verdict"], steady["value"], steady["low"], steady["high"]) == ("steady", 1, 1, 1)
    hot = slowdown(sustain(Machine(1e6, slope=1 / 600), 10))  # twice as slow after ten minutes
    assert hot["verdict"] == "throttled"
    assert 1.5 < hot["low"] <= hot["value"] <= hot["high"] < 2.1


def test_what_lies_on_both_sides_of_the_limit_is_not_decided() -> None:
    first, last = (Window(0, 1, scale * np.array([1e6, 2e6] * 6), {}, 1.0) for scale in (1.0, DRIFT))
    assert slowdown([first, last])["verdict"] == "not enough data"
    assert slowdown([first]) | {"value": 1} == slowdown([first])  # one window is compared with nothing
    assert slowdown([first])["low"] is None


@pytest.mark.parametrize(
    ("frequencies", "fell"), [((None,), None), ((2000, 2000, 1990), False), ((2000, 2000, 1500), True)]
)
def test_a_frequency_that_falls_is_told(frequencies: Sequence[float | None], fell: bool | None) -> None:
    assert slowdown(sustain(Machine(1e6), 0.1, frequencies))["frequency_fell"] is fell


def test_the_slowest_program_runs_on_and_its_curve_is_shown(
    report: dict[str, Any], evidence: Artifact, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report["sustained"]
    assert found["case"] in report["programs"]
    assert len(found["windows"]) == 6
    assert 2.7 < sum(row["elapsed_s"] for row in found["windows"]) < 20
    assert all(0 < row["busy"] <= 1 and row["n"] > 0 for row in found["windows"])
    assert found["slowdown"]["verdict"] in ("steady", "throttled", "not enough data")
    here = local_facts()
    is_told = bool(here["energy"]) or is_metered(here)  # not on every machine, and not for every user
    assert (found["energy"] is not None) == is_told
    assert ("<dt>energy</dt><dd>not available</dd>" in page) != is_told
    _print_report(report, evidence)
    told = capsys.readouterr().out
    assert f"0.05 minutes of {found['case']}: {found['slowdown']['verdict']}" in told
    assert ("energy: not available" in told) != is_told
    assert f"{found['case']} without a pause, {found['slowdown']['verdict']}: from " in page


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "1000"])
def test_minutes_that_are_no_length_are_refused(minutes: str, onnx_bundle: Artifact, tmp_path: Path) -> None:
    command = ["bench", str(onnx_bundle.root), "--minutes", minutes, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code in (1, 2) and isinstance(done.exception, SystemExit)
    assert "minutes" in done.stderr
    assert not list(tmp_path.iterdir())
