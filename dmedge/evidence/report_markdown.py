"""All evidence as Markdown, for a pull request: the verdict first, then what it rests on, and how to make it again."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dmedge.data.languages import count_languages
from dmedge.data.readers import FORMATS
from dmedge.evidence.config import COOLDOWN_S, PAIRS_PER_LANGUAGE, REPEATS, ROUNDS
from dmedge.evidence.floors import floor_words
from dmedge.evidence.head_rows import HeadRow, head_rows, heads_of, signed
from dmedge.evidence.report_data import Collection, Judged
from dmedge.evidence.report_sections import BUDGET_NAMES, ORDER, span
from dmedge.evidence.report_text import CASE_NAMES, bytes_text, figure, interval, milliseconds, percent_interval
from dmedge.evidence.verdict import AT_MOST, Budget
from dmedge.manifest import Manifest

WORST = 5  # languages
FLAGS: Mapping[str, tuple[str, object]] = {  # setting of a stage -> its option, where it is not the default
    "data": ("--data", "emoji"),
    "style": ("--style", "twemoji"),
    "max_per_language": ("--max-per-language", None),
    "pairs_per_language": ("--pairs", PAIRS_PER_LANGUAGE),
    "device": ("--device", "local"),
    "rounds": ("--rounds", ROUNDS),
    "repeats": ("--repeats", REPEATS),
    "cool_c": ("--cool", None),
    "cooldown_s": ("--cooldown", COOLDOWN_S),
    "runtime": ("--runtime", None),
    "threads": ("--threads", 1),
    "more_threads": ("--more-threads", []),
    "robustness": ("--robustness", False),
    "minutes": ("--minutes", None),
    "roofline": ("--roofline", False),
    "profile": ("--profile", False),
}


def render_markdown(collection: Collection) -> str:
    """The page as text; bundles that failed come first."""
    entries = sorted(collection.judged, key=lambda entry: ORDER.get(entry.verdict, 1))
    return "\n".join(line for entry in entries for line in _bundle(entry, collection))


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; what would end a cell is escaped."""
    lines = [names, ["---"] * len(names), *rows]
    return [f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines]


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _bundle(entry: Judged, collection: Collection) -> Iterator[str]:
    yield f"## {_cell(entry.name)}: {entry.verdict}\n"
    yield f"{_lead(entry)}\n"
    if entry.budgets:
        yield from markdown_table(["budget", "verdict", "limit", "found", "interval"], _budget_rows(entry))
        yield ""
    if entry.recalls:
        rows = entry.recalls["languages"]
        yield f"Languages that keep least, of {count_languages(rows)}:\n"
        yield from markdown_table(["language", "recall@10", "baseline", "kept"], _language_rows(rows))
        yield ""
        if words := floor_words(entry.recalls):
            yield f"Of all, {words}.\n"
    if entry.verify and (heads := list(head_rows(heads_of(entry.verify)))):
        yield "Heads, on the same inputs as the baseline:\n"
        yield from markdown_table(["head", "figure", "n", "found", "baseline", "change"], _head_rows(heads))
        yield ""
    if entry.bench:
        yield f"Latency, {_cell(entry.bench['label'])}:\n"
        yield from markdown_table(["program", "p50", "fp32 p50", "of fp32", "interval"], _latency_rows(entry.bench))
        yield ""
    yield from _origin(entry, collection)


def _lead(entry: Judged) -> str:
    """What one bundle keeps and saves, in one sentence."""
    if entry.verify is None:
        return "Timed, and not verified: a latency without its accuracy is no result."
    size, data = entry.verify["size"], entry.verify["data"]
    share = f", {size['ratio']:.2f} of fp32" if size.get("ratio") else ""
    on = f"{data['n_texts']:,} texts and {data['n_images']:,} images of {_cell(data['name'])}"
    where = f"{bytes_text(size['program_bytes'])} of programs{share}, in {entry.verify['runtime']['runtime']}; on {on}."
    if "failure" in entry.verify:
        return f"Could not be judged: {_cell(entry.verify['failure'])}. {where}"
    if entry.recalls is None:
        rows = heads_of(entry.verify).items()
        alike = ", ".join(f"{name} {percent_interval(head['agreement'])}" for name, head in rows)
        return f"Decides as its baseline: {alike}. {where}"
    kept = entry.recalls["macro"]["text_to_image"]["retention"]["recall_at_10"]
    return f"Keeps {percent_interval(kept)} of its baseline's recall@10. {where}"


def _budget_rows(entry: Judged) -> list[list[str]]:
    lines = sorted(entry.budgets, key=lambda line: ORDER[line["verdict"]])
    return [
        [
            BUDGET_NAMES.get(line["name"], line["name"]),
            f"**{line['verdict']}**" if line["verdict"] != "pass" else "pass",
            f"{'at most' if line['name'] in AT_MOST else 'at least'} {line['limit']:g}",
            figure(line["value"]),
            span(line),
        ]
        for line in lines
    ]


def _language_rows(languages: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    known = [(tag, row) for tag, row in languages.items() if row["retention_at_10"] is not None]
    worst = sorted(known, key=lambda found: found[1]["retention_at_10"])[:WORST]
    return [
        [
            f"{row['name']} ({tag})",
            figure(row["recall_at_10"]),
            figure(row["baseline_recall_at_10"]),
            percent_interval({"value": row["retention_at_10"], "low": row["low"], "high": row["high"]}),
        ]
        for tag, row in worst
    ]


def _head_rows(rows: Sequence[HeadRow]) -> list[list[str]]:
    return [
        [row.head, row.figure, f"{row.n:,}", figure(row.artifact), figure(row.baseline), signed(row.change)]
        for row in rows
    ]


def _latency_rows(bench: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            CASE_NAMES[name],
            milliseconds(row["artifact"].get("p50_ms")),
            milliseconds(row["fp32"].get("p50_ms")),
            f"×{row['ratio']['value']:.2f}",
            interval(row["ratio"]) + (", drifted" if row["drifted"] else ""),
        ]
        for name, row in bench["programs"].items()
    ]


def _origin(entry: Judged, collection: Collection) -> Iterator[str]:
    """Digests, and the commands that make the evidence again."""
    report = entry.verify or entry.bench
    assert report is not None  # one of them is why the entry is there
    rows = [["artifact", entry.name, f"`{entry.digest}`"]]
    for role in ("baseline", "fp32_bundle"):
        if digest := report.get(f"{role}_sha256"):
            rows.append([role.replace("_", " "), collection.name_of(digest), f"`{digest}`"])
    if entry.verify:
        rows.append(["data", entry.verify["data"]["name"], f"`{entry.verify['data']['sha256']}`"])
    yield "<details><summary>Digests, and how to make this again</summary>\n"
    yield from markdown_table(["", "", "sha256"], rows)
    yield "\n```"
    yield from (_command(manifest, entry, collection) for manifest in _newest(entry, collection))
    yield "```\n\n</details>\n"


def _newest(entry: Judged, collection: Collection) -> list[Manifest]:
    """The manifests of the evidence that the entry shows."""
    found: dict[str, Manifest] = {}
    for _, manifest in collection.manifests.values():  # newest first
        if manifest.stage in ("verify", "bench") and manifest.parents.get("artifact") == entry.digest:
            found.setdefault(manifest.stage, manifest)
    return [found[stage] for stage in ("verify", "bench") if stage in found]


def _data_option(name: str) -> str:
    """What --data takes for an evaluation set of that name, where folders lie under their names."""
    format, _, rest = name.partition("/")
    return {"emoji": "emoji", "folder": rest}.get(format, f"{format}:FOLDER" if format in FORMATS else name)


def _command(manifest: Manifest, entry: Judged, collection: Collection) -> str:
    """What makes a piece of evidence again, where the artifacts lie under their names; the data by its own name."""
    words = ["dmedge", manifest.stage, entry.name, "--baseline", collection.name_of(manifest.parents["baseline"])]
    for key, (flag, default) in FLAGS.items():
        value = manifest.config.get(key, default)
        if key == "data":
            value = _data_option(str(value))
        if value is True:
            words.append(flag)
        elif value != default:
            words += [word for one in (value if isinstance(value, list) else [value]) for word in (flag, str(one))]
    budget = manifest.config.get("budget")
    defaults = asdict(Budget())
    for key, limit in budget.items() if isinstance(budget, Mapping) else ():
        if limit != defaults.get(key, limit) and limit is not None:
            words += ["--budget", f"{key}={limit}"]
    return shlex.join(words)
