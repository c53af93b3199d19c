"""Cells of robustness: every variant on perturbed pairs, five strengths each."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dmedge.evidence.pairs import preprocessed
from dmedge.evidence.perturb_images import IMAGE_PERTURBATIONS
from dmedge.evidence.perturb_texts import TEXT_PERTURBATIONS, switch_code
from dmedge.evidence.strengths import STRENGTHS
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.context import Study
from dmedge.study.features import Features, picture_features, text_features
from dmedge.study.heads import StudyHead, predict
from dmedge.study.scores import clustered
from dmedge.study.task import Pairs
from dmedge.study.variants import load_head

Words = Mapping[int, Sequence[tuple[str, str]]]  # (language, word) by cluster

SWITCHING = "code-switching"


def run_robustness(study: Study, variants: Mapping[str, Sequence[Done]]) -> dict[str, Done]:
    """One cell for every perturbation; the heads are those that the variants trained with the first seed."""
    first = {name: runs[0] for name, runs in variants.items()}
    heads: dict[str, StudyHead] = {}  # loaded once, by the first cell that is not kept
    settings = {
        **study.task_settings(),
        "pairs": study.config.robustness_pairs,
        "heads": {name: run.artifact.digest for name, run in first.items()},
    }
    done = {}
    for kind in (*IMAGE_PERTURBATIONS, *TEXT_PERTURBATIONS, *([SWITCHING] if study.source.has_words else [])):
        run = partial(_measure, study, first, heads, kind)
        own = {"words": "keywords of held-out cells"} if kind == SWITCHING else {}
        done[kind] = study.run(Cell(f"robustness-{kind}", {**settings, "perturbation": kind, **own}, run))
    return done


def _measure(study: Study, first: Mapping[str, Done], heads: dict[str, StudyHead], kind: str, folder: Path) -> Result:
    """Accuracy of every variant at every strength; 0 is the pairs as they are."""
    if not heads:
        heads.update({name: load_head(study, run) for name, run in first.items()})
    pairs, checkpoint = study.test.first(study.config.robustness_pairs), study.checkpoint
    others = study.source.other_words(pairs) if kind == SWITCHING else {}
    # Records have any size, and are perturbed as the model sees them.
    is_sized = not isinstance(pairs.pictures, np.ndarray)
    pictures = preprocessed(checkpoint, pairs.pictures) if is_sized else pairs.pictures
    longest = checkpoint.model.config.context_length
    clean = picture_features(checkpoint, pictures, is_sized=is_sized), text_features(checkpoint, pairs.texts, longest)
    curves: dict[str, list[dict[str, object]]] = {name: [] for name in heads}
    for strength in (0, *STRENGTHS):
        rng = np.random.default_rng([study.config.seed, strength])
        patches, texts = clean
        if strength and kind in IMAGE_PERTURBATIONS:
            perturbed = [IMAGE_PERTURBATIONS[kind](picture, strength, rng) for picture in pictures]
            patches = picture_features(checkpoint, np.stack(perturbed), is_sized=is_sized)
        elif strength:
            texts = text_features(checkpoint, _perturbed(pairs, kind, strength, rng, others), longest)
        features = Features(patches, *texts)
        for name, head in heads.items():
            right = pairs.right(predict(head, pairs, features))
            curves[name].append({"strength": strength, **clustered(right, pairs.cluster).to_json()})
    return {"curves": curves}


def _perturbed(pairs: Pairs, kind: str, strength: int, rng: np.random.Generator, others: Words) -> tuple[str, ...]:
    """The texts of pairs, perturbed; `others` are words of other languages, to switch into."""
    if kind != SWITCHING:
        rows = zip(pairs.texts, pairs.languages, strict=True)
        return tuple(TEXT_PERTURBATIONS[kind](text, language, strength, rng) for text, language in rows)

    def other(row: int) -> str | None:
        words = [word for tag, word in others[int(pairs.cluster[row])] if tag != pairs.languages[row]]
        return words[int(rng.integers(len(words)))] if words else None

    return tuple(
        switch_code(text, lambda _, row=row: other(row), strength, rng)  # type: ignore[misc]
        for row, text in enumerate(pairs.texts)
    )
