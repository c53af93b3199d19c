"""Figures of heads: those that scikit-learn finds, losses that were planted, and none where nothing was lost."""

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

from dmedge.evidence.choices import UNKNOWN
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.figures import area_under_curve, classification
from dmedge.evidence.head_rows import head_rows, heads_of
from dmedge.evidence.heads import VQA, Head, Inputs, Sides, answer_head, class_head, label_head, match_head
from dmedge.evidence.measured import judge_heads
from dmedge.evidence.paired import compare_figures, mean_interval
from dmedge.evidence.retrieval import Floats, Ints
from dmedge.evidence.verdict import HEAD_DROPS, WORST_DROPS, Budget

CONFIG = VerifyConfig(resamples=500)
INPUTS, CLASSES = 500, 9
Rng = np.random.Generator


def sklearn_classes(truth: Ints, predicted: Ints, weights: Ints | None = None) -> list[float]:
    """Accuracy, macro F1, precision and recall, over the classes that are true of something."""
    held = truth if weights is None else truth[weights > 0]
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=np.unique(held), average="macro", zero_division=0.0, sample_weight=weights
    )
    return [accuracy_score(truth, predicted, sample_weight=weights), f1, precision, recall]


@pytest.mark.parametrize("named", [CLASSES, 3 * CLASSES], ids=["classes that occur", "classes that never occur too"])
def test_means_over_classes_are_those_of_scikit_learn(named: int, rng: Rng) -> None:
    truth = rng.choice(CLASSES, INPUTS, p=rng.dirichlet(np.ones(CLASSES)))
    predicted = np.where(rng.random(INPUTS) < 0.6, truth, rng.integers(0, named, INPUTS))
    figures = classification(truth, predicted)
    assert list(figures.whole(INPUTS).values()) == pytest.approx(sklearn_classes(truth, predicted))
    weights = rng.integers(0, 4, (3, INPUTS))  # as a draw of the bootstrap weights them
    for drawn, row in zip(figures.of(weights.astype(np.float64)), weights, strict=True):
        assert drawn.tolist() == pytest.approx(sklearn_classes(truth, predicted, row))


@pytest.mark.parametrize("levels", [5, 10_000], ids=["many ties", "few ties"])
def test_areas_under_the_curve_are_those_of_scikit_learn(levels: int, rng: Rng) -> None:
    is_own = rng.random(INPUTS) < 0.4
    scores = (rng.integers(0, levels, INPUTS) + is_own * levels / 4).astype(np.float32)
    weights = rng.integers(0, 4, (3, INPUTS))
    figures = area_under_curve(scores, is_own)
    assert figures.whole(INPUTS)["auc"] == pytest.approx(roc_auc_score(is_own, scores))
    for drawn, row in zip(figures.of(weights.astype(np.float64)), weights, strict=True):
        assert drawn[0] == pytest.approx(roc_auc_score(is_own, scores, sample_weight=row))


def test_equal_scores_count_half() -> None:
    found = area_under_curve(np.array([1, 2, 1, 0], np.float32), np.array([True, True, False, False]))
    assert found.whole(4) == {"auc": 3.5 / 4}


def test_a_class_that_is_never_named_has_no_precision_and_an_unknown_truth_is_never_right() -> None:
    found = classification(np.array([0, 0, 1, UNKNOWN]), np.array([0, 0, 0, 0])).whole(4)
    assert found == {"accuracy": 0.5, "macro_f1": (4 / 6) / 2, "macro_precision": 0.25, "macro_recall": 0.5}


def test_a_draw_without_strangers_has_no_area() -> None:
    drawn = area_under_curve(np.array([1, 0], np.float32), np.array([True, False])).of(np.array([[2.0, 0.0]]))
    assert np.isnan(drawn).all()


def class_logits(rng: Rng, truth: Ints, strength: float = 2.0) -> Floats:
    logits = rng.standard_normal((len(truth), CLASSES)).astype(np.float32)
    logits[np.arange(len(truth)), truth] += strength
    return logits


def head_of(artifact: Floats, baseline: Floats, truth: Ints, rng: Rng) -> Head:
    return class_head(Sides(artifact, baseline), truth, Inputs(rng.integers(0, 300, len(truth))), CONFIG)


def flipped(logits: Floats, truth: Ints, share: float, rng: Rng) -> Floats:
    """A share of the right decisions is wrong now, as the planted loss; nothing else changes."""
    right = np.flatnonzero(logits.argmax(1) == truth)
    lost = rng.permutation(right)[: round(share * len(truth))]
    changed = logits.copy()
    changed[lost, (truth[lost] + 1) % CLASSES] = logits.max() + 1
    return changed


def test_four_of_a_hundred_decisions_lost_are_caught(rng: Rng) -> None:
    truth = rng.integers(0, CLASSES, INPUTS)
    baseline = class_logits(rng, truth)
    head = head_of(flipped(baseline, truth, 0.04, rng), baseline, truth, rng)
    for name in ("accuracy", "macro_f1", "macro_recall"):
        found = head.figures[name]
        assert found.change.value == pytest.approx(found.artifact - found.baseline)
        assert found.change.low < found.change.value < found.change.high < 0
    assert head.figures["accuracy"].drop.value == pytest.approx(0.04)
    limits = Budget(class_accuracy_drop=0.01, class_macro_f1_drop=0.2, match_auc_drop=0.5)
    lines = {line.name: line.verdict for line in judge_heads({"class": head}, limits)}
    assert lines == {
        "class_accuracy_drop": "fail",
        "class_macro_f1_drop": "pass",
        "match_auc_drop": "not enough data",  # there is no such head
    }


def test_a_class_whose_logit_is_shifted_is_caught(rng: Rng) -> None:
    """The accuracy of all hardly sees a rare class that is never named any more; the mean over classes does."""
    truth = np.where(rng.random(INPUTS) < 0.04, 0, rng.integers(1, CLASSES, INPUTS))
    baseline = class_logits(rng, truth, 6.0)
    shifted = baseline - np.eye(CLASSES, dtype=np.float32)[0] * 20
    head = head_of(shifted, baseline, truth, rng)
    lost = {name: head.figures[name].drop for name in ("accuracy", "macro_f1")}
    assert lost["macro_f1"].low > 0.05 > lost["accuracy"].value > 0
    assert head.agreement.high < 1


def test_pictures_that_match_worse_are_caught(rng: Rng) -> None:
    texts = 400
    cluster, is_own = np.tile(np.arange(texts), 2), np.repeat([1, 0], texts)
    baseline = (2.5 * is_own + rng.standard_normal(2 * texts)).astype(np.float32)
    noisier = baseline + rng.standard_normal(2 * texts).astype(np.float32)
    found = match_head(Sides(noisier, baseline), is_own, Inputs(cluster), CONFIG).figures["auc"]
    assert found.change.high < 0 and found.baseline == pytest.approx(roc_auc_score(is_own, baseline))
    moved = match_head(Sides(baseline + 3, baseline), is_own, Inputs(cluster), CONFIG).figures
    assert set(moved["auc"].change) == {0.0}  # the order is the same, what lies above 0 is not
    assert moved["accuracy"].change.high < 0


def test_two_copies_differ_by_exactly_nothing(rng: Rng) -> None:
    truth = np.where(rng.random(INPUTS) < 0.2, UNKNOWN, rng.integers(0, CLASSES, INPUTS))
    classes, match = class_logits(rng, truth), rng.standard_normal(INPUTS).astype(np.float32)
    cluster, is_own = rng.integers(0, 300, INPUTS), rng.integers(0, 2, INPUTS)
    asked, vocabulary = questions(rng)
    told = class_logits(rng, best_answers(asked, vocabulary))
    heads = {
        "match": match_head(Sides(match, match.copy()), is_own, Inputs(cluster, LANGUAGES), CONFIG),
        "class": class_head(Sides(classes, classes.copy()), truth, Inputs(cluster, LANGUAGES), CONFIG),
        "label": label_head(Sides(classes.argmax(1), classes.argmax(1)), truth, cluster, CONFIG),
        "answer": answer_head(Sides(told, told.copy()), vocabulary, asked, Inputs(cluster, LANGUAGES), CONFIG),
    }
    assert heads["class"].n_known < heads["class"].n == INPUTS
    rows = list(head_rows({name: head.to_json() for name, head in heads.items()}))
    assert sum(row.figure.endswith(", de") for row in rows) == 3  # no text names a label
    assert {(row.artifact == row.baseline, *row.change.values()) for row in rows} == {(True, 0.0, 0.0, 0.0)}
    assert {head for head, figure in HEAD_DROPS.values() if figure in heads[head].figures} == set(heads)
    limits = dict.fromkeys(HEAD_DROPS, 0.02) | dict.fromkeys(WORST_DROPS, 0.05)
    lines = judge_heads(heads, Budget(**limits))
    assert [line.name for line in lines] == list(limits) and {line.verdict for line in lines} == {"pass"}


def test_no_loss_on_few_inputs_is_no_pass(rng: Rng) -> None:
    truth = rng.integers(0, CLASSES, 100)
    logits = class_logits(rng, truth)
    (line,) = judge_heads({"class": head_of(logits, logits, truth, rng)}, Budget(class_accuracy_drop=0.02))
    assert (line.value, line.low, line.high, line.verdict) == (0.0, 0.0, 0.0, "not enough data")


LANGUAGES = tuple("en" if row % 2 else "de" for row in range(INPUTS))


def questions(rng: Rng) -> tuple[list[dict[str, float]], list[str]]:
    """Of every question one answer that most people gave and one that few did."""
    vocabulary = [f"answer {place}" for place in range(CLASSES)]
    best = rng.integers(0, CLASSES, INPUTS)
    return [{vocabulary[b]: 1.0, vocabulary[(b + 1) % CLASSES]: 0.3, "unheard of": 0.3} for b in best], vocabulary


def test_answers_are_scored_as_people_gave_them_and_by_language(rng: Rng) -> None:
    asked, vocabulary = questions(rng)
    best = best_answers(asked, vocabulary)
    baseline, artifact = np.eye(CLASSES, dtype=np.float32)[best], np.eye(CLASSES, dtype=np.float32)[best]
    german = np.flatnonzero(np.array(LANGUAGES) == "de")[:50]
    artifact[german] = np.eye(CLASSES, dtype=np.float32)[(best[german] + 1) % CLASSES]
    cluster = np.arange(INPUTS) // 3
    head = answer_head(Sides(artifact, baseline), vocabulary, asked, Inputs(cluster, LANGUAGES), CONFIG)
    found = head.figures[VQA]
    assert found.baseline == 1
    assert found.artifact == pytest.approx(1 - 0.7 * 50 / INPUTS)
    assert found.change.high < 0
    by_language = {tag: row.figures[VQA].change for tag, row in head.languages.items()}
    assert by_language["de"].high < 0 == by_language["en"].value
    assert by_language["en"].low < 0 < by_language["en"].high  # nothing lost in 250 is not nothing lost
    assert {tag: row.n for tag, row in head.languages.items()} == {"de": 250, "en": 250}
    assert head.most_common == pytest.approx(most_common(asked, vocabulary))
    one = answer_head(Sides(artifact, baseline), vocabulary, asked, Inputs(cluster, ["en"] * INPUTS), CONFIG)
    assert one.languages == {} and one.figures == head.figures


def best_answers(asked: Sequence[dict[str, float]], vocabulary: Sequence[str]) -> Ints:
    return np.array([vocabulary.index(next(iter(scores))) for scores in asked])


def most_common(asked: Sequence[dict[str, float]], vocabulary: Sequence[str]) -> float:
    return max(float(np.mean([scores.get(answer, 0.0) for scores in asked])) for answer in vocabulary)


def test_intervals_cover_a_true_difference_as_often_as_they_say(rng: Rng) -> None:
    """Of clusters of three alike inputs, where an interval that took them for independent would hold in 73 %."""
    covered = 0
    for seed in range(100):
        drawn = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(120), 3)
        mine, theirs = (np.repeat(drawn.random(120) < share, 3) for share in (0.7, 0.8))
        truth = np.ones(360, np.int64)
        artifact, baseline = ([classification(truth, side.astype(np.int64))] for side in (mine, theirs))
        found = compare_figures(artifact, baseline, cluster, resamples=200, seed=seed)["accuracy"].change
        covered += found.low <= -0.1 <= found.high
    assert 88 <= covered <= 100  # 95 expected; fewer than 88 has probability 0.4 %


def test_one_side_has_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).random(400)
    found = mean_interval(values, np.arange(400))
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_heads_of_before_are_read_without_what_they_lack() -> None:
    old = {
        "choices": {
            "class": {
                **{"n": 9, "agreement": 0.9, "low": 0.7, "high": 1.0, "n_known": 8},
                **{"accuracy": 0.5, "baseline_accuracy": 0.6, "most_common": 0.4},
            }
        },
        "reliability": {
            "class": {
                **{"n": 4, "accuracy": 0.1, "baseline_accuracy": 0.1, "mean_confidence": 0.7},
                **{"baseline_mean_confidence": 0.8, "calibration_error": 0.2, "baseline_calibration_error": 0.1},
                "calibration_error_change": {"value": 0.1, "low": 0.0, "high": 0.2},
            }
        },
    }
    rows = {row.figure: row for row in head_rows(heads_of(old))}
    assert (rows["accuracy"].artifact, rows["accuracy"].change["value"]) == (0.5, None)
    assert rows["calibration error"].change == {"value": 0.1, "low": 0.0, "high": 0.2}
    assert heads_of({"reliability": None}) == heads_of({"heads": None}) == {}
