"""A SentencePiece unigram model with fewer pieces."""

from collections.abc import Iterable, Sequence
from typing import Any

from dmedge.errors import ConfigError, DmedgeError

NORMAL, UNIGRAM = 1, 1  # type of a piece and of a model in sentencepiece_model.proto


def close_pieces(content: bytes, wanted: Iterable[int]) -> set[int]:
    """Token ids to keep so that text made of `wanted` pieces is segmented as before.

    Beside them: the unknown, control, byte and user-defined pieces; the single characters of every kept
    piece, without which a character could be cheaper as unknown; and the least and the most likely
    piece, by whose scores unknown and user-defined ones are scored.

    Raises:
        ConfigError: the model is no unigram model.
    """
    model = _read(content)
    if model.trainer_spec.model_type != UNIGRAM:
        raise ConfigError(
            f"languages: found a SentencePiece model of type {model.trainer_spec.model_type}; expected unigram, which "
            f"is {UNIGRAM}; leave languages out"
        )
    pieces = model.pieces
    chosen = set(wanted) | {token for token, piece in enumerate(pieces) if piece.type != NORMAL}
    normal = sorted(
        (token for token, piece in enumerate(pieces) if piece.type == NORMAL), key=lambda token: pieces[token].score
    )
    chosen |= {*normal[:1], *normal[-1:]}
    characters = {character for token in chosen if token < len(pieces) for character in pieces[token].piece}
    return chosen | {token for token in normal if pieces[token].piece in characters}


def keep_pieces(content: bytes, keep: Sequence[int]) -> bytes:
    """The same model with the token ids `keep` only, numbered in their order.

    Args:
        content: of the model's file.
        keep: rising, those that `close_pieces` adds among them; ids beyond the last piece come to nothing.
    """
    model = _read(content)
    kept = type(model)()
    kept.CopyFrom(model)
    del kept.pieces[:]
    kept.pieces.extend(model.pieces[token] for token in keep if token < len(model.pieces))
    kept.trainer_spec.vocab_size = len(kept.pieces)
    return bytes(kept.SerializeToString(deterministic=True))


def _read(content: bytes) -> Any:  # a generated class, without types
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise DmedgeError("trimming a vocabulary needs protobuf; run: pip install 'dmedge[compress]'") from error
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(content)
    return model
