"""One HTML page of all evidence: self-contained, no script, no request, light and dark."""

import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from dmedge.errors import ArtifactError
from dmedge.evidence.report_bench import operators, roofline, sustained
from dmedge.evidence.report_data import Collection, collect
from dmedge.evidence.report_details import fidelity, latency, lineage, method
from dmedge.evidence.report_heads import heads
from dmedge.evidence.report_languages import languages
from dmedge.evidence.report_ledger import ledgers
from dmedge.evidence.report_robustness import groups, robustness
from dmedge.evidence.report_search import searches
from dmedge.evidence.report_sections import budgets, header, headline, recalls, sizes
from dmedge.evidence.report_style import STYLE


def write_report(places: Sequence[Path], out: Path) -> Path:
    """Write the page of all evidence in `places` to the file `out`.

    Args:
        places: each one piece of evidence, or a directory that holds some at any depth.

    Raises:
        ArtifactError: `out` exists, or there is no evidence.
    """
    check_new(out)
    return write_page(render(collect(*places)), out)


def check_new(out: Path) -> None:
    """Refuse a file that exists, before any work.

    Raises:
        ArtifactError: it does.
    """
    if out.exists():
        raise ArtifactError(f"{out}: exists already; expected a new file; choose another --out or remove it")


def write_page(page: str, out: Path) -> Path:
    """Write a text to the new file `out`, whole or not at all.

    Raises:
        ArtifactError: `out` exists.
    """
    check_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.tmp-") as folder:
        draft = Path(folder) / out.name
        draft.write_text(page, encoding="utf-8")
        return draft.rename(out)


def render(collection: Collection) -> str:
    """The page as text."""
    verified = [entry for entry in collection.judged if entry.recalls]
    deciding = [
        entry for entry in collection.judged if entry.verify and not entry.recalls and "failure" not in entry.verify
    ]
    timed = [entry for entry in collection.judged if entry.bench]
    sections = [
        header(collection),
        *(budgets(entry) for entry in sorted(collection.judged, key=lambda entry: entry.verdict != "fail")),
        headline(collection),
        sizes(verified),
        ledgers(collection),
        *(languages(entry) for entry in verified),
        *(groups(entry) for entry in verified),
        *(recalls(entry) for entry in verified),
        *(robustness(entry) for entry in verified),
        *(heads(entry) for entry in (*verified, *deciding)),
        *(latency(entry) for entry in timed),
        *(sustained(entry) for entry in timed),
        *(roofline(entry) for entry in timed),
        *(operators(entry) for entry in timed),
        *(fidelity(entry) for entry in (*verified, *deciding)),
        searches(collection),
        lineage(collection),
        method(collection),
    ]
    return page_html(collection.title, "".join(sections))


def page_html(title: str, body: str) -> str:
    """A whole document in the style of the report.

    Args:
        title: plain text.
        body: HTML.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} · dmedge evidence</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
