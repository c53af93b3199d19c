"""Error analysis: what is confused with what, where, and which kinds of pairs fail most."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dmedge.study.cells import Cell, Done, Result
from dmedge.study.context import Study
from dmedge.study.scores import clustered
from dmedge.study.task import UNKNOWN, Doubles, Pairs
from dmedge.study.variants import correct

MOST = 12  # rows of a list
MANY = ("language", "class", "question")  # breakdowns into so many groups that only the worst are told
LEAST_PAIRS = 10  # of a language or class, to be ranked


def run_errors(study: Study, runs: Sequence[Done]) -> Done:
    """Analyse the errors of one variant, over all its seeds."""
    settings = {**study.task_settings(), "heads": [run.artifact.digest for run in runs]}
    return study.run(Cell("errors", settings, partial(_measure, study, runs)))


def _measure(study: Study, runs: Sequence[Done], folder: Path) -> Result:
    pairs, wrong, source = study.test, 1 - correct(study, runs), study.source
    parts: dict[str, Any] = {
        f"by_{name}": _by(keys, wrong, pairs)[: MOST if name in MANY else None]
        for name, keys in source.breakdowns(pairs).items()
    }
    if pairs.kind == "several":
        parts |= {"absent": _absent(study, runs), "weakest": _weakest(study, runs)}
    else:
        parts["confused"] = _confused(study, runs)
    if (hardest := source.hardest(pairs, wrong)) is not None:
        parts["hardest"] = hardest[:MOST]
    return {"n": len(pairs), **parts, "failure_groups": _failure_groups(source.failure_groups(pairs), wrong, pairs)}


def _confused(study: Study, runs: Sequence[Done]) -> list[Result]:
    """The pairs of classes most often taken for each other, with an example of each where there are any."""
    names, label = study.source.classes, study.test.label
    counts: Counter[tuple[int, int]] = Counter()
    for run in runs:
        predicted = np.array(run.result["predicted"])
        missed = (predicted != label) & (label != UNKNOWN)
        counts.update(zip(label[missed].tolist(), predicted[missed].tolist(), strict=True))
    of_class = np.bincount(label[label != UNKNOWN], minlength=len(names)) * len(runs)
    example = study.source.examples()
    return [
        {
            "true": names[true],
            "named": names[named],
            "true_example": example.get(true, ""),
            "named_example": example.get(named, ""),
            "count": count,
            "share": count / int(of_class[true]),
        }
        for (true, named), count in counts.most_common(MOST)
    ]


def _absent(study: Study, runs: Sequence[Done]) -> list[Result]:
    """Classes most often named as the likeliest of a picture that does not hold them."""
    named = np.concatenate([np.array(run.result["predicted"]) for run in runs])
    is_wrong = np.concatenate([study.test.right(np.array(run.result["predicted"])) for run in runs]) == 0
    counts, of_class = Counter(named[is_wrong].tolist()), Counter(named.tolist())
    return [
        {"name": study.source.classes[number], "count": count, "share": count / of_class[number]}
        for number, count in counts.most_common(MOST)
    ]


def _weakest(study: Study, runs: Sequence[Done]) -> list[Result]:
    """Classes of the lowest average precision, the mean of all seeds, with the number of pairs that hold each."""
    held = Counter(number for scores in study.test.scores for number in scores)
    found: list[Result] = [
        {
            "name": study.source.classes[int(number)],
            "average_precision": float(np.mean([run.result["average_precision"][number] for run in runs])),
            "n": held[int(number)],
        }
        for number in runs[0].result["average_precision"]
    ]
    return sorted(found, key=lambda row: (row["average_precision"], -row["n"]))[:MOST]


def _by(keys: Sequence[str], wrong: Doubles, pairs: Pairs) -> list[Result]:
    """Error rate of every key that has enough pairs, the worst first."""
    found: list[Result] = []
    array = np.array(keys)
    for key in sorted(set(keys)):
        rows = array == key
        if rows.sum() >= LEAST_PAIRS:
            found.append({"name": key, **clustered(wrong[rows], pairs.cluster[rows]).to_json()})
    return sorted(found, key=lambda row: -float(row["value"]))


def _failure_groups(groups: Mapping[str, Any], wrong: Doubles, pairs: Pairs) -> list[Result]:
    """Error rate inside and outside of every group."""
    found: list[Result] = []
    for name, inside in groups.items():
        if inside.any() and not inside.all():
            sides = {"inside": inside, "outside": ~inside}
            figures = {side: clustered(wrong[rows], pairs.cluster[rows]).to_json() for side, rows in sides.items()}
            found.append({"name": name, **figures})
    return found
