"""`dmedge import`: a dual encoder of Hugging Face becomes a checkpoint with the same embeddings and logits."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from dmedge.artifact import Artifact, Program, load_artifact, new_artifact
from dmedge.cli.main import cli
from dmedge.compress.config import CompressConfig, LearnConfig
from dmedge.compress.recipe import compress_artifact
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError, ConfigError, DataError
from dmedge.files import digest_file
from dmedge.model.checkpoint import load_checkpoint, save_checkpoint
from dmedge.model.hf_import import import_checkpoint
from dmedge.model.hf_source import open_source
from dmedge.runtime.encoder import Encoder
from tests.tiny_hf import CONTEXT, DUALS, TEXTS, write_clip, write_naflex, write_text

CLIENT = Path(__file__).parent.parent / "apps/reference/search.py"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Artifact]]:
    """The folder of a tiny dual encoder and what is imported from it, each made once."""
    base = tmp_path_factory.mktemp("duals")

    def make(kind: str) -> tuple[Path, Artifact]:
        if not (base / kind).exists():
            import_checkpoint(DUALS[kind](base / kind), base / f"{kind}-run")
        return base / kind, load_artifact(base / f"{kind}-run", kind="checkpoint")

    return make


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(2)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in ((32, 32), (60, 41), (20, 70))]


def original_outputs(folder: Path) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Embeddings of pictures and texts, and logits of all pairs, by the original and its own processor."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = getattr(transformers, config["architectures"][0]).from_pretrained(folder, dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    padding = "max_length" if config["model_type"] == "siglip" else True
    inputs = processor(
        text=list(TEXTS),
        images=pictures(),
        padding=padding,
        truncation=True,
        max_length=CONTEXT,
        return_tensors="pt",
    )
    with torch.no_grad():
        image = model.get_image_features(inputs["pixel_values"]).pooler_output
        words = {key: inputs[key] for key in ("input_ids", "attention_mask") if key in inputs}
        text = model.get_text_features(**words).pooler_output
        output = model(**words, pixel_values=inputs["pixel_values"])
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1), output


@pytest.mark.parametrize("kind", DUALS)
@torch.no_grad()
def test_embeddings_and_logits_equal_the_original(kind: str, imported: Any) -> None:
    folder, artifact = imported(kind)
    wanted_image, wanted_text, output = original_outputs(folder)
    with Encoder(artifact) as encoder:
        image, text = (torch.from_numpy(found) for found in (encoder.images(pictures()), encoder.texts(TEXTS)))
    torch.testing.assert_close(image, wanted_image, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, wanted_text, atol=1e-5, rtol=0)

    model = load_checkpoint(artifact).model
    logits = model.logit_scale.exp() * text @ image.T + (0 if model.logit_bias is None else model.logit_bias)
    torch.testing.assert_close(logits, output.logits_per_text, atol=1e-4, rtol=0)
    assert (model.logit_bias is not None) == kind.startswith("siglip")


@pytest.mark.parametrize("kind", DUALS)
def test_artifact_says_what_was_imported(kind: str, imported: Any) -> None:
    folder, artifact = imported(kind)
    manifest, weights = artifact.manifest, folder / "model.safetensors"
    assert (manifest.kind, manifest.stage, manifest.parents) == ("checkpoint", "import", {})
    assert manifest.config["source"] == kind
    assert manifest.config["weights_sha256"] == {"model.safetensors": digest_file(weights).sha256}
    assert manifest.config["model"] == type_of(folder)
    assert str(manifest.config["image_encoder"]).endswith("Model")
    differences = manifest.summary["difference_from_original"]
    assert isinstance(differences, dict)
    assert max(differences.values()) <= 1e-5
    config = load_checkpoint(artifact).model.config
    assert config.projection == ("none" if kind.startswith("siglip") else "linear-no-bias")
    assert config.fusion == "none"
    assert [program.name for program in manifest.programs] == ["encode_image", "encode_text"]
    for file in manifest.files:
        assert str(folder.parent).encode() not in (artifact.root / file).read_bytes()
    assert str(folder.parent) not in (artifact.root / "manifest.json").read_text(encoding="utf-8")


def type_of(folder: Path) -> object:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]


def test_import_repeats_to_the_byte(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    one, other = import_checkpoint(folder, tmp_path / "one"), import_checkpoint(folder, tmp_path / "other")
    assert one.digest == other.digest


def test_checkpoint_survives_saving_again(imported: Any, tmp_path: Path) -> None:
    _, artifact = imported("siglip")
    checkpoint = load_checkpoint(artifact)
    with new_artifact(tmp_path / "again") as draft:
        save_checkpoint(draft.path, checkpoint)
        again = draft.finish(kind="checkpoint", stage="test", config={})
    assert again.manifest.files == artifact.manifest.files


def test_half_precision_weights_are_loaded_as_floats(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    artifact = import_checkpoint(folder, tmp_path / "run")
    wanted, _, _ = original_outputs(folder)
    with Encoder(artifact) as encoder:
        np.testing.assert_allclose(encoder.images(pictures()), wanted.numpy(), atol=1e-5)
    assert load_checkpoint(artifact).model.logit_scale.dtype == torch.float32


def test_pickled_weights_are_refused_with_a_way_out(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="found pytorch_model.bin; expected model.safetensors.*convert it: python -c"):
        import_checkpoint(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_in_several_files_are_all_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip")
    model = transformers.CLIPModel.from_pretrained(tmp_path / "clip")
    (tmp_path / "clip/model.safetensors").unlink()
    model.save_pretrained(tmp_path / "clip", max_shard_size="100KB")
    artifact = import_checkpoint(tmp_path / "clip", tmp_path / "run")
    weights = artifact.manifest.config["weights_sha256"]
    assert isinstance(weights, dict)
    assert sorted(weights) == sorted(path.name for path in (tmp_path / "clip").glob("model-*.safetensors"))
    assert len(weights) > 1


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="1 weights of CLIPModel are missing, e.g. visual_projection.weight"):
        import_checkpoint(folder, tmp_path / "run")


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="CLIPModel cannot be loaded"):
        import_checkpoint(folder, tmp_path / "run")


@pytest.mark.parametrize(
    ("card", "wanted"),
    [
        ("---\nlicense: apache-2.0\ntags:\n- vision\n---\n# A model\nlicense: mit", "apache-2.0"),
        ("---\nlanguage: en\nlicense: other\nlicense_name: 'my-own'\n---\n", "my-own"),
        ("---\nlicense: other\n---\n", "other"),
        ("# A model\nlicense: mit", None),
        ("", None),
    ],
    ids=["plain", "named", "other", "none", "empty"],
)
def test_licence_of_the_model_card_is_kept(card: str, wanted: str | None, tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    (folder / "README.md").write_text(card, encoding="utf-8")
    assert open_source(folder).license == wanted
    summary = import_checkpoint(folder, tmp_path / "run").manifest.summary
    assert summary.get("license") == wanted


def test_naflex_is_refused_with_an_alternative(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NaFlex kind.*google/siglip2-base-patch16-224"):
        import_checkpoint(write_naflex(tmp_path / "naflex"), tmp_path / "run")


def test_single_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model_type is 'bert'; expected one of clip, siglip, vision-text"):
        import_checkpoint(write_text("bert", tmp_path / "bert"), tmp_path / "run")


@pytest.mark.parametrize("name", ["./no/such", "/no/such", "a b", "one/two/three", ""])
def test_what_is_no_name_is_not_looked_for_on_the_hub(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; expected one, or a name|no config.json that can"):
        import_checkpoint(name, tmp_path / "run")


def test_hub_name_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, repo = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub/models--org--tiny-clip"
    write_clip(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = open_source("org/tiny-clip")
    assert (source.name, source.revision) == ("org/tiny-clip", commit)
    config = import_checkpoint("org/tiny-clip", tmp_path / "run").manifest.config
    assert (config["source"], config["revision"]) == ("org/tiny-clip", commit)
    with pytest.raises(DataError, match="org/other: no such folder here, and not found on the Hugging Face hub"):
        open_source("org/other")


@pytest.mark.parametrize("content", ["{", "[]", '"model_type"'], ids=["broken", "array", "text"])
def test_broken_config_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="no config.json that can be read"):
        open_source(tmp_path)


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    (folder / "code.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    for name in ("config.json", "tokenizer_config.json"):
        table = json.loads((folder / name).read_text(encoding="utf-8"))
        table["auto_map"] = {"AutoModel": "code.Model", "AutoTokenizer": ["code.Tokenizer", None]}
        (folder / name).write_text(json.dumps(table), encoding="utf-8")
    assert import_checkpoint(folder, tmp_path / "run").manifest.stage == "import"


def test_existing_directory_is_not_touched(imported: Any) -> None:
    folder, artifact = imported("clip")
    with pytest.raises(ArtifactError, match="exists already"):
        import_checkpoint(folder, artifact.root)


def test_command_imports_and_others_take_it(imported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = imported("clip")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "model")
    write_captions(tmp_path / "data")
    assert run("import", "model").stdout == "runs/model\n"
    facts = json.loads(run("import", "model", "--out", "other", "--json").stdout)
    assert facts["path"] == "other"
    assert facts["parameters"] > 1000
    assert "made by import" in run("info", "runs/model").stdout
    found = json.loads(run("eval", "runs/model", "--data", "data", "--json").stdout)
    assert found["runtime"].startswith("torch")
    assert found["n"] == 3


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def write_captions(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    lines = ["image,language,text"]
    for i, picture in enumerate(pictures()):
        picture.save(folder / f"images/{i}.png")
        lines.append(f"{i}.png,en,{TEXTS[i].replace(',', ' ')}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_imported_checkpoint_can_be_compressed(kind: str, imported: Any, tmp_path: Path) -> None:
    _, artifact = imported(kind)
    smaller = compress_artifact(
        artifact, CompressConfig(int8=True, ledger_texts=0, calibration_items=8), tmp_path / "int8"
    )
    with Encoder(artifact) as whole, Encoder(smaller) as rounded:
        cosines = (whole.texts(TEXTS) * rounded.texts(TEXTS)).sum(1)
    assert cosines.min() > 0.99


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_imported_checkpoint_learns_from_itself_is_pruned_and_quantized(
    kind: str, imported: Any, tmp_path: Path
) -> None:
    _, artifact = imported(kind)
    write_captions(tmp_path / "data")
    learn = LearnConfig(steps=2, batch_size=2, texts_per_image=1)
    config = CompressConfig(
        distill="parent", prune=0.5, int8=True, learn=learn, data=str(tmp_path / "data"), calibration_items=4
    )
    smaller = compress_artifact(artifact, config, tmp_path / "small")
    lines = smaller.manifest.summary["ledger"]
    assert [line["step"] for line in lines] == ["start", "distil", "prune 0.5", "recover", "int8"]  # type: ignore[attr-defined]
    assert lines[-1]["macs"] < lines[0]["macs"]  # type: ignore[index]
    with Encoder(artifact) as whole, Encoder(smaller) as pruned:
        assert pruned.texts(TEXTS).shape == whole.texts(TEXTS).shape


def test_command_names_what_it_cannot_import(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["import", "./nothing", "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ./nothing: no such folder; expected one")


@pytest.mark.parametrize(
    ("preprocess", "tokenizer"),
    [(Preprocess(16), "tokenizer_rules.json"), (Preprocess(16, fit="squash"), "tokenizer.model")],
    ids=["tokenizer", "preprocessing"],
)
def test_reference_client_refuses_what_it_does_not_know(preprocess: Preprocess, tokenizer: str, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("reference_search", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    with new_artifact(tmp_path / "bundle") as draft:
        (draft.path / "preprocessor_config.json").write_text(json.dumps(preprocess.to_json()), encoding="utf-8")
        (draft.path / tokenizer).write_bytes(b"")
        (draft.path / "text.onnx").write_bytes(b"")
        programs = tuple(Program(name, "text.onnx", "onnxruntime", (), ()) for name in ("encode_image", "encode_text"))
        draft.finish(kind="bundle", stage="test", config={}, programs=programs)
    with pytest.raises(SystemExit, match="is an imported model.s, unknown to this client"):
        client.Model(tmp_path / "bundle")
