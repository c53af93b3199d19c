"""Heads in every language: as many pairs of each, intervals that hold together, and the right language blamed."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dmedge.cli.verify import verify
from dmedge.data.evalset import EvalSet
from dmedge.evidence.choices import draw_pairs
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.decisions import PAIRS, pair_logits, pairs_for
from dmedge.evidence.figures import mean_of, of_rows
from dmedge.evidence.head_rows import head_rows, worst_language
from dmedge.evidence.heads import Head, Inputs, Sides, class_head, match_head
from dmedge.evidence.measured import judge_heads
from dmedge.evidence.paired import compare_parts
from dmedge.evidence.retrieval import Floats, Ints
from dmedge.evidence.verdict import Budget, hits_needed, pairs_needed

CONFIG = VerifyConfig(resamples=300)
LANGUAGES = (
    "ar",
    "de",
    "el",
    "en",
    "es",
    "fr",
    "he",
    "hi",
    "it",
    "ja",
    "ko",
    "nl",
    "pl",
    "pt",
    "ro",
    "ru",
    "sv",
    "th",
    "uk",
    "zh",
)
EACH, CLASSES = 200, 9
Rng = np.random.Generator


def gallery(texts: dict[str, int], pictures: int = 40) -> EvalSet:
    """So many texts of every language on pictures of one emoji each."""
    languages = tuple(tag for tag, count in texts.items() for _ in range(count))
    total = len(languages)
    return EvalSet(
        name="folder/pairs",
        images=tuple(np.full((2, 2, 3), shade, np.uint8) for shade in range(pictures)),
        clusters=tuple(f"shown {row}" for row in range(pictures)),
        texts=tuple(f"{tag} text {row}" for row, tag in enumerate(languages)),
        text_image=np.arange(total) % pictures,
        languages=languages,
    )


def test_every_language_is_asked_as_often_as_another_as_far_as_it_has_texts() -> None:
    data = gallery({"de": 300, "en": 1000, "fi": 7})
    drawn = draw_pairs(data, 200, seed=3)
    half = drawn.languages[:200]
    counts = Counter(half)
    assert counts["fi"] == 7 and counts["de"] + counts["en"] == 193 and abs(counts["de"] - counts["en"]) == 1
    assert drawn.languages == half * 2 and len(set(drawn.texts[:200])) == 200
    assert all(text.startswith(tag) for tag, text in zip(drawn.languages, drawn.texts, strict=True))
    assert drawn.is_own.tolist() == [1] * 200 + [0] * 200
    assert (drawn.image[:200] == drawn.own[:200]).all() and (drawn.image[200:] != drawn.own[200:]).all()
    again, other = (draw_pairs(data, 200, seed).texts for seed in (3, 4))
    assert again == drawn.texts and other != drawn.texts
    assert len(draw_pairs(data, 5000).texts) == 2 * len(data.texts)  # all there are, each once


class Fusion:
    """Says which picture and which text it was given, and remembers the order."""

    labels: tuple[str, ...] = ("one",)

    def __init__(self) -> None:
        self.seen: list[int] = []

    def pairs(self, images: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> tuple[Floats, Floats]:
        shades = [int(image[0, 0, 0]) for image in images]
        self.seen += shades
        numbers = np.array([float(text.rsplit(" ", 1)[1]) for text in texts], np.float32)
        return np.array(shades, np.float32), numbers[:, None]


def test_pairs_are_asked_picture_by_picture_and_answered_in_the_order_of_the_draw() -> None:
    data, fusion = gallery({"de": 60, "en": 60}), Fusion()
    drawn = draw_pairs(data, 100)
    logits = pair_logits(fusion, data, drawn)
    assert fusion.seen == sorted(fusion.seen)
    assert logits.match.astype(int).tolist() == drawn.image.tolist()
    assert logits.classes[:, 0].astype(int).tolist() == [int(text.rsplit(" ", 1)[1]) for text in drawn.texts]


def test_a_limit_of_every_language_draws_as_many_pairs_as_it_takes() -> None:
    data = gallery(dict.fromkeys(LANGUAGES, 1))
    assert pairs_for(gallery({"de": 1}), CONFIG, Budget()) == PAIRS
    assert pairs_for(data, CONFIG, Budget()) == 20 * CONFIG.pairs_per_language
    limits = Budget(worst_match_accuracy_drop=0.1, worst_class_accuracy_drop=0.05)
    assert pairs_needed(limits, 20) == 2 * hits_needed(0.95, 20)
    assert pairs_for(data, CONFIG, limits) == 20 * pairs_needed(limits, 20)
    assert pairs_needed(Budget(class_accuracy_drop=0.01), 20) == 0
    (option,) = (option for option in verify.params if option.name == "pairs_per_language")
    assert option.default == CONFIG.pairs_per_language  # named twice, since the command imports nothing heavy
    with pytest.raises(ValueError, match="pairs_per_language 0; expected 1 or more"):
        VerifyConfig(pairs_per_language=0)


def decided(rng: Rng, each: int = EACH) -> tuple[Floats, Ints, Inputs]:
    """Class logits that are right of most inputs, of every language on the same emoji."""
    truth = rng.integers(0, CLASSES, each * len(LANGUAGES))
    logits = rng.standard_normal((len(truth), CLASSES)).astype(np.float32)
    logits[np.arange(len(truth)), truth] += 3
    return logits, truth, Inputs(np.arange(len(truth)) // len(LANGUAGES), LANGUAGES * each)


def spoiled(logits: Floats, truth: Ints, rows: Ints) -> Floats:
    """The decisions of these rows are wrong."""
    changed = logits.copy()
    changed[rows, (truth[rows] + 1) % CLASSES] = logits.max() + 1
    return changed


def lost_in_hebrew(rng: Rng) -> Head:
    logits, truth, inputs = decided(rng)
    hebrew = np.flatnonzero(np.array(inputs.languages) == "he")
    noise = rng.permutation(len(truth))[:20]  # a few flips anywhere, as rounding has them
    artifact = spoiled(spoiled(logits, truth, hebrew[: round(0.15 * EACH)]), truth, noise)
    return class_head(Sides(artifact, logits), truth, inputs, CONFIG)


def test_a_class_head_that_fails_in_one_language_is_caught_there_alone(rng: Rng) -> None:
    head = lost_in_hebrew(rng)
    assert head.figures["accuracy"].drop.value < 0.015  # hardly seen over all
    for figure in ("accuracy", "macro_f1", "macro_recall"):
        blamed = {tag for tag, row in head.languages.items() if row.figures[figure].change.high < 0}
        assert blamed == {"he"}
    assert worst_language(head.to_json()) == "he"
    (row,) = (row for row in head_rows({"class": head.to_json()}) if "worst language" in row.figure)
    assert row.figure == "accuracy, worst language: he" and row.n == EACH
    limits = Budget(class_accuracy_drop=0.03, worst_class_accuracy_drop=0.05, worst_match_accuracy_drop=0.05)
    assert {line.name: line.verdict for line in judge_heads({"class": head}, limits)} == {
        "class_accuracy_drop": "pass",
        "worst_class_accuracy_drop": "fail",
        "worst_match_accuracy_drop": "not enough data",  # no such head
    }


def test_few_decisions_of_a_language_pass_no_limit(rng: Rng) -> None:
    verdicts = {}
    for each in (50, EACH):
        logits, truth, inputs = decided(rng, each)
        head = class_head(Sides(logits, logits.copy()), truth, inputs, CONFIG)
        (line,) = judge_heads({"class": head}, Budget(worst_class_accuracy_drop=0.05))
        assert (line.value, line.low, line.high) == (0.0, 0.0, 0.0)
        verdicts[each] = line.verdict
    assert verdicts == {50: "not enough data", EACH: "pass"}


def test_one_language_is_judged_as_a_whole(rng: Rng) -> None:
    logits, truth, inputs = decided(rng, 20)
    head = class_head(Sides(logits, logits), truth, Inputs(inputs.cluster, ["de"] * len(truth)), CONFIG)
    assert not head.languages
    (line,) = judge_heads({"class": head}, Budget(worst_class_accuracy_drop=0.05))
    assert line.verdict == "pass"


def test_a_language_whose_texts_met_no_stranger_has_no_area_under_the_curve(rng: Rng) -> None:
    is_own = np.array([1] * 40 + [1, 0] * 20)
    logits = rng.standard_normal(80).astype(np.float32)
    inputs = Inputs(np.arange(80), ["de"] * 40 + ["en"] * 40)
    rows = match_head(Sides(logits, logits), is_own, inputs, CONFIG).to_json()["languages"]
    assert rows["de"]["auc"] == {
        "artifact": None,
        "baseline": None,
        "change": {"value": None, "low": None, "high": None},
    }
    assert rows["en"]["auc"]["change"] == {"value": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize("loss", [0.0, 0.01])
def test_intervals_of_all_languages_hold_together(loss: float) -> None:
    """Where one decision in a hundred flips, most languages lose nothing in the sample: their own spread is none."""
    languages, emoji, often = len(LANGUAGES), 100, 0.01
    covered, sizes = 0, np.full(languages, float(emoji))
    rows = [np.arange(emoji) * languages + place for place in range(languages)]
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(emoji), languages)
        baseline = rng.random(len(cluster)) < 0.85
        share = np.where(np.repeat(rng.random(emoji) < 2 * often, languages), 0.25, loss)  # of an emoji, alike
        artifact = baseline & (rng.random(len(cluster)) >= share) | ~baseline & (rng.random(len(cluster)) < often)
        true = 0.15 * often - 0.85 * (2 * often * 0.25 + (1 - 2 * often) * loss)
        mine, theirs = (
            [of_rows(among, mean_of("accuracy", side[among])) for among in rows] for side in (artifact, baseline)
        )
        found = compare_parts(mine, theirs, cluster, sizes, resamples=200, seed=seed)
        covered += all(row["accuracy"].change.low <= true <= row["accuracy"].change.high for row in found)
    assert covered >= 55  # 57 at the nominal 95 %; in 100 runs of either setting they held in all
