"""What the frozen towers say of the pairs of a task, computed once for all heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmedge.data.hf_tokenizer import HfTokenizer
from dmedge.data.tokenizer import Tokenizer
from dmedge.errors import DataError
from dmedge.evidence.pairs import preprocessed
from dmedge.files import sync
from dmedge.logs import progress
from dmedge.model.checkpoint import Checkpoint
from dmedge.study.task import Ints, Pairs, Pictures, Pixels

BATCH = 256
MOST_TOKENS = 24  # of a keyword
MOST_BYTES = 16 * 2**30  # of the patches of one part, which are held in memory


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
            "a tokenizer of Hugging Face; a study of the emoji expects a vocabulary of dmedge; train a model on them, "
            "or name records of your own by --data"
        )
    return checkpoint.tokenizer


def token_ids(checkpoint: Checkpoint, texts: Sequence[str]) -> list[list[int]]:
    """Ids of every text without padding, none of them empty; without the special tokens of an imported vocabulary."""
    tokenizer = checkpoint.tokenizer
    if isinstance(tokenizer, HfTokenizer):
        return [tokenizer.pieces(text) or [tokenizer.rules.pad_id] for text in texts]
    return tokenizer.encode_all(texts)


def tower_features(checkpoint: Checkpoint, pairs: Pairs, longest: int = MOST_TOKENS) -> Features:
    """Run both towers over pairs."""
    return Features(picture_features(checkpoint, pairs.pictures), *text_features(checkpoint, pairs.texts, longest))


@torch.no_grad()
def picture_features(checkpoint: Checkpoint, pictures: Pictures, *, is_sized: bool = False) -> Tensor:
    """Patches [M, P, V] of pictures.

    Args:
        is_sized: they are pixels as the model takes them, and not to be cropped for another time.

    Raises:
        DataError: a picture cannot be read, or the patches of all fill more than 16 GiB.
    """
    found: list[Tensor] = []
    with progress("pictures", len(pictures)) as advance:
        for start in range(0, len(pictures), BATCH):
            part = pictures[start : start + BATCH]
            pixels = part if is_sized and isinstance(part, np.ndarray) else sized(checkpoint, part)
            found.append(checkpoint.model.image(torch.from_numpy(pixels))[1].half())
            _check_size(found[0], len(pictures))
            advance(len(pixels))
    return torch.cat(found)


def _check_size(patches: Tensor, pictures: int) -> None:
    most = MOST_BYTES // (patches[0].numel() * patches.element_size())
    if pictures > most:
        raise DataError(
            f"{pictures:,} pictures of {patches.shape[1]} patches, {patches.shape[2]} wide, fill more than "
            f"{MOST_BYTES >> 30} GiB; expected at most {most:,} pictures; set train_pairs and test_pairs to fewer"
        )


def sized(checkpoint: Checkpoint, pictures: Pictures) -> Pixels:
    """Pictures as the model takes them, uint8 [M, S, S, 3]."""
    own = checkpoint.preprocess
    if isinstance(pictures, np.ndarray) and own.keeps_square and pictures.shape[1] == own.size:
        return pictures
    return preprocessed(checkpoint, pictures)


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
    which = np.array([place[text] for text in texts], np.int64)
    if isinstance(checkpoint.tokenizer, HfTokenizer):
        return *_imported_text_features(checkpoint, different), which
    ids = [row[:longest] for row in token_ids(checkpoint, different)]
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
    return tokens, first, which


def _imported_text_features(checkpoint: Checkpoint, texts: list[str]) -> tuple[Tensor, Ints]:
    """Tokens that an imported tower looks at of each text, special ones included, and where each text begins."""
    found: list[Tensor] = []
    with progress("texts", len(texts)) as advance:
        for start in range(0, len(texts), BATCH):
            ids, mask = map(torch.from_numpy, checkpoint.tokenizer.batch(texts[start : start + BATCH]))
            _, tokens = checkpoint.model.text(ids, mask)
            found += [row[own.bool()].half() for row, own in zip(tokens, mask, strict=True)]
            advance(len(ids))
    first = np.concatenate([[0], np.cumsum([len(row) for row in found])]).astype(np.int64)
    return torch.cat(found), first


def kept_features(checkpoint: Checkpoint, pairs: Pairs, place: Path, longest: int = MOST_TOKENS) -> Features:
    """The features of `pairs`, from the file `place` if it is there, and written to it if it is not."""
    if place.exists():
        table = load_file(place)
        return Features(table["patches"], table["tokens"], table["first"].numpy(), table["text"].numpy())
    features = tower_features(checkpoint, pairs, longest)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part")
    numbers = {"first": torch.from_numpy(features.first), "text": torch.from_numpy(features.text)}
    save_file({"patches": features.patches.contiguous(), "tokens": features.tokens, **numbers}, part)
    sync(part)
    part.rename(place)
    return features
