"""Pictures named by a table: CSV, TSV, Parquet or JSONL; and a folder of pictures with its captions."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

from dmedge.data.annotations import (
    NO_ANSWERS,
    RecordTable,
    check_folder,
    find_pictures,
    jsonl_rows,
    shared,
    text_problem,
    usable_texts,
)
from dmedge.data.captions import COLUMNS, cells, check_cells, given_answers
from dmedge.data.pictures import BadRecords
from dmedge.data.records import DatasetConfig, Record
from dmedge.data.vqa import answer_vocabulary, given_scores, normalise_answer
from dmedge.errors import DataError, require

_REQUIRED = ("image", "text")
_OPTIONAL = ("language", "label", "answer")
_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")

Row = tuple[str, dict[str, Any]]  # where it stands, and its cells


def read_table(config: DatasetConfig) -> RecordTable:
    """One record for every picture that a table names, in the order in which they first occur.

    `path` is a file .csv, .tsv (UTF-8, with a header), .parquet or .jsonl with the columns image and text,
    and perhaps language, label and answer; or the folder with {split}.csv or alike. In Parquet and JSONL text,
    language, label and answer may be lists. File names are relative to `images`, else to the folder of the table.
    Where rows have answers, texts are questions, and every one is a record.

    Raises:
        DataError: a file, folder or column is missing, or too many rows cannot be used.
        DmedgeError: Parquet needs pyarrow.
    """
    path = _table(config)
    folder = find_pictures(config, [path.parent])
    return _read(f"table/{path.stem}", path, folder, config, _REQUIRED)


def read_folder(config: DatasetConfig) -> RecordTable:
    """The captioned pictures of a folder: images/ with captions.csv or captions.parquet.

    It is the folder that can be evaluated, too, questions and answers included; but rows that cannot be used are
    counted and skipped.

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


@dataclass(slots=True)
class _Said:
    """What the rows of one picture say of it."""

    texts: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)  # one for every text, as the answers
    answers: list[tuple[str, ...]] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)


def _read(name: str, path: Path, folder: Path, config: DatasetConfig, required: Sequence[str]) -> RecordTable:
    bad = BadRecords(config.max_bad_share, str(path))
    pictures = _pictures(_rows(path, required, bad), config, bad)
    labels = sorted(set[str]().union(*(said.labels for said in pictures.values())))
    classes = {label: index for index, label in enumerate(labels)}
    asks = any(any(said.answers) for said in pictures.values())
    records: list[Record] = []
    for image, said in pictures.items():
        known = tuple(sorted(classes[label] for label in said.labels))
        whole = Record(image, folder / image, tuple(said.texts), shared(tuple(said.languages)), known, NO_ANSWERS)
        records += _questions(whole, said.answers, bad) if asks else [whole]
    bad.finish()
    check_folder(folder, (record.image for record in records), path)
    given = (answer for said in pictures.values() for of_text in said.answers for answer in of_text)
    vocabulary = answer_vocabulary(Counter(map(normalise_answer, given)).items(), config.answers)
    return RecordTable(name, tuple(records), tuple(labels), vocabulary)


def _pictures(rows: Iterable[Row], config: DatasetConfig, bad: BadRecords) -> dict[str, _Said]:
    """By picture, in the order in which they first occur."""
    pictures: dict[str, _Said] = {}
    for where, row in rows:
        image, answers = row.get("image"), given_answers(row.get("answer"))
        if not isinstance(image, str) or text_problem(image):
            bad.saw()
            bad.add(where, f"no name of a picture (found {type(image).__name__})")
            continue
        name = f"{where} ({image})"
        texts, languages = usable_texts(name, row.get("text"), row.get("language"), config.language, bad)
        if any(map(text_problem, answers)):
            bad.add(name, "answer is not UTF-8")
        elif texts:
            said = pictures.setdefault(image.strip(), _Said())
            said.texts.extend(texts)
            said.languages.extend(languages)
            said.answers.extend([answers] * len(texts))
            said.labels.update(cells(row.get("label")))
    return pictures


def _questions(record: Record, answers: Sequence[tuple[str, ...]], bad: BadRecords) -> Iterator[Record]:
    """One record for each text of `record`, numbered from 1, with the scores of the answers that people gave."""
    for number, (text, tag, given) in enumerate(zip(record.texts, record.languages, answers, strict=True), start=1):
        key = f"{record.key}, question {number}"
        if given:
            yield replace(record, key=key, texts=(text,), languages=shared((tag,)), answers=given_scores(given))
        else:
            bad.add(key, "no answer, as other rows have")


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
                check_cells(f"{path}: row {number}", row)
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
