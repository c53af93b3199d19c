"""The page of a study, as HTML and as Markdown, from the same sections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from shlex import quote
from typing import Any

from dmedge.evidence.report_style import STYLE
from dmedge.flow.explain_page import TILE_STYLE
from dmedge.study.context import Study
from dmedge.study.words import PUBLISHED, headlines

LONG = 24  # rows of a table that is folded away


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a title."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A piece of trusted HTML, such as an inline SVG; Markdown leaves it out."""

    html: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One question of the study and what was found."""

    title: str
    lead: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    cells: tuple[str, ...] = ()  # folders of the runs that it rests on


def to_html(study: Study, sections: Sequence[Section], summary: Mapping[str, Any]) -> str:
    """A self-contained page: no script, no request, light and dark."""
    items = "".join(f"<li>{escape(line)}</li>" for line in headlines(summary))
    body = "".join(_section_html(number, section) for number, section in enumerate(sections, 1))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Dual-modal study of {escape(study.artifact.name)}</title><style>{STYLE}{TILE_STYLE}</style></head>"
        "<body><main>"
        f'<header><p class="eyebrow">dmedge study</p><h1>What image, text and fusion are worth</h1>'
        f'<p class="lead">{escape(_subject(study))}</p><ul>{items}</ul>'
        f'<p class="note">{escape(_intervals(study))}</p><p class="note">{escape(PUBLISHED)}</p></header>'
        f"{body}<section><h2>Again</h2><p><code>{escape(command(study))}</code></p></section></main></body></html>\n"
    )


def to_markdown(study: Study, sections: Sequence[Section], summary: Mapping[str, Any]) -> str:
    """The same without pictures."""
    parts = [f"# Dual-modal study of {study.artifact.name}", _subject(study)]
    parts.append("\n".join(f"- {line}" for line in headlines(summary)))
    parts += [_intervals(study), PUBLISHED]
    for number, section in enumerate(sections, 1):
        parts += [f"## {number}. {section.title}", section.lead]
        for table in section.tables:
            parts += [f"### {table.title}", _table_markdown(table)] + ([table.note] if table.note else [])
        if section.cells:
            parts.append("Runs: " + ", ".join(f"[{cell}](cells/{cell}/manifest.json)" for cell in section.cells))
    parts += ["## Again", f"```\n{command(study)}\n```"]
    return "\n\n".join(parts) + "\n"


def command(study: Study) -> str:
    """What makes this study again."""
    changes = (f"--set {quote(line)}" for line in study.config.changes())
    return " ".join(["dmedge study", str(study.artifact.name), *changes])


def _subject(study: Study) -> str:
    return (
        f"Checkpoint {study.artifact.name} ({study.artifact.digest[:12]}), {study.source.words.data}. Its towers stay "
        "as they are; heads are trained on what they say, and the models of the comparison from scratch."
    )


def _intervals(study: Study) -> str:
    words = study.source.words
    return (
        f"Square brackets hold 95 % intervals; they resample {words.samples}, since the pairs of one {words.sample} "
        "are no independent samples."
    )


def _section_html(number: int, section: Section) -> str:
    tables = "".join(_table_html(table) for table in section.tables)
    pictures = "".join(
        f"<div>{picture.html}<p class='note'>{escape(picture.caption)}</p></div>" for picture in section.pictures
    )
    cells = ", ".join(f'<a href="cells/{escape(cell)}/manifest.json">{escape(cell)}</a>' for cell in section.cells)
    runs = f"<details><summary>Runs</summary><p class='note'>{cells}</p></details>" if cells else ""
    return (
        f'<section><h2>{number}. {escape(section.title)}</h2><p class="note">{escape(section.lead)}</p>'
        f'{tables}<div class="pair">{pictures}</div>{runs}</section>'
    )


def _table_html(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    body = f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>{note}'
    if len(table.rows) > LONG:
        return f"<details><summary>{escape(table.title)}: {len(table.rows)} rows</summary>{body}</details>"
    return f"<h3>{escape(table.title)}</h3>{body}"


def _table_markdown(table: Table) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([row(table.columns), row(["---"] * len(table.columns)), *(row(cells) for cells in table.rows)])
