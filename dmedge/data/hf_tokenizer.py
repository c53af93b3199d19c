"""Tokens of an imported model, its own ids: a Hugging Face tokenizer.json, or SigLIP's SentencePiece model."""

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Artifact
from dmedge.config import load_config
from dmedge.data.tokenizer import Tokenizer
from dmedge.errors import ConfigError, DataError, require

RULES = "tokenizer_rules.json"

Kind = Literal["tokenizers", "sentencepiece"]
VOCABULARIES: Mapping[Kind, str] = {"tokenizers": "tokenizer.json", "sentencepiece": "spiece.model"}  # kind -> file

Side = Literal["left", "right"]
_PREFIX = "\u2581"  # how SentencePiece writes the space before a word
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRules:
    """What the vocabulary alone does not say; the content of tokenizer_rules.json.

    With `pads` every text is filled up to the context length with `pad_id`, on `padding_side`, as
    SigLIP was trained; otherwise only the rows of a batch are, on the right. Where `masks` is false
    the model looks at padding as at any other token, so the mask is 1 everywhere. The last three are
    of the kind "sentencepiece": the end token after each text, and what is done to the text before.
    """

    kind: Kind
    pad_id: int
    pads: bool = False
    padding_side: Side = "right"
    masks: bool = True
    truncation_side: Side = "right"
    end_id: int | None = None
    lowercases: bool = False
    strips_punctuation: bool = False  # of ASCII

    def __post_init__(self) -> None:
        for side in (self.padding_side, self.truncation_side):
            if side not in get_args(Side):
                raise ValueError(f"side {side!r}; expected left or right")
        if self.kind not in VOCABULARIES or self.pad_id < 0:
            raise ValueError(
                f"kind {self.kind!r}, pad_id {self.pad_id}; expected one of {list(VOCABULARIES)}, and >= 0"
            )


class HfTokenizer:
    """Text to the ids of the original tokenizer, special tokens included, at most `context_length` of them."""

    def __init__(self, files: Mapping[str, bytes], context_length: int) -> None:
        """Take over a vocabulary and its rules.

        Args:
            files: content of tokenizer_rules.json and of the vocabulary that its kind names.
            context_length: at least 2, since special tokens count.

        Raises:
            DataError: a file is missing or unreadable.
            DmedgeError: the package `tokenizers` is not installed, which the extra "imported" brings.
        """
        self.rules = _read_rules(files)
        self.files = dict(files)
        self.context_length = context_length
        if VOCABULARIES[self.rules.kind] not in files:
            raise DataError(f"no {VOCABULARIES[self.rules.kind]} beside {RULES}; expected it; import the model again")
        content = files[VOCABULARIES[self.rules.kind]]
        engine = _Tokenizers if self.rules.kind == "tokenizers" else _SentencePiece
        self._engine: _Engine = engine(content, self.rules, context_length)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._engine.vocab_size

    def count(self, text: str) -> int:
        """Tokens of a text that is not cut, special ones included and padding not."""
        return self._engine.count(_utf8(text))

    def piece(self, token: int) -> str:
        """What a person reads for one token id; its name in the vocabulary where it stands for no letter."""
        return self._engine.piece(token)

    @property
    def reserved(self) -> frozenset[int]:
        """Token ids that it needs whatever the text is, beside those that its vocabulary calls special."""
        ends = {self.rules.pad_id} if self.rules.end_id is None else {self.rules.pad_id, self.rules.end_id}
        return self._engine.reserved | ends

    def pieces(self, text: str) -> list[int]:
        """Token ids of a text that is not cut, without special tokens and padding; maybe none."""
        return self._engine.pieces(_utf8(text))

    def encode(self, text: str) -> list[int]:
        """Token ids with special tokens, filled up where the model was trained so; never empty."""
        return self._row(text)[0]

    def batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Ids and mask, int32 [B, L], padded on the right to the longest text; mask is 1 on what the model looks at."""
        rows = [self._row(text) for text in texts]
        ids = np.full((len(rows), max((len(row) for row, _ in rows), default=0)), self.rules.pad_id, np.int32)
        mask = np.zeros_like(ids)
        for i, (row, row_mask) in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = row_mask
        return ids, mask

    def singles(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Ids and mask of each text alone, int32 [1, L]."""
        return [self.batch([text]) for text in texts]

    def _row(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of one text, and whether the model looks at each."""
        ids = self._engine.encode(_utf8(text)) or [self.rules.pad_id]
        missing = self.context_length - len(ids) if self.rules.pads else 0
        padding, unseen = [self.rules.pad_id] * missing, [int(not self.rules.masks)] * missing
        if self.rules.padding_side == "left":
            return padding + ids, unseen + [1] * len(ids)
        return ids + padding, [1] * len(ids) + unseen

    def write(self, folder: Path) -> None:
        """Write the files that `open_tokenizer` reads."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    def __reduce__(self) -> tuple[Any, ...]:
        return HfTokenizer, (self.files, self.context_length)


class _Tokenizers:
    """A tokenizer.json, run by the package it was made with."""

    reserved: frozenset[int] = frozenset()

    def __init__(self, content: bytes, rules: TokenizerRules, context_length: int) -> None:
        library = require("tokenizers", "imported")
        try:
            self._tokenizer = library.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises nothing more special
            raise DataError(
                f"{VOCABULARIES['tokenizers']}: cannot be read ({error}); import the model again"
            ) from error
        self._tokenizer.no_padding()
        self._truncation = {"max_length": context_length, "direction": rules.truncation_side}
        self._tokenizer.enable_truncation(**self._truncation)
        self.vocab_size: int = self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def pieces(self, text: str) -> list[int]:
        return self._uncut(text, has_special=False)

    def count(self, text: str) -> int:
        return len(self._uncut(text, has_special=True))

    def piece(self, token: int) -> str:
        # Byte-level vocabularies name "ر" as "Ø±"; decoding gives the letter.
        return str(self._tokenizer.decode([token], skip_special_tokens=False) or self._tokenizer.id_to_token(token))

    def _uncut(self, text: str, *, has_special: bool) -> list[int]:
        self._tokenizer.no_truncation()
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=has_special).ids)
        finally:
            self._tokenizer.enable_truncation(**self._truncation)


class _SentencePiece:
    """SigLIP's text preparation and vocabulary, as transformers' `SiglipTokenizer` runs them.

    Text that spells out a special token, such as "</s>", is taken as plain text.
    """

    def __init__(self, content: bytes, rules: TokenizerRules, context_length: int) -> None:
        import sentencepiece

        self._rules, self._context_length = rules, context_length
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise DataError(f"{VOCABULARIES['sentencepiece']}: cannot be read ({error}); import it again") from error
        self.vocab_size = int(self._processor.vocab_size())
        # Without a word before it the first space would be lost: encode behind the unknown token, then drop that.
        self._lead = str(self._processor.id_to_piece(self._processor.unk_id()))
        lead = self._processor.encode(self._lead)
        self._lead_length = len(lead)
        self.reserved = frozenset({*lead, int(self._processor.piece_to_id(_PREFIX))})

    def pieces(self, text: str) -> list[int]:
        text = _PREFIX + text.replace(_PREFIX, " ")
        if self._rules.lowercases:
            text = text.lower()
        if self._rules.strips_punctuation:
            text = text.translate(_PUNCTUATION)
        text = re.sub(r"\s+", " ", text).strip()
        return list(self._processor.encode(self._lead + text)[self._lead_length :])

    def encode(self, text: str) -> list[int]:
        ids = self.pieces(text)
        if self._rules.end_id is None:
            return self._shorten(ids, self._context_length)
        return [*self._shorten(ids, self._context_length - 1), self._rules.end_id]

    def _shorten(self, ids: list[int], length: int) -> list[int]:
        return ids[:length] if self._rules.truncation_side == "right" else ids[max(0, len(ids) - length) :]

    def count(self, text: str) -> int:
        return len(self.pieces(text)) + (self._rules.end_id is not None)

    def piece(self, token: int) -> str:
        return str(self._processor.id_to_piece(token))


_Engine: TypeAlias = _Tokenizers | _SentencePiece
AnyTokenizer: TypeAlias = Tokenizer | HfTokenizer


def open_tokenizer(artifact: Artifact, context_length: int) -> AnyTokenizer:
    """The tokenizer of a checkpoint or a bundle, whichever kind it holds.

    Raises:
        ArtifactError: it holds none.
        DataError: its files cannot be read.
    """
    if RULES not in artifact.manifest.files:
        return Tokenizer(artifact.file("tokenizer.model"), context_length)
    return HfTokenizer(
        {name: artifact.file(name).read_bytes() for name in tokenizer_file_names(artifact)}, context_length
    )


def tokenizer_file_names(artifact: Artifact) -> tuple[str, ...]:
    """The files of an artifact that make its tokenizer, for whoever copies them."""
    names = [name for name in (RULES, *VOCABULARIES.values()) if name in artifact.manifest.files]
    return tuple(names) if RULES in names else ("tokenizer.model",)


def count_tokens(tokenizer: AnyTokenizer, text: str) -> int:
    """Tokens of a text that is not cut to the context length, padding not included."""
    if isinstance(tokenizer, HfTokenizer):
        return tokenizer.count(text)
    return len(Tokenizer(tokenizer.model_path, 2**31).encode(text))


def rules_json(rules: TokenizerRules) -> bytes:
    """Content of tokenizer_rules.json."""
    return (json.dumps(asdict(rules), indent=2, sort_keys=True) + "\n").encode()


def _read_rules(files: Mapping[str, bytes]) -> TokenizerRules:
    try:
        return load_config(TokenizerRules, json.loads(files[RULES]), where=RULES)
    except (KeyError, ValueError, TypeError, ConfigError) as error:
        raise DataError(f"{RULES}: cannot be read ({error!r}); import the model again") from error


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # lone surrogates have no UTF-8
