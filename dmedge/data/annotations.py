"""What the readers share: files that must be there, texts that must be readable, records kept in memory."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from dmedge.data.languages import language_name
from dmedge.data.pictures import BadRecords
from dmedge.data.records import DatasetConfig, Record
from dmedge.errors import DataError

NO_ANSWERS: Mapping[str, float] = {}  # shared by all records without, to save memory
_LOOKED_FOR = 16  # pictures; when none of them is there, the folder is the wrong one


@dataclass(frozen=True, slots=True)
class RecordTable:
    """Records in memory; their pictures stay on disk.

    Raises:
        DataError: there are no records.
    """

    name: str
    records: tuple[Record, ...]
    labels: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.records:
            raise DataError(f"{self.name}: no record with a picture and a text; expected at least one; check the path")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        """One record; its picture may still prove unreadable."""
        return self.records[index]

    def text_languages(self) -> tuple[tuple[str, ...], ...]:
        """Languages of the texts of every record."""
        return tuple(record.languages for record in self.records)


@lru_cache(maxsize=4096)
def shared(languages: tuple[str, ...]) -> tuple[str, ...]:
    """The same tuple for equal ones: few combinations of languages stand for millions of records."""
    return languages


@lru_cache(maxsize=4096)
def _language_problem(tag: str) -> str:
    try:
        language_name(tag)
    except DataError as error:
        return f"unknown language ({tag}: {error})"
    return ""


def text_problem(text: object) -> str:
    """Why a text cannot be used; "" if it can.

    Bytes that are no UTF-8 are expected as surrogates, which is how the readers of this package decode them.
    """
    if not isinstance(text, str):
        return f"no text (found {type(text).__name__})" if text is not None else "empty text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "text is not UTF-8"
    return "" if text.strip() else "empty text"


def usable_texts(
    name: str, texts: object, languages: object, default: str, bad: BadRecords
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of a record that can be used, without the space around them, and their languages.

    Args:
        name: of the record.
        texts: a string, or a list of them.
        languages: a string for all texts, or a list with one for each; None or "" for `default`.
        default: language of texts that do not name theirs.
        bad: counts all texts, and those that cannot be used.

    Raises:
        DataError: too many cannot be used.
    """
    all_texts = list(texts) if isinstance(texts, (list, tuple)) else [texts]
    tags = list(languages) if isinstance(languages, (list, tuple)) else [languages] * len(all_texts)
    bad.saw(max(1, len(all_texts)))
    if not all_texts or len(tags) != len(all_texts):
        bad.add(name, f"no text for each language ({len(all_texts)} texts, {len(tags)} languages)")
        return (), ()
    kept = []
    for text, tag in zip(all_texts, (str(tag or "").strip() or default for tag in tags), strict=True):
        problem = text_problem(text) or _language_problem(tag)
        if problem:
            bad.add(name, problem)
        else:
            kept.append((str(text).strip(), tag))
    return tuple(text for text, _ in kept), shared(tuple(tag for _, tag in kept))


def load_json(path: Path, reduce: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """A file that holds one JSON object. Bytes that are no UTF-8 become surrogates.

    Args:
        reduce: called with every object as soon as it is read; what it returns is kept in its place, so
            that a file of a gigabyte takes little memory.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
            content = json.load(stream, object_hook=reduce)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected JSON; fetch the file again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a {type(content).__name__}; expected a JSON object; check that it is the right file")
    return content


def list_in(content: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    """A list that a JSON file must hold.

    Raises:
        DataError: it does not.
    """
    found = content.get(key)
    if not isinstance(found, list):
        keys = ", ".join(map(str, content)) or "none"
        raise DataError(f"{path}: no list {key!r} among {keys}; expected the original file; fetch it again")
    return found


def jsonl_rows(path: Path, bad: BadRecords) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSONL file, each with "line N"; lines that hold none are bad records.

    Raises:
        DataError: the file cannot be read, or too many lines are bad.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    row = _json_object(line)
                    if row is None:
                        bad.saw()
                        bad.add(f"line {number}", "no JSON object")
                    else:
                        yield f"line {number}", row
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a JSONL file; check the path") from error


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8-sig", errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def find_file(config: DatasetConfig, names: Sequence[str], folders: Sequence[str] = ("",)) -> Path:
    """The file that `path` is, or the first of `names` in the folder that it is, or in `folders` below.

    Raises:
        DataError: there is none.
    """
    path = Path(config.path).expanduser()
    if path.is_file():
        return path
    for name in names:
        for folder in folders:
            if (path / folder / name).is_file():
                return path / folder / name
    found = f"none of {', '.join(names)}" if path.is_dir() else "no such file or folder"
    raise DataError(f"{path}: {found}; expected {names[0]} there; set path and split of the dataset")


def find_pictures(config: DatasetConfig, guesses: Sequence[Path], inside: Sequence[str] = ()) -> Path:
    """The folder of the pictures.

    Args:
        guesses: where to look when `images` is not set.
        inside: folders of the split, preferred to the `images` folder itself.

    Raises:
        DataError: there is no such folder.
    """
    images = Path(config.images).expanduser()
    candidates = [*(images / name for name in inside), images] if config.images else list(guesses)
    for folder in candidates:
        if folder.is_dir():
            return folder
    tried = ", ".join(map(str, candidates))
    raise DataError(f"no folder with the pictures at {tried}; expected one of these; set images of the dataset")


def check_folder(folder: Path, images: Iterator[Path | bytes], source: Path) -> None:
    """Make sure that at least one of the first pictures is there: one may be missing, all mean a wrong folder.

    Raises:
        DataError: all are missing.
    """
    first = [image for image in islice(images, _LOOKED_FOR) if isinstance(image, Path)]
    if first and not any(image.is_file() for image in first):
        raise DataError(
            f"{folder}: none of the first {len(first)} pictures that {source.name} names, such as {first[0]}; "
            "expected them there; set images of the dataset"
        )
