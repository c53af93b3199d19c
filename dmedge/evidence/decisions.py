"""What both sides decide on the same inputs: pairs and questions for a fusion, pictures for given labels."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dmedge.artifact import Artifact
from dmedge.data.evalset import EvalSet
from dmedge.errors import ArtifactError
from dmedge.evidence.choices import (
    Pairs,
    draw_pairs,
    label_embeddings,
    texts_of_labels,
    true_classes,
    true_labels,
)
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.fusion import PairEncoder
from dmedge.evidence.heads import (
    VQA,
    Head,
    Inputs,
    Sides,
    answer_head,
    answer_scores,
    class_head,
    label_head,
    match_head,
)
from dmedge.evidence.paired import mean_interval
from dmedge.evidence.retrieval import Floats, Ints
from dmedge.evidence.verdict import Budget, pairs_needed
from dmedge.patience import patient_progress
from dmedge.runtime.encoder import Encoder
from dmedge.variants import variant_of

IN_MEMORY = (tuple, list)  # of pictures; others are opened when they are asked for
PART = 64  # of these, held at once
PAIRS = 500  # matching ones at least, and as many that do not match; more where there are many languages


class Logits(NamedTuple):
    """What the fusion says of pairs."""

    match: Floats  # [N]
    classes: Floats  # [N, C]; C is 0 without a class head


def measure_heads(
    bundle: Encoder,
    baseline: Encoder,
    artifact: Artifact,
    data: EvalSet,
    config: VerifyConfig,
    budget: Budget,
) -> dict[str, Head]:
    """Both sides head by head: "answer" of questions, "label" of pictures, or "match" and "class" of pairs.

    Args:
        bundle: in its runtime.
        baseline: the float checkpoint.
        artifact: the bundle, whose variant is one of those that decide, or which answers the questions of `data`.
        data: questions with answers; or pictures, and texts to pair with them.
        budget: whose limits say how many pairs it takes.

    Raises:
        ArtifactError: the data asks questions, and the bundle has no answers.
    """
    if data.answers:
        return {"answer": _answers(bundle, baseline, artifact, data, config)}
    if variant_of(artifact.manifest) == "prompts":
        return {"label": _labels(bundle, baseline, artifact, data, config)}
    drawn = draw_pairs(data, pairs_for(data, config, budget), config.seed)
    logits = Sides(*(pair_logits(side, data, drawn) for side in (bundle, baseline)))
    return compare_pairs(logits, drawn, data, bundle.labels, config)


def pairs_for(data: EvalSet, config: VerifyConfig, budget: Budget) -> int:
    """How many texts a fusion decides on: as many of every language as are asked for, or as a limit needs."""
    languages = len(set(data.languages))
    return max(PAIRS, languages * max(config.pairs_per_language, pairs_needed(budget, languages)))


def pair_logits(encoder: PairEncoder, data: EvalSet, drawn: Pairs) -> Logits:
    """What one side says of the pairs that were drawn; picture by picture, so that each is encoded few times."""
    order = np.argsort(drawn.image, kind="stable")
    texts = [drawn.texts[row] for row in order.tolist()]
    parts = [encoder.pairs(*part) for part in _in_parts(data, drawn.image[order], texts)]
    back = np.argsort(order)
    return Logits(*(np.concatenate(column)[back] for column in zip(*parts, strict=True)))


def compare_pairs(
    logits: Sides[Logits], drawn: Pairs, data: EvalSet, labels: Sequence[str], config: VerifyConfig
) -> dict[str, Head]:
    """The match head on all pairs and, if there is one, the class head on pictures with their own texts."""
    inputs = Inputs(clusters_of(data)[drawn.own], drawn.languages)
    found = {"match": match_head(Sides(*(side.match for side in logits)), drawn.is_own, inputs, config)}
    if logits.artifact.classes.shape[1]:
        half = len(drawn.own) // 2
        truth = true_classes(labels, data)[drawn.own[:half]]
        classes = Sides(*(side.classes[:half] for side in logits))
        found["class"] = class_head(classes, truth, Inputs(inputs.cluster[:half], inputs.languages[:half]), config)
    return found


def answer_logits(encoder: Encoder, data: EvalSet, name: str) -> Floats:
    """[T, A] what one side answers to the questions; `name` is for the progress display."""
    parts = []
    with patient_progress(f"asking {name}", len(data.texts)) as advance:
        for pictures, texts in _in_parts(data, data.text_image, data.texts):
            parts.append(encoder.answer_logits(pictures, texts))
            advance(len(texts))
    return np.concatenate(parts)


def evaluate_answers(encoder: Encoder, artifact: Artifact, data: EvalSet) -> dict[str, Any]:
    """VQA accuracy of one artifact, with its interval over pictures, and by language.

    Raises:
        ArtifactError: it answers no questions.
    """
    check_answers(encoder, artifact, data)
    told = answer_logits(encoder, data, artifact.name).argmax(1)
    scores = answer_scores(told, encoder.answers, data.answers)
    languages = np.array(data.languages, dtype=np.str_)
    return {
        "n": len(scores),
        "n_images": len(data.images),
        VQA: mean_interval(scores, clusters_of(data)[data.text_image]).to_json(),
        "languages": {
            str(tag): {"n": int((languages == tag).sum()), VQA: round(float(scores[languages == tag].mean()), 6)}
            for tag in np.unique(languages)
        },
    }


def clusters_of(data: EvalSet) -> Ints:
    """[N] index of what each picture shows."""
    return np.unique(np.array(data.clusters, dtype=np.str_), return_inverse=True)[1]


def _answers(bundle: Encoder, baseline: Encoder, artifact: Artifact, data: EvalSet, config: VerifyConfig) -> Head:
    check_answers(bundle, artifact, data)
    if bundle.answers != baseline.answers:
        raise ArtifactError(
            f"{artifact.root}: chooses from {len(bundle.answers)} answers, its baseline from {len(baseline.answers)}; "
            "expected the same answers; name the checkpoint that it was made from with --baseline"
        )
    logits = Sides(answer_logits(bundle, data, artifact.name), answer_logits(baseline, data, "the baseline"))
    inputs = Inputs(clusters_of(data)[data.text_image], data.languages)
    return answer_head(logits, bundle.answers, data.answers, inputs, config)


def check_answers(encoder: Encoder, artifact: Artifact, data: EvalSet) -> None:
    """Refuse questions to what cannot answer any.

    Raises:
        ArtifactError: there is no fusion with an answer head.
    """
    if not encoder.has_answers:
        raise ArtifactError(
            f"{artifact.root}: has no head that answers, and {data.name} asks questions; expected a fusion trained "
            "with answer_weight, in a bundle of the variant full or fused; name such a one, or other --data"
        )


def _labels(bundle: Encoder, baseline: Encoder, artifact: Artifact, data: EvalSet, config: VerifyConfig) -> Head:
    table = label_embeddings(baseline, texts_of_labels(artifact, bundle.labels))
    told = Sides(bundle.scores(data.images).argmax(1), (baseline.images(data.images) @ table.T).argmax(1))
    return label_head(told, true_labels(bundle.labels, data), clusters_of(data), config)


def _in_parts(data: EvalSet, image: Ints, texts: Sequence[str]) -> Iterator[tuple[list[Any], Sequence[str]]]:
    """Pictures with their texts: all at once if they are in memory, else as many as may be open together."""
    step = max(1, len(texts)) if isinstance(data.images, IN_MEMORY) else PART
    for start in range(0, len(texts), step):
        rows = image[start : start + step]
        opened = {row: data.images[row] for row in dict.fromkeys(rows.tolist())}
        yield [opened[row] for row in rows.tolist()], texts[start : start + step]
