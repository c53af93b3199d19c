"""Long texts: what a model that reads few tokens makes of many, in one window or in several."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dmedge.data.emoji import TEST_STYLE, load_pack
from dmedge.data.splits import is_unseen_emoji
from dmedge.data.tokenizer import Tokenizer
from dmedge.model.dual import DualEncoder
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.context import Study
from dmedge.study.features import sized, vocabulary
from dmedge.study.scores import clustered
from dmedge.study.task import Ints
from dmedge.training.batches import pad

Floats = NDArray[np.float32]

CONTEXTS = (8, 16, 32, 64, 128, 256, 512)  # tokens that are read of a text
OWN_EVERY = (1, 2, 4)  # one word of so many is of the text's own emoji; the others are of any
LOCALES = ("en", "de", "ru", "el", "ar", "he", "hi", "bn", "th", "zh", "ja", "ko")
TOP = 10
BATCH = 128


def run_long_text(study: Study) -> Done | None:
    """Recall of long descriptions as more of them is read; None for data that has no words for them."""
    if not study.source.has_words:
        return None
    config = study.config
    settings = {"descriptions": config.long_descriptions, "seed": config.seed, "locales": list(LOCALES)}
    return study.run(Cell("long-text", settings | {"own_every": list(OWN_EVERY)}, partial(_measure, study)))


def _measure(study: Study, folder: Path) -> Result:
    model, length = study.checkpoint.model, study.checkpoint.model.config.context_length
    images, present = load_pack().images(TEST_STYLE)
    shown = np.flatnonzero(present)
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(sized(study.checkpoint, images[shown])), BATCH)
        gallery = torch.cat([model.encode_image(part)[0] for part in parts]).numpy()
    tokenizer = Tokenizer(vocabulary(study.checkpoint).model_path, 1 << 20)
    rows, lengths = [], []
    for every in OWN_EVERY:
        texts, emoji = long_descriptions(study.config.long_descriptions, study.config.seed, every)
        ids, target = tokenizer.encode_all(texts), np.searchsorted(shown, emoji)
        lengths += [len(row) for row in ids]
        for context in CONTEXTS:
            read = {
                "first_window": [row[: min(context, length)] for row in ids],
                "all_windows": [row[:context] for row in ids],
            }
            found = {
                way: clustered(_hits(windowed(model, tokens, length), gallery, target), emoji).to_json()
                for way, tokens in read.items()
            }
            rows.append({"own_every": every, "tokens": context, **found})
    return {
        "context_length": length,
        "rows": rows,
        "tokens_of_a_text": float(np.median(lengths)),
        "gallery": len(shown),
    }


def long_descriptions(count: int, seed: int, own_every: int) -> tuple[list[str], Ints]:
    """Lists of words in the manner of each locale, longer than every context; and the emoji they describe.

    Of every `own_every` words one, anywhere among them, is a name or keyword of the emoji; the others are keywords
    of any.
    """
    pack = load_pack()
    present = pack.images(TEST_STYLE)[1]
    seen = [i for i, emoji in enumerate(pack.emoji) if present[i] and not is_unseen_emoji(emoji.hexcode)]
    rng = np.random.default_rng([seed, 41])
    texts, owners = [], []
    for number in range(count):
        locale = LOCALES[number % len(LOCALES)]
        names, keywords = pack.names(locale), pack.keywords(locale)
        owner = int(rng.choice(seen))
        own = np.array([word for word in (names[owner], *keywords[owner]) if word])
        any_words = np.array([word for i in rng.choice(seen, size=max(CONTEXTS)) for word in keywords[i]])
        words: list[str] = []
        while len(words) < max(CONTEXTS):
            some = [str(rng.choice(own)), *(str(word) for word in rng.choice(any_words, size=own_every - 1))]
            words += [some[place] for place in rng.permutation(own_every)]
        texts.append(pack.joined(words, locale))
        owners.append(owner)
    return texts, np.array(owners, np.int64)


@torch.no_grad()
def windowed(model: DualEncoder, ids: list[list[int]], length: int) -> Floats:
    """[N, D] mean of the embeddings of all windows of `length` tokens of each text, unit norm."""
    windows = [
        (row, text[start : start + length]) for row, text in enumerate(ids) for start in range(0, len(text), length)
    ]
    windows.sort(key=lambda window: len(window[1]))
    total: Floats = np.zeros((len(ids), model.config.embed_dim), np.float32)
    for start in range(0, len(windows), BATCH):
        part = windows[start : start + BATCH]
        embedding, _ = model.encode_text(*pad([window for _, window in part]))
        np.add.at(total, [row for row, _ in part], embedding.numpy())
    unit: Floats = total / np.linalg.norm(total, axis=1, keepdims=True)
    return unit


def _hits(texts: Floats, gallery: Floats, target: Ints) -> NDArray[np.float64]:
    """[N] 1 where the picture of a text is among its ten best, else 0."""
    scores = texts @ gallery.T
    own = scores[np.arange(len(target)), target]
    hits: NDArray[np.float64] = ((scores > own[:, None]).sum(1) < TOP).astype(np.float64)
    return hits
