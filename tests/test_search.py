"""Search finds what the embeddings say, remembers the gallery, and draws what it found."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dmedge.artifact import Artifact
from dmedge.cli.main import cli
from dmedge.data.emoji import load_pack
from dmedge.environment import cache_folder
from dmedge.errors import DataError
from dmedge.flow import gallery as gallery_module
from dmedge.flow import lettering
from dmedge.flow.atomic import write_atomically
from dmedge.flow.gallery import Gallery, Item, emoji_gallery, folder_gallery
from dmedge.flow.search import Match, SearchResult, search_gallery
from dmedge.flow.strip import draw_strip
from dmedge.runtime.encoder import Encoder
from tests.conftest import MakeArtifact
from tests.tiny_bundles import CONFIG, onnx_bundle, tiny_checkpoint

__all__ = ["onnx_bundle", "tiny_checkpoint"]  # fixtures

COLOURS = {"red.png": (220, 20, 20), "green.jpg": (20, 200, 40), "below/blue.webp": (10, 30, 230)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def pictures(home: Path) -> Path:
    folder = home / "pictures"
    for name, colour in COLOURS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), colour).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["search", *map(str, arguments)])


def test_matches_are_those_of_the_embeddings(onnx_bundle: Artifact) -> None:
    result = search_gallery(onnx_bundle, "red apple", emoji_gallery("twemoji"), top=7)
    images, present = load_pack().images("twemoji")
    with Encoder(onnx_bundle) as encoder:
        scores = encoder.images(list(images[present])) @ encoder.texts(["red apple"])[0]
    best = np.argsort(-scores, kind="stable")[:7]
    assert [match.index for match in result.matches] == best.tolist()
    np.testing.assert_allclose([match.score for match in result.matches], scores[best], atol=1e-6)
    assert [match.rank for match in result.matches] == [1, 2, 3, 4, 5, 6, 7]
    assert result.runtime == "onnxruntime"


def test_command_prints_ranks_and_draws_a_strip(onnx_bundle: Artifact) -> None:
    done = run(onnx_bundle.root, "ラーメン", "--top", 3)
    assert done.exit_code == 0, done.output
    heading, columns, *rows, strip = done.stdout.splitlines()
    assert heading.startswith("'ラーメン' among 1,914 pictures of emoji/twemoji")
    assert columns.split() == ["rank", "score"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert strip == "strip: dmedge-search.png"
    with Image.open("dmedge-search.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image).std() > 10  # something was drawn


def test_command_prints_json(onnx_bundle: Artifact, pictures: Path, home: Path) -> None:
    out = home / "new/strip.png"
    done = run(onnx_bundle.root, "red", "--images", pictures, "--json", "--out", out)
    found = json.loads(done.stdout)
    assert {Path(match["file"]).relative_to(pictures).as_posix() for match in found["matches"]} == {*COLOURS}
    assert [match["rank"] for match in found["matches"]] == [1, 2, 3]
    assert found["gallery_size"] == 3
    assert found["artifact_sha256"] == onnx_bundle.digest
    assert found["query"] == "red"
    assert found["tokens"] == found["tokens_used"]
    assert out.is_file()


def test_gallery_is_embedded_once_per_artifact(
    onnx_bundle: Artifact, tiny_checkpoint: Artifact, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    real = Encoder.images

    def counted(self: Encoder, images: Sequence[Any]) -> NDArray[np.float32]:
        runs.append(len(images))
        return real(self, images)

    monkeypatch.setattr(Encoder, "images", counted)
    for artifact in (onnx_bundle, onnx_bundle, tiny_checkpoint):
        search_gallery(artifact, "red", folder_gallery(pictures), top=3)
    assert runs == [3, 3]
    Image.new("RGB", (9, 9)).save(pictures / "black.png")
    assert len(search_gallery(onnx_bundle, "red", folder_gallery(pictures), top=9).matches) == 4
    assert runs == [3, 3, 1]  # the one that is new


@pytest.mark.parametrize("content", [b"", b"nonsense", "half"], ids=["empty", "nonsense", "half"])
def test_damaged_cache_is_made_again(content: bytes | str, onnx_bundle: Artifact, pictures: Path) -> None:
    want = search_gallery(onnx_bundle, "red", folder_gallery(pictures), top=3)
    (kept,) = (cache_folder() / "embeddings").rglob("*.npz")
    whole = kept.read_bytes()
    kept.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    assert search_gallery(onnx_bundle, "red", folder_gallery(pictures), top=3) == want
    assert kept.read_bytes() == whole


def test_search_works_where_nothing_can_be_kept(
    onnx_bundle: Artifact, pictures: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    assert len(search_gallery(onnx_bundle, "red", folder_gallery(pictures), top=3).matches) == 3


def test_cache_is_below_home_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("HOME", str(home))
    for value in ("", "relative/paths/are/to/be/ignored"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == home / ".cache/dmedge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    assert cache_folder() == home / "elsewhere/dmedge"


def test_very_long_query_is_shortened_and_says_so(onnx_bundle: Artifact, pictures: Path) -> None:
    done = run(onnx_bundle.root, "red " * 25_000, "--images", pictures)
    assert done.exit_code == 0, done.output
    assert f"tokens; the first {CONFIG.context_length} were used" in done.stderr
    assert max(map(len, done.stdout.splitlines())) < 400


REFUSED = {
    "empty query": ([""], 1, "the query is empty; expected a word or a phrase"),
    "blank query": ([" \n"], 1, "the query is empty; expected a word or a phrase"),
    "no query": ([], 2, r"0 arguments; expected [BUNDLE_OR_INDEX] QUERY"),
    "no query, with a bundle": ([], 2, "is an artifact; expected [BUNDLE_OR_INDEX] QUERY; say what to find in it"),
    "loose words": (["hot", "soup"], 2, r"3 arguments; expected [BUNDLE_OR_INDEX] QUERY; put quotes around a phrase"),
    "style": (["x", "--style", "twemojy"], 1, "unknown style 'twemojy'; did you mean 'twemoji'"),
    "folder": (["x", "--images", "nowhere"], 1, "nowhere: no such folder"),
    "empty folder": (["x", "--images", "."], 1, "no pictures; expected files ending in .png"),
    "top": (["x", "--top", "0"], 2, "0 is not in the range"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unfit_request_is_refused_and_draws_nothing(case: str, onnx_bundle: Artifact) -> None:
    words, exit_code, message = REFUSED[case]
    done = run(*([] if case == "no query" else [onnx_bundle.root]), *words)
    assert done.exit_code == exit_code
    assert message in " ".join(done.stderr.split())
    assert not [*Path().iterdir()]


def test_unreadable_picture_is_named(onnx_bundle: Artifact, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    done = run(onnx_bundle.root, "x", "--images", pictures)
    assert done.exit_code == 1
    assert "broken.png: unreadable image" in done.stderr
    assert not [*Path().iterdir()]


def test_evidence_cannot_search(make_artifact: MakeArtifact) -> None:
    done = run(make_artifact("evidence", kind="evidence").root, "x")
    assert done.exit_code == 1
    assert "evidence without programs; expected a checkpoint" in done.stderr


def test_newest_bundle_is_the_default(onnx_bundle: Artifact, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(onnx_bundle.root, Path("runs") / onnx_bundle.name)
    done = run("red", "--images", pictures)
    assert done.exit_code == 0, done.output
    assert "using runs/checkpoint-linux-x86_64 (newest bundle)" in done.stderr


def test_search_needs_no_torch(onnx_bundle: Artifact, pictures: Path, home: Path) -> None:
    (home / "blocked").mkdir()
    (home / "blocked/torch.py").write_text("raise ImportError('this is a core install')")
    command = [
        sys.executable,
        "-m",
        "dmedge.cli.main",
        "search",
        str(onnx_bundle.root),
        "red",
        "--images",
        str(pictures),
    ]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(home / "blocked")}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "among 3 pictures" in done.stdout


def drawn(query: str, name: str = "red apple") -> Image.Image:
    gallery = Gallery("emoji/twemoji", "", [np.full((48, 48, 3), 90, np.uint8)], (Item(name),))
    match = Match(1, 0.5, 0, gallery.items[0])
    return draw_strip(SearchResult(query=query, tokens=1, tokens_used=1, runtime="torch", matches=(match,)), gallery)


@pytest.mark.parametrize("query", ["soup", "拉麵", "कटोरा", "حساء", "\ue000", "x" * 100_000, "🍜"], ids=range(7))
def test_strip_draws_any_script_in_one_line(query: str) -> None:
    blank, found = np.asarray(drawn("")), np.asarray(drawn(query))
    assert found.shape == blank.shape
    changed = np.argwhere((found != blank).any(2))
    assert len(changed) > 20
    assert changed[:, 0].max() < 50  # nothing but the title


def test_strip_escapes_letters_that_no_font_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_font_files", lambda letters: ())
    np.testing.assert_array_equal(np.asarray(drawn("麵")), np.asarray(drawn(r"\u9eb5")))


def test_failed_write_leaves_the_old_file_and_nothing_else(home: Path) -> None:
    path = home / "work/strip.png"
    write_atomically(path, lambda stream: stream.write(b"old"))
    with pytest.raises(OSError, match="disk"):
        write_atomically(path, lambda stream: _fail_after(stream.write(b"half")))
    assert [*path.parent.iterdir()] == [path]
    assert path.read_bytes() == b"old"


def _fail_after(written: int) -> None:
    raise OSError(f"the disk is full after {written} bytes")


def test_gallery_of_a_folder_knows_its_files(pictures: Path) -> None:
    gallery = folder_gallery(pictures)
    assert [item.name for item in gallery.items] == sorted(COLOURS)
    assert gallery.keys == folder_gallery(pictures).keys
    Image.new("RGB", (31, 20)).save(pictures / "red.png")
    changed = [a != b for a, b in zip(gallery.keys, folder_gallery(pictures).keys, strict=True)]
    assert changed == [False, False, True]
    with pytest.raises(DataError, match="no such folder"):
        folder_gallery(pictures / "red.png")
    assert ".webp" in gallery_module.SUFFIXES
