"""What a run is judged by while it trains: retrieval in every language, classes, answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dmedge.data.evalset import EvalSet
from dmedge.data.hf_tokenizer import AnyTokenizer
from dmedge.data.pictures import open_record_image
from dmedge.data.records import Dataset
from dmedge.data.transforms import Preprocess
from dmedge.errors import DataError
from dmedge.evidence.accuracy import evaluate
from dmedge.evidence.heads import VQA, answer_scores
from dmedge.model.dual import DualEncoder

Evaluate = Callable[[DualEncoder], dict[str, float]]
EVAL_BATCH = 256


class LiveEncoder:
    """A model still in training, as evaluation wants to call it; it computes where the model is."""

    def __init__(self, model: DualEncoder, tokenizer: AnyTokenizer, preprocess: Preprocess) -> None:
        self.model, self.tokenizer, self.preprocess = model, tokenizer, preprocess

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.logit_scale.device

    @torch.inference_mode()
    def images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Embed pictures as [N, D]."""
        parts = []
        for start in range(0, len(images), EVAL_BATCH):
            pictures = [images[i] for i in range(start, min(start + EVAL_BATCH, len(images)))]
            pixels = torch.from_numpy(np.stack([self.preprocess(_as_picture(one)) for one in pictures]))
            parts.append(self.model.encode_image(pixels.to(self.device))[0])
        return _rows(parts)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as [T, D]."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i].encode("utf-8", "replace")))
        result = np.empty((len(texts), self.model.config.embed_dim), np.float32)
        for start in range(0, len(order), EVAL_BATCH):
            rows = order[start : start + EVAL_BATCH]
            result[rows] = _rows([self.model.encode_text(*self._tokens([texts[i] for i in rows]))[0]])
        return result

    @torch.inference_mode()
    def fused(self, pixels: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """Outputs of the fusion for N preprocessed pictures and their texts: match [N], and what heads it has."""
        found: list[tuple[Tensor, ...]] = []
        for start in range(0, len(texts), EVAL_BATCH):
            ids, mask = self._tokens(texts[start : start + EVAL_BATCH])
            part = torch.from_numpy(np.stack(pixels[start : start + EVAL_BATCH])).to(self.device)
            patches, tokens = self.model.encode_image(part)[1], self.model.encode_text(ids, mask)[1]
            found.append(self.model.fuse(patches, tokens, mask))
        return tuple(_rows(outputs) for outputs in zip(*found, strict=True))

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self.tokenizer.batch(texts)
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)


def _rows(parts: Sequence[Tensor]) -> NDArray[np.float32]:
    return torch.cat(list(parts)).float().cpu().numpy()


def _as_picture(image: Any) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def retrieval(encoder: LiveEncoder, data: EvalSet) -> dict[str, float]:
    """Recall by text, the mean of all languages, the worst, and every language as "recall_at_10/TAG"."""
    report = evaluate(encoder, data)
    figures, languages = report.macro("text_to_image"), report.by_language("text_to_image")
    return {
        "recall_at_1": figures.recall_at_1,
        "recall_at_10": figures.recall_at_10,
        "worst_language_recall_at_10": min(score.recall_at_10 for score in languages.values()),
    } | {f"recall_at_10/{tag}": score.recall_at_10 for tag, score in languages.items()}


def class_figures(logits: NDArray[np.float32], labels: Sequence[Sequence[int]], kind: str) -> dict[str, float]:
    """Accuracy of one class each, or mean average precision of several.

    Args:
        logits: [N, C].
        labels: classes of each of the N records; those without any are left out.
        kind: "single" or "multi".

    Source: Everingham et al. 2010, doi:10.1007/s11263-009-0275-4 (average precision, over all ranks).
    """
    known = [row for row, classes in enumerate(labels) if classes]
    if not known:
        return {}
    if kind == "single":
        right = [logits[row].argmax() == labels[row][0] for row in known]
        return {"class_accuracy": float(np.mean(right))}
    truth = np.zeros((len(known), logits.shape[1]), bool)
    for place, row in enumerate(known):
        truth[place, list(labels[row])] = True
    scores = [average_precision(logits[known, c], truth[:, c]) for c in range(logits.shape[1]) if truth[:, c].any()]
    return {"class_map": float(np.mean(scores))}


def average_precision(scores: NDArray[np.float32], is_relevant: NDArray[np.bool_]) -> float:
    """Mean of the precision at every relevant item, items in falling order of their [N] scores."""
    hits = is_relevant[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def answer_figures(
    logits: NDArray[np.float32], vocabulary: Sequence[str], scores: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Official VQA accuracy of the likeliest answers; `scores` hold that of every answer people gave."""
    return {VQA: float(answer_scores(logits.argmax(1), vocabulary, scores).mean())}


def fusion_figures(
    encoder: LiveEncoder, data: Dataset, rows: Sequence[int], *, class_kind: str, answers: Sequence[str], limit: float
) -> dict[str, float]:
    """Figures of the classes and the answers on some records of a dataset, each with its first text.

    Args:
        class_kind: "none", "single" or "multi".
        answers: that the head chooses from; none for a model without such a head.
        limit: megapixels of a picture, at most; larger and broken ones are left out.
    """
    pixels, texts, labels, scores = [], [], [], []
    for row in rows:
        record = data[row]
        try:
            pixels.append(encoder.preprocess(open_record_image(record.image, limit)))
        except (DataError, ValueError):  # counted and named where the retrieval set was made
            continue
        texts.append(record.texts[0] if record.texts else "")
        labels.append(record.labels)
        scores.append(record.answers)
    if not pixels:
        return {}
    _, *heads = encoder.fused(pixels, texts)
    found = class_figures(heads[0], labels, class_kind) if class_kind != "none" else {}
    return found | (answer_figures(heads[-1], answers, scores) if answers else {})
