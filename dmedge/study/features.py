"""What the frozen towers say of the pairs of a task, computed once for all heads."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmedge.data.tokenizer import Tokenizer
from dmedge.errors import DataError
from dmedge.files import sync
from dmedge.logs import progress
from dmedge.model.checkpoint import Checkpoint
from dmedge.study.pairs import Ints, Pairs, Pixels

BATCH = 256
MOST_TOKENS = 24  # of a keyword


@dataclass(frozen=True, eq=False)
class Features:
    """Patches of M pictures and tokens of N texts, float16 to save memory, float32 when they are drawn."""

    patches: Tensor  # [M, P, V]
    tokens: Tensor  # [sum of lengths, W]
    first: Ints  # [U + 1] where each different text begins
    text: Ints  # [N] which text

    def by_length(self, rows: Ints, parts: int) -> list[Ints]:
        """Some pairs in groups of texts of similar length: beside one long text all others are mostly padding."""
        text = self.text[rows]
        order = np.argsort(self.first[text + 1] - self.first[text], kind="stable")
        return [part for part in np.array_split(rows[order], parts) if len(part)]

    def draw(self, picture: Ints, rows: Ints) -> tuple[Tensor, Tensor, Tensor]:
        """Patches [B, P, V] of some pictures, tokens [B, L, W] and mask [B, L] of the texts of some pairs."""
        text = self.text[rows]
        lengths = self.first[text + 1] - self.first[text]
        place = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1) + self.first[text][:, None]
        mask = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None]).int()
        tokens = self.tokens[torch.from_numpy(place)].float() * mask[:, :, None]
        return self.patches[torch.from_numpy(picture)].float(), tokens, mask


def vocabulary(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Raises:
        DataError: it is one of Hugging Face.
    """
    if not isinstance(checkpoint.tokenizer, Tokenizer):
        raise DataError(
            "a tokenizer of Hugging Face; a study expects the vocabulary of the emoji; train a model on them"
        )
    return checkpoint.tokenizer


def tower_features(checkpoint: Checkpoint, pairs: Pairs) -> Features:
    """Run both towers over pairs."""
    return Features(picture_features(checkpoint, pairs.pictures), *text_features(checkpoint, pairs.texts))


@torch.no_grad()
def picture_features(checkpoint: Checkpoint, pictures: Pixels) -> Tensor:
    """Patches [M, P, V] of uint8 [M, H, W, 3] pictures, resized where the model takes another size."""
    found = []
    with progress("pictures", len(pictures)) as advance:
        for start in range(0, len(pictures), BATCH):
            pixels = sized(checkpoint, pictures[start : start + BATCH])
            found.append(checkpoint.model.image(torch.from_numpy(pixels))[1].half())
            advance(len(pixels))
    return torch.cat(found)


def sized(checkpoint: Checkpoint, pictures: Pixels) -> Pixels:
    """Pictures [M, H, W, 3] as the model takes them."""
    from PIL import Image

    if pictures.shape[1] == checkpoint.preprocess.size and checkpoint.preprocess.keeps_square:
        return pictures
    return np.stack([checkpoint.preprocess(Image.fromarray(picture)) for picture in pictures])


@torch.no_grad()
def text_features(
    checkpoint: Checkpoint, texts: tuple[str, ...], longest: int = MOST_TOKENS
) -> tuple[Tensor, Ints, Ints]:
    """Tokens of the different texts one after another, where each begins, and which text each row is.

    Args:
        longest: tokens that are kept of a text.
    """
    different = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(different)}
    ids = [row[:longest] for row in vocabulary(checkpoint).encode_all(different)]
    lengths = np.array([len(row) for row in ids], np.int64)
    first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = torch.empty(int(first[-1]), int(checkpoint.model.text.out_width), dtype=torch.float16)  # type: ignore[arg-type]
    order = np.argsort(lengths, kind="stable")
    with progress("texts", len(different)) as advance:
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            width = int(lengths[rows].max())
            padded = np.zeros((len(rows), width), np.int32)
            for i, row in enumerate(rows):
                padded[i, : lengths[row]] = ids[row]
            mask = torch.from_numpy(np.arange(width) < lengths[rows][:, None]).int()
            _, found = checkpoint.model.text(torch.from_numpy(padded), mask)
            for i, row in enumerate(rows):
                tokens[first[row] : first[row + 1]] = found[i, : lengths[row]].half()
            advance(len(rows))
    return tokens, first, np.array([place[text] for text in texts], np.int64)


def kept_features(checkpoint: Checkpoint, pairs: Pairs, place: Path) -> Features:
    """The features of `pairs`, from the file `place` if it is there, and written to it if it is not."""
    if place.exists():
        table = load_file(place)
        return Features(table["patches"], table["tokens"], table["first"].numpy(), table["text"].numpy())
    features = tower_features(checkpoint, pairs)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part")
    numbers = {"first": torch.from_numpy(features.first), "text": torch.from_numpy(features.text)}
    save_file({"patches": features.patches.contiguous(), "tokens": features.tokens, **numbers}, part)
    sync(part)
    part.rename(place)
    return features
