"""The text that a vocabulary is judged by, language by language."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from dmedge.data.emoji import VALIDATION_STYLE, load_pack
from dmedge.data.evalset import EvalSet, emoji_evalset, folder_evalset
from dmedge.data.splits import training_texts

TEXTS_PER_LANGUAGE = 40  # of the validation set


def texts_by_language(data: str) -> dict[str, tuple[str, ...]]:
    """Every training text of the emoji, or every caption of a folder, under its language.

    Args:
        data: "emoji", or a folder with images and captions.

    Raises:
        DataError: the folder cannot be used.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    if data == "emoji":
        for text in training_texts(load_pack()):
            texts[text.locale].append(text.text)
    else:
        captions = folder_evalset(Path(data))
        for language, caption in zip(captions.languages, captions.texts, strict=True):
            texts[language].append(caption)
    return {language: tuple(texts[language]) for language in sorted(texts)}


def validation_set(data: str, seed: int, texts_per_language: int = TEXTS_PER_LANGUAGE) -> EvalSet:
    """Some texts of every language to measure a choice with, never those that a bundle is verified on.

    A folder has no split of its own: there it is the same captions.
    """
    found = emoji_evalset(style=VALIDATION_STYLE, part="validation") if data == "emoji" else folder_evalset(Path(data))
    return found.subset(max_queries_per_language=texts_per_language, seed=seed)


def word_count(texts: Iterable[str]) -> int:
    """Words, where a language without spaces counts a text as one."""
    return sum(len(text.split()) for text in texts)
