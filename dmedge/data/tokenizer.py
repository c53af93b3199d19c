"""SentencePiece tokens: unigram, byte fallback, NFKC and casefold, no begin or end tokens."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from dmedge.errors import DataError

PAD_ID = 0
UNKNOWN_ID = 1


class Tokenizer:
    """Text to token ids, at most `context_length` of them; any text has at least one."""

    def __init__(self, model_path: Path, context_length: int) -> None:
        """Load a vocabulary that `train_tokenizer` wrote.

        Raises:
            DataError: the file cannot be read, or is no such vocabulary.
        """
        self.model_path = Path(model_path)
        self.context_length = context_length
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.model_path.read_bytes())
        except (OSError, RuntimeError) as error:
            raise DataError(f"{model_path}: no SentencePiece model ({error}); make the artifact again") from error
        special = (self._processor.pad_id(), self._processor.unk_id())
        if special != (PAD_ID, UNKNOWN_ID):
            raise DataError(
                f"{model_path}: padding and unknown tokens are {special}; expected {(PAD_ID, UNKNOWN_ID)}; "
                "make the vocabulary with dmedge train"
            )

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self._processor.vocab_size())

    def piece(self, token: int) -> str:
        """The subword of a token id; a word starts with U+2581."""
        return str(self._processor.id_to_piece(token))

    def piece_id(self, piece: str) -> int | None:
        """Token id of a subword, None where the vocabulary does not hold it."""
        token = int(self._processor.piece_to_id(piece))
        return None if token == UNKNOWN_ID else token

    def encode(self, text: str) -> list[int]:
        """Token ids; text that holds nothing becomes the unknown token."""
        return self._row(self._processor.encode(_utf8(text)))

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; of many a sixth of the time that they take one by one."""
        found = self._processor.encode([_utf8(text) for text in texts], num_threads=1)
        return [self._row(ids) for ids in found]

    def singles(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Ids and mask of each text alone, int32 [1, L]."""
        rows = [np.array([ids], np.int32) for ids in self.encode_all(texts)]
        return [(ids, np.ones_like(ids)) for ids in rows]

    def batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Ids and mask, int32 [B, L], padded on the right to the longest text; mask is 1 on tokens."""
        rows = self.encode_all(texts)
        ids = np.full((len(rows), max(map(len, rows), default=0)), PAD_ID, np.int32)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return ids, mask

    def _row(self, ids: list[int]) -> list[int]:
        return ids[: self.context_length] or [UNKNOWN_ID]


def _utf8(text: str) -> str:
    """Lone surrogates have no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def train_tokenizer(texts: Iterable[str], out: Path, vocab_size: int) -> None:
    """Fit a vocabulary and write it to `out`; the same texts in the same order give the same bytes.

    Args:
        texts: training text only, or held-out text leaks into the vocabulary.
        vocab_size: an upper bound; little text gives fewer tokens.

    Raises:
        DataError: there is no text, or the size does not hold the characters of the text.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="nmt_nfkc_cf",
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # sums over threads would depend on their number
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(f"no vocabulary of {vocab_size} tokens from this text: {error}; change vocab_size") from error
    out.write_bytes(model.getvalue())
