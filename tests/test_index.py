"""An index finds what the exact search finds, says how much of it, and belongs to one bundle."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.data.emoji import load_pack
from dmedge.errors import ArtifactError, DataError
from dmedge.flow.gallery import emoji_gallery, folder_gallery
from dmedge.flow.index import IndexConfig, build_index
from dmedge.flow.index_recall import best_places, measure_kept, probe_texts
from dmedge.flow.index_vectors import choose_dims, make_vectors, quantize_rows
from dmedge.flow.open_index import find_encoder, open_index
from dmedge.flow.search import search_gallery, search_index
from dmedge.runtime.encoder import Encoder
from tests.conftest import MakeArtifact
from tests.tiny_bundles import CONFIG, onnx_bundle, tiny_checkpoint

__all__ = ["onnx_bundle", "tiny_checkpoint"]  # fixtures

Floats = NDArray[np.float32]
LOOSE = IndexConfig(min_recall=0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dmedge.flow.index_recall.TEXTS", 60)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def pictures(home: Path, rng: np.random.Generator) -> Path:
    folder = home / "pictures"
    (folder / "below").mkdir(parents=True)
    for i in range(30):
        noise = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 30)).save(folder / ("below" if i % 3 else "") / f"{i:02d}.png")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / lengths, np.float32)


def test_index_finds_what_the_search_finds(onnx_bundle: Artifact, pictures: Path, home: Path) -> None:
    made = build_index(onnx_bundle, folder_gallery(pictures), IndexConfig(dtype="float32"), home / "index")
    want = search_gallery(onnx_bundle, "red apple", folder_gallery(pictures), top=7)
    found = search_index(open_index(load_artifact(made.root, kind="index")), onnx_bundle, "red apple", top=7)
    assert [match.item.name for match in found.matches] == [match.item.name for match in want.matches]
    np.testing.assert_allclose(
        [match.score for match in found.matches], [match.score for match in want.matches], atol=1e-6
    )
    assert made.manifest.parents == {"bundle": onnx_bundle.digest}
    kept: Any = made.manifest.summary["kept_of_exact"]
    assert kept["text"] == {"n": len(probe_texts([])), "recall_at_1": 1.0, "recall_at_10": 1.0}


def test_same_pictures_make_the_same_index(onnx_bundle: Artifact, pictures: Path, home: Path) -> None:
    first, again = (
        build_index(onnx_bundle, folder_gallery(pictures), LOOSE, home / name) for name in ("first", "again")
    )
    assert first.digest == again.digest
    assert str(home) not in (first.root / "manifest.json").read_text()


def test_emoji_are_indexed_without_a_folder(onnx_bundle: Artifact) -> None:
    done = run("index", onnx_bundle.root, "--style", "fxemoji", "--min-recall", "0", "--out", "index")
    assert done.exit_code == 0, done.output
    assert "of emoji/fxemoji" in done.stdout and "of the exact float32 search" in done.stdout
    index = open_index(load_artifact("index"))
    gallery = emoji_gallery("fxemoji")
    assert [item.char for item in index.gallery.items] == [item.char for item in gallery.items]
    for place in (0, 700, len(gallery.items) - 1):
        found, want = np.asarray(index.gallery.images[place], np.int16), gallery.images[place].astype(np.int16)
        assert np.abs(found - want).mean() < 8


def test_search_takes_an_index_and_finds_its_bundle(onnx_bundle: Artifact, pictures: Path) -> None:
    shutil.copytree(onnx_bundle.root, "runs/bundle")
    assert run("index", pictures, "--min-recall", "0").exit_code == 0
    done = run("search", "runs/bundle-index", "red", "--top", 3, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["matches"]) == 3 and found["gallery_size"] == 30
    assert Path(found["strip"]).is_file()


def test_a_picture_finds_itself(onnx_bundle: Artifact, pictures: Path) -> None:
    run("index", onnx_bundle.root, pictures, "--min-recall", "0", "--out", "index")
    for place in (["index", "--encoder", onnx_bundle.root], [onnx_bundle.root, "--images", pictures]):
        done = run("search", *place, "--image", pictures / "below/07.png", "--json")
        assert done.exit_code == 0, done.output
        best = json.loads(done.stdout)["matches"][0]
        assert best["name"] == "below/07.png"
        assert best["score"] == pytest.approx(1, abs=0.02)


def test_another_encoder_is_refused(
    onnx_bundle: Artifact, pictures: Path, home: Path, make_artifact: MakeArtifact
) -> None:
    index = build_index(onnx_bundle, folder_gallery(pictures), LOOSE, home / "alone/index")
    with pytest.raises(ArtifactError, match="made by .*, and scores of another encoder mean nothing"):
        find_encoder(index, make_artifact("other", kind="bundle"))
    with pytest.raises(ArtifactError, match="lies neither beside it nor below runs.*name it with --encoder"):
        find_encoder(index)
    done = run("search", index.root, "red", "--encoder", make_artifact("another", kind="bundle").root)
    assert done.exit_code == 1 and "scores of another encoder" in done.stderr


def counting(monkeypatch: pytest.MonkeyPatch, stop_after: int = 1 << 30) -> list[int]:
    """Pictures of each call of the encoder, which is interrupted after some."""
    calls: list[int] = []
    real = Encoder.images

    def counted(self: Encoder, images: Sequence[Any]) -> Floats:
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(len(images))
        return real(self, images)

    monkeypatch.setattr(Encoder, "images", counted)
    return calls


def test_stopped_run_goes_on_and_a_new_picture_costs_one(
    onnx_bundle: Artifact, pictures: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmedge.flow.gallery.CHUNK", 8)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        counting(patch, stop_after=2)
        build_index(onnx_bundle, folder_gallery(pictures), LOOSE, home / "index")
    assert not (home / "index").exists() and not [*home.glob(".index*")]
    calls = counting(monkeypatch)
    build_index(onnx_bundle, folder_gallery(pictures), LOOSE, home / "index")
    assert sum(calls) == 30 - 16
    Image.new("RGB", (9, 9)).save(pictures / "new.png")
    build_index(onnx_bundle, folder_gallery(pictures), LOOSE, home / "larger")
    assert sum(calls) == 30 - 16 + 1


def test_broken_files_are_left_out_up_to_a_share(onnx_bundle: Artifact, pictures: Path, home: Path) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    made = build_index(onnx_bundle, folder_gallery(pictures), LOOSE, home / "index")
    assert made.manifest.summary["pictures"] == 30 and made.manifest.summary["left_out"] == 1
    assert "broken.png" not in {item.name for item in open_index(made).gallery.items}
    (pictures / "also.png").write_bytes(b"nothing")
    with pytest.raises(
        DataError, match="2 of 32 records cannot be used: 2 unreadable image.*or move them out of the folder"
    ):
        build_index(onnx_bundle, folder_gallery(pictures), LOOSE, home / "other")


def test_too_few_numbers_are_refused(onnx_bundle: Artifact, pictures: Path) -> None:
    arguments = ("index", onnx_bundle.root, pictures, "--dim", "1", "--out", "index")
    done = run(*arguments)
    assert done.exit_code == 1
    assert "with 1 numbers of each embedding in int8 the index finds" in done.stderr and "--min-recall" in done.stderr
    assert not Path("index").exists()
    assert run(*arguments, "--min-recall", "0").exit_code == 0
    done = run("index", onnx_bundle.root, pictures, "--dim", CONFIG.concepts + 1, "--out", "wide")
    assert done.exit_code == 1 and f"expected at most {CONFIG.concepts}" in done.stderr


def test_concepts_that_no_picture_shows_cost_nothing(rng: np.random.Generator) -> None:
    shares = rng.random((50, 40), dtype=np.float32)
    shares[:, ::2] = 0
    vectors = make_vectors(unit(shares), dim=20, is_int8=False)
    assert vectors.selection == "strongest"
    queries = unit(rng.random((9, 40), dtype=np.float32))
    np.testing.assert_allclose(vectors.scores(queries), queries @ unit(shares).T, atol=1e-6)


def test_leading_numbers_have_unit_length_again(rng: np.random.Generator) -> None:
    rows = unit(rng.standard_normal((20, 16)).astype(np.float32))
    vectors = make_vectors(rows, dim=5, is_int8=False)
    assert vectors.selection == "leading"
    np.testing.assert_allclose(np.linalg.norm(vectors.query(rows), axis=1), 1, atol=1e-6)
    assert choose_dims(rows, 16) == (None, "all")


def test_a_code_is_off_by_half_a_step_at_most(rng: np.random.Generator) -> None:
    rows = np.vstack([unit(rng.standard_normal((20, 16)).astype(np.float32)), np.zeros((1, 16), np.float32)])
    codes, scales = quantize_rows(rows)
    assert codes.dtype == np.int8 and np.abs(codes[:-1].astype(int)).max(axis=1).tolist() == [127] * 20
    assert (np.abs(codes * scales[:, None] - rows) <= scales[:, None] * 0.5001).all()


def test_best_places_are_those_of_a_stable_sort(rng: np.random.Generator) -> None:
    scores = rng.integers(0, 5, (20, 30)).astype(np.float32)  # many ties
    want = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 7, 30, 99):
        np.testing.assert_array_equal(best_places(scores, k), want[:, :k])


def test_recall_leaves_a_picture_out_of_its_own_search(rng: np.random.Generator) -> None:
    exact = unit(rng.standard_normal((40, 8)).astype(np.float32))
    own = np.array([3, 9])

    def blind(queries: Floats, k: int) -> NDArray[np.int64]:
        return np.array([[place, *(other for other in range(40) if other != place)][:k] for place in own])

    assert measure_kept(exact, exact[own], blind, own).recall_at_10 < 1
    assert measure_kept(exact, exact[own], lambda q, k: best_places(q @ exact.T, k), own).recall_at_10 == 1


def test_probe_texts_are_names_in_the_languages_and_repeat() -> None:
    german = {name for name in load_pack().names("de") if name}
    assert set(probe_texts(["de"], 50)) <= german
    assert probe_texts(["de", "ja"]) == probe_texts(["ja", "de"])
    assert len(probe_texts(["tlh"], 500)) > 400  # unknown to the data: names in all its languages


def test_graph_finds_what_the_exact_search_finds(onnx_bundle: Artifact, pictures: Path, home: Path) -> None:
    made = build_index(
        onnx_bundle, folder_gallery(pictures), IndexConfig(approximate=True, min_recall=0), home / "index"
    )
    index = open_index(made)
    assert made.manifest.summary["approximate"] is True and index.graph is not None
    exact = search_gallery(onnx_bundle, "red apple", folder_gallery(pictures), top=5)
    found = search_index(index, onnx_bundle, "red apple", top=5)
    assert len({m.item.name for m in found.matches} & {m.item.name for m in exact.matches}) >= 4
    again = build_index(
        onnx_bundle, folder_gallery(pictures), IndexConfig(approximate=True, min_recall=0), home / "again"
    )
    assert again.digest == made.digest


def test_one_changed_byte_and_an_index_does_not_load(onnx_bundle: Artifact, pictures: Path, home: Path) -> None:
    made = build_index(onnx_bundle, folder_gallery(pictures), LOOSE, home / "index")
    content = bytearray((made.root / "vectors.npy").read_bytes())
    content[-1] ^= 1
    (made.root / "vectors.npy").write_bytes(content)
    with pytest.raises(ArtifactError, match="vectors.npy: sha256"):
        load_artifact(made.root)
    done = run("export", made.root, "--target", "android")
    assert done.exit_code == 1
