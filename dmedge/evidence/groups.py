"""What is kept of recall by script, by how much text a language was trained on, and by kind of emoji.

A mean over languages hides a script that suffers; a floor for every single language needs many texts of
each. Groups lie between: their intervals are narrower than those of languages, and hold together.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmedge.data.emoji import load_pack
from dmedge.data.evalset import EvalSet
from dmedge.data.languages import script_of
from dmedge.data.splits import count_training_texts
from dmedge.errors import DataError
from dmedge.evidence.bootstrap import bootstrap_groups, hit_table
from dmedge.evidence.choices import emoji_of
from dmedge.evidence.comparison import JUDGED_K, Comparison
from dmedge.evidence.retrieval import macro

TERCILES = ("little text", "some text", "much text")
UNKNOWN_SCRIPT = "Zzzz"  # ISO 15924


@dataclass(frozen=True, eq=False)
class Grouping:
    """One way to part the texts of an evaluation set."""

    definition: str
    names: Sequence[str]  # [T], the group of each text


def text_groups(data: EvalSet) -> dict[str, Grouping]:
    """Every way that parts `data` into two groups at least."""
    found = {"script": _by_script(data), "resource": _by_resource(data), "category": _by_category(data)}
    return {kind: grouping for kind, grouping in found.items() if len(set(grouping.names)) > 1}


def groups_json(comparison: Comparison) -> dict[str, Any]:
    """Text to image: for every way to part the texts, a row per group; see `_group_rows`."""
    return {
        kind: {"definition": grouping.definition, "groups": _group_rows(comparison, grouping.names)}
        for kind, grouping in text_groups(comparison.artifact.data).items()
    }


def _group_rows(comparison: Comparison, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Recall at 10 and MRR of both sides, means over the languages of a group, and the share of recall that is kept.

    `low` and `high` hold together for all groups of one way to part the texts.
    """
    mine, theirs = comparison.artifact, comparison.baseline
    queries, ranks = mine.queries["text_to_image"], theirs.queries["text_to_image"].rank
    groups, code = np.unique(np.array(names, dtype=np.str_), return_inverse=True)
    width = len(mine.languages)
    column = code[queries.text] * width + mine.language[queries.text]
    table = hit_table(comparison.cluster[queries.image], column, ranks <= JUDGED_K, queries.rank <= JUDGED_K)
    kept = bootstrap_groups(
        table,
        table.language // width,
        resamples=comparison.resamples,
        confidence=comparison.confidence,
        seed=comparison.seed,
    )
    rows = {}
    for index, group in enumerate(groups):
        sides = [report.of_texts("text_to_image", code == index) for report in (mine, theirs)]
        artifact, baseline = map(macro, sides)
        rows[str(group)] = {
            "n": artifact.n,
            "languages": sorted(sides[0]),
            "recall_at_10": round(artifact.recall_at_10, 6),
            "baseline_recall_at_10": round(baseline.recall_at_10, 6),
            "mrr": round(artifact.mrr, 6),
            "baseline_mrr": round(baseline.mrr, 6),
            "retention_at_10": kept[index].value,
            "low": kept[index].low,
            "high": kept[index].high,
            "hits": kept[index].hits,
        }
    return rows


def _by_script(data: EvalSet) -> Grouping:
    scripts = {}
    for language in set(data.languages):
        scripts[language] = UNKNOWN_SCRIPT
        with suppress(DataError):  # a language that nobody has a script for
            scripts[language] = script_of(language)
    return Grouping("ISO 15924 code of the script that a language is written in", [scripts[x] for x in data.languages])


def _by_resource(data: EvalSet) -> Grouping:
    """Thirds of the languages by how much text there is; one group where all have the same."""
    counts: Mapping[str, int] = Counter(data.languages)
    source = "texts of each language in the evaluation data"
    if data.name.startswith("emoji"):
        trained = count_training_texts(load_pack())
        counts = {language: trained[language] for language in counts}
        source = "names and keywords of each locale in the embedded training data"
    bounds = np.quantile(list(counts.values()), [1 / 3, 2 / 3])
    third = {language: int((count > bounds).sum()) for language, count in counts.items()}
    if min(counts.values()) == max(counts.values()):
        third = dict.fromkeys(counts, 0)
    limits = f"up to {bounds[0]:,.0f}, up to {bounds[1]:,.0f}, and more"
    return Grouping(
        f"thirds of the languages by the number of {source}: {limits}", [TERCILES[third[x]] for x in data.languages]
    )


def _by_category(data: EvalSet) -> Grouping:
    groups, emoji = load_pack().groups if data.name.startswith("emoji") else (), emoji_of(data)
    names = [groups[emoji[cluster].group] if cluster in emoji else "" for cluster in data.clusters]
    return Grouping("Unicode group of the emoji", [names[image] for image in data.text_image])
