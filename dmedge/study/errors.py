"""Error analysis: what is confused with what, where, and which kinds of pairs fail most."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmedge.data.emoji import TEST_STYLE, load_pack
from dmedge.data.languages import language_name, script_of
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.context import Study
from dmedge.study.pairs import Pairs, class_names
from dmedge.study.scores import clustered
from dmedge.study.variants import correct

MOST = 12  # rows of a list
LOW_CONTRAST, MANY_PARTS = 0.2, 3  # share of pairs that count as low in contrast; parts that count as many
ABSTRACT_GROUPS = ("symbols", "flags")  # of emoji that stand for ideas, not for things
LEAST_PAIRS = 10  # of a language or class, to be ranked


def run_errors(study: Study, runs: Sequence[Done]) -> Done:
    """Analyse the errors of one variant, over all its seeds."""
    settings = {**study.task_settings(), "heads": [run.artifact.digest for run in runs]}
    return study.run(Cell("errors", settings, partial(_measure, study, runs)))


def _measure(study: Study, runs: Sequence[Done], folder: Path) -> Result:
    pairs, right = study.test, correct(study, runs)
    wrong = 1 - right
    pack = load_pack()
    group = [pack.groups[pack.emoji[i].group] for i in pairs.cluster]
    return {
        "n": len(pairs),
        "confused": _confused(study, runs),
        "by_group": _by(group, wrong, pairs),
        "by_script": _by([script_of(tag) for tag in pairs.languages], wrong, pairs),
        "by_language": _by([language_name(tag) for tag in pairs.languages], wrong, pairs)[:MOST],
        "hardest": _hardest(pairs, wrong),
        "failure_groups": _failure_groups(pairs, wrong, group),
    }


def _confused(study: Study, runs: Sequence[Done]) -> list[Result]:
    """The pairs of classes most often taken for each other, with an emoji of each."""
    names, label = class_names(), study.test.label
    counts: Counter[tuple[int, int]] = Counter()
    for run in runs:
        predicted = np.array(run.result["predicted"])
        missed = predicted != label
        counts.update(zip(label[missed].tolist(), predicted[missed].tolist(), strict=True))
    of_class = np.bincount(label, minlength=len(names)) * len(runs)
    example = {emoji.subgroup: emoji.char for emoji in reversed(load_pack().emoji)}
    return [
        {
            "true": names[true],
            "named": names[named],
            "true_example": example[true],
            "named_example": example[named],
            "count": count,
            "share": count / int(of_class[true]),
        }
        for (true, named), count in counts.most_common(MOST)
    ]


def _by(keys: Sequence[str], wrong: NDArray[np.float64], pairs: Pairs) -> list[Result]:
    """Error rate of every key that has enough pairs, the worst first."""
    found: list[Result] = []
    array = np.array(keys)
    for key in sorted(set(keys)):
        rows = array == key
        if rows.sum() >= LEAST_PAIRS:
            found.append({"name": key, **clustered(wrong[rows], pairs.cluster[rows]).to_json()})
    return sorted(found, key=lambda row: -float(row["value"]))


def _hardest(pairs: Pairs, wrong: NDArray[np.float64]) -> list[Result]:
    """The emoji that fail most, of those with several pairs."""
    pack = load_pack()
    rows: list[Result] = []
    for emoji in np.unique(pairs.cluster):
        mine = pairs.cluster == emoji
        if mine.sum() >= 3:
            entry = pack.emoji[emoji]
            mean, n = float(wrong[mine].mean()), int(mine.sum())
            rows.append({"emoji": entry.char, "name": entry.name, "error": mean, "n": n})
    return sorted(rows, key=lambda row: (-float(row["error"]), -int(row["n"])))[:MOST]


def _failure_groups(pairs: Pairs, wrong: NDArray[np.float64], group: Sequence[str]) -> list[Result]:
    """Error rate inside and outside of groups that are told apart by looking at the pairs themselves."""
    pictures, _ = load_pack().images(TEST_STYLE)
    place = {emoji: i for i, emoji in enumerate(np.unique(pairs.cluster))}
    shown = pictures[list(place)]
    row = np.array([place[emoji] for emoji in pairs.cluster])
    low = contrast(shown) <= np.quantile(contrast(shown), LOW_CONTRAST)
    many = np.array([parts(picture) >= MANY_PARTS for picture in shown])
    lengths = np.array([len(text) for text in pairs.texts])
    shares: dict[str, int] = Counter(pairs.texts)
    groups: Mapping[str, NDArray[np.bool_]] = {
        f"low contrast (the lowest {LOW_CONTRAST:.0%} of the pictures)": low[row],
        f"several objects ({MANY_PARTS} or more separate parts)": many[row],
        f"abstract ({', '.join(ABSTRACT_GROUPS)})": np.isin(np.array(group), ABSTRACT_GROUPS),
        "short keyword (3 characters or fewer)": lengths <= 3,
        "keyword of several words": np.array([" " in text.strip() for text in pairs.texts]),
        "keyword that several test pairs share": np.array([shares[text] > 1 for text in pairs.texts]),
    }
    found: list[Result] = []
    for name, inside in groups.items():
        if inside.any() and not inside.all():
            sides = {"inside": inside, "outside": ~inside}
            figures = {side: clustered(wrong[rows], pairs.cluster[rows]).to_json() for side, rows in sides.items()}
            found.append({"name": name, **figures})
    return found


def contrast(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[M] standard deviation of the luminance of uint8 [M, H, W, 3] pictures, within 0..0.5."""
    grey = pictures @ np.array([0.2126, 0.7152, 0.0722]) / 255
    return grey.std(axis=(1, 2))  # type: ignore[no-any-return]


def parts(picture: NDArray[np.uint8], least_share: float = 0.01) -> int:
    """Number of separate areas that are not white, each of 1 % of the picture at least."""
    is_ink = picture.min(-1) < 230
    label = np.where(is_ink, np.arange(1, is_ink.size + 1).reshape(is_ink.shape), 0)
    while True:  # every area takes the greatest number in it
        padded = np.pad(label, 1)
        spread = np.max(
            [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], 0
        )
        spread = np.where(is_ink, spread, 0)
        if np.array_equal(spread, label):
            break
        label = spread
    sizes = np.unique(label[label > 0], return_counts=True)[1]
    return int((sizes >= least_share * label.size).sum())
