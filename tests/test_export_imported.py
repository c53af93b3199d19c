"""Imported models go all the way: import, int8, bundles for both runtimes, each as near to torch as an own model."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import dmedge.export
from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.compress.recipe import CompressConfig, compress_artifact
from dmedge.data.hf_tokenizer import open_tokenizer, tokenizer_file_names
from dmedge.errors import DmedgeError, ExportError
from dmedge.evidence.browser import prove_in_browser
from dmedge.evidence.pack import read_pack
from dmedge.evidence.parity import check_parity
from dmedge.export.bundle import ExportConfig, export_bundle
from dmedge.manifest import Runtime
from dmedge.model.hf_import import import_checkpoint
from dmedge.runtime.encoder import Encoder
from dmedge.runtime.session import open_session
from tests import tiny_hf
from tests.forged import altered
from tests.tiny_hf import CONTEXT, DUALS, TEXTS
from tests.web_pages import readme_page

Case = tuple[str, str, Runtime]  # kind, precision and runtime
FLOAT_ERROR, INT8_COSINE = 1e-5, 0.999  # greatest difference of unit embeddings; least cosine
# Not every combination, since each takes ten seconds and more. SigLIP and SigLIP2 differ in their tokenizers alone, and
# the commands below lead CLIP through both runtimes.
ONNX: tuple[Case, ...] = (("siglip2", "int8", "onnxruntime"), ("vit-bert", "float32", "onnxruntime"))
PTE: tuple[Case, ...] = (("siglip", "float32", "executorch"), ("vit-bert", "int8", "executorch"))
XLMR = [
    pytest.param(("clip-xlmr", precision, runtime), marks=pytest.mark.thorough)
    for precision, runtime in (("int8", "onnxruntime"), ("float32", "executorch"))
]
Make = Callable[[str, str], Artifact]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One layer suffices: lowering takes its time for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_hf, "BODY", {**tiny_hf.BODY, "num_hidden_layers": 1})
        yield tmp_path_factory.mktemp("imported")


@pytest.fixture(scope="module")
def checkpoint(base: Path) -> Make:
    @cache
    def make(kind: str, precision: str) -> Artifact:
        if precision == "float32":
            original = DUALS[kind](base / f"{kind}-original")
            (original / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
            return import_checkpoint(original, base / kind)
        config = CompressConfig(int8=True, ledger_texts=0, calibration_items=4)
        return compress_artifact(make(kind, "float32"), config, base / f"{kind}-int8")

    return make


@pytest.fixture(scope="module")
def bundle(base: Path, checkpoint: Make) -> Callable[[str, str, Runtime], Artifact]:
    @cache
    def make(kind: str, precision: str, runtime: Runtime) -> Artifact:
        config = ExportConfig(target="linux-x86_64", runtimes=(runtime,))
        return export_bundle(checkpoint(kind, precision), config, base / f"{kind}-{precision}-{runtime}")

    return make


def embeddings(bundle: Artifact, runtime: str) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Those that a bundle computes from the inputs of its pack, and those that torch computed."""
    pack = read_pack(bundle)
    with open_session(bundle, runtime=runtime) as session:
        for program in session.programs:
            for case in range(pack.count(program)):
                inputs = [pack.array(program.name, case, spec.name) for spec in program.inputs]
                yield session.run(program.name, inputs)[0], pack.array(program.name, case, "embedding")


def assert_near(bundle: Artifact) -> None:
    for runtime in {program.runtime for program in bundle.manifest.programs}:
        pairs = list(embeddings(bundle, runtime))
        assert len(pairs) > 40
        found, wanted = (np.concatenate(side) for side in zip(*pairs, strict=True))
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
        if bundle.manifest.summary["precision"] == "float32":
            assert np.abs(found - wanted).max() <= FLOAT_ERROR
        else:
            assert (found * wanted).sum(1).min() > INT8_COSINE


@pytest.mark.slow
@pytest.mark.parametrize("case", [*ONNX, XLMR[0]], ids="-".join)
def test_onnx_of_an_imported_model_is_near_torch(case: Case, bundle: Any) -> None:
    assert_near(bundle(*case))


@pytest.mark.slow
@pytest.mark.parametrize("case", [PTE[0], pytest.param(PTE[1], marks=pytest.mark.thorough), XLMR[1]], ids="-".join)
def test_pte_of_an_imported_model_is_near_torch(case: Case, bundle: Any) -> None:
    made = bundle(*case)
    assert_near(made)
    outside = made.manifest.summary["lowering"]["executorch"]["outside"]
    assert not [name for counts in outside.values() for name in counts if "softmax" in name or "gelu" in name]


def test_the_plan_covers_the_pooling_and_leaves_positions(checkpoint: Make) -> None:
    plan = checkpoint("siglip", "int8").manifest.precision
    assert plan["image.model.head.attention.query"] == plan["image.model.head.mlp.fc1"] == "int8_dynamic"
    assert plan["text.model.embeddings.token_embedding"] == "int8_rows"
    assert plan["image.model.embeddings.patch_embedding"] == "float32"
    assert not [name for name in plan if "position" in name]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*ONNX, *PTE[:1]], ids="-".join)
def test_a_bundle_carries_the_tokenizer_of_the_original(case: Case, bundle: Any, checkpoint: Make) -> None:
    made, parent = bundle(*case), checkpoint(*case[:2])
    names = tokenizer_file_names(made)
    assert "tokenizer_rules.json" in names
    assert "tokenizer.model" not in made.manifest.files
    assert made.manifest.summary["license"] == "mit"
    for name in names:
        assert made.manifest.files[name] == parent.manifest.files[name]
    with Encoder(made) as written, Encoder(parent) as original:
        for text in TEXTS:
            for ours, theirs in zip(written.text_inputs(text), original.text_inputs(text), strict=True):
                assert np.array_equal(ours, theirs)
        assert (written.texts(TEXTS) * original.texts(TEXTS)).sum(1).min() > INT8_COSINE


@pytest.mark.slow
@pytest.mark.parametrize("case", [ONNX[-1], PTE[0]], ids="-".join)
def test_the_python_of_the_readme_runs(case: Case, bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle(*case)
    monkeypatch.chdir(made.root)
    text = (made.root / "README.md").read_text(encoding="utf-8")
    assert "`tokenizer_rules.json`" in text
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)  # the text is our own
    assert names["score"].shape == (1, 1)
    assert abs(names["score"].item()) <= 1 + 1e-6


@pytest.mark.slow
def test_another_tokenizer_is_noticed(bundle: Any, tmp_path: Path) -> None:
    made = bundle("vit-bert", "float32", "onnxruntime")
    shutil.copytree(made.root, tmp_path / "other")
    other = Artifact(tmp_path / "other", made.manifest)
    path = other.file("tokenizer.json")
    content = path.read_text(encoding="utf-8")
    assert '"lowercase":true' in content
    path.write_text(content.replace('"lowercase":true', '"lowercase":false'), encoding="utf-8")
    with open_session(made) as session:
        assert check_parity(session, made).texts_differing == ()
        assert len(check_parity(session, other).texts_differing) >= 2


@pytest.fixture(scope="module")
def web(base: Path, checkpoint: Make) -> Callable[[str], Artifact]:
    @cache
    def make(kind: str) -> Artifact:
        return export_bundle(checkpoint(kind, "float32"), ExportConfig(target="web"), base / f"{kind}-web")

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["clip", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in DUALS if kind != "clip")]
)
def test_browsers_compute_an_imported_model_from_texts_and_pictures(kind: str, web: Callable[[str], Artifact]) -> None:
    made = web(kind)
    modules = {name for name in made.manifest.files if name.endswith(".mjs")}
    assert modules == {path.name for path in (Path(dmedge.export.__file__).parent / "web").iterdir()}
    report = prove_in_browser(made)
    assert (report.texts_differing, report.images_differing) == ((), ())
    assert set(report.rows) == {"encode_image", "encode_text", "scores"}
    assert report.error_ratio <= 1


@pytest.mark.slow
def test_the_page_of_the_readme_works(web: Callable[[str], Artifact], tmp_path: Path) -> None:
    made = web("clip")
    text = (made.root / "README.md").read_text(encoding="utf-8")
    assert "| `tokenizer_rules.json`, `tokenizer.json`, `tokenizer_characters.json` |" in text
    assert "gives the ids of the original tokenizer, and" in text
    with readme_page(made, tmp_path, "window.score = score;") as value:
        score = value("window.score")
    with Encoder(made) as encoder, Image.open(made.root / "conformance/images/wide.png") as image:
        assert score == pytest.approx((encoder.texts(["red apple"]) @ encoder.images([image]).T).item(), abs=1e-5)


@pytest.mark.slow
def test_the_loader_of_another_bundle_says_what_it_lacks(web: Callable[[str], Artifact], tmp_path: Path) -> None:
    shutil.copytree(web("clip").root, tmp_path / "other")
    (tmp_path / "other/imported.mjs").unlink()  # as in a bundle with a vocabulary of dmedge's own
    with pytest.raises(DmedgeError, match=r"imported\.mjs: .*; expected it beside dmedge\.mjs"):
        prove_in_browser(Artifact(tmp_path / "other", web("clip").manifest))


def test_a_tokenizer_that_browsers_cannot_read_is_refused_by_name(checkpoint: Make, tmp_path: Path) -> None:
    def change(root: Path) -> None:
        table = json.loads((root / "tokenizer.json").read_text(encoding="utf-8"))
        table["normalizer"]["normalizers"].append({"type": "NFKC"})
        (root / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")

    made = altered(checkpoint("clip", "float32"), tmp_path / "clip", change)
    message = (
        r"clip/tokenizer.json: normalizer NFKC, which the loader for browsers does not read; expected .* or another"
    )
    with pytest.raises(ExportError, match=message):
        export_bundle(made, ExportConfig(target="web"), tmp_path / "web")
    assert not (tmp_path / "web").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("clip", marks=pytest.mark.thorough), "siglip"])
def test_imported_models_reach_core_ml(kind: str, checkpoint: Make, tmp_path: Path) -> None:
    """Export itself compares the packages with torch."""
    config = ExportConfig(target="ios", runtimes=("coreml",))
    bundle = export_bundle(checkpoint(kind, "float32"), config, tmp_path / "ios")
    assert {program.runtime for program in bundle.manifest.programs} == {"coreml"}


def test_a_missing_tokenizers_package_is_named(checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = checkpoint("clip", "float32")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DmedgeError, match=r"cannot import tokenizers .* pip install 'dmedge\[imported\]'"):
        open_tokenizer(made, CONTEXT)


@pytest.mark.slow
def test_commands_lead_from_hugging_face_to_both_runtimes(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base)
    DUALS["clip"](base / "tiny-clip")
    run("import", "tiny-clip")
    run("compress", "--int8", "runs/tiny-clip", "--out", "runs/small")
    limits = ("--budget", "worst_language_retention=0.5", "--budget", "latency_ratio=2")
    run("export", "runs/small", "--target", "linux-x86_64", *limits, "--out", "runs/bundle")
    made = load_artifact(base / "runs/bundle", kind="bundle")
    assert {program.runtime for program in made.manifest.programs} == {"onnxruntime", "executorch"}
    assert made.manifest.summary["precision"] == "int8"
    assert made.manifest.summary["budget"] == {"worst_language_retention": 0.5, "latency_ratio": 2.0}
    assert_near(made)


def run(*arguments: str) -> None:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
