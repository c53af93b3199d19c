"""A bundle for the web computes in Chromium what torch computes, by the loader that it carries."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.artifact import Artifact, program_bytes
from dmedge.cli.main import cli
from dmedge.data.evalset import EvalSet
from dmedge.devices.npm import ONNXRUNTIME_WEB
from dmedge.errors import ArtifactError, DmedgeError
from dmedge.evidence.bench import bench_bundle
from dmedge.evidence.browser import check_in_browser, open_browser_session, prove_in_browser
from dmedge.evidence.config import BenchConfig
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.parity import check_parity, output_error
from dmedge.evidence.verdict import Budget
from dmedge.model.checkpoint import load_checkpoint
from dmedge.model.nibbles import GROUP
from dmedge.model.quantized import Int4Linear, replace_module_
from dmedge.runtime.browser_session import BrowserSession
from dmedge.runtime.encoder import Encoder
from dmedge.runtime.session import Session, open_session
from tests.conftest import MakeArtifact
from tests.proven_bundles import data, pictures
from tests.tiny_bundles import CONFIG, bundle_once, example_inputs, int4_checkpoint, int8_checkpoint, tiny_checkpoint
from tests.web_pages import readme_page

__all__ = ["data", "int4_checkpoint", "int8_checkpoint", "pictures", "tiny_checkpoint"]  # fixtures

IMAGE_ERROR = {"float": 1e-5, "int8": 0.03, "int4": 0.03}  # relative to the largest value
CHECKPOINTS = {"float": "tiny_checkpoint", "int8": "int8_checkpoint", "int4": "int4_checkpoint"}
KINDS = ["float", "int8", pytest.param("int4", marks=[pytest.mark.slow, pytest.mark.thorough])]


class Bundles(dict[str, Artifact]):
    """Web bundles of the tiny checkpoint by kind, each made when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        super().__init__()
        self._request = request

    def __missing__(self, kind: str) -> Artifact:
        parent = self._request.getfixturevalue(CHECKPOINTS[kind])
        self[kind] = bundle_once(self._request.getfixturevalue("tmp_path_factory"), parent, "web")
        return self[kind]


@pytest.fixture(scope="module")
def bundles(request: pytest.FixtureRequest) -> Bundles:
    return Bundles(request)


@pytest.fixture(scope="module")
def in_browser(bundles: Bundles) -> Iterator[Callable[[str], BrowserSession]]:
    """Opens a bundle in Chromium once, however many tests ask for it."""
    with ExitStack() as stack:
        opened: dict[str, BrowserSession] = {}

        def session_of(kind: str) -> BrowserSession:
            if kind not in opened:
                opened[kind] = stack.enter_context(open_browser_session(bundles[kind]))
            return opened[kind]

        yield session_of


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_files_run_natively(kind: str, bundles: Bundles, request: pytest.FixtureRequest) -> None:
    with open_session(bundles[kind]) as session:
        assert check_parity(session, bundles[kind]).error_ratio <= 1
        assert image_error(session, request.getfixturevalue(CHECKPOINTS[kind]), rounds=True) < IMAGE_ERROR[kind]


def image_error(session: Session, checkpoint: Artifact, *, rounds: bool) -> float:
    """Greatest error of random pictures, from a model whose 4-bit linears compute as MatMulNBits does."""
    model = load_checkpoint(checkpoint).model
    for name, module in list(model.named_modules()):
        if isinstance(module, Int4Linear):
            replace_module_(model, name, MatMulNBits(module, rounds=rounds))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, CONFIG.image_size, CONFIG.image_size, 3), np.uint8)
    with torch.inference_mode():
        wanted = [model.encode_image(torch.from_numpy(picture))[0].numpy() for picture in pixels]
    return max(
        output_error(want, session.run("encode_image", [picture])[0])[0]
        for want, picture in zip(wanted, pixels, strict=True)
    )


class MatMulNBits(nn.Module):
    """A 4-bit linear: natively the inputs of a group are rounded by the largest of them, in browsers not at all."""

    def __init__(self, linear: Int4Linear, *, rounds: bool) -> None:
        super().__init__()
        self.weight, self.bias = linear.codes * linear.scale.repeat_interleave(GROUP, 1), linear.bias
        self.rounds = rounds

    def forward(self, x: Tensor) -> Tensor:
        if not self.rounds:
            return F.linear(x, self.weight, self.bias)
        groups = x.reshape(*x.shape[:-1], -1, GROUP)
        step = groups.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        return F.linear(((groups / step).round() * step).flatten(-2), self.weight, self.bias)


def test_integers_are_in_the_files(int8_checkpoint: Artifact, bundles: Bundles) -> None:
    coverage = measure_coverage(bundles["int8"], "onnxruntime")
    assert coverage is not None and coverage.modules_planned and coverage.share_carried_out == 1
    assert coverage.mac_share_int8 == int8_checkpoint.manifest.summary["mac_share_int8"]
    assert program_bytes(bundles["int8"]) < 0.6 * program_bytes(bundles["float"])  # tiny: much is graph


def test_a_bundle_for_another_target_has_no_loader(make_artifact: MakeArtifact) -> None:
    with pytest.raises(ArtifactError, match="no dmedge.mjs in it; expected a bundle for browsers"):
        open_browser_session(make_artifact("other", kind="bundle"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_chromium_computes_what_torch_computes(
    kind: str, bundles: Bundles, in_browser: Callable[[str], BrowserSession], request: pytest.FixtureRequest
) -> None:
    report = check_in_browser(in_browser(kind), bundles[kind])
    assert report.images and report.texts
    assert not report.images_differing and not report.texts_differing
    assert report.error_ratio <= 1
    if kind == "int4":  # the golden embeddings are of inputs that were rounded
        error = image_error(in_browser(kind), request.getfixturevalue(CHECKPOINTS[kind]), rounds=False)
    else:
        error = report.programs["encode_image"].max_error
    assert error < IMAGE_ERROR[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_chromium_and_the_native_runtime_agree(
    kind: str, bundles: Bundles, in_browser: Callable[[str], BrowserSession]
) -> None:
    with open_session(bundles[kind]) as native:
        for name in ("encode_image", "encode_text", "fuse"):
            items = [example_inputs(name, length) for length in (1, 6, CONFIG.context_length)]
            pairs = zip(in_browser(kind).run_many(name, items), native.run_many(name, items), strict=True)
            for found, want in pairs:
                for got, expected in zip(found, want, strict=True):
                    assert got.dtype == expected.dtype
                    if kind == "int4":  # Chromium leaves inputs of 4-bit linears as they are
                        assert output_error(expected, got)[0] < 0.05
                    else:
                        np.testing.assert_allclose(got, expected, atol=1e-4 if kind == "float" else 0.05)


@pytest.mark.slow
def test_the_command_replays_the_pack_in_chromium(bundles: Bundles) -> None:
    done = CliRunner().invoke(cli, ["conform", str(bundles["float"].root), "--device", "web", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["conforms"] and ", Chromium " in found["runtime"]["version"]


@pytest.mark.slow
def test_a_benchmark_in_chromium_says_whose_figures_these_are(
    bundles: Bundles, tiny_checkpoint: Artifact, data: EvalSet, tmp_path: Path
) -> None:
    config, budget = BenchConfig(device="web", rounds=2, repeats=1), Budget(latency_ratio=1000.0)
    place = tmp_path / "bench"
    evidence = bench_bundle(
        bundles["int8"], lambda: bundles["float"], tiny_checkpoint, place, data=data, config=config, budget=budget
    )
    report = json.loads(evidence.file("bench.json").read_text("utf-8"))
    assert re.fullmatch(r"headless Chromium [\d.]+ on this host, not a phone", report["label"])
    assert report["runtime"]["threads"] == 1 and report["device"] == "web"
    assert set(report["programs"]) == {"encode_image", "encode_text", "encode_text_longest", "fuse"}
    for side in ("artifact", "fp32"):
        assert report["parity"][side]["error_ratio"] <= 1 and report["parity"][side]["texts"] > 0
        assert report["start"][side]["load_ms"] > 0
        assert report["start"][side]["peak_rss_bytes"] > report["start"][side]["base_rss_bytes"] > 10_000_000
    assert report["front_end"] == {}  # an app in the browser does that, not this process
    with np.load(evidence.file("samples.npz")) as samples:
        assert samples["encode_text_artifact_ns"].shape[0] == 2 and (samples["encode_text_fp32_ns"] >= 0).all()
    assert [line["verdict"] for line in report["budgets"]] == ["not enough data"]  # two rounds decide nothing


@pytest.mark.slow
def test_a_session_in_chromium_tells_what_it_is(in_browser: Callable[[str], BrowserSession]) -> None:
    session = in_browser("float")
    facts = session.facts()
    assert facts["version"].startswith(f"onnxruntime-web {ONNXRUNTIME_WEB.version}, Chromium ")
    assert facts["threads"] == 1 and (facts["load_ms"] or 0) > 0
    assert (facts["peak_rss_bytes"] or 0) > (facts["base_rss_bytes"] or 0) > 10_000_000
    elapsed = session.time("encode_text", example_inputs("encode_text"), 7)
    assert elapsed.shape == (7,) and elapsed.dtype == np.int64 and (elapsed > 0).any()
    (only,) = session.run_many("encode_text", [example_inputs("encode_text")], outputs=(1,))[0]
    assert only.shape == (1, 6, CONFIG.text_width)


@pytest.mark.slow
@pytest.mark.parametrize("is_isolated", [True, False], ids=["isolated", "not isolated"])
def test_threads_need_an_isolated_page(is_isolated: bool, bundles: Bundles) -> None:
    with BrowserSession(bundles["float"], threads=2, is_isolated=is_isolated) as session:
        assert session.facts()["threads"] == (2 if is_isolated else 1)
        assert check_parity(session, bundles["float"]).error_ratio <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["programs/encode_text.onnx", "tokenizer.model"])
def test_a_tampered_file_is_refused_by_the_loader(name: str, bundles: Bundles, tmp_path: Path) -> None:
    root = shutil.copytree(bundles["float"].root, tmp_path / "copy")
    content = bytearray((root / name).read_bytes())
    content[len(content) // 2] ^= 1
    (root / name).write_bytes(content)
    with pytest.raises(DmedgeError, match=f"{name}: sha256 .* differs from the manifest's .*; deploy the bundle again"):
        open_browser_session(Artifact(root, bundles["float"].manifest))


@pytest.mark.slow
def test_a_missing_golden_pixel_is_noticed(bundles: Bundles, tmp_path: Path) -> None:
    root = shutil.copytree(bundles["float"].root, tmp_path / "copy")
    picture = root / "conformance/images/alpha.png"
    with Image.open(picture) as image:
        pixels = np.array(image)
    pixels[:, :, :3] ^= 64
    Image.fromarray(pixels).save(picture)
    report = prove_in_browser(Artifact(root, bundles["float"].manifest))
    assert report.images_differing == ("images/alpha.png",)


@pytest.mark.slow
def test_the_page_of_the_readme_works(bundles: Bundles, tmp_path: Path) -> None:
    bundle = bundles["float"]
    last = "window.score = score; window.pair = await model.fuse(found, query);"
    with readme_page(bundle, tmp_path, last) as value:
        match, classes = value("window.pair && [pair.match, [...pair.classes]]")
        score = value("window.score")
    with Encoder(bundle) as encoder, Image.open(bundle.root / "conformance/images/wide.png") as image:
        assert score == pytest.approx((encoder.texts(["red apple"]) @ encoder.images([image]).T).item(), abs=1e-5)
        found_match, found_classes = encoder.pairs([image], ["red apple"])
    assert match == pytest.approx(found_match.item(), abs=1e-4)
    np.testing.assert_allclose(classes, found_classes[0], atol=1e-4)


def test_the_loader_needs_nothing_but_onnxruntime_web(bundles: Bundles) -> None:
    modules = [name for name in bundles["float"].manifest.files if name.endswith(".mjs")]
    assert sorted(modules) == ["dmedge.mjs", "pixels.mjs", "tokenizer.mjs"]
    for name in modules:
        imported = re.findall(
            r"^import .* from \"(.+)\";$", bundles["float"].file(name).read_text("utf-8"), re.MULTILINE
        )
        assert all(place.removeprefix("./") in modules for place in imported)
