"""Cells of robustness: every variant on perturbed pairs, five strengths each."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dmedge.evidence.perturb_images import IMAGE_PERTURBATIONS
from dmedge.evidence.perturb_texts import TEXT_PERTURBATIONS
from dmedge.evidence.strengths import STRENGTHS
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.context import Study
from dmedge.study.features import Features, picture_features, text_features
from dmedge.study.heads import StudyHead, predict
from dmedge.study.pairs import Pairs
from dmedge.study.scores import clustered
from dmedge.study.variants import load_head


def run_robustness(study: Study, variants: Mapping[str, Sequence[Done]]) -> dict[str, Done]:
    """One cell for every perturbation; the heads are those of the variants' cells."""
    digests = {name: [run.artifact.digest for run in runs] for name, runs in variants.items()}
    settings = {**study.task_settings(), "pairs": study.config.robustness_pairs, "heads": digests}
    heads: dict[str, list[StudyHead]] = {}

    def cell(kind: str) -> Cell:
        return Cell(
            f"robustness-{kind}", {**settings, "perturbation": kind}, partial(_measure, study, variants, heads, kind)
        )

    return {kind: study.run(cell(kind)) for kind in (*IMAGE_PERTURBATIONS, *TEXT_PERTURBATIONS)}


def _measure(
    study: Study, variants: Mapping[str, Sequence[Done]], heads: dict[str, list[StudyHead]], kind: str, folder: Path
) -> Result:
    """Accuracy of every variant at every strength; 0 is the pairs as they are."""
    if not heads:  # shared by the cells of all perturbations
        heads.update({name: [load_head(study, run) for run in runs] for name, runs in variants.items()})
    pairs = some(study.test, study.config.robustness_pairs)
    clean = text_features(study.checkpoint, pairs.texts)
    patches = picture_features(study.checkpoint, pairs.pictures)
    curves: dict[str, list[dict[str, object]]] = {name: [] for name in heads}
    for strength in (0, *STRENGTHS):
        rng = np.random.default_rng([study.config.seed, strength])
        if kind in IMAGE_PERTURBATIONS and strength:
            perturbed = np.stack([IMAGE_PERTURBATIONS[kind](picture, strength, rng) for picture in pairs.pictures])
            features = Features(picture_features(study.checkpoint, perturbed), *clean)
        elif strength:
            rows = zip(pairs.texts, pairs.languages, strict=True)
            texts = tuple(TEXT_PERTURBATIONS[kind](text, language, strength, rng) for text, language in rows)
            features = Features(patches, *text_features(study.checkpoint, texts))
        else:
            features = Features(patches, *clean)
        for name, runs in heads.items():
            right = np.mean([predict(head, pairs, features) == pairs.label for head in runs], axis=0)
            curves[name].append({"strength": strength, **clustered(right, pairs.cluster).to_json()})
    return {"curves": curves}


def some(pairs: Pairs, count: int) -> Pairs:
    """The first pairs, which are in random order, and only the pictures that they show."""
    rows = np.arange(min(count, len(pairs)))
    shown, picture = np.unique(pairs.picture[rows], return_inverse=True)
    return Pairs(
        pairs.name,
        pairs.pictures[shown],
        picture,
        pairs.texts[: len(rows)],
        pairs.languages[: len(rows)],
        pairs.label[rows],
        pairs.cluster[rows],
    )
