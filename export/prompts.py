"""The prompts of a zero-shot classifier: the texts of each label, in any languages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmedge.config import load_config
from dmedge.errors import ConfigError, DataError

PROMPTS = "prompts.json"
COLUMNS = {1: ("text",), 2: ("label", "text"), 3: ("label", "language", "text")}  # by the number of cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One text of a label; several of one label are averaged."""

    label: str
    text: str
    language: str = ""  # a tag, for the record: the model reads any language

    def __post_init__(self) -> None:
        if not (self.label.strip() and self.text.strip()):
            raise ValueError(f"label {self.label!r}, text {self.text!r}; expected a word at least in each")


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Prompts of a file: JSON, an array of texts or of objects with `label`, `language` and `text`; or lines.

    A line is a text, which is its own label, or has tabs between label and text, or between label,
    language and text; a first line that names the columns is passed over, and so are empty lines.

    Raises:
        DataError: the file cannot be read, or a row is no prompt; the row is named.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
        rows = json.loads(content) if path.suffix.lower() == ".json" else _lines(content)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected UTF-8 text, a prompt in each line, or JSON") from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: holds no prompt; expected one in each line, or a JSON array of them")
    return tuple(_prompt(row, f"{path}, prompt {number}") for number, row in enumerate(rows, 1))


def _lines(content: str) -> list[object]:
    rows: list[object] = []
    for number, line in enumerate(content.splitlines(), 1):
        cells = tuple(cell.strip() for cell in line.split("\t"))
        if not any(cells) or cells in COLUMNS.values():
            continue
        if len(cells) not in COLUMNS:
            raise ValueError(f"line {number} has {len(cells)} cells between tabs, not 1 to {max(COLUMNS)}")
        rows.append(dict(zip(COLUMNS[len(cells)], cells, strict=True)))
    return rows


def _prompt(row: object, where: str) -> Prompt:
    try:
        if isinstance(row, str):
            return Prompt(label=row, text=row)
        if isinstance(row, dict):
            return load_config(Prompt, {"label": row.get("text", ""), **row}, where=where)
    except (ConfigError, ValueError) as error:
        raise DataError(f"{where}: {str(error).removeprefix(f'{where}: ')}; give it a label and a text") from error
    raise DataError(f"{where}: found {row!r}; expected a text, or an object with label, language and text")


def labels_of(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The labels in the order in which they first occur."""
    return tuple(dict.fromkeys(prompt.label for prompt in prompts))


def languages_of(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The languages that are named, sorted."""
    return tuple(sorted({prompt.language for prompt in prompts if prompt.language}))
