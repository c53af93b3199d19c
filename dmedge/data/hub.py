"""Data sets of the Hugging Face `datasets` library: saved to disk, or by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmedge.config import near_match
from dmedge.data.annotations import usable_texts
from dmedge.data.pictures import BadRecords
from dmedge.data.records import DatasetConfig, Record
from dmedge.errors import DataError, require

_TEXT_NAMES = ("text", "texts", "caption", "captions", "sentences", "sentence", "sentences_raw", "raw", "alt_text")
_LANGUAGE_NAMES = ("language", "languages", "lang", "locale")
_LABEL_NAMES = ("label", "labels")
_BATCH = 4096  # rows whose texts are read together


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what."""

    image: str
    text: str
    language: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class HubDataset:
    """Rows of a data set that have a usable text; texts and pictures are read when they are asked for."""

    name: str
    rows: Any  # datasets.Dataset whose pictures are not decoded
    columns: Columns
    kept: tuple[tuple[int, tuple[str, ...]], ...]  # row, languages of its usable texts
    language: str
    labels: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Record:
        """One record; its picture may still prove unreadable."""
        row, languages = self.kept[index]
        cells = self.rows[row]
        texts, _ = _texts(cells, row, self.columns, self.language, BadRecords(1, self.name))
        return Record(str(row), _image(cells[self.columns.image]), texts, languages, self._labels(cells))

    def text_languages(self) -> tuple[tuple[str, ...], ...]:
        """Languages of the texts of every record."""
        return tuple(languages for _, languages in self.kept)

    def _labels(self, cells: Mapping[str, Any]) -> tuple[int, ...]:
        value = cells[self.columns.label] if self.columns.label else None
        values = value if isinstance(value, list) else [value]
        return tuple(sorted({int(label) for label in values if label is not None and label >= 0}))


def read_huggingface(config: DatasetConfig) -> HubDataset:
    """One record for every row with a picture and a text.

    `path` is a folder that `save_to_disk` wrote, or what `load_dataset` takes: a folder, or a name such as
    owner/name or owner/name:configuration. The columns are found by their types and usual names.

    Raises:
        DataError: there is no such data set, split, or column, or too many texts cannot be used.
        DmedgeError: `datasets` is not installed.
    """
    datasets: Any = require("datasets", "data")
    rows = _load(datasets, config)
    columns = guess_columns(rows.features, config.path)
    labels = _class_names(datasets, rows.features, columns.label)
    rows = rows.cast_column(columns.image, datasets.Image(decode=False))
    bad = BadRecords(config.max_bad_share, config.path)
    kept = _usable_rows(rows, columns, config.language, bad)
    bad.finish()
    name = f"huggingface/{Path(config.path).name}/{config.split}"
    if not kept:
        raise DataError(f"{name}: no row with a text in {columns.text!r}; expected at least one; check the split")
    return HubDataset(name, rows, columns, kept, config.language, labels)


def guess_columns(features: Mapping[str, Any], where: str) -> Columns:
    """Which column holds pictures, which texts, and perhaps languages and labels.

    Args:
        features: those of a `datasets.Dataset`.
        where: name of the data set, for messages.

    Raises:
        DataError: there is not exactly one choice for the picture or the text; the message lists the columns.
    """
    datasets: Any = require("datasets", "data")
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    texts = [name for name, feature in features.items() if _is_text(datasets, feature)]
    language = next((name for name in _LANGUAGE_NAMES if name in texts), "")
    texts = [name for name in texts if name != language]
    return Columns(
        image=_choose("picture", images, ("image",), features, where),
        text=_choose("text", texts, _TEXT_NAMES, features, where),
        language=language,
        label=next((name for name in _LABEL_NAMES if _class_names(datasets, features, name)), ""),
    )


def _choose(what: str, found: Sequence[str], usual: Sequence[str], features: Mapping[str, Any], where: str) -> str:
    for name in usual:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    columns = ", ".join(f"{name} ({_type(feature)})" for name, feature in features.items())
    raise DataError(
        f"{where}: {len(found)} columns may hold the {what} among {columns}; "
        f"expected one, or one called {' or '.join(usual)}; rename or cast it with `datasets`"
    )


def _type(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _item(datasets: Any, feature: Any) -> Any:
    """The feature of the items, if this is one of lists."""
    return feature.feature if isinstance(feature, (datasets.List, datasets.LargeList)) else feature


def _is_text(datasets: Any, feature: Any) -> bool:
    item = _item(datasets, feature)
    return isinstance(item, datasets.Value) and item.dtype in ("string", "large_string", "string_view")


def _class_names(datasets: Any, features: Mapping[str, Any], name: str) -> tuple[str, ...]:
    item = _item(datasets, features.get(name))
    return tuple(item.names) if isinstance(item, datasets.ClassLabel) else ()


def _load(datasets: Any, config: DatasetConfig) -> Any:
    path = Path(config.path).expanduser()
    if not path.exists() and (path.is_absolute() or config.path.startswith(".")):
        raise DataError(f"{path}: no such folder; expected one that save_to_disk wrote; set path of the dataset")
    try:
        if (path / "state.json").is_file():
            return datasets.load_from_disk(str(path))
        if (path / "dataset_dict.json").is_file():
            splits = datasets.load_from_disk(str(path))
            if config.split not in splits:
                raise DataError(f"{path}: no split {config.split!r}{near_match(config.split, list(splits))}")
            return splits[config.split]
        name, _, configuration = (str(path), "", "") if path.is_dir() else config.path.partition(":")
        return datasets.load_dataset(name, configuration or None, split=config.split)
    except (OSError, ValueError, KeyError) as error:  # those of `datasets` and of the hub are of these types
        raise DataError(
            f"{config.path}: cannot be loaded ({error}); expected a folder that save_to_disk wrote, or a name on the "
            "Hugging Face hub and one of its splits; check path and split of the dataset"
        ) from error


def _usable_rows(
    rows: Any, columns: Columns, language: str, bad: BadRecords
) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Rows that have a usable text, with the languages of these, found without reading any picture."""
    names = [name for name in (columns.text, columns.language) if name]
    cells = rows.select_columns(names)
    kept = []
    for start in range(0, len(cells), _BATCH):
        batch = _read(cells, start)
        for row, values in enumerate(zip(*(batch[name] for name in names), strict=True), start=start):
            texts, languages = _texts(dict(zip(names, values, strict=True)), row, columns, language, bad)
            if texts:
                kept.append((row, languages))
    return tuple(kept)


def _read(cells: Any, start: int) -> Any:
    try:
        return cells[start : start + _BATCH]
    except UnicodeDecodeError as error:
        raise DataError(
            f"rows {start} to {start + _BATCH}: text is not UTF-8 ({error}); expected UTF-8; write the data set again"
        ) from error


def _texts(
    cells: Mapping[str, Any], row: int, columns: Columns, language: str, bad: BadRecords
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    languages = cells[columns.language] if columns.language else None
    return usable_texts(f"row {row}", cells[columns.text], languages, language, bad)


def _image(cell: Any) -> Path | bytes:
    """What `datasets` stores of a picture: its bytes, or the path of its file."""
    if not cell:
        return b""
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"] or "")
