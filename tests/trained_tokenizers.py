"""Tokenizers of imported models with some thousand pieces, trained on emoji names in many scripts.

All are trained by SentencePiece, which gives the same pieces every time, and turned into what the
models have: the trainers of the package `tokenizers` break ties at random.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import transformers
from tokenizers import pre_tokenizers, processors

from dmedge.data.emoji import load_pack
from dmedge.data.splits import training_texts
from tests.tiny_hf import CONTEXT, write_clip, write_clip_xlmr, write_siglip, write_siglip2, write_vit_bert

LANGUAGES = ("ar", "de", "el", "en", "es", "fr", "hi", "ja", "ka", "ko", "ru", "sr", "th", "tr", "zh")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
END = "</w>"  # of a word
MARKED = 0xE000  # stands for letter 0 at the end of a word, while training
Merges = list[tuple[str, str]]


@cache
def names() -> tuple[tuple[str, str], ...]:
    """Language and text, some hundred of each language."""
    return tuple((text.locale, text.text) for text in training_texts(load_pack())[::7] if text.locale in LANGUAGES)


def _train(texts: Iterable[str], vocab_size: int, **settings: Any) -> tuple[bytes, list[tuple[str, float]]]:
    """A SentencePiece model, and its pieces with their scores, unknown and control pieces left out."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=vocab_size,
        num_threads=1,
        minloglevel=2,
        **{"bos_id": -1, "eos_id": -1, **settings},
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    plain = [token for token in range(len(trained)) if not (trained.is_unknown(token) or trained.is_control(token))]
    return model.getvalue(), [(trained.id_to_piece(token), trained.get_score(token)) for token in plain]


def clip_tokenizer() -> Any:
    """Bytes as letters, and "</w>" behind the last of a word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = dict.fromkeys(re.findall(r"[^\W\d]+", " ".join(text.lower() for _, text in names())))
    spelt = (byte_level.pre_tokenize_str(word)[0][0] for word in words)
    marked = (word[:-1] + chr(MARKED + letters.index(word[-1])) for word in spelt)
    options: dict[str, Any] = {"normalization_rule_name": "identity", "split_by_unicode_script": False}
    _, trained = _train(marked, 2200, model_type="bpe", add_dummy_prefix=False, **options)
    ends = {MARKED + number: letter + END for number, letter in enumerate(letters)}
    pieces = [[ends.get(ord(symbol), symbol) for symbol in piece] for piece, _ in trained]
    merges = _merges(piece for piece in pieces if len(piece) > 1)
    every = [*letters, *(letter + END for letter in letters), *(left + right for left, right in merges)]
    vocab = {piece: number for number, piece in enumerate([*every, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT)


def _merges(pieces: Iterable[Sequence[str]]) -> Merges:
    """The pair that each piece, given as its symbols, was made of; earlier pieces were merged earlier."""
    merges: dict[tuple[str, str], int] = {}
    for piece in pieces:
        symbols = list(piece)
        while len(symbols) > 2:
            place = min(range(len(symbols) - 1), key=lambda i: merges.get((symbols[i], symbols[i + 1]), len(merges)))
            symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
        merges.setdefault((symbols[0], symbols[1]), len(merges))
    return list(merges)


def gemma_tokenizer() -> Any:
    """Characters, bytes for others, and every way to merge to a piece, as SigLIP2 has it."""
    lowered = (text.lower() for _, text in names())
    _, trained = _train(
        lowered, 2600, model_type="bpe", character_coverage=0.98, split_by_whitespace=False, add_dummy_prefix=False
    )
    pieces = [piece for piece, _ in trained]
    vocab = {
        piece: number for number, piece in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *BYTES, *pieces])
    }
    merges = [way for piece in pieces for way in _ways(piece, vocab)]
    tokenizer = transformers.Siglip2Tokenizer(
        vocab=vocab, merges=merges, padding_side="right", model_input_names=["input_ids"]
    )
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def _ways(piece: str, vocab: Mapping[str, int]) -> Merges:
    """Source: transformers' `generate_merges`, which reads them off a SentencePiece model."""
    cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
    known = [(left, right) for left, right in cuts if left in vocab and right in vocab]
    return sorted(known, key=lambda way: (vocab[way[0]], vocab[way[1]]))


def xlmr_tokenizer() -> Any:
    """Special tokens in front, unlike in SentencePiece's own numbering, and the mask behind."""
    _, trained = _train((text for _, text in names()), 3200, character_coverage=0.99)
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=[*special, *trained, ("<mask>", 0.0)], model_max_length=CONTEXT)


def bert_tokenizer() -> Any:
    _, trained = _train((text.lower() for _, text in names()), 2500, character_coverage=0.98)
    pieces = [piece[1:] if piece.startswith("\u2581") else f"##{piece}" for piece, _ in trained if piece != "\u2581"]
    letters = sorted({letter for piece in pieces for letter in piece.removeprefix("##")})
    special = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    every = [*special, *letters, *(f"##{letter}" for letter in letters), *pieces]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(every))}
    return transformers.BertTokenizer(vocab=vocab, model_max_length=CONTEXT)


def siglip_tokenizer(folder: Path) -> Any:
    """With user-defined pieces, which SentencePiece scores by the most likely one."""
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2}
    model, _ = _train((text for _, text in names()), 2500, user_defined_symbols=["<extra>", "zz"], **ids)
    path = folder / "spiece.model"
    path.write_bytes(model)
    return transformers.SiglipTokenizer(
        str(path), pad_token="</s>", model_max_length=CONTEXT, model_input_names=["input_ids"]
    )


WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "clip": lambda folder: write_clip(folder, clip_tokenizer()),
    "siglip": lambda folder: write_siglip(folder, siglip_tokenizer),
    "siglip2": lambda folder: write_siglip2(folder, gemma_tokenizer()),
    "clip-xlmr": lambda folder: write_clip_xlmr(folder, xlmr_tokenizer()),
    "vit-bert": lambda folder: write_vit_bert(folder, bert_tokenizer()),
}
