"""Bundles on WebGPU in headless Chromium: here on software, in place of a GPU, and said to be so."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dmedge.artifact import Artifact
from dmedge.cli.main import cli
from dmedge.compress.recipe import CompressConfig, compress_artifact
from dmedge.devices.browser import find_chromium
from dmedge.devices.inventory import list_devices
from dmedge.devices.webgpu import FLAGS, Adapter, ask_for_adapter
from dmedge.errors import DmedgeError
from dmedge.evidence.browser import check_in_browser, open_browser_session
from dmedge.evidence.config import BenchConfig
from dmedge.export.bundle import ExportConfig, export_bundle
from dmedge.flow.prove import bench
from tests.proven_bundles import pictures
from tests.tiny_bundles import CONFIG, bundle_once, example_inputs, tiny_checkpoint, write_checkpoint

__all__ = ["pictures", "tiny_checkpoint"]  # fixtures

BENCH = BenchConfig(device="web:webgpu", rounds=2, repeats=1)
INFO = {"vendor": "google", "architecture": "", "device": "", "description": "", "isFallbackAdapter": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """With the text tower that has the fewest operators: a GPU of software compiles each for a second."""
    return write_checkpoint(tmp_path_factory.mktemp("webgpu") / "checkpoint", replace(CONFIG, text="bag"))


@pytest.fixture(scope="module")
def bundle(checkpoint: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Not beside its checkpoint, where benchmarks look for twins."""
    return export_text(checkpoint, tmp_path_factory.mktemp("webgpu") / "web")


@pytest.fixture(scope="module")
def int8_bundle(checkpoint: Artifact) -> Artifact:
    config = CompressConfig(int8=True, ledger_texts=0, calibration_items=8)
    int8 = compress_artifact(checkpoint, config, checkpoint.sibling("int8"))
    return export_text(int8, int8.sibling("web"))


def export_text(checkpoint: Artifact, out: Path) -> Artifact:
    return export_bundle(checkpoint, ExportConfig(target="web", runtimes=("onnxruntime",), variant="text-only"), out)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The browser as it starts by itself without a window: it gives pages no GPU, not even one of software."""
    yield from _started_with((), monkeypatch)


@pytest.fixture
def software(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The software that the browser brings, even on a machine that has a GPU."""
    yield from _started_with((*FLAGS, "--use-webgpu-adapter=swiftshader"), monkeypatch)


def _started_with(flags: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in ("devices.webgpu", "runtime.browser_session"):
        monkeypatch.setattr(f"dmedge.{module}.FLAGS", flags)
    ask_for_adapter.cache_clear()
    yield
    ask_for_adapter.cache_clear()


@pytest.mark.slow
def test_the_command_replays_the_pack_on_webgpu(bundle: Artifact) -> None:
    done = CliRunner().invoke(cli, ["conform", str(bundle.root), "--device", "web:webgpu"])
    assert done.exit_code == 0, done.output
    assert f"\nWebGPU by {ask_for_adapter(find_chromium())}\n" in done.stdout


@pytest.mark.slow
def test_what_webgpu_would_leave_to_webassembly_is_refused_before_its_twin_is_exported(
    int8_bundle: Artifact, checkpoint: Artifact, pictures: Path, tmp_path: Path
) -> None:
    message = "on WebGPU, onnxruntime-web leaves .*MatMulInteger.* of encode_text to WebAssembly; .* use --device web"
    with pytest.raises(DmedgeError, match=message):
        bench(int8_bundle, replace(BENCH, data=str(pictures)), tmp_path / "bench", baseline=checkpoint)
    assert not list(tmp_path.iterdir())  # neither evidence nor the folder of twins


@pytest.mark.slow
def test_software_in_place_of_a_gpu_shows_its_outputs_and_no_time(
    bundle: Artifact, checkpoint: Artifact, pictures: Path, software: None, tmp_path: Path
) -> None:
    command = ["bench", str(bundle.root), "--baseline", str(checkpoint.root), "--data", str(pictures)]
    done = CliRunner().invoke(cli, [*command, "--device", "web:webgpu", "--out", str(tmp_path / "bench")])
    assert done.exit_code == 1 and not done.stdout
    message = (
        r"web: its outputs agree, at 0\.\d+ of the tolerance at most, and nothing was timed: web:webgpu computes here "
        r"by software \(google swiftshader\), no GPU: .* no latency of any device; expected a GPU .*; use --device web,"
    )
    assert re.search(message, " ".join(done.stderr.split()))
    assert not list(tmp_path.iterdir())  # neither evidence nor the folder of twins


@pytest.mark.slow
def test_a_session_on_software_has_no_times(bundle: Artifact, software: None) -> None:
    with open_browser_session(bundle, provider="webgpu") as session:
        with pytest.raises(DmedgeError, match=r"software \(google swiftshader\), no GPU: .* no latency of any device"):
            session.time("encode_text", example_inputs("encode_text"), 1)
        facts = session.facts()
    assert [facts[key] for key in ("load_ms", "base_rss_bytes", "peak_rss_bytes")] == [None] * 3
    assert Adapter(**facts["adapter"]).is_software


@pytest.mark.slow
def test_without_an_adapter_there_is_one_sentence(bundle: Artifact, no_gpu: None) -> None:
    with pytest.raises(DmedgeError, match=r"Chromium [\d.]+ gives WebGPU no adapter here; .* use --device web"):
        open_browser_session(bundle, provider="webgpu")
    listed = {row.name: row for row in list_devices()}
    assert listed["web"].is_available
    assert not listed["web:webgpu"].is_available and "no adapter here" in listed["web:webgpu"].description


@pytest.mark.thorough
def test_all_programs_run_on_webgpu(tiny_checkpoint: Artifact, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = bundle_once(tmp_path_factory, tiny_checkpoint, "web")
    with open_browser_session(bundle, provider="webgpu") as session:
        report = check_in_browser(session, bundle)
    assert set(report.programs) == {"encode_image", "encode_text", "fuse"} and report.error_ratio <= 1


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"architecture": "swiftshader"}, "software (google swiftshader), no GPU"),
        (
            {"vendor": "", "description": "llvmpipe (LLVM 15.0.7, 256 bits)"},
            "software (llvmpipe (LLVM 15.0.7, 256 bits)), no GPU",
        ),
        ({"isFallbackAdapter": True}, "software (google), no GPU"),
        ({"architecture": "gen-5"}, "google gen-5"),
        ({"description": "A GPU 7"}, "A GPU 7"),
        ({"vendor": ""}, "a GPU that is not named"),
    ],
)
def test_an_adapter_says_what_it_is(info: dict[str, object], words: str) -> None:
    assert str(Adapter.read(INFO | info)) == words
