"""The trimming of a checkpoint's vocabulary to some languages, and what each language loses by it."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from dmedge.compress.config import CompressConfig
from dmedge.compress.corpus import texts_by_language, validation_set, word_count
from dmedge.compress.token_rows import keep_rows
from dmedge.compress.vocabulary import (
    count_pieces,
    frequent_pieces,
    kept_pieces,
    trim_vocabulary,
    vocabulary_files,
)
from dmedge.data.evalset import EvalSet
from dmedge.data.hf_tokenizer import AnyTokenizer
from dmedge.data.languages import choose_languages
from dmedge.evidence.accuracy import evaluate_among
from dmedge.model.checkpoint import Checkpoint
from dmedge.training.validation import LiveEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageLoss:
    """What trimming did to one language; recall is None where the validation data has no text in it."""

    is_asked: bool
    coverage: float  # share of the tokens of its text that are still in the vocabulary
    pieces_per_word_before: float
    pieces_per_word_after: float
    recall_at_10_before: float | None
    recall_at_10_after: float | None


@dataclass(frozen=True, eq=False)
class Trimmed:
    """A checkpoint with a smaller vocabulary, and what that cost."""

    checkpoint: Checkpoint
    languages: tuple[str, ...]
    before: AnyTokenizer
    keep: tuple[int, ...]  # token ids of `before`
    pieces_before: int
    losses: Mapping[str, LanguageLoss]

    def fit(self, other: Checkpoint) -> Checkpoint:
        """`other` with the trimmed vocabulary too, if it has the one that was trimmed."""
        if vocabulary_files(other.tokenizer) != vocabulary_files(self.before):
            return other
        return replace(other, model=keep_rows(other.model, self.keep), tokenizer=self.checkpoint.tokenizer)

    def summary(self) -> dict[str, object]:
        """The ledger of the stage."""
        asked, others = (
            [loss for loss in self.losses.values() if loss.is_asked is is_asked] for is_asked in (True, False)
        )
        return {
            "vocabulary": self.checkpoint.model.config.vocab_size,
            "vocabulary_parent": self.pieces_before,
            "coverage_worst_language": round(min(loss.coverage for loss in asked), 4),
            "recall_at_10_asked": _mean_recalls(asked),
            "recall_at_10_others": _mean_recalls(others),
        }

    def write(self, path: Path) -> None:
        """Write the loss of every language as JSON."""
        table = {language: asdict(loss) for language, loss in self.losses.items()}
        path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def trim_languages(checkpoint: Checkpoint, config: CompressConfig, folder: Path) -> Trimmed:
    """Keep the pieces that the text of `config.languages` uses.

    Args:
        checkpoint: float; it is left as it was.
        config: its `data` is where the text comes from.
        folder: where the new vocabulary is written.

    Raises:
        ConfigError: a language has no text, or the vocabulary is of a kind that cannot be trimmed.
        DataError: the data cannot be used, or the vocabulary not be numbered anew.
    """
    texts = texts_by_language(config.data)
    languages = choose_languages(config.languages, texts)
    counts = {language: count_pieces(checkpoint.tokenizer, texts[language]) for language in texts}
    wanted: set[int] = set()
    for language in languages:
        wanted |= frequent_pieces(counts[language], config.coverage)
    keep, pieces_before = kept_pieces(checkpoint, wanted), checkpoint.model.config.vocab_size
    logger.info("keeping %d of %d pieces for %s", len(keep), pieces_before, ", ".join(languages))
    trimmed = trim_vocabulary(checkpoint, keep, folder)
    recalls = _recalls_at_10((checkpoint, trimmed), validation_set(config.data, config.seed))
    kept, losses = set(keep), {}
    for language, own in counts.items():
        words, tokens = max(1, word_count(texts[language])), sum(own.values())
        losses[language] = LanguageLoss(
            is_asked=language in languages,
            coverage=sum(count for token, count in own.items() if token in kept) / max(1, tokens),
            pieces_per_word_before=tokens / words,
            pieces_per_word_after=sum(count_pieces(trimmed.tokenizer, texts[language]).values()) / words,
            recall_at_10_before=recalls[0].get(language),
            recall_at_10_after=recalls[1].get(language),
        )
    return Trimmed(trimmed, languages, checkpoint.tokenizer, keep, pieces_before, losses)


def _recalls_at_10(checkpoints: Sequence[Checkpoint], data: EvalSet) -> list[dict[str, float]]:
    """Text to image, of every language, for checkpoints that have one image tower in common."""
    encoders = [LiveEncoder(one.model, one.tokenizer, one.preprocess) for one in checkpoints]
    pictures = encoders[0].images(data.images)
    reports = [evaluate_among(pictures, encoder, data) for encoder in encoders]
    return [
        {tag: score.recall_at_10 for tag, score in report.by_language("text_to_image").items()} for report in reports
    ]


def _mean_recalls(losses: Sequence[LanguageLoss]) -> list[float] | None:
    """Before and after, every language alike; None where there is nothing to take a mean of."""
    pairs = [(loss.recall_at_10_before, loss.recall_at_10_after) for loss in losses]
    known = [(before, after) for before, after in pairs if before is not None and after is not None]
    return [round(float(mean), 4) for mean in np.mean(known, axis=0)] if known else None
