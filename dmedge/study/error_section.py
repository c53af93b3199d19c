"""The section on what fails, from the tables that the task has."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dmedge.study.cells import folders
from dmedge.study.context import Study
from dmedge.study.findings import Findings
from dmedge.study.page import Picture, Section, Table
from dmedge.study.words import with_interval


def errors(study: Study, found: Findings) -> Section:
    """What fails."""
    result = found.errors.result
    groups = [
        [row["name"], with_interval(row["inside"]), f"{row['inside']['n']:,}", with_interval(row["outside"])]
        for row in result["failure_groups"]
    ]
    return Section(
        "Errors",
        f"Of {_as_part(study.source.words.design)}, over n = {result['n']:,} pairs and all seeds. Figures are error "
        "rates.",
        tables=(
            *_class_tables(result),
            *(
                [Table("Groups that may fail", ("group", "error inside", "n", "error outside"), groups)]
                if groups
                else []
            ),
            *(_error_table(title, result[key]) for key, title in _BREAKDOWNS.items() if result.get(key)),
        ),
        pictures=(
            (Picture(_emoji_gallery(result["hardest"]), "The hardest emoji, as this system draws them."),)
            if result.get("hardest")
            else ()
        ),
        cells=folders([found.errors]),
    )


_BREAKDOWNS = {
    "by_group": "By category",
    "by_class": "By class, the worst",
    "by_count": "By the number of classes in the picture",
    "by_answer": "By kind of answer",
    "by_question": "By the first words of the question, the worst",
    "by_script": "By script",
    "by_language": "By language, the worst",
}


def _as_part(title: str) -> str:
    return title[:1].lower() + title[1:]


def _class_tables(result: Mapping[str, Any]) -> list[Table]:
    """Classes and single samples that fail, in the tables that the task has."""
    tables = []
    if "confused" in result:
        confused = [
            [
                f"{row['true_example']} {row['true']}".strip(),
                f"{row['named_example']} {row['named']}".strip(),
                str(row["count"]),
                f"{row['share']:.1%}",
            ]
            for row in result["confused"]
        ]
        tables.append(Table("Most confused", ("class", "named as", "times", "of the class"), confused))
    if "weakest" in result:
        rows = [[row["name"], f"{row['average_precision']:.3f}", f"{row['n']:,}"] for row in result["weakest"]]
        tables.append(Table("Weakest classes", ("class", "average precision", "pairs that hold it"), rows))
        rows = [[row["name"], f"{row['count']:,}", f"{row['share']:.1%}"] for row in result["absent"]]
        tables.append(Table("Named as likeliest, though absent", ("class", "times", "of all times"), rows))
    if result.get("hardest"):
        rows = [[row["emoji"], row["name"], f"{row['error']:.2f}", str(row["n"])] for row in result["hardest"]]
        tables.append(Table("Hardest emoji", ("", "name", "error", "pairs"), rows))
    return tables


def _error_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(title, ("", "error", "n"), [[row["name"], with_interval(row), f"{row['n']:,}"] for row in rows])


def _emoji_gallery(rows: Sequence[Mapping[str, Any]]) -> str:
    return "<p style='font-size:34px;margin:0'>" + " ".join(escape(str(row["emoji"])) for row in rows) + "</p>"
