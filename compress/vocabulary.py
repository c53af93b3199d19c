"""Trimming a vocabulary: the pieces that the text of some languages uses, and their embedding rows.

In a multilingual text tower the embedding table outweighs everything else, and most of its rows are
of languages that an app does not offer. What is left segments text as before wherever all of its
pieces are left, so that such text embeds bit for bit as it did.

Source: Abdaoui et al. 2020, arXiv:2010.05609 (smaller versions of multilingual BERT).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dmedge.data.tokenizer import Tokenizer
from dmedge.errors import ConfigError, DmedgeError
from dmedge.model.checkpoint import TOKENIZER, Checkpoint
from dmedge.model.dual import DualEncoder

TABLE = "text.token.weight"
NORMAL = 1  # piece type of sentencepiece_model.proto; unknown, control and byte pieces are others


def count_pieces(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often every token id occurs in `texts`."""
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(tokenizer.encode(text))
    return counts


def frequent_pieces(counts: Mapping[int, int], coverage: float) -> set[int]:
    """The fewest token ids that make up at least a share `coverage` of all tokens counted."""
    needed, covered, chosen = coverage * sum(counts.values()), 0, set()
    for token, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= needed:
            break
        chosen.add(token)
        covered += count
    return chosen


def kept_pieces(tokenizer: Tokenizer, wanted: Iterable[int]) -> tuple[int, ...]:
    """Token ids to keep so that text made of `wanted` pieces is segmented as before, in order.

    Beside them: the unknown, padding and byte pieces; the single characters of every kept piece, without
    which a character could be cheaper as unknown; and the least likely piece, whose score the unknown
    piece is scored by.
    """
    pieces = _read_model(tokenizer.model_path).pieces
    chosen = set(wanted) | {token for token, piece in enumerate(pieces) if piece.type != NORMAL}
    normal = [token for token, piece in enumerate(pieces) if piece.type == NORMAL]
    chosen |= {min(normal, key=lambda token: pieces[token].score)} if normal else set()
    characters = {character for token in chosen for character in pieces[token].piece}
    chosen |= {token for token in normal if pieces[token].piece in characters}
    return tuple(sorted(chosen))


def trim_vocabulary(checkpoint: Checkpoint, keep: Sequence[int], folder: Path) -> Checkpoint:
    """A checkpoint with only the token ids `keep`, renumbered in their order.

    Args:
        checkpoint: float, with dmedge's own tokenizer and text tower; it is left as it was.
        keep: rising token ids, those that `kept_pieces` adds among them.
        folder: where the new vocabulary is written; it must stay as long as the checkpoint is used.

    Raises:
        ConfigError: the checkpoint has a vocabulary of another kind.
    """
    tokenizer = own_vocabulary(checkpoint)
    model = _read_model(tokenizer.model_path)
    kept = type(model)()
    kept.CopyFrom(model)
    del kept.pieces[:]
    kept.pieces.extend(model.pieces[token] for token in keep)
    kept.trainer_spec.vocab_size = len(keep)
    path = folder / TOKENIZER
    path.write_bytes(kept.SerializeToString(deterministic=True))
    state = dict(checkpoint.model.state_dict())
    state[TABLE] = state[TABLE][torch.tensor(keep)]
    trimmed = DualEncoder(replace(checkpoint.model.config, vocab_size=len(keep)))
    trimmed.load_state_dict(state)
    return replace(
        checkpoint,
        model=trimmed.eval().requires_grad_(False),
        tokenizer=Tokenizer(path, tokenizer.context_length),
    )


def own_vocabulary(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a checkpoint whose vocabulary can be trimmed.

    Raises:
        ConfigError: it is an imported one.
    """
    tokenizer, text = checkpoint.tokenizer, checkpoint.model.config.text
    if not isinstance(tokenizer, Tokenizer) or text == "hf":
        raise ConfigError(
            f"languages: found an imported vocabulary and a text tower {text!r}; expected those that dmedge train "
            "makes; imported vocabularies cannot be trimmed yet"
        )
    return tokenizer


def _read_model(path: Path):  # type: ignore[no-untyped-def]  # a generated class, without types
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise DmedgeError("trimming a vocabulary needs protobuf; run: pip install 'dmedge[compress]'") from error
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    return model
