"""The table of verdicts."""

import pytest

from dmedge.cli.verify import budget_table
from dmedge.config import load_config
from dmedge.errors import ConfigError
from dmedge.evidence.bootstrap import Estimate
from dmedge.evidence.report_sections import span
from dmedge.evidence.verdict import Budget, Verdict, hits_needed, judge, judge_exact, judge_retention, overall


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.98, 1.0, "pass"),
        (0.95, 0.979, "fail"),
        (0.97, 0.99, "not enough data"),
        (0.97, 0.98, "not enough data"),
        (None, 0.97, "fail"),
        (None, 0.99, "not enough data"),
        (None, None, "not enough data"),
    ],
    ids=str,
)
def test_a_floor_is_judged_by_the_whole_interval(low: float | None, high: float | None, verdict: Verdict) -> None:
    assert judge("macro_recall_at_10_retention", 0.98, low, low, high).verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.2, 0.3, "pass"), (0.31, 0.4, "fail"), (0.29, 0.31, "not enough data"), (None, 0.3, "pass")],
    ids=str,
)
def test_a_ceiling_is_judged_the_other_way_round(low: float | None, high: float | None, verdict: Verdict) -> None:
    assert judge("program_size_ratio", 0.3, 0.3, low, high).verdict == verdict


def test_an_exact_figure_has_no_width() -> None:
    line = judge_exact("program_size_ratio", 0.3, 0.26)
    assert line.to_json() == {
        "name": "program_size_ratio",
        "limit": 0.3,
        "value": 0.26,
        "low": 0.26,
        "high": 0.26,
        "verdict": "pass",
    }


def test_an_estimate_without_width_is_not_called_exact() -> None:
    spotless = Estimate(value=1.0, low=1.0, high=1.0, n=12, hits=12)
    lines = [judge_exact("program_size_ratio", 0.3, 0.26), judge_retention("image_to_text_retention", 0.98, spotless)]
    counted, estimated = budget_table([line.to_json() for line in lines]).splitlines()[1:]
    assert "exact" in counted and "1.0000 to 1.0000" in estimated
    assert (span(lines[0].to_json()), span(lines[1].to_json())) == ("exact", "1.000 to 1.000")


@pytest.mark.parametrize(("hits", "verdict"), [(149, "not enough data"), (150, "pass")])
def test_a_spotless_sample_passes_only_if_it_could_have_shown_a_loss(hits: int, verdict: Verdict) -> None:
    spotless = Estimate(value=1.0, low=1.0, high=1.0, n=hits, hits=hits)
    assert judge_retention("macro_recall_at_10_retention", 0.98, spotless).verdict == verdict


def test_a_loss_is_a_loss_in_any_sample() -> None:
    lost = Estimate(value=0.5, low=0.3, high=0.7, n=12, hits=10)
    assert judge_retention("worst_language_retention", 0.95, lost, languages=3).verdict == "fail"


def test_hits_needed_grow_with_languages_and_stay_finite() -> None:
    assert hits_needed(0.98) == 150
    assert hits_needed(0.95, 100) == 153
    assert hits_needed(1.0) == hits_needed(0.99) == 300


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "not enough data"], "not enough data"),
        (["not enough data", "fail", "pass"], "fail"),
        ([], "not enough data"),
    ],
    ids=str,
)
def test_overall_verdict(verdicts: list[Verdict], expected: Verdict) -> None:
    values = {"pass": 0.2, "fail": 0.4, "not enough data": None}
    lines = [judge("program_size_ratio", 0.3, values[v], values[v], values[v]) for v in verdicts]
    assert [line.verdict for line in lines] == verdicts
    assert overall(lines) == expected


def test_budget_comes_from_a_recipe_table() -> None:
    assert load_config(Budget, {"program_size_ratio": 1}).program_size_ratio == 1.0
    with pytest.raises(ConfigError, match="did you mean 'worst_language_retention'"):
        load_config(Budget, {"worst_languages_retention": 0.9})
    with pytest.raises(ConfigError, match="expected a number from 0"):
        load_config(Budget, {"program_size_ratio": -0.1})
