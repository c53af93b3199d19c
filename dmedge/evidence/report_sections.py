"""The sections of the report, each from the evidence alone."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dmedge.evidence.charts import (
    FAMILIES,
    Bar,
    Node,
    Point,
    interval_chart,
    language_chart,
    latency_chart,
    lineage_chart,
    size_chart,
)
from dmedge.evidence.report_data import Collection, Judged
from dmedge.evidence.report_text import (
    bytes_text,
    chip,
    interval,
    lead_text,
    percent,
    percent_interval,
    table,
)
from dmedge.evidence.verdict import AT_MOST

BUDGET_NAMES = {
    "macro_recall_at_10_retention": "recall@10 kept, mean over languages",
    "worst_language_retention": "recall@10 kept, worst language",
    "program_size_ratio": "program size over fp32",
    "parity_error_ratio": "greatest output error over its tolerance",
    "plan_carried_out": "share of the quantization plan carried out",
    "recall_at_10": "recall@10, mean over languages",
    "latency_ratio": "latency over fp32, program that gained least",
}
CASE_NAMES = {
    "encode_image": "image",
    "encode_text": "text, lengths as in the data",
    "encode_text_longest": "text, full context",
    "fuse": "fusion of both",
}
TAG_NAMES = {
    "known": "known text",
    "held_out": "held-out text",
    "novel": "new text",
    "unseen_emoji": "unseen emoji",
}
ORDER = {"fail": 0, "not enough data": 1, "pass": 2}


def header(collection: Collection) -> str:
    """Title, and one sentence per bundle."""
    leads = "".join(f'<p class="lead">{lead_text(entry)} {chip(entry.verdict)}</p>' for entry in collection.judged)
    return f'<header><p class="eyebrow">dmedge evidence</p><h1>{escape(collection.title)}</h1>{leads}</header>'


def budgets(entry: Judged) -> str:
    """Every budget line of one bundle, failures first."""
    lines = sorted(entry.budgets, key=lambda line: ORDER[line["verdict"]])
    if not lines:
        return ""
    rows = []
    for line in lines:
        sign = "at most" if line["name"] in AT_MOST else "at least"
        rows.append(
            [
                escape(BUDGET_NAMES.get(line["name"], line["name"])),
                f"{sign} {line['limit']:g}",
                f"{_figure(line['value'])}<small>{_span(line)}</small>",
                interval_chart(line),
                chip(line["verdict"]),
            ]
        )
    broken = [line for line in lines if line["verdict"] != "pass"]
    shade = {"fail": "bad", "not enough data": "warn"}.get(broken[0]["verdict"], "") if broken else ""
    title = f"{escape(entry.name)}: {_budget_words(lines)}"
    return _section(title, table(["budget", "limit", "found", "", ""], rows), shade=shade)


def _budget_words(lines: Sequence[Mapping[str, Any]]) -> str:
    """How many budgets failed, are open and were kept."""
    counts = {verdict: sum(line["verdict"] == verdict for line in lines) for verdict in ORDER}
    words = {"fail": "failed", "not enough data": "undecided", "pass": "kept"}
    if counts["pass"] == len(lines):
        return f"all {len(lines)} budgets kept"
    return ", ".join(f"{count} {words[verdict]}" for verdict, count in counts.items() if count)


def headline(collection: Collection) -> str:
    """One row per bundle, and one per baseline."""
    rows, notes = [], []
    for digest, entry in _baselines(collection.judged).items():
        rows.append(_baseline_row(collection.name_of(digest), entry))
    for entry in collection.judged:
        rows.append(_bundle_row(entry))
        if entry.verify:
            data, chance = entry.verify["data"], _chance(entry.verify)
            notes.append(
                f"{data['name']}: {data['n_texts']:,} texts in {data['n_languages']} languages, among "
                f"{data['n_images']:,} images (chance {chance:.4f})"
            )
    names = ["", "runs on", "programs", "recall@10 known text", "recall@10 new text", "worst language", "latency", ""]
    note = "Recall@10, text to image, mean over languages. " + escape("; ".join(dict.fromkeys(notes))) + "."
    return _section("At a glance", table(names, rows), note=note)


def sizes(verified: Sequence[Judged]) -> str:
    """Program size against recall."""
    points = []
    for entry in verified:
        assert entry.verify is not None
        size, found = entry.verify["size"], entry.verify["macro"]["text_to_image"]
        name = f"{entry.name} · {entry.verify['runtime']['runtime']}"
        if "fp32_program_bytes" in size:
            recall = found["baseline"]["recall_at_10"]
            points.append(Point(f"fp32 for {entry.name}", size["fp32_program_bytes"] / 1e6, recall, None, None, True))
        recall = found["recall_at_10"]["artifact"]
        points.append(Point(name, size["program_bytes"] / 1e6, recall["value"], recall["low"], recall["high"], False))
    if not points:
        return ""
    assert verified[0].verify is not None
    note = (
        "Up and to the left is better. Grey: the fp32 programs for the same target, at the recall of the torch "
        "baseline. Whiskers: 95 % intervals over emoji."
    )
    return _section("Size against recall", size_chart(points, _chance(verified[0].verify)), note=note)


def languages(entry: Judged) -> str:
    """A bar per language, weakest retention marked."""
    assert entry.verify is not None
    rows = dict(sorted(entry.verify["languages"].items(), key=lambda row: -row[1]["recall_at_10"]))
    worst = entry.verify["worst_language"]
    bars = [_bar(tag, row, is_worst=tag == worst) for tag, row in rows.items()]
    end = min(1.0, 1.04 * max(max(bar.recall, bar.baseline) for bar in bars))
    half = (len(bars) + 1) // 2 if len(bars) > 8 else len(bars)
    charts = "".join(f"<div>{language_chart(part, end)}</div>" for part in (bars[:half], bars[half:]) if part)
    present = {row["script"] for row in rows.values()}
    keys = "".join(
        f'<span class="key"><i style="background:var(--f{index})"></i>{name}</span>'
        for index, (name, scripts) in enumerate(FAMILIES.items())
        if present & set(scripts) or (not scripts and present - set().union(*FAMILIES.values()))
    )
    galleries = sorted({row["gallery"] for row in rows.values()})
    note = (
        f"Recall@10, text to image, among {galleries[0]:,.0f} images; chance {_chance(entry.verify):.4f}. "
        "Upright tick: fp32 baseline. Right: share of the baseline's recall kept, with intervals that hold "
        "for all languages together. "
        f"Marked: the language that keeps least, {escape(rows[worst]['name'])}."
    )
    return _section(
        f"{escape(entry.name)}: {len(bars)} languages", f'{keys}<div class="pair">{charts}</div>', note=note
    )


def recalls(entry: Judged) -> str:
    """Recall both ways, by kind of text, beside the baseline."""
    assert entry.verify is not None
    groups = {"all texts": entry.verify["macro"]} | {
        TAG_NAMES.get(tag, tag): row for tag, row in entry.verify["tags"].items()
    }
    rows = []
    for direction in ("text_to_image", "image_to_text"):
        for name, group in groups.items():
            mine, theirs, kept = (group[direction][key] for key in ("artifact", "baseline", "retention"))
            cells = [
                f"{mine[f'recall_at_{k}']:.4f}<small>fp32 {theirs[f'recall_at_{k}']:.4f}</small>" for k in (1, 5, 10)
            ]
            label = f"{direction.replace('_', ' ')}<small>{escape(name)}, n {mine['n']:,}</small>"
            among = f"{mine['gallery']:,.0f}<small>chance@10 {mine['chance_at_10']:.4f}</small>"
            rows.append([label, among, *cells, percent_interval(kept["recall_at_10"])])
    names = ["", "among", "recall@1", "recall@5", "recall@10", "recall@10 kept"]
    note = (
        "Means over languages. Held-out text names a known emoji in a language that was held out for it; new text is "
        "what of it occurs nowhere in training as a string; unseen emoji were never trained on, as picture or text."
    )
    return _section(f"{escape(entry.name)}: both ways", table(names, rows), note=note)


def latency(entry: Judged) -> str:
    """Distributions, ratios, starts and memory of one benchmark."""
    assert entry.bench is not None
    host, runtime = entry.bench["host"]["before"], entry.bench["runtime"]
    cards = "".join(f"<div>{_case(name, row, entry)}</div>" for name, row in entry.bench["programs"].items())
    starts = table(
        ["", "load", "first image", "first text", "memory at most", "before loading"],
        [_start_row(side, start) for side, start in entry.bench["start"].items()],
    )
    note = (
        f"{escape(str(host['cpu']))}, {runtime['threads']} thread(s), {escape(runtime['runtime'])} "
        f"{escape(runtime['version'])}, load average {_figure(host['load_average'])} before. "
        "Batch 1; both sides loaded at once, taking turns A B B A; the ratio is the median over rounds, with a "
        "95 % interval over rounds. "
        "Grey: fp32 bundle for the same target."
    )
    body = f'<p class="host">{escape(entry.bench["label"])}</p><div class="pair">{cards}</div>{starts}'
    return _section(f"{escape(entry.name)}: latency", body, note=note)


def fidelity(entry: Judged) -> str:
    """Parity, coverage and agreement with the baseline."""
    assert entry.verify is not None
    parity, coverage, alike = (entry.verify[key] for key in ("parity", "coverage", "agreement"))
    parts = {
        "Outputs against torch": [
            (f"{name}, {row['n']} cases", f"{_figure(row['max_error'])} (limit {row['tolerance']:g})")
            for name, row in parity["programs"].items()
        ]
        + [
            ("golden pictures", f"{parity['images'] - len(parity['images_differing'])} of {parity['images']} alike"),
            ("golden texts", f"{parity['texts'] - len(parity['texts_differing'])} of {parity['texts']} alike"),
        ],
        "Answers against the baseline": [
            ("same best image", percent(alike["same_first"])),
            ("best ten in common", percent(alike["overlap_at_10"])),
            ("recall@10, own gallery", _figure(alike["recall_at_10"])),
            ("recall@10, fp32 gallery", _figure(alike["recall_at_10_baseline_gallery"])),
            ("recall@10, fp32 query", _figure(alike["recall_at_10_baseline_query"])),
            ("texts", f"{alike['n']:,}"),
        ],
        "Quantization plan": _coverage_rows(coverage),
    }
    cards = "".join(f"<div><h3>{title}</h3>{_definitions(rows)}</div>" for title, rows in parts.items())
    return _section(f"{escape(entry.name)}: does it compute the same?", f'<div class="cards">{cards}</div>')


def lineage(collection: Collection) -> str:
    """Who was made from whom."""
    nodes = []
    for digest, (root, manifest) in collection.manifests.items():
        caption = f"{manifest.kind} · {manifest.stage} · {digest[:8]}"
        parents = [
            parent for role, parent in manifest.parents.items() if manifest.kind != "evidence" or role == "artifact"
        ]
        nodes.append(Node(digest, root.name, caption, manifest.kind, tuple(parents)))
    note = "Every artifact names its parents by digest, and is checked by its own."
    return _section("Lineage", f'<div class="scroll">{lineage_chart(nodes)}</div>', note=note)


def method(collection: Collection) -> str:
    """How the figures came about."""
    digests = "".join(
        f"<dt>{escape(entry.name)}</dt><dd><code>{entry.digest}</code></dd>" for entry in collection.judged
    )
    text = (
        "<p>A text finds an image if the image it names is among the ten nearest; what scores as high counts as "
        "nearer, so an encoder that maps everything to one point finds nothing. Every language counts alike in a mean. "
        "Intervals resample emoji, not queries, because all languages ask for the same pictures, and compare both "
        "encoders on the same draw; those of languages are widened until all of them hold together with 95 %. A budget "
        "passes when its whole interval keeps the limit, fails when all of it breaks it, and else says that the data "
        "is not enough. Known text was trained on, with pictures in other styles; new text occurs nowhere in "
        "training.</p>"
    )
    return _section("How to read this", f"{text}<details><summary>Digests</summary><dl>{digests}</dl></details>")


def _chance(verify: Mapping[str, Any]) -> float:
    return float(verify["macro"]["text_to_image"]["artifact"]["chance_at_10"])


def _section(title: str, body: str, *, note: str = "", shade: str = "") -> str:
    below = f'<p class="note">{note}</p>' if note else ""
    return f'<section class="{shade}"><h2>{title}</h2>{below}<div class="scroll">{body}</div></section>'


def _baselines(judged: Sequence[Judged]) -> dict[str, Judged]:
    """Digest of each baseline -> a verification that measured it."""
    return {entry.verify["baseline_sha256"]: entry for entry in reversed(judged) if entry.verify}


def _baseline_row(name: str, entry: Judged) -> list[str]:
    assert entry.verify is not None
    known, new = (_recall(entry.verify, tag, "baseline") for tag in ("known", "novel"))
    label = f"{escape(name)}<small>fp32 baseline</small>"
    return [label, "torch", "", known, new, "", "", chip("baseline")]


def _bundle_row(entry: Judged) -> list[str]:
    verify, speed = entry.verify, "not timed"
    if entry.bench:
        ratios = {name: row["ratio"] for name, row in entry.bench["programs"].items()}
        rows = [(CASE_NAMES[name].split(",")[0], ratios[name]) for name in ("encode_image", "encode_text")]
        speed = "".join(f"{name} ×{ratio['value']:.2f}<small>{interval(ratio)}</small>" for name, ratio in rows)
    name = f"{escape(entry.name)}<small>{entry.digest[:12]}</small>"
    if not verify:
        return [name, "", "", "", "", "not verified", speed, chip(entry.verdict)]
    size, runtime, worst = verify["size"], verify["runtime"], verify["languages"][verify["worst_language"]]
    share = f"×{size['ratio']:.2f} of fp32" if size.get("ratio") else "fp32 not exported"
    kept = percent_interval({"value": worst["retention_at_10"], "low": worst["low"], "high": worst["high"]})
    return [
        name,
        f"{escape(runtime['runtime'])}<small>{escape(runtime['version'])}</small>",
        f"{bytes_text(size['program_bytes'])}<small>{share}</small>",
        _recall(verify, "known", "artifact"),
        _recall(verify, "novel", "artifact"),
        f"{escape(worst['name'])}<small>keeps {kept}</small>",
        speed,
        chip(entry.verdict),
    ]


def _recall(verify: Mapping[str, Any], tag: str, side: str) -> str:
    """Recall at 10 on texts with a tag; on all texts where the data has no tags."""
    if tag not in verify["tags"] and verify["tags"]:
        return "none"
    row = verify["tags"].get(tag, verify["macro"])["text_to_image"]
    found = row["recall_at_10"][side]
    return f"{_figure(found['value'])}<small>{interval(found)}, n {row['artifact']['n']:,}</small>"


def _bar(tag: str, row: Mapping[str, Any], *, is_worst: bool) -> Bar:
    kept = {"value": row["retention_at_10"], "low": row["low"], "high": row["high"]}
    detail = (
        f"{row['name']} ({tag}): recall@1 {row['recall_at_1']:.3f}, @5 {row['recall_at_5']:.3f}, "
        f"@10 {row['recall_at_10']:.3f}; baseline @10 {row['baseline_recall_at_10']:.3f}; {row['n']:,} texts among "
        f"{row['gallery']:,.0f} images, chance @10 {row['chance_at_10']:.4f}; image to text @10 "
        f"{row['image_to_text']['recall_at_10']:.3f}"
    )
    name, recall, baseline = row["name"], row["recall_at_10"], row["baseline_recall_at_10"]
    return Bar(tag, name, row["script"], recall, baseline, percent_interval(kept), detail, is_worst)


def _case(name: str, row: Mapping[str, Any], entry: Judged) -> str:
    ratio, mine, theirs = row["ratio"], row["artifact"], row["fp32"]
    notes = [note for note, is_so in (("drifted", row["drifted"]), ("never stable", not row["warmed_up"])) if is_so]
    figures = [
        ("p50", f"{_ms(mine.get('p50_ms'))} <small>fp32 {_ms(theirs.get('p50_ms'))}</small>"),
        ("p90", f"{_ms(mine.get('p90_ms'))} <small>fp32 {_ms(theirs.get('p90_ms'))}</small>"),
        ("samples", f"{mine['n']:,} each"),
    ]
    if "end_to_end" in row:
        figures.append(("with decoding or tokenising, p50", _ms(row["end_to_end"]["artifact"].get("p50_ms"))))
    samples = [np.asarray(entry.samples[f"{name}_{side}_ns"], np.float64) / 1e6 for side in ("artifact", "fp32")]
    head = f"×{ratio['value']:.2f} <small>of fp32, {interval(ratio)}{', ' + ', '.join(notes) if notes else ''}</small>"
    return f'<h3>{CASE_NAMES[name]}</h3><p class="big">{head}</p>{latency_chart(*samples)}{_definitions(figures)}'


def _start_row(side: str, start: Mapping[str, Any]) -> list[str]:
    return [
        {"artifact": "this bundle", "fp32": "fp32 bundle"}[side],
        _ms(start["load_ms"]),
        _ms(start["first_ms"]["encode_image"]),
        _ms(start["first_ms"]["encode_text"]),
        bytes_text(start["peak_rss_bytes"]),
        bytes_text(start["base_rss_bytes"]),
    ]


def _coverage_rows(coverage: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if coverage is None:
        return [("checkpoint", "not found, so not checked")]
    return [
        ("modules found as integers", f"{coverage['modules_carried_out']} of {coverage['modules_planned']}"),
        ("parameters in int8", percent(coverage["parameter_share_int8"])),
        ("multiply-accumulates in int8", percent(coverage["mac_share_int8"])),
    ]


def _definitions(rows: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _span(line: Mapping[str, Any]) -> str:
    is_exact = line["low"] is not None and line["low"] == line["high"]
    return "exact" if is_exact else interval(line)


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"


def _ms(value: float | None) -> str:
    return "too few samples" if value is None else f"{value:.3g} ms"
