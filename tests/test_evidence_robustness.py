"""Perturbed searches, groups and heads: nothing is lost against oneself, and what is lost is found where it is."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from dmedge.data.emoji import load_pack
from dmedge.data.evalset import EvalSet, emoji_evalset
from dmedge.data.splits import training_texts
from dmedge.data.transforms import Preprocess
from dmedge.evidence.accuracy import evaluate
from dmedge.evidence.choices import draw_pairs
from dmedge.evidence.comparison import Comparison
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.decisions import Logits, compare_pairs
from dmedge.evidence.groups import TERCILES, groups_json, text_groups
from dmedge.evidence.heads import Sides
from dmedge.evidence.perturb_images import IMAGE_PERTURBATIONS
from dmedge.evidence.retrieval import Floats
from dmedge.evidence.robustness import (
    CODE_SWITCHING,
    NAMES,
    Robustness,
    Searched,
    draw_queries,
    judge_robustness,
    search_perturbed,
)

CONFIG = VerifyConfig(resamples=200, robustness_texts=45)
IMAGES = 40
WORDS = {"de": "Fußgänger über Straße", "en": "café door open", "th": "หน้ายิ้มตาโต"}


class Numbered:
    """Knows clean pictures, and texts by heart or by the two digits that they begin with; all else is a miss."""

    def __init__(self, data: EvalSet, *, by_heart: bool) -> None:
        self.data, self.by_heart = data, by_heart
        self.pictures = {image.tobytes(): i for i, image in enumerate(data.images)}
        self.seen: list[Any] = []

    def images(self, images: Sequence[Any]) -> Floats:
        self.seen += [image.tobytes() for image in images]
        return self._rows([self.pictures.get(image.tobytes(), IMAGES) for image in images])

    def texts(self, texts: Sequence[str]) -> Floats:
        self.seen += texts
        known = set(self.data.texts)
        return self._rows([IMAGES if self.by_heart and text not in known else int(text[:2]) for text in texts])

    def _rows(self, places: list[int]) -> Floats:
        return np.eye(IMAGES + 1, dtype=np.float32)[places]


@pytest.fixture(scope="module")
def data() -> EvalSet:
    """Forty pictures in two greys, each named in three languages by a number and some words."""
    images = []
    for i in range(IMAGES):
        image = np.full((32, 32, 3), 230, np.uint8)
        image[i // 2 : i // 2 + 8, 4 + i % 2 : 20] = 40
        images.append(image)
    names = [(tag, i) for tag in WORDS for i in range(IMAGES)]
    return EvalSet(
        name="numbered",
        images=images,
        clusters=tuple(f"c{i}" for i in range(IMAGES)),
        texts=tuple(f"{i:02d} {WORDS[tag]}" for tag, i in names),
        text_image=np.array([i for _, i in names]),
        languages=tuple(tag for tag, _ in names),
    )


@cache
def _searched(data: EvalSet, by_heart: bool) -> tuple[Searched, tuple[Any, ...]]:
    encoder = Numbered(data, by_heart=by_heart)
    gallery = encoder.images(data.images)
    return search_perturbed(encoder, gallery, draw_queries(data, CONFIG), Preprocess(32)), tuple(encoder.seen)


def robustness(data: EvalSet, *, by_heart: bool) -> Robustness:
    mine, theirs = _searched(data, by_heart)[0], _searched(data, False)[0]
    return Robustness(draw_queries(data, CONFIG), mine, theirs, CONFIG.resamples, CONFIG.confidence)


def test_an_encoder_loses_nothing_against_itself(data: EvalSet) -> None:
    found = robustness(data, by_heart=False)
    assert set(found.drop) == {0.0}
    for row in found.to_json()["perturbations"].values():
        assert row["artifact"] == row["baseline"]
        assert row["artifact"][0] == 1
        assert {tuple(point.values()) for point in row["difference"]} == {(0, 0, 0)}


def test_what_is_lost_is_lost_where_items_changed(data: EvalSet) -> None:
    rows = robustness(data, by_heart=True).to_json()["perturbations"]
    assert tuple(rows) == NAMES
    for name, row in rows.items():
        kept = [1 - share for share in row["changed"]]
        if name == CODE_SWITCHING:  # a text that is replaced as a whole is known by heart as well
            assert all(found >= least - 2e-6 for found, least in zip(row["artifact"], kept, strict=True))
            continue
        assert row["artifact"] == pytest.approx(kept, abs=2e-6), name
        if name in IMAGE_PERTURBATIONS:  # both know pictures by heart
            assert row["baseline"] == row["artifact"]
            assert row["drop"]["value"] == 0
            continue
        assert set(row["baseline"]) == {1.0}
        assert row["drop"]["value"] == pytest.approx(np.mean(row["changed"][1:]), abs=2e-6)
        assert row["drop"]["low"] > 0
        assert row["drop"]["high"] >= row["drop"]["value"]


def test_nothing_changes_where_a_script_has_nothing_to_change(data: EvalSet) -> None:
    rows = robustness(data, by_heart=False).to_json()["perturbations"]
    for name in ("case", "diacritics"):  # of three languages, Thai has neither
        assert rows[name]["changed"][0] == 0
        assert rows[name]["changed"][-1] == pytest.approx(2 / 3)


def test_both_sides_are_asked_the_same(data: EvalSet) -> None:
    assert _searched(data, True)[1] == _searched(data, False)[1]


@pytest.mark.parametrize(
    ("limit", "by_heart", "verdict"),
    [(0.1, False, "pass"), (0.0, False, "not enough data"), (0.1, True, "fail"), (0.9, True, "pass")],
    ids=["30 hits show a tenth", "45 hits show no hundredth", "all is lost", "within a wide limit"],
)
def test_a_drop_passes_on_as_many_hits_as_could_show_it(
    data: EvalSet, limit: float, by_heart: bool, verdict: str
) -> None:
    found = robustness(data, by_heart=by_heart)
    assert found.clean_hits == 45
    assert judge_robustness(found, limit).verdict == verdict


def test_a_drop_that_nobody_measured_is_not_judged() -> None:
    assert judge_robustness(None, 0.5).verdict == "not enough data"


def test_every_language_has_its_share_of_the_sample(data: EvalSet) -> None:
    sample = draw_queries(data, CONFIG)
    counts = {tag: sum(data.languages[row] == tag for row in sample.rows) for tag in WORDS}
    assert set(counts.values()) == {15}
    assert len(np.unique(sample.rows)) == 45
    few = VerifyConfig(robustness_texts=1000)
    np.testing.assert_array_equal(draw_queries(data, few).rows, np.arange(len(data.texts)))


def test_groups_of_one_encoder_keep_all_and_part_every_text() -> None:
    data = emoji_evalset(locales=["en", "de", "ru", "hi", "th", "ha"]).subset(max_queries_per_language=120)
    report = evaluate(Pack(data), data)
    found = groups_json(Comparison(report, report, resamples=100))
    assert set(found) == {"script", "resource", "category"}
    assert set(found["script"]["groups"]) == {"Latn", "Cyrl", "Deva", "Thai"}
    assert set(found["resource"]["groups"]) == set(TERCILES)
    assert set(found["category"]["groups"]) <= set(load_pack().groups)
    assert found["script"]["groups"]["Latn"]["languages"] == ["de", "en", "ha"]
    trained = Counter(text.locale for text in training_texts(load_pack()))
    little, some, much = ([trained[tag] for tag in found["resource"]["groups"][name]["languages"]] for name in TERCILES)
    assert max(little) < min(some)
    assert max(some) < min(much)
    for grouping in found.values():
        assert sum(row["n"] for row in grouping["groups"].values()) == len(data.texts)
        for row in grouping["groups"].values():
            assert (row["retention_at_10"], row["low"], row["high"]) == (1.0, 1.0, 1.0)
            assert row["mrr"] == row["baseline_mrr"] == 1.0


class Pack:
    """Finds every emoji of a set by any of its names."""

    def __init__(self, data: EvalSet) -> None:
        self.pictures = {id(image): i for i, image in enumerate(data.images)}
        self.names = dict(zip(data.texts, data.text_image, strict=True))
        self.table = np.random.default_rng(0).standard_normal((len(data.images), 64)).astype(np.float32)
        self.table /= np.linalg.norm(self.table, axis=1, keepdims=True)

    def images(self, images: Sequence[Any]) -> Floats:
        return self.table[[self.pictures[id(image)] for image in images]]

    def texts(self, texts: Sequence[str]) -> Floats:
        return self.table[[self.names[text] for text in texts]]


def test_a_script_that_is_lost_shows_in_its_group_alone(data: EvalSet) -> None:
    class DeafToThai(Numbered):
        def texts(self, texts: Sequence[str]) -> Floats:
            return self._rows([IMAGES if WORDS["th"] in text else int(text[:2]) for text in texts])

    deaf, whole = (evaluate(make(data, by_heart=False), data) for make in (DeafToThai, Numbered))
    found = groups_json(Comparison(deaf, whole, resamples=100))
    assert set(found) == {"script"}  # as many texts of every language, and no emoji
    kept = {name: row["retention_at_10"] for name, row in found["script"]["groups"].items()}
    assert kept == {"Latn": 1.0, "Thai": 0.0}


def test_a_set_of_one_language_has_no_groups(data: EvalSet) -> None:
    assert not text_groups(data.subset(np.array([tag == "th" for tag in data.languages])))


def test_heads_that_only_grow_surer_are_as_right_and_worse_calibrated() -> None:
    data, pack = emoji_evalset(locales=["en"]), load_pack()
    drawn = draw_pairs(data, 300, 0)
    group = {emoji.hexcode: emoji.group for emoji in pack.emoji}
    rng = np.random.default_rng(0)
    classes = rng.standard_normal((600, len(pack.groups))).astype(np.float32)
    shares = np.exp(classes) / np.exp(classes).sum(1, keepdims=True)
    told = np.array([rng.choice(len(pack.groups), p=row / row.sum()) for row in shares.astype(np.float64)])
    # Each row's logits, rolled so that the true class gets what was drawn: right as often as it is sure.
    truth = np.array([group[data.clusters[i]] for i in drawn.own])
    calibrated = np.stack([np.roll(row, int(t) - int(d)) for row, t, d in zip(classes, truth, told, strict=True)])
    match = np.where(drawn.is_own == 1, 2, -2).astype(np.float32)
    baseline, surer = Logits(match, calibrated), Logits(match, 4 * calibrated)
    found = compare_pairs(Sides(surer, baseline), drawn, data, pack.groups, CONFIG)
    head, error = found["class"], found["class"].figures["calibration_error"]
    assert (head.n, head.n_known, head.agreement.value) == (300, 300, 1.0)
    assert {set(head.figures[name].change) == {0.0} for name in ("accuracy", "macro_f1")} == {True}
    assert error.baseline < 0.12 < error.artifact
    assert error.change.low > 0.1
    figures = found["match"].figures
    assert (found["match"].n, figures["accuracy"].artifact, figures["auc"].artifact) == (600, 1.0, 1.0)
    assert set(figures["calibration_error"].change) == {0.0}
    assert figures["calibration_error"].artifact == pytest.approx(1 - 1 / (1 + np.exp(-2)))
