"""The first sections of the report: budgets, recall and size."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dmedge.data.languages import count_languages
from dmedge.evidence.charts import Point, interval_chart, size_chart
from dmedge.evidence.report_data import Collection, Judged
from dmedge.evidence.report_text import (
    CASE_NAMES,
    bytes_text,
    chance_at_10,
    chip,
    figure,
    interval,
    lead_text,
    percent_interval,
    section,
    table,
)
from dmedge.evidence.verdict import AT_MOST, EXACT

BUDGET_NAMES = {
    "macro_recall_at_10_retention": "recall@10 kept, mean over languages",
    "worst_language_retention": "recall@10 kept, worst language",
    "image_to_text_retention": "recall@10 kept by picture, mean over languages",
    "worst_image_to_text_retention": "recall@10 kept by picture, worst language",
    "program_size_ratio": "program size over fp32",
    "parity_error_ratio": "greatest output error over its tolerance",
    "plan_carried_out": "share of the quantization plan carried out",
    "choice_agreement": "decisions as those of the baseline",
    "recall_at_10": "recall@10, mean over languages",
    "robustness_drop": "recall@10 lost beyond the baseline under perturbations",
    "match_auc_drop": "AUC of the match head lost",
    "class_accuracy_drop": "accuracy of the class head lost",
    "class_macro_f1_drop": "macro F1 of the class head lost",
    "label_accuracy_drop": "accuracy of the labels lost",
    "label_macro_f1_drop": "macro F1 of the labels lost",
    "vqa_accuracy_drop": "VQA accuracy lost",
    "worst_match_accuracy_drop": "accuracy of the match head lost, worst language",
    "worst_class_accuracy_drop": "accuracy of the class head lost, worst language",
    "worst_vqa_accuracy_drop": "VQA accuracy lost, worst language",
    "programs_work": "programs that run, and return embeddings and scores",
    "latency_ratio": "latency over fp32, program that gained least",
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
                chip(line["verdict"]),
                f"{sign} {line['limit']:g}",
                f"{figure(line['value'])}<small>{span(line)}</small>",
                interval_chart(line),
            ]
        )
    broken = [line for line in lines if line["verdict"] != "pass"]
    shade = {"fail": "bad", "not enough data": "warn"}.get(broken[0]["verdict"], "") if broken else ""
    title = f"{escape(entry.name)}: {_budget_words(lines)}"
    return section(title, table(["budget", "", "limit", "found", ""], rows), shade=shade)


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
        if entry.recalls:
            data, chance = entry.recalls["data"], chance_at_10(entry.recalls)
            notes.append(
                f"{data['name']}: {data['n_texts']:,} texts in {count_languages(entry.recalls['languages'])}, among "
                f"{data['n_images']:,} images (chance {chance:.4f})"
            )
            if (side := entry.recalls["method"].get("embedded_by_baseline")) is not None:
                notes.append(f"{entry.name} has one encoder: the baseline embedded the {side}")
    names = ["", "runs on", "programs", "recall@10 known text", "recall@10 new text", "worst language", "latency", ""]
    said = ["Recall@10, text to image, mean over languages", "; ".join(dict.fromkeys(notes))]
    note = " ".join(f"{escape(words)}." for words in said if words)
    return section("At a glance", table(names, rows), note=note)


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
    return section("Size against recall", size_chart(points, chance_at_10(verified[0].verify)), note=note)


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
            reciprocal = f"{mine['mrr']:.4f}<small>fp32 {theirs['mrr']:.4f}</small>"
            rows.append([label, among, *cells, reciprocal, percent_interval(kept["recall_at_10"])])
    names = ["", "among", "recall@1", "recall@5", "recall@10", "MRR", "recall@10 kept"]
    note = (
        "Means over languages; MRR is the mean of one over the rank. "
        "Held-out text names a known emoji in a language that was held out for it; new text is "
        "what of it occurs nowhere in training as a string; unseen emoji were never trained on, as picture or text."
    )
    return section(f"{escape(entry.name)}: both ways", table(names, rows), note=note)


def _baselines(judged: Sequence[Judged]) -> dict[str, Judged]:
    """Digest of each baseline -> a verification that measured it."""
    return {entry.recalls["baseline_sha256"]: entry for entry in reversed(judged) if entry.recalls}


def _baseline_row(name: str, entry: Judged) -> list[str]:
    assert entry.verify is not None
    known, new = (_recall(entry.verify, tag, "baseline") for tag in ("known", "novel"))
    label = f"{escape(name)}<small>fp32 baseline</small>"
    return [label, "torch", "", known, new, "", "", chip("baseline")]


def _bundle_row(entry: Judged) -> list[str]:
    verify, speed = entry.verify, "not timed"
    if entry.bench:
        ratios = {name: row["ratio"] for name, row in entry.bench["programs"].items()}
        cases = ("encode_image", "encode_text", "fuse_pair", "classify")
        rows = [(CASE_NAMES[name].split(",")[0], ratios[name]) for name in cases if name in ratios]
        speed = "".join(f"{name} ×{ratio['value']:.2f}<small>{interval(ratio)}</small>" for name, ratio in rows)
    name = f"{escape(entry.name)}<small>{entry.digest[:12]}</small>"
    where, takes = _place(verify or entry.bench or {})
    if not verify:
        return [name, where, takes, "", "", "not verified", speed, chip(entry.verdict)]
    if not entry.recalls:
        does = "not judged" if "failure" in verify else "decides"
        return [name, where, takes, does, does, "", speed, chip(entry.verdict)]
    worst = verify["languages"][verify["worst_language"]]
    kept = percent_interval({"value": worst["retention_at_10"], "low": worst["low"], "high": worst["high"]})
    return [
        name,
        where,
        takes,
        _recall(verify, "known", "artifact"),
        _recall(verify, "novel", "artifact"),
        f"{escape(worst['name'])}<small>keeps {kept}</small>",
        speed,
        chip(entry.verdict),
    ]


def _place(report: Mapping[str, Any]) -> tuple[str, str]:
    """Runtime, and bytes of the programs beside those of the fp32 bundle, by either kind of evidence."""
    runtime, size = report["runtime"], report["size"]
    if "artifact" in size:  # of a benchmark
        size = {"ratio": size["artifact"]["program_bytes"] / size["fp32"]["program_bytes"], **size["artifact"]}
    share = f"×{size['ratio']:.2f} of fp32" if size.get("ratio") else "fp32 not exported"
    where = f"{escape(runtime['runtime'])}<small>{escape(runtime['version'])}</small>"
    return where, f"{bytes_text(size['program_bytes'])}<small>{share}</small>"


def _recall(verify: Mapping[str, Any], tag: str, side: str) -> str:
    """Recall at 10 on texts with a tag; on all texts where the data has no tags."""
    if tag not in verify["tags"] and verify["tags"]:
        return "none"
    row = verify["tags"].get(tag, verify["macro"])["text_to_image"]
    found = row["recall_at_10"][side]
    return f"{figure(found['value'])}<small>{interval(found)}, n {row['artifact']['n']:,}</small>"


def span(line: Mapping[str, Any]) -> str:
    """Ends of the interval of a budget line, of which some are counted."""
    return "exact" if line["name"] in EXACT and line["value"] is not None else interval(line)
