"""A folder of captioned pictures: images/, and captions as CSV or Parquet."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, overload

from PIL import Image, UnidentifiedImageError

from dmedge.data.languages import language_name
from dmedge.errors import DataError, require
from dmedge.patience import patient_progress

COLUMNS = ("image", "language", "text")
MORE_COLUMNS = ("label", "answer")  # which a table may have
BETWEEN_ANSWERS = "|"  # in a cell of CSV; in Parquet they may be a list


class ImageFiles(Sequence[Image.Image]):
    """Picture files, opened one at a time, so that a large folder needs little memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageFiles": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | ImageFiles":
        """One picture, or a range of pictures not yet opened.

        Raises:
            DataError: the picture cannot be read.
        """
        return ImageFiles(self._paths[index]) if isinstance(index, slice) else open_image(self._paths[index])

    def encoded(self, index: int) -> Path:
        """The file of one picture."""
        return self._paths[index]


def open_image(path: Path) -> Image.Image:
    """One picture, completely read.

    Raises:
        DataError: there is no such file, or it is not a picture that Pillow reads.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: unreadable image ({error}); expected PNG, JPEG, WebP or alike; replace it") from error


class Caption(NamedTuple):
    """One row: a picture file below images/, a language tag, and text, which is a question where there are answers."""

    image: str
    language: str
    text: str
    labels: tuple[str, ...] = ()  # classes of the picture
    answers: tuple[str, ...] = ()  # of one person or several to the text


def read_captions(path: Path) -> tuple[Caption, ...]:
    """All captions of a folder, each checked.

    Raises:
        DataError: a file or column is missing, there are no captions, a row names no readable picture,
            an unknown language or no text, or has no answer where others have one; rows count from 1.
        DmedgeError: captions.parquet needs pyarrow.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected one with images/ and captions.csv; see docs/data.md")
    if not (path / "images").is_dir():
        raise DataError(f"{path}: no folder images/; expected images/ beside captions.csv; see docs/data.md")
    captions = tuple(_rows(path))
    if not captions:
        raise DataError(f"{path}: no captions; expected at least one row of {', '.join(COLUMNS)}; add some")
    checked: set[str] = set()
    has_answers = any(caption.answers for caption in captions)
    with patient_progress(f"reading {path.name}", len(captions)) as advance:
        for number, caption in enumerate(captions, start=1):
            where = f"{path}: caption row {number}"
            if not caption.text.strip():
                raise DataError(f"{where}: empty text; expected a caption; fill it in or remove the row")
            if has_answers and not caption.answers:
                raise DataError(f"{where}: no answer; expected one, as other rows have; fill it in or remove the row")
            _check_language(caption.language, where)
            if caption.image not in checked:
                _check_image(path / "images", caption.image, where)
                checked.add(caption.image)
            advance(1)
    return captions


def _check_language(tag: str, where: str) -> None:
    try:
        language_name(tag)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _check_image(folder: Path, name: str, where: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or not (folder / name).is_file():
        raise DataError(f"{where}: no file {name!r} in images/; expected a name below it; correct the row")
    try:
        with Image.open(folder / name) as image:
            image.verify()  # header and checksums; pixels are read when they are used
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: unreadable image {name!r} ({error}); replace the file") from error


def _rows(path: Path) -> Iterator[Caption]:
    found = [name for name in ("captions.csv", "captions.parquet") if (path / name).is_file()]
    if len(found) != 1:
        have = " and ".join(found) or "neither captions.csv nor captions.parquet"
        raise DataError(f"{path}: {have}; expected one of the two; see docs/data.md")
    yield from _csv_rows(path / found[0]) if found[0].endswith(".csv") else _parquet_rows(path / found[0])


def _csv_rows(path: Path) -> Iterator[Caption]:
    csv.field_size_limit(2**31 - 1)  # the default refuses captions above 131,072 characters
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_columns(path, reader.fieldnames or ())
            for number, row in enumerate(reader, start=1):
                check_cells(f"{path}: row {number}", row)
                yield _row(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected CSV in UTF-8; write it again") from error


def _parquet_rows(path: Path) -> Iterator[Caption]:
    parquet: Any = require("pyarrow.parquet", "report")
    try:
        table = parquet.ParquetFile(path)
        _check_columns(path, table.schema_arrow.names)
        columns = [*COLUMNS, *(name for name in MORE_COLUMNS if name in table.schema_arrow.names)]
        for batch in table.iter_batches(columns=columns):
            yield from map(_row, batch.to_pylist())
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these types
        raise DataError(f"{path}: cannot be read ({error}); expected a Parquet file; write it again") from error


def check_cells(where: str, row: Mapping[Any, Any]) -> None:
    """Refuse a row with more cells than there are columns: its text would end at a comma.

    Args:
        row: as `csv.DictReader` gives it.

    Raises:
        DataError: it has.
    """
    if surplus := row.get(None):
        raise DataError(
            f"{where}: more cells than columns, from {surplus[0]!r} on; expected as many; "
            'write a text that has the separator in it in double quotes: "red, very red"'
        )


def _row(row: dict[str, Any]) -> Caption:
    image, language, text = ("" if row[column] is None else str(row[column]) for column in COLUMNS)
    return Caption(image.strip(), language.strip(), text, cells(row.get("label")), given_answers(row.get("answer")))


def given_answers(cell: object) -> tuple[str, ...]:
    """The answers of all people in a cell of the column `answer`, which has bars between them or holds a list."""
    return cells(cell.split(BETWEEN_ANSWERS) if isinstance(cell, str) else cell)


def cells(cell: object) -> tuple[str, ...]:
    """What a cell says, or a list of cells, without empty ones."""
    found = cell if isinstance(cell, (list, tuple)) else [cell]
    return tuple(text for text in (str(one).strip() for one in found if one is not None) if text)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    missing = [column for column in COLUMNS if column not in set(columns)]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)} among {', '.join(columns) or 'none'}; "
            f"expected {', '.join(COLUMNS)}; rename or add them"
        )
