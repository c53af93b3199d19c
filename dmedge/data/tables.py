"""Pictures named by a table: CSV, TSV, Parquet or JSONL; and a folder of pictures with its captions."""

import csv
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

from dmedge.data.annotations import (
    RecordTable,
    check_folder,
    find_pictures,
    jsonl_rows,
    shared,
    text_problem,
    usable_texts,
)
from dmedge.data.captions import COLUMNS
from dmedge.data.pictures import BadRecords
from dmedge.data.records import DatasetConfig, Record
from dmedge.errors import DataError, require

_REQUIRED = ("image", "text")
_OPTIONAL = ("language", "label")
_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")

Row = tuple[str, dict[str, Any]]  # where it stands, and its cells


def read_table(config: DatasetConfig) -> RecordTable:
    """One record for every picture that a table names, in the order in which they first occur.

    `path` is a file .csv, .tsv (UTF-8, with a header), .parquet or .jsonl with the columns image and text,
    and perhaps language and label; or the folder with {split}.csv or alike. In Parquet and JSONL text,
    language and label may be lists. File names are relative to `images`, else to the folder of the table.

    Raises:
        DataError: a file, folder or column is missing, or too many rows cannot be used.
        DmedgeError: Parquet needs pyarrow.
    """
    path = _table(config)
    folder = find_pictures(config, [path.parent])
    return _read(f"table/{path.stem}", path, folder, config, _REQUIRED)


def read_folder(config: DatasetConfig) -> RecordTable:
    """The captioned pictures of a folder: images/ with captions.csv or captions.parquet.

    It is the folder that can be evaluated, too; but rows that cannot be used are counted and skipped.

    Raises:
        DataError: a file, folder or column is missing, or too many rows cannot be used.
        DmedgeError: Parquet needs pyarrow.
    """
    path = Path(config.path).expanduser()
    if not (path / "images").is_dir():
        raise DataError(f"{path}: no folder images/; expected images/ beside captions.csv; see docs/data.md")
    found = [path / name for name in ("captions.csv", "captions.parquet") if (path / name).is_file()]
    if len(found) != 1:
        have = " and ".join(file.name for file in found) or "neither captions.csv nor captions.parquet"
        raise DataError(f"{path}: {have}; expected one of the two; see docs/data.md")
    return _read(f"folder/{path.resolve().name}", found[0], path / "images", config, COLUMNS)


def _table(config: DatasetConfig) -> Path:
    path = Path(config.path).expanduser()
    if path.is_dir():
        found = [path / f"{config.split}{suffix}" for suffix in _SUFFIXES]
        path = next((file for file in found if file.is_file()), found[0])
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a table ({', '.join(_SUFFIXES)}); set path of the dataset")
    return path


def _read(name: str, path: Path, folder: Path, config: DatasetConfig, required: Sequence[str]) -> RecordTable:
    bad = BadRecords(config.max_bad_share, str(path))
    texts: dict[str, tuple[list[str], list[str]]] = {}
    labels: dict[str, set[str]] = {}
    for where, row in _rows(path, required, bad):
        image = row.get("image")
        if not isinstance(image, str) or text_problem(image):
            bad.saw()
            bad.add(where, f"no name of a picture (found {type(image).__name__})")
            continue
        usable, languages = usable_texts(
            f"{where} ({image})", row.get("text"), row.get("language"), config.language, bad
        )
        if usable:
            entry = texts.setdefault(image.strip(), ([], []))
            entry[0].extend(usable)
            entry[1].extend(languages)
            labels.setdefault(image.strip(), set()).update(_labels(row.get("label")))
    bad.finish()
    classes = {label: index for index, label in enumerate(sorted(set().union(*labels.values())))}
    records = tuple(
        Record(
            image,
            folder / image,
            tuple(captions),
            shared(tuple(languages)),
            tuple(sorted(classes[label] for label in labels[image])),
        )
        for image, (captions, languages) in texts.items()
    )
    check_folder(folder, (record.image for record in records), path)
    return RecordTable(name, records, tuple(classes))


def _labels(cell: object) -> set[str]:
    labels = cell if isinstance(cell, (list, tuple)) else [cell]
    return {str(label).strip() for label in labels if label is not None and str(label).strip()}


def _rows(path: Path, required: Sequence[str], bad: BadRecords) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return jsonl_rows(path, bad)
    if suffix == ".parquet":
        return _parquet_rows(path, required)
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path, required, "," if suffix == ".csv" else "\t")
    raise DataError(f"{path}: a {suffix or 'nameless'} file; expected {', '.join(_SUFFIXES)}; convert it")


def _csv_rows(path: Path, required: Sequence[str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default refuses captions above 131,072 characters
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
            _check_columns(path, reader.fieldnames or (), required)
            for number, row in enumerate(reader, start=1):
                yield f"row {number}", row
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected CSV in UTF-8; write it again") from error


def _parquet_rows(path: Path, required: Sequence[str]) -> Iterator[Row]:
    parquet: Any = require("pyarrow.parquet", "data")
    number = 0
    try:
        table = parquet.ParquetFile(path)
        _check_columns(path, table.schema_arrow.names, required)
        columns = [name for name in (*_REQUIRED, *_OPTIONAL) if name in table.schema_arrow.names]
        for batch in table.iter_batches(columns=columns):
            for row in _parquet_cells(batch):
                number += 1
                yield f"row {number}", row
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these types
        raise DataError(f"{path}: cannot be read ({error}); expected a Parquet file; write it again") from error


def _parquet_cells(batch: Any) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except UnicodeDecodeError:  # one text that is not UTF-8; the others of the batch are good
        pyarrow: Any = require("pyarrow", "data")
        is_text = [pyarrow.types.is_string(field.type) for field in batch.schema]
        columns = [
            column.cast("binary") if text else column for column, text in zip(batch.columns, is_text, strict=True)
        ]
        rows = pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()
        for row in rows:
            for name in compress(batch.schema.names, is_text):
                row[name] = None if row[name] is None else row[name].decode("utf-8", errors="surrogateescape")
    return rows


def _check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    missing = [column for column in required if column not in set(columns)]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)} among {', '.join(columns) or 'none'}; "
            f"expected {', '.join(required)}; rename or add them"
        )
