"""What verification asks both sides beside the clean texts: pairs through the fusion, and perturbed queries."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dmedge.artifact import Artifact
from dmedge.data.evalset import EvalSet
from dmedge.data.transforms import Preprocess
from dmedge.evidence.accuracy import TextImageEncoder
from dmedge.evidence.choices import Pairs, draw_pairs
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.decisions import Logits, compare_pairs, pair_logits, pairs_for
from dmedge.evidence.fusion import PairEncoder
from dmedge.evidence.heads import Head, Sides
from dmedge.evidence.retrieval import Floats
from dmedge.evidence.robustness import NAMES, Robustness, Sample, Searched, draw_queries, search_perturbed
from dmedge.evidence.strengths import STRENGTHS
from dmedge.evidence.verdict import Budget
from dmedge.patience import patient_progress
from dmedge.runtime.encoder import Encoder


@dataclass(frozen=True, eq=False)
class Trials:
    """The same questions for both sides; None where they are not asked."""

    data: EvalSet
    queries: Sample | None
    pairs: Pairs | None


@dataclass(frozen=True, eq=False)
class Answers:
    """What one side made of them."""

    searched: Searched | None
    logits: Logits | None


def plan_trials(data: EvalSet, programs: Collection[str], config: VerifyConfig, budget: Budget) -> Trials:
    """Pairs where there is a fusion, perturbed queries where they are asked for."""
    return Trials(
        data,
        queries=draw_queries(data, config) if config.robustness else None,
        pairs=draw_pairs(data, pairs_for(data, config, budget), config.seed) if "fuse" in programs else None,
    )


def run_trials(
    trials: Trials,
    encoder: TextImageEncoder,
    fusion: PairEncoder,
    gallery: Floats,
    preprocess: Preprocess,
    name: str,
) -> Answers:
    """Let one side answer.

    Args:
        encoder: embeds pictures and texts.
        fusion: fuses them; asked only if there are pairs.
        gallery: [N, D] embeddings of the pictures by `encoder`.
        preprocess: of pictures that are no arrays yet.
        name: of the side, for the progress display.
    """
    logits = pair_logits(fusion, trials.data, trials.pairs) if trials.pairs else None
    if trials.queries is None:
        return Answers(None, logits)
    total = len(NAMES) * len(STRENGTHS) * len(trials.queries.rows)
    with patient_progress(f"perturbing for {name}", total) as advance:
        return Answers(search_perturbed(encoder, gallery, trials.queries, preprocess, advance), logits)


def run_baseline_trials(
    trials: Trials, baseline: Artifact, gallery: Floats, preprocess: Preprocess, threads: int
) -> Answers:
    """Let the float checkpoint answer, in torch, if there is anything to answer.

    Args:
        preprocess: of the side that is compared, so that both see the same pixels.
    """
    if trials.queries is None and trials.pairs is None:
        return Answers(None, None)
    with Encoder(baseline, threads=threads, show_progress=False) as encoder:
        return run_trials(trials, encoder, encoder, gallery, preprocess, f"{baseline.name}, the baseline")


def compare_robustness(trials: Trials, mine: Answers, theirs: Answers, config: VerifyConfig) -> Robustness | None:
    """Both sides on the perturbed queries."""
    if trials.queries is None or mine.searched is None or theirs.searched is None:
        return None
    return Robustness(trials.queries, mine.searched, theirs.searched, config.resamples, config.confidence)


def compare_heads(
    trials: Trials, mine: Answers, theirs: Answers, labels: Sequence[str], config: VerifyConfig
) -> Mapping[str, Head] | None:
    """Both sides on the pairs, head by head."""
    if trials.pairs is None or mine.logits is None or theirs.logits is None:
        return None
    return compare_pairs(Sides(mine.logits, theirs.logits), trials.pairs, trials.data, labels, config)
