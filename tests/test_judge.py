"""The judge on trial: losses that were planted are called so, and where nothing was lost nothing is found.

Everything that judges is the real thing; only what it judges is made, so that the truth is known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dmedge.data.emoji import load_pack
from dmedge.data.evalset import EvalSet
from dmedge.evidence.accuracy import evaluate
from dmedge.evidence.bench_json import judge_latency
from dmedge.evidence.bootstrap import HitTable, bootstrap_retention, hit_table
from dmedge.evidence.comparison import Comparison
from dmedge.evidence.latency import Case, Nanoseconds, measure
from dmedge.evidence.measured import judge_retentions
from dmedge.evidence.retrieval import Floats
from dmedge.evidence.verdict import Budget, BudgetLine, hits_needed, hits_to_fail, judge_retention
from dmedge.runtime.session import Session
from dmedge.runtime.wire import Array

PICTURES, WIDTH = 400, 32
LANGUAGES = ("aa", "bb", "cc", "dd")
TEXTS = 5  # a name and four keywords of every picture, in every language
RECALL = 0.5  # of the baseline; as rough as on emoji and languages that it hardly knows


@pytest.fixture(scope="module")
def data() -> EvalSet:
    cells = [(tag, i, n) for tag in LANGUAGES for i in range(PICTURES) for n in range(TEXTS)]
    return EvalSet(
        name="planted",
        images=list(range(PICTURES)),
        clusters=tuple(map(str, range(PICTURES))),
        texts=tuple(f"{tag} {i} {n}" for tag, i, n in cells),
        text_image=np.array([i for _, i, _ in cells]),
        languages=tuple(tag for tag, _, _ in cells),
    )


@dataclass(frozen=True, eq=False)
class Planted:
    """Finds the pictures of half of all texts, less what was planted, and nothing but chance of the rest."""

    loss: dict[str, float]  # language -> recall that is lost
    seed: int = 0

    def images(self, images: Sequence[Any]) -> Floats:
        return _unit(np.random.default_rng(0).standard_normal((PICTURES, WIDTH)))

    def texts(self, texts: Sequence[str]) -> Floats:
        own, luck = self.images([]), np.random.default_rng(1)  # the same luck for every encoder
        rows = []
        for text in texts:
            tag, i, _ = text.split()
            rng = np.random.default_rng([self.seed, *text.encode()])
            is_known = np.random.default_rng(list(text.encode())).random() < RECALL
            is_kept = rng.random() >= self.loss.get(tag, 0.0) / RECALL
            rows.append(own[int(i)] if is_known and is_kept else -own[int(i)])
        return _unit(np.stack(rows) + 0.02 * luck.standard_normal((len(rows), WIDTH)))


def _unit(rows: Any) -> Floats:
    found: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def verdicts(lines: Sequence[BudgetLine]) -> dict[str, str]:
    return {line.name: line.verdict for line in lines}


def judged(artifact: Any, baseline: Any, data: EvalSet) -> dict[str, str]:
    """By the budgets that everybody has."""
    comparison = Comparison(evaluate(artifact, data), evaluate(baseline, data), resamples=500)
    return verdicts(judge_retentions(comparison, Budget()))


# What was lost is found


def test_two_points_of_the_mean_are_caught_by_as_many_items_as_the_judge_asks_for(data: EvalSet) -> None:
    needed = hits_to_fail(0.98, 1 - 0.02 / RECALL)
    assert hits_needed(0.98) <= needed <= RECALL * len(data.texts)
    found = judged(Planted(dict.fromkeys(LANGUAGES, 0.02)), Planted({}), data)
    assert found["macro_recall_at_10_retention"] == "fail"


def test_four_points_of_one_language_are_caught_and_of_no_other(data: EvalSet) -> None:
    needed = hits_to_fail(0.95, 1 - 0.04 / RECALL, len(load_pack().locales))
    pack = load_pack()
    names = sum(name is not None for name in pack.names("en"))
    assert needed <= RECALL * (names + sum(map(len, pack.keywords("en"))))  # what ships has that many
    lost, table = 0, simulated(needed, 20, {2: 0.04 / RECALL})
    for seed in range(12):
        kept = bootstrap_retention(table(seed), resamples=200, seed=seed)
        line = judge_retention("worst_language_retention", 0.95, kept.worst, languages=20)
        lost += line.verdict == "fail"
        assert min(kept.languages, key=lambda tag: kept.languages[tag].value or 0) == 2
        assert all(row.high is None or row.high >= 0.95 for tag, row in kept.languages.items() if tag != 2)
    assert lost >= 8  # 11 expected; at a true chance of 0.9 fewer than 8 has probability 0.4 %


def simulated(hits: int, languages: int, losses: dict[int, float]) -> Callable[[int], HitTable]:
    """Tables with so many baseline hits in every language, of which a share is lost."""

    def table(seed: int) -> HitTable:
        rng = np.random.default_rng(seed)
        queries = int(hits / RECALL)
        cluster, language = (index.ravel() for index in np.indices((queries, languages)))
        baseline = rng.random(len(cluster)) < RECALL
        share = np.array([losses.get(tag, 0.0) for tag in range(languages)])
        return hit_table(cluster, language, baseline, baseline & (rng.random(len(cluster)) >= share[language]))

    return table


@pytest.mark.parametrize("hits", [150, 300])
def test_a_loss_at_the_limit_never_passes_on_fewer_items_than_needed(hits: int) -> None:
    """Two points of a hundred: with `hits_needed` and more, a pass by luck stays as rare as promised."""
    assert hits >= hits_needed(0.98)
    passed = 0
    for seed in range(100):
        kept = bootstrap_retention(simulated(hits, 1, {0: 0.025})(seed), resamples=200, seed=seed).macro
        passed += judge_retention("macro_recall_at_10_retention", 0.98, kept).verdict == "pass"
    assert passed <= 11  # 5 % of 100 is 5; more than 11 has probability 0.4 %


def test_a_text_that_is_near_every_picture_is_caught_though_texts_find_as_before(data: EvalSet) -> None:
    """Fifty hubs in one language: no picture finds its own texts there any more, all texts find their pictures."""

    class WithHubs:
        def __init__(self, strength: float) -> None:
            self.plain, self.strength = Planted({}), strength

        def images(self, images: Sequence[Any]) -> Floats:
            rows = self.plain.images(images)
            return _unit(np.concatenate([rows, np.ones((len(rows), 1))], axis=1))

        def texts(self, texts: Sequence[str]) -> Floats:
            rows = np.concatenate([self.plain.texts(texts), np.zeros((len(texts), 1), np.float32)], axis=1)
            if texts[0].startswith("bb"):
                rows[:50, -1] = self.strength
            return _unit(rows)

    found = judged(WithHubs(5.0), WithHubs(0.0), data)
    assert found["worst_image_to_text_retention"] == "fail"
    assert found["macro_recall_at_10_retention"] != "fail"
    assert found["worst_language_retention"] != "fail"


# Where nothing was lost nothing is found


def test_two_copies_are_never_called_different(data: EvalSet) -> None:
    report = evaluate(Planted({"aa": 0.1}), data)
    for seed in range(30):
        lines = judge_retentions(Comparison(report, report, resamples=100, seed=seed), Budget())
        assert {line.verdict for line in lines} == {"pass"}
        assert {(line.value, line.low, line.high) for line in lines} == {(1.0, 1.0, 1.0)}


def test_as_much_gained_as_lost_is_no_loss() -> None:
    """Rounding flips some answers both ways: of a hundred such copies none is called worse."""
    failed = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        baseline = rng.random((300, 8)) < RECALL
        flips = rng.random(baseline.shape) < 0.03
        cluster, language = (index.ravel() for index in np.indices(baseline.shape))
        table = hit_table(cluster, language, baseline.ravel(), (baseline ^ flips).ravel())
        kept = bootstrap_retention(table, resamples=200, seed=seed)
        lines = [
            judge_retention("macro_recall_at_10_retention", 0.98, kept.macro),
            judge_retention("worst_language_retention", 0.95, kept.worst, languages=8),
        ]
        failed += any(line.verdict == "fail" for line in lines)
    assert failed == 0


# Times

CASES = [Case(name, "encode_text", [[np.zeros(1)]], [[np.zeros(1)]]) for name in ("a", "b", "c", "d")]


class Noisy:
    """A program of one millisecond on a machine that does other things too."""

    def __init__(self, load: "Load") -> None:
        self.load = load

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> Nanoseconds:
        return self.load.turn(runs)


class Load:
    """Other work on a machine: slow waves, spells of half speed, and single stalls, whoever's turn it is."""

    def __init__(self, seed: int) -> None:
        self.rng, self.wave = np.random.default_rng(seed), 0.0

    def turn(self, runs: int) -> Nanoseconds:
        self.wave = 0.95 * self.wave + 0.05 * self.rng.standard_normal()
        spell = 2.0 if self.rng.random() < 0.15 else 1.0
        stalls = np.where(self.rng.random(runs) < 0.03, self.rng.lognormal(2, 1, runs), 0.0)
        jitter = self.rng.lognormal(0, 0.03, runs)
        found: Nanoseconds = (1e6 * (spell * np.exp(self.wave) * jitter + stalls)).astype(np.int64)
        return found


def pair_of_copies(seed: int) -> tuple[Session, Session]:
    load = Load(seed)
    return Noisy(load), Noisy(load)  # type: ignore[return-value]


def test_noise_makes_no_winner() -> None:
    """Copies of four programs on a busy machine, forty times: neither slower nor faster more often than promised."""
    found = []
    for seed in range(40):
        mine, theirs = pair_of_copies(seed)
        cases = [measure(mine, theirs, case, rounds=30) for case in CASES]
        (line,) = judge_latency(cases, Budget(latency_ratio=1.0))
        found.append(line.verdict)
    assert found.count("fail") <= 6  # 5 % of 40 is 2; more than 6 has probability 0.3 %
    assert found.count("pass") <= 6


@pytest.mark.parametrize("rounds", [2, 5])
def test_too_few_rounds_decide_nothing(rounds: int) -> None:
    mine, theirs = pair_of_copies(0)
    case = measure(mine, theirs, CASES[0], rounds=rounds)
    for limit in (0.01, 100.0):
        (line,) = judge_latency([case], Budget(latency_ratio=limit))
        assert (line.verdict, line.low, line.high) == ("not enough data", None, None)


def test_a_program_that_is_a_tenth_slower_is_caught_in_the_same_noise() -> None:
    class Slower(Noisy):
        def time(self, program: str, inputs: Sequence[Array], runs: int) -> Nanoseconds:
            return (1.1 * super().time(program, inputs, runs)).astype(np.int64)

    verdicts = []
    for seed in range(10):
        load = Load(seed)
        case = measure(Slower(load), Noisy(load), CASES[0], rounds=50)  # type: ignore[arg-type]
        verdicts.append(judge_latency([case], Budget(latency_ratio=1.0))[0].verdict)
    assert verdicts.count("fail") >= 8
