"""Evaluation of encoders: languages, tags, both directions, and embeddings that must be refused."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dmedge.data.evalset import EvalSet
from dmedge.errors import DataError, VerifyError
from dmedge.evidence import accuracy, retrieval
from dmedge.evidence.accuracy import DIRECTIONS, Measurement, evaluate, evaluate_among, measure, work_in
from dmedge.evidence.agreement import agreement, draw_sample
from dmedge.evidence.comparison import Comparison
from dmedge.evidence.leakage import data_digest
from dmedge.evidence.retrieval import Floats

CONCEPTS = 30


class TableEncoder:
    """Knows every concept by heart: image i and every text "LANGUAGE i" get row i of a table."""

    def __init__(self, noise: float = 0.0, table: Floats | None = None) -> None:
        rng = np.random.default_rng(0)
        self.table = rng.standard_normal((CONCEPTS, 16)).astype(np.float32) if table is None else table
        self.noise = noise
        self.texts_seen = 0

    def images(self, images: Sequence[Any]) -> Floats:
        return self._noisy([int(np.asarray(image)[0, 0, 0]) for image in images], seed=1)

    def texts(self, texts: Sequence[str]) -> Floats:
        self.texts_seen += len(texts)
        return self._noisy([int(text.split()[-1]) for text in texts], seed=2)

    def _noisy(self, rows: list[int], seed: int) -> Floats:
        drawn = np.random.default_rng(seed).standard_normal((len(rows), 16)).astype(np.float32)
        found: Floats = self.table[rows] + self.noise * drawn
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found


@pytest.fixture
def data() -> EvalSet:
    """Thirty pictures; German names all, Tongan the first ten, both use the same words for the first five."""
    images = [np.full((4, 4, 3), i, np.uint8) for i in range(CONCEPTS)]
    names = [("de", i) for i in range(CONCEPTS)] + [("to", i) for i in range(10)]
    texts = tuple(f"shared {i}" if i < 5 else f"{language} {i}" for language, i in names)
    match = np.array([i for _, i in names])
    return EvalSet(
        name="table",
        images=images,
        clusters=tuple(f"c{i}" for i in range(CONCEPTS)),
        texts=texts,
        text_image=match,
        languages=tuple(language for language, _ in names),
        tags={"known": match % 2 == 0, "held_out": match % 2 == 1, "novel": np.zeros(40, np.bool_)},
    )


def test_a_perfect_encoder_scores_one_everywhere(data: EvalSet) -> None:
    report = evaluate(TableEncoder(), data)
    for direction in DIRECTIONS:
        assert {row.recall_at_1 for row in report.by_language(direction).values()} == {1.0}
    assert report.macro().chance_at_1 == pytest.approx(1 / 30)


def test_every_language_is_its_own_gallery_of_texts(data: EvalSet) -> None:
    rows = evaluate(TableEncoder(), data).by_language("image_to_text")
    assert {tag: (row.n, row.gallery) for tag, row in rows.items()} == {"de": (30, 30), "to": (10, 10)}
    assert rows["to"].chance_at_10 == 1.0


def test_a_constant_encoder_finds_nothing(data: EvalSet) -> None:
    report = evaluate(TableEncoder(table=np.ones((CONCEPTS, 16), np.float32)), data)
    assert report.macro("text_to_image").recall_at_10 == 0.0
    assert report.by_language("image_to_text")["de"].mrr == pytest.approx(1 / 30)


def test_tags_split_the_queries_and_empty_ones_are_left_out(data: EvalSet) -> None:
    report = evaluate(TableEncoder(noise=0.8), data)
    assert report.tags() == ["known", "held_out"]
    parts = [report.by_language("text_to_image", tag)["de"] for tag in ("known", "held_out")]
    assert [part.n for part in parts] == [15, 15]
    mean = sum(part.recall_at_1 for part in parts) / 2
    assert mean == pytest.approx(report.by_language("text_to_image")["de"].recall_at_1)


def test_a_text_that_a_language_has_twice_is_embedded_once(data: EvalSet) -> None:
    encoder = TableEncoder()
    evaluate(encoder, replace(data, languages=("de",) * 40))
    assert encoder.texts_seen == 35


def test_json_names_n_gallery_and_chance_with_every_figure(data: EvalSet) -> None:
    table = evaluate(TableEncoder(noise=0.5), data).to_json()
    assert set(table["languages"]) == {"de", "to"}
    for row in (table["macro"]["text_to_image"], table["languages"]["to"]["image_to_text"]):
        assert {"n", "gallery", "recall_at_1", "recall_at_5", "recall_at_10", "chance_at_10"} <= set(row)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "image 0: .* not finite"), (3.0, "image 0: .* length 12.000")])
def test_broken_embeddings_are_refused(data: EvalSet, value: float, message: str) -> None:
    class Broken(TableEncoder):
        def images(self, images: Sequence[Any]) -> Floats:
            return np.full((len(images), 16), value, np.float32)

    with pytest.raises(VerifyError, match=message):
        evaluate(Broken(), data)


def test_an_encoder_that_does_not_mind_the_parts_is_refused(data: EvalSet, monkeypatch: pytest.MonkeyPatch) -> None:
    class Remembering(TableEncoder):
        def images(self, images: Sequence[Any]) -> Floats:
            return super().images(data.images)

    monkeypatch.setattr(accuracy, "PART_IMAGES", 20)
    with pytest.raises(VerifyError, match="60 embeddings of 30 images; expected one of each"):
        evaluate(Remembering(), data)


def test_pictures_that_were_embedded_before_rank_the_same(data: EvalSet, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TableEncoder(noise=0.5)
    whole = evaluate(encoder, data)
    monkeypatch.setattr(accuracy, "PART_IMAGES", 7)
    assert evaluate_among(encoder.images(data.images), encoder, data).to_json() == whole.to_json()


def test_nothing_to_evaluate_is_an_error(data: EvalSet) -> None:
    with pytest.raises(DataError, match="30 images and 0 texts"):
        evaluate(TableEncoder(), data.subset(np.zeros(40, np.bool_)))


def test_only_the_texts_asked_for_are_kept(data: EvalSet) -> None:
    encoder, rows = TableEncoder(), np.array([3, 29, 30, 39])
    found = measure(encoder, data, rows)
    np.testing.assert_array_equal(found.texts, encoder.texts([data.texts[row] for row in rows]))


def test_the_work_is_told_part_by_part_and_parts_change_no_rank(data: EvalSet, monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.repeat(np.random.default_rng(0).standard_normal((10, 16)).astype(np.float32), 3, axis=0)  # ranks of 3
    whole = evaluate(TableEncoder(table=table), data)
    monkeypatch.setattr(accuracy, "PART_IMAGES", 7)
    monkeypatch.setattr(accuracy, "PART_TEXTS", 4)
    monkeypatch.setattr(retrieval, "BLOCK", 90)
    steps: list[int] = []
    report = measure(TableEncoder(table=table), data, advance=steps.append).report
    assert sum(steps) == work_in(data) == 30 + 2 * 40
    assert max(steps) <= 7
    for direction in DIRECTIONS:
        np.testing.assert_array_equal(report.queries[direction].rank, whole.queries[direction].rank)


def test_an_encoder_agrees_with_itself_completely(data: EvalSet) -> None:
    measured = measure(TableEncoder(noise=0.6), data, draw_sample(data))
    found = agreement(measured, measured)
    assert (found.n, found.same_first, found.overlap_at_10) == (40, 1.0, 1.0)
    assert found.recall_at_10_baseline_gallery == found.recall_at_10_baseline_query == found.recall_at_10


def test_embeddings_of_another_width_cannot_be_mixed(data: EvalSet) -> None:
    wide = measure(TableEncoder(), data, draw_sample(data))
    narrow = replace(wide, images=wide.images[:, :8], texts=wide.texts[:, :8])
    assert agreement(narrow, wide).recall_at_10_baseline_gallery is None


def test_a_random_encoder_shares_chance_of_the_best_ten(data: EvalSet) -> None:
    rng, report = np.random.default_rng(0), evaluate(TableEncoder(), data)

    def random() -> Measurement:
        images, texts = (rng.standard_normal((n, 16)).astype(np.float32) for n in (30, 40))
        return Measurement(report, images, np.arange(40), texts)

    assert agreement(random(), random()).overlap_at_10 == pytest.approx(1 / 3, abs=0.1)  # ten of thirty


def test_the_sample_is_the_same_whatever_else_the_set_holds(data: EvalSet) -> None:
    rows = draw_sample(data, 12)
    first = {(data.languages[row], data.texts[row]) for row in rows}
    fewer = data.subset(np.isin(np.arange(40), rows) | (np.arange(40) % 2 == 0))
    assert {(fewer.languages[row], fewer.texts[row]) for row in draw_sample(fewer, 12)} == first


def test_comparison_with_itself_keeps_exactly_all(data: EvalSet) -> None:
    report = evaluate(TableEncoder(noise=0.7), data)
    table = Comparison(report, report, resamples=100).macro_json()
    kept = table["image_to_text"]["retention"]["recall_at_5"]
    assert (kept["value"], kept["low"], kept["high"]) == (1.0, 1.0, 1.0)


def test_the_worst_language_is_the_one_that_lost_most(data: EvalSet) -> None:
    class Forgetful(TableEncoder):
        def texts(self, texts: Sequence[str]) -> Floats:
            found = super().texts(texts)
            if any(text.startswith("to") for text in texts):
                found[:7] *= -1  # the first seven texts of Tongan
            return found

    comparison = Comparison(evaluate(Forgetful(), data), evaluate(TableEncoder(), data), resamples=100)
    assert comparison.worst_language() == "to"
    rows = comparison.languages_json()
    assert (rows["de"]["retention_at_10"], rows["to"]["retention_at_10"]) == (1.0, pytest.approx(0.3))
    assert (rows["to"]["name"], rows["to"]["baseline_recall_at_10"]) == ("Tongan", 1.0)


def test_reports_of_different_sets_are_not_compared(data: EvalSet) -> None:
    report = evaluate(TableEncoder(), data)
    other = evaluate(TableEncoder(), data.subset(max_queries_per_language=8))
    with pytest.raises(ValueError, match="same evaluation set"):
        Comparison(report, other)


def test_digest_tells_sets_apart_by_any_pixel_or_text(data: EvalSet) -> None:
    same = data.subset()
    assert data_digest(same) == data_digest(data)
    data.images[7][0, 0, 0] = 99
    assert data_digest(data) != data_digest(data.subset(max_queries_per_language=8))
    changed = data_digest(data)
    data.images[7][0, 0, 0] = 7
    assert data_digest(data) != changed
