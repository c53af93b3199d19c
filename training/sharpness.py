"""How sure of itself each tower may be: chosen on pictures and texts that were not trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dmedge.data.evalset import EvalSet
from dmedge.evidence.accuracy import evaluate_among
from dmedge.evidence.retrieval import Score
from dmedge.training.validation import LiveEncoder

GRID = (0.35, 0.5, 0.7, 1.0, 1.4)


@dataclass(frozen=True, eq=False)
class _Ready:
    """Texts of one evaluation set that were embedded before."""

    text: NDArray[np.float32]  # [T, D]
    row: Mapping[str, int]  # of `text`

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `TextEncoder`."""
        return self.text[[self.row[text] for text in texts]]


def sharpen_(encoder: LiveEncoder, data: EvalSet) -> dict[str, float]:
    """Set both sharpnesses of a model with a concept head to what ranks best by text, one after the other.

    Training makes the mixture as sure as its own pictures allow. On pictures and texts of another kind it is
    right less often, and a flatter mixture ranks them better.

    Args:
        encoder: of the model, which is changed.
        data: that was not trained on, nor will be reported.

    Returns:
        the sharpnesses and the figures with them; nothing for a model without a concept head.

    Source: Guo et al. 2017, arXiv:1706.04599 (temperature scaling), by mean reciprocal rank in place of likelihood.
    """
    model = encoder.model
    if model.head is None:
        return {}
    row = {text: number for number, text in enumerate(dict.fromkeys(data.texts))}
    model.config = replace(model.config, image_sharpness=1.0, text_sharpness=1.0)
    image_rows, text_rows = encoder.images(data.images), encoder.texts(list(row))
    images = {factor: sharpened(image_rows, factor) for factor in GRID}
    texts = {factor: sharpened(text_rows, factor) for factor in GRID}

    def figures(image: float, text: float) -> Score:
        return evaluate_among(images[image], _Ready(texts[text], row), data).macro("text_to_image")

    by_image = {factor: figures(factor, 1.0) for factor in GRID}
    image = max(GRID, key=lambda factor: by_image[factor].mrr)
    by_text = {factor: by_image[image] if factor == 1.0 else figures(image, factor) for factor in GRID}
    text = max(GRID, key=lambda factor: by_text[factor].mrr)
    model.config = replace(model.config, image_sharpness=image, text_sharpness=text)
    return {
        "image_sharpness": image,
        "text_sharpness": text,
        "recall_at_1": by_text[text].recall_at_1,
        "recall_at_10": by_text[text].recall_at_10,
        "mrr": by_text[text].mrr,
    }


def sharpened(rows: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Unit-norm mixtures [N, D] of sharpness 1 as they would be of sharpness `factor`: a power of each share."""
    raised: NDArray[np.float32] = rows**factor
    raised /= np.linalg.norm(raised, axis=1, keepdims=True)
    return raised
