"""A folder of captioned pictures: what is read, and what is refused in which words."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmedge.data.evalset import folder_evalset
from dmedge.data.readers import read_dataset
from dmedge.data.records import DatasetConfig
from dmedge.errors import DataError, DmedgeError

HEADER = ("image", "language", "text")
ROWS = (("a.png", "de", "Katze"), ("b.png", "de", "Hund"), ("a.png", "pt-BR", "gato"))


def write_folder(folder: Path, rows: Sequence[Sequence[str]] = ROWS, header: Sequence[str] = HEADER) -> Path:
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (5, 3 + number), (200, 30 * number, 0)).save(folder / "images" / name)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return folder


def test_folder_becomes_an_evaluation_set(tmp_path: Path) -> None:
    data = folder_evalset(write_folder(tmp_path / "pets"))
    assert data.name == "folder/pets"
    assert data.texts == ("Katze", "Hund", "gato")
    assert data.languages == ("de", "de", "pt-BR")
    assert data.clusters == ("a.png", "b.png")
    assert data.text_image.tolist() == [0, 1, 0]
    assert [image.size for image in data.images] == [(5, 3), (5, 4)]
    assert [image.size for image in data.images[1:]] == [(5, 4)]


def test_parquet_and_csv_give_the_same_set(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from_csv = folder_evalset(write_folder(tmp_path / "pets"))
    folder = write_folder(tmp_path / "parquet" / "pets")
    (folder / "captions.csv").unlink()
    columns = dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), folder / "captions.parquet")
    from_parquet = folder_evalset(folder)
    assert from_parquet.texts == from_csv.texts
    assert from_parquet.languages == from_csv.languages
    assert from_parquet.text_image.tolist() == from_csv.text_image.tolist()


def test_csv_with_byte_order_mark_and_more_columns(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", [["x", *ROWS[0]]], ["note", *HEADER])
    path = folder / "captions.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert folder_evalset(folder).texts == ("Katze",)


@pytest.mark.parametrize("length", [100_000, 200_000])
def test_huge_text_is_kept(tmp_path: Path, length: int) -> None:
    data = folder_evalset(write_folder(tmp_path / "set", [("a.png", "en", "x" * length)]))
    assert len(data.texts[0]) == length


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder images/; expected images/ beside captions.csv"):
        folder_evalset(tmp_path)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        folder_evalset(tmp_path / "nowhere")


def test_missing_captions(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set")
    (folder / "captions.csv").unlink()
    with pytest.raises(DataError, match="neither captions.csv nor captions.parquet; expected one"):
        folder_evalset(folder)


def test_both_kinds_of_captions(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set")
    (folder / "captions.parquet").touch()
    with pytest.raises(DataError, match="captions.csv and captions.parquet; expected one"):
        folder_evalset(folder)


def test_missing_column(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", [("a.png", "Katze")], ("image", "caption"))
    with pytest.raises(
        DataError, match="no column language, text among image, caption; expected image, language, text"
    ):
        folder_evalset(folder)


@pytest.mark.parametrize("has_header", [True, False], ids=["header only", "empty file"])
def test_empty_dataset(tmp_path: Path, has_header: bool) -> None:
    folder = write_folder(tmp_path / "set", [])
    if not has_header:
        (folder / "captions.csv").write_text("", "utf-8")
    with pytest.raises(DataError, match="expected"):
        folder_evalset(folder)


def test_empty_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no captions; expected at least one row"):
        folder_evalset(write_folder(tmp_path / "set", []))


@pytest.mark.parametrize("text", ["", " \n "], ids=["none", "blank"])
def test_empty_text_names_the_row(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="caption row 2: empty text; expected a caption"):
        folder_evalset(write_folder(tmp_path / "set", [ROWS[0], ("b.png", "de", text)]))


def test_short_row_counts_as_empty_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="caption row 1: empty text"):
        folder_evalset(write_folder(tmp_path / "set", [("a.png", "de")]))


def test_unknown_language_names_the_row_and_the_nearest(tmp_path: Path) -> None:
    rows = [("a.png", "sr-Lat", "mačka")]
    with pytest.raises(DataError, match="caption row 1: unknown language 'sr-Lat'; did you mean 'sr-Latn'"):
        folder_evalset(write_folder(tmp_path / "set", rows))


@pytest.mark.parametrize("name", ["c.png", "", "../captions.csv", "/etc/hostname"])
def test_image_that_is_no_file_below_images(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="caption row 1: no file .* in images/"):
        folder_evalset(write_folder(tmp_path / "set", [(name, "de", "Katze")]))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "header only"])
def test_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_folder(tmp_path / "set")
    (folder / "images/b.png").write_bytes(content)
    with pytest.raises(DataError, match="caption row 2: unreadable image 'b.png'"):
        folder_evalset(folder)


def test_truncated_image_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", [("c.jpg", "de", "Katze")])
    path = folder / "images/c.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-600])
    data = folder_evalset(folder)
    with pytest.raises(DataError, match="c.jpg: unreadable image"):
        data.images[0]


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set")
    (folder / "captions.csv").write_bytes("image,language,text\na.png,de,Kätzchen\n".encode("latin-1"))
    with pytest.raises(DataError, match="expected CSV in UTF-8"):
        folder_evalset(folder)


def test_broken_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = write_folder(tmp_path / "set")
    (folder / "captions.csv").rename(folder / "captions.parquet")
    with pytest.raises(DataError, match="expected a Parquet file"):
        folder_evalset(folder)


def test_parquet_without_pyarrow_names_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "set")
    (folder / "captions.csv").rename(folder / "captions.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DmedgeError, match=r"pip install 'dmedge\[report\]'"):
        folder_evalset(folder)


@pytest.mark.parametrize("format", ["folder", "table"])
def test_an_unquoted_comma_is_an_error_and_no_shorter_text(format: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets")
    table = folder / "captions.csv"
    table.write_text('image,language,text\na.png,en,"red, very red"\na.png,en,red, very red\n', "utf-8")
    words = "row 2: more cells than columns, from ' very red' on"
    with pytest.raises(DataError, match=words):
        folder_evalset(folder)
    path = folder if format == "folder" else table
    with pytest.raises(DataError, match=words):
        read_dataset(format, DatasetConfig(path=str(path), images=str(folder / "images")))
