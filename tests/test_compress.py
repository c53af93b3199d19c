"""Compression plans all that it can, calibrates on balanced training data, and leaves its parent alone."""

import errno
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.compress.calibration import draw_calibration
from dmedge.compress.plan import plan_precision
from dmedge.compress.recipe import CALIBRATION, CompressConfig, compress_artifact
from dmedge.config import load_config
from dmedge.data.emoji import TRAIN_STYLES, load_pack
from dmedge.data.evalset import emoji_evalset
from dmedge.data.splits import cell_split, is_unseen_emoji
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError, ConfigError
from dmedge.files import digest_file, list_files
from dmedge.model.checkpoint import load_checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.model.image import ConvNet, fold_batch_norm_
from tests.conftest import MakeArtifact
from tests.tiny_bundles import CONFIG, tiny_checkpoint, tiny_model

__all__ = ["tiny_checkpoint"]  # fixture

ITEMS = 32
WEIGHTY = (nn.Linear, nn.Conv2d, nn.Embedding)


@pytest.fixture(scope="module")
def int8_checkpoint(tiny_checkpoint: Artifact) -> Artifact:
    config = CompressConfig(int8=True, ledger_texts=0, calibration_items=ITEMS)
    return compress_artifact(tiny_checkpoint, config, tiny_checkpoint.sibling("for-compress-tests"))


@pytest.fixture
def folded() -> DualEncoder:
    model = tiny_model()
    fold_batch_norm_(model)
    return model


def _schemes(model: DualEncoder, keep: tuple[str, ...] = ()) -> dict[str, str]:
    return dict(plan_precision(model, keep))


def test_the_plan_names_every_weight(folded: DualEncoder) -> None:
    plan = _schemes(folded)
    weighty = {name for name, module in folded.named_modules() if isinstance(module, WEIGHTY)}
    assert weighty == {name for name in plan if not name.endswith("_point")}
    assert Counter(plan[name] for name in weighty).keys() == {"int8_rows", "int8_dynamic", "int8_static"}


def test_an_identity_skip_is_not_rounded_twice(folded: DualEncoder) -> None:
    plan = _schemes(folded)
    assert isinstance(folded.image, ConvNet)
    for number, block in enumerate(folded.image.blocks):
        is_identity = isinstance(block.skip, nn.Identity)
        assert (f"image.blocks.{number}.skip_point" in plan) == (not is_identity)


def test_kept_modules_stay_float(folded: DualEncoder) -> None:
    plan = _schemes(folded, ("text", "head.keys"))
    kept = {name for name, scheme in plan.items() if scheme == "float32"}
    assert kept == {name for name in plan if name.startswith("text.")} | {"head.keys"}


def test_a_kept_tower_has_no_activation_points(folded: DualEncoder) -> None:
    assert not [name for name in _schemes(folded, ("image",)) if name.endswith("_point")]


def test_points_go_where_both_neighbours_are_kept(folded: DualEncoder) -> None:
    plan = _schemes(folded, ("image.stem",))
    assert "image.input_point" not in plan
    assert "image.stem_point" in plan  # the first block reads it


def test_an_unknown_module_is_refused(folded: DualEncoder) -> None:
    with pytest.raises(ConfigError, match="no module 'imag' with weights; did you mean 'image'"):
        plan_precision(folded, ("imag",))


def test_calibration_is_balanced_and_repeats() -> None:
    config = CompressConfig(int8=True, ledger_texts=0, calibration_items=150)
    drawn = draw_calibration(config, Preprocess())
    counts = Counter(item.language for item in drawn.items)
    assert len(counts) == len(load_pack().locales)
    assert set(counts.values()) == {1, 2}
    assert drawn.items == draw_calibration(config, Preprocess()).items


def test_another_seed_draws_other_items() -> None:
    drawn = [
        draw_calibration(CompressConfig(int8=True, ledger_texts=0, calibration_items=8, seed=seed), Preprocess()).items
        for seed in (0, 1)
    ]
    assert drawn[0] != drawn[1]


def test_calibration_saw_training_cells_only() -> None:
    drawn = draw_calibration(CompressConfig(int8=True, ledger_texts=0, calibration_items=200), Preprocess())
    for item in drawn.items:
        style, hexcode = item.source.split("/")
        assert style in TRAIN_STYLES
        assert not is_unseen_emoji(hexcode)
        assert cell_split(hexcode, item.language) == "train"
    novel = {hashlib.sha256(text.encode()).hexdigest() for text in emoji_evalset(split="novel").texts}
    assert novel.isdisjoint(item.text_sha256 for item in drawn.items)


def test_calibration_reads_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 10), (ord(name[0]), 0, 0)).save(tmp_path / "images" / name)
    (tmp_path / "captions.csv").write_text("image,language,text\na.png,de,Apfel\nb.png,en,pear\n", encoding="utf-8")
    drawn = draw_calibration(
        CompressConfig(int8=True, ledger_texts=0, calibration_items=4, data=str(tmp_path)), Preprocess(16)
    )
    assert drawn.languages == ("de", "en")
    assert {item.source for item in drawn.items} == {"a.png", "b.png"}
    assert drawn.pixels.shape == (4, 16, 16, 3)


def test_the_parent_is_not_touched(tiny_checkpoint: Artifact, int8_checkpoint: Artifact) -> None:
    assert load_artifact(tiny_checkpoint.root).digest == tiny_checkpoint.digest
    assert int8_checkpoint.manifest.parents == {"parent": tiny_checkpoint.digest}


def test_the_manifest_holds_the_plan(int8_checkpoint: Artifact) -> None:
    loaded = load_checkpoint(int8_checkpoint)
    assert loaded.quantization == int8_checkpoint.manifest.precision
    assert not [name for name, module in loaded.model.named_modules() if isinstance(module, WEIGHTY)]
    summary = int8_checkpoint.manifest.summary
    assert summary["parameter_share_int8"] > 0.9  # type: ignore[operator]
    assert summary["weight_bytes"] < 0.5 * summary["weight_bytes_parent"]  # type: ignore[operator]  # tiny: much is scales


def test_calibration_items_are_kept_by_hash(int8_checkpoint: Artifact) -> None:
    table = json.loads(int8_checkpoint.file(CALIBRATION).read_text(encoding="utf-8"))
    assert (table["data"], table["seed"], len(table["items"])) == ("emoji", 0, ITEMS)
    assert {len(item[key]) for item in table["items"] for key in ("text_sha256", "pixels_sha256")} == {64}


def test_kept_modules_are_float_on_disk(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    config = CompressConfig(int8=True, ledger_texts=0, calibration_items=4, keep=("text", "image.stem"))
    loaded = load_checkpoint(compress_artifact(tiny_checkpoint, config, tmp_path / "kept"))
    assert isinstance(loaded.model.text.token, nn.Embedding)
    assert isinstance(loaded.model.image, ConvNet)
    assert isinstance(loaded.model.image.stem.conv, nn.Conv2d)
    before = load_checkpoint(tiny_checkpoint).model
    ids = torch.tensor([[5, 9, 2]], dtype=torch.int32)
    torch.testing.assert_close(
        loaded.model.text(ids, torch.ones_like(ids)), before.text(ids, torch.ones_like(ids)), rtol=0, atol=0
    )


def test_the_same_settings_give_the_same_bytes(
    tiny_checkpoint: Artifact, int8_checkpoint: Artifact, tmp_path: Path
) -> None:
    config = CompressConfig(int8=True, ledger_texts=0, calibration_items=ITEMS)
    assert compress_artifact(tiny_checkpoint, config, tmp_path / "again").digest == int8_checkpoint.digest


def test_compressing_twice_is_refused(int8_checkpoint: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is quantized already; expected a float checkpoint"):
        compress_artifact(int8_checkpoint, CompressConfig(int8=True, ledger_texts=0), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_refused(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found a bundle; expected a checkpoint"):
        compress_artifact(
            make_artifact("b", kind="bundle"), CompressConfig(int8=True, ledger_texts=0), tmp_path / "out"
        )


def test_an_existing_directory_is_left_alone(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(ArtifactError, match="exists already"):
        compress_artifact(tiny_checkpoint, CompressConfig(int8=True, ledger_texts=0), tmp_path)
    assert list_files(tmp_path) == ["precious"]


def test_a_full_disk_leaves_nothing(tiny_checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dmedge.compress.calibration.CalibrationSet.write", fail)
    with pytest.raises(ArtifactError, match="the disk is full; nothing was written"):
        compress_artifact(
            tiny_checkpoint, CompressConfig(int8=True, ledger_texts=0, calibration_items=2), tmp_path / "out"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "table, message",
    [
        ({}, "nothing to do; set int8 = true"),
        ({"int8": True, "calibration_items": 0}, "calibration_items is 0; expected 1 or more"),
        ({"int8": True, "calibration_itmes": 9}, "did you mean 'calibration_items'"),
    ],
    ids=["nothing", "range", "typo"],
)
def test_wrong_settings_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(CompressConfig, table)


def test_the_command_takes_the_newest_float_checkpoint(
    tiny_checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/emoji"
    for name in list_files(tiny_checkpoint.root):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes((tiny_checkpoint.root / name).read_bytes())
    result = CliRunner().invoke(cli, ["compress", "--int8", "--calibration", "3", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["path"] == "runs/emoji-int8"
    assert found["calibration_items"] == 3
    assert "using runs/emoji (newest float checkpoint)" in result.stderr
    again = CliRunner().invoke(cli, ["compress", "--int8"])  # the int8 one is newer, and passed over
    assert again.exit_code == 1
    assert "runs/emoji-int8: exists already" in again.stderr


def test_the_command_needs_something_to_do() -> None:
    result = CliRunner().invoke(cli, ["compress"])
    assert result.exit_code == 2
    assert "--int8" in result.stderr


def test_files_of_a_checkpoint(int8_checkpoint: Artifact) -> None:
    root = int8_checkpoint.root
    assert {CALIBRATION, "config.json", "model.safetensors", "tokenizer.model"} <= set(list_files(root))
    assert digest_file(root / "tokenizer.model") == int8_checkpoint.manifest.files["tokenizer.model"]
    assert load_checkpoint(int8_checkpoint).model.config == CONFIG
