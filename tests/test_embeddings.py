"""Embeddings that were computed before teach as the model that made them, wherever their file knows an item."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import save_file
from torch.nn import functional as F

from dmedge.cli.main import cli
from dmedge.compress.config import CompressConfig
from dmedge.compress.embeddings import CachedTeacher, cached_teacher, write_embeddings
from dmedge.compress.recipe import compress_artifact
from dmedge.data.captions import read_captions
from dmedge.data.content import text_id
from dmedge.errors import DataError
from dmedge.files import digest_file
from dmedge.model.checkpoint import load_checkpoint
from dmedge.model.hf_import import import_checkpoint
from dmedge.training.distill import Distillation, ModelTeacher
from dmedge.training.validation import LiveEncoder
from tests.test_distill import LEARN, batch, unit
from tests.tiny_bundles import tiny_model
from tests.tiny_hf import write_clip
from tests.tiny_training import tiny_data, tiny_train, tiny_world


def cached(path: Path, **arrays: Any) -> CachedTeacher:
    save_file(arrays, path)
    return cached_teacher(path)


def test_a_file_of_embeddings_is_found_by_content_and_says_nothing_of_the_rest(tmp_path: Path) -> None:
    ids = np.array([text_id(text) for text in ("a", "b", "c")], np.uint64)
    rows = (3 * unit(3, 8)).numpy()
    teacher = cached(tmp_path / "t.safetensors", text_ids=ids, text_embeddings=rows.astype(np.float16))
    shown = batch()
    asked = np.array([text_id(text) for text in ("c", "x", "a", "a", "b", "y")], np.uint64)
    shown = replace(shown, chunks=(replace(shown.chunks[0], content=asked),))
    view = teacher(shown)
    assert view.image is None
    assert view.text is not None
    assert view.has_text is not None
    assert view.has_text.tolist() == [True, False, True, True, True, False]
    want = F.normalize(torch.from_numpy(rows), dim=-1)[[2, 0, 0, 1]]
    assert torch.allclose(view.text[view.has_text], want, atol=1e-3)


def test_embeddings_teach_what_the_model_that_made_them_teaches(tmp_path: Path) -> None:
    """A cache of a model on a batch gives the losses that the model itself gives, without noise or augmentation."""
    teacher, student = tiny_model(), tiny_model()
    for weight in student.parameters():
        weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    shown = replace(batch(), content=np.arange(10, 14, dtype=np.uint64))
    chunk = replace(shown.chunks[0], content=np.arange(6, dtype=np.uint64))
    shown = replace(shown, chunks=(chunk,))
    want = ModelTeacher(teacher)(shown)
    assert want.image is not None
    assert want.text is not None
    backwards = np.arange(6)[::-1].copy()  # the order of the file is its own
    arrays = {
        "text_ids": backwards.astype(np.uint64),
        "text_embeddings": want.text.numpy()[backwards],
        "picture_ids": np.arange(10, 14, dtype=np.uint64),
        "picture_embeddings": want.image.numpy(),
    }
    found = cached(tmp_path / "t.safetensors", **arrays)
    view = ModelTeacher(student)(shown)
    by_file, by_model = (
        Distillation(one, logit_weight=0).losses(shown, view) for one in (found, ModelTeacher(teacher))
    )
    assert by_file.keys() == by_model.keys()
    for name, loss in by_model.items():
        assert torch.allclose(by_file[name], loss, atol=1e-6), name


def test_a_student_learns_from_embeddings_made_before(tmp_path: Path) -> None:
    parent = tiny_train(tmp_path / "run")
    checkpoint = load_checkpoint(parent)
    encoder = LiveEncoder(checkpoint.model, checkpoint.tokenizer, checkpoint.preprocess)
    data = tiny_data()
    texts = list(dict.fromkeys(data.texts))
    file = tmp_path / "parent.safetensors"
    arrays: dict[str, Any] = {
        "text_ids": np.array([text_id(text) for text in texts], np.uint64),
        "text_embeddings": encoder.texts(texts),
        "picture_ids": data.content,
        "picture_embeddings": encoder.images(list(data.images)),
    }
    write_embeddings(file, arrays, "parent")
    assert [path.name for path in tmp_path.glob("*.tmp")] == []
    config = CompressConfig(distill=str(file), student="small", learn=LEARN, ledger_texts=0)
    with tiny_world():
        made = compress_artifact(parent, config, tmp_path / "small")
    assert made.manifest.parents["teacher"] == digest_file(file).sha256


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "has no embeddings; expected text_ids and text_embeddings, or of pictures"),
        ({"text_ids": np.zeros(1, np.uint64)}, "has no text_embeddings; expected text_ids with text_embeddings"),
        (
            {"text_ids": np.zeros(1, np.int64), "text_embeddings": np.zeros((1, 4), np.float32)},
            "text_ids is torch.int64",
        ),
        ({"text_ids": np.zeros(1, np.uint64), "text_embeddings": np.zeros((2, 4), np.float32)}, "1 text_ids for 2"),
        (
            {"picture_ids": np.arange(2, dtype=np.uint64), "picture_embeddings": np.full((2, 4), np.nan, np.float16)},
            "picture_embeddings are not all finite",
        ),
        (
            {"text_ids": np.ones(2, np.uint64), "text_embeddings": np.ones((2, 4), np.float32)},
            "text_ids names one text twice",
        ),
    ],
)
def test_embeddings_that_do_not_fit_together_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        cached(tmp_path / "t.safetensors", **arrays)


def test_a_file_that_holds_no_embeddings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(b"not this")
    for path in (tmp_path / "t.safetensors", tmp_path / "none.safetensors"):
        with pytest.raises(DataError, match="expected a file that dmedge embed wrote"):
            cached_teacher(path)


def test_embeddings_of_other_data_are_refused(tmp_path: Path) -> None:
    teacher = cached(
        tmp_path / "t.safetensors", text_ids=np.ones(1, np.uint64), text_embeddings=np.ones((1, 4), np.float32)
    )
    shown = batch()
    shown = replace(shown, chunks=(replace(shown.chunks[0], content=np.arange(2, 8, dtype=np.uint64)),))
    with pytest.raises(DataError, match="knows nothing of the first batch; expected embeddings of the data"):
        teacher(shown)


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    folder = tmp_path / "captions"
    (folder / "images").mkdir(parents=True)
    lines = ["image,language,text"]
    for number in range(3):
        Image.new("RGB", (32, 32), (60 * number, 99, 20)).save(folder / "images" / f"{number}.png")
        lines += [f"{number}.png,en,picture {number}", f"{number}.png,de,Bild {number}", f"{number}.png,en,a picture"]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_command_embeds_a_folder(captions: Path, tmp_path: Path) -> None:
    """What a teacher of another kind makes of every caption and picture of the data that its student learns from."""
    teacher = import_checkpoint(str(write_clip(tmp_path / "hf")), tmp_path / "clip")
    file = tmp_path / "clip.safetensors"
    command = ["embed", str(teacher.root), "--data", str(captions), "--out", str(file), "--json"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    rows = read_captions(captions)
    facts = json.loads(result.stdout)
    assert facts["text"] == len({row.text for row in rows})
    assert facts["picture"] == len({row.image for row in rows})
    found = cached_teacher(file)
    checkpoint = load_checkpoint(teacher)
    want = LiveEncoder(checkpoint.model, checkpoint.tokenizer, checkpoint.preprocess).texts([rows[0].text])
    got, known = found.rows["text"].find(np.array([text_id(rows[0].text)], np.uint64))
    assert known.all()
    assert torch.allclose(got, torch.from_numpy(want), atol=1e-3)
    again = CliRunner().invoke(cli, command)
    assert again.exit_code == 1
    assert "exists already; expected a new file" in again.output
    assert CliRunner().invoke(cli, [*command[:-2], str(tmp_path / "x.npz")]).exit_code == 2
