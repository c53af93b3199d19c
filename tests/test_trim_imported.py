"""Trimming imported vocabularies: what is kept segments and embeds as before, in every kind of tokenizer."""

import csv
import errno
import io
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.compress import sentencepiece_model, tokenizer_json
from dmedge.compress.config import CompressConfig
from dmedge.compress.recipe import VOCABULARY, compress_artifact
from dmedge.compress.token_rows import keep_rows, reserved_rows, token_table
from dmedge.compress.trim import trim_languages
from dmedge.compress.vocabulary import count_pieces, kept_pieces, trim_vocabulary
from dmedge.data.hf_tokenizer import VOCABULARIES, HfTokenizer
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError, ConfigError, DataError
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.model.hf_import import import_checkpoint, text_tower
from dmedge.training.validation import LiveEncoder
from tests.tiny_hf import TEXT_KINDS, TEXTS, write_clip, write_text
from tests.trained_tokenizers import END, WRITERS, names

KEPT = ("en", "hi", "ru")
Imported = Callable[[str], Artifact]
UNKNOWN = {"siglip": 2, "clip-xlmr": 3, "vit-bert": 2}  # id, where no bytes stand in


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """A checkpoint that was imported with a trained tokenizer, each made once."""
    base = tmp_path_factory.mktemp("imported")

    def make(kind: str) -> Artifact:
        if not (base / f"{kind}-run").exists():
            import_checkpoint(WRITERS[kind](base / kind), base / f"{kind}-run")
        return load_artifact(base / f"{kind}-run", kind="checkpoint")

    return make


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, and some captions of every language."""
    folder = tmp_path_factory.mktemp("data") / "captions"
    (folder / "images").mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (32, 32), (20 * number, 99, 255 - 20 * number)).save(folder / "images" / f"{number}.png")
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "language", "text"))
        writer.writerows((f"{n % 12}.png", tag, text) for n, (tag, text) in enumerate(names()[::12]))
    return folder


def texts_in(*languages: str) -> list[str]:
    return [text for tag, text in names() if tag in languages]


def tokenizer_of(checkpoint: Checkpoint) -> HfTokenizer:
    assert isinstance(checkpoint.tokenizer, HfTokenizer)
    return checkpoint.tokenizer


def library(checkpoint: Checkpoint) -> Any:
    """The tokenizer of the package `tokenizers`."""
    return tokenizers.Tokenizer.from_str(tokenizer_of(checkpoint).files[VOCABULARIES["tokenizers"]].decode())


def trimmed_to(checkpoint: Checkpoint, texts: Iterable[str], folder: Path) -> tuple[Checkpoint, tuple[int, ...]]:
    keep = kept_pieces(checkpoint, count_pieces(checkpoint.tokenizer, texts))
    return trim_vocabulary(checkpoint, keep, folder), keep


def assert_same_where_kept(
    before: Checkpoint, after: Checkpoint, keep: Sequence[int], texts: Iterable[str], at_least: int
) -> None:
    """The law: text whose pieces are all left has the same pieces and, bit for bit, the same embedding."""
    place = {token: number for number, token in enumerate(keep)}
    left = []
    for text in dict.fromkeys(texts):
        ids = before.tokenizer.encode(text)
        if set(ids) <= set(keep):
            assert after.tokenizer.encode(text) == [place[token] for token in ids], text
            left.append(text)
    assert len(left) >= at_least
    for start in range(0, min(len(left), 600), 200):
        some = left[start : start + 200]
        rows = [one.model.encode_text(*map(torch.from_numpy, one.tokenizer.batch(some))) for one in (before, after)]
        assert torch.equal(rows[0][0], rows[1][0])
        assert torch.equal(rows[0][1], rows[1][1])


@pytest.mark.parametrize("kind", WRITERS)
def test_keeping_everything_changes_nothing(kind: str, imported: Imported, tmp_path: Path) -> None:
    before = load_checkpoint(imported(kind))
    after = trim_vocabulary(before, range(before.model.config.vocab_size), tmp_path)
    assert after.model.config == before.model.config
    assert tokenizer_of(after).files == tokenizer_of(before).files
    state = before.model.state_dict()
    for name, tensor in after.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("kind", WRITERS)
def test_text_of_kept_languages_stays_as_it_was(kind: str, imported: Imported, tmp_path: Path) -> None:
    before = load_checkpoint(imported(kind))
    after, keep = trimmed_to(before, texts_in(*KEPT), tmp_path)
    assert len(keep) < 0.75 * before.model.config.vocab_size
    assert after.model.config.vocab_size == tokenizer_of(after).vocab_size == len(keep)
    assert_same_where_kept(before, after, keep, texts_in(*KEPT), len(set(texts_in(*KEPT))))
    assert_same_where_kept(before, after, keep, (text for _, text in names()[::3]), 500)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", WRITERS)
def test_no_choice_of_pieces_changes_text_made_of_them(
    kind: str, share: float, imported: Imported, tmp_path: Path
) -> None:
    """Random pieces, which no language has together, and texts of random words."""
    before, rng = load_checkpoint(imported(kind)), random.Random(f"{kind} {share}")
    wanted = [token for token in range(before.model.config.vocab_size) if rng.random() < share]
    keep = kept_pieces(before, wanted)
    after = trim_vocabulary(before, keep, tmp_path)
    words = sorted({word for _, text in names() for word in text.split()})
    texts = (" ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(3_000))
    assert_same_where_kept(before, after, keep, texts, 15)


@pytest.mark.parametrize("kind", ["clip", "siglip2"])
def test_every_kept_piece_can_still_be_reached(kind: str, imported: Imported, tmp_path: Path) -> None:
    """Merging its characters gives the piece, at the end of a word and within one."""
    before = load_checkpoint(imported(kind))
    rng = random.Random(5)
    keep = kept_pieces(before, rng.sample(range(before.model.config.vocab_size), 400))
    models = [library(one).model for one in (before, trim_vocabulary(before, keep, tmp_path))]
    reached = 0
    for number, token in enumerate(keep):
        piece = models[0].id_to_token(token)
        for word in (piece.removesuffix(END), f"{piece}!"):
            ids = [[one.id for one in model.tokenize(word)] for model in models]
            if ids[0][:1] == [token]:
                assert ids[1][:1] == [number], piece
                reached += 1
    assert reached > 400


def test_all_bytes_of_clip_stay(imported: Imported, tmp_path: Path) -> None:
    before = load_checkpoint(imported("clip"))
    vocab = library(trimmed_to(before, ["a"], tmp_path)[0]).get_vocab()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    assert len(letters) == 256
    assert {*letters, *(letter + END for letter in letters)} < set(vocab)
    assert len(vocab) == 2 * 256 + 2


@pytest.mark.parametrize("kind", WRITERS)
def test_text_of_lost_pieces_still_has_tokens(kind: str, imported: Imported, tmp_path: Path) -> None:
    before = load_checkpoint(imported(kind))
    after, keep = trimmed_to(before, texts_in("en"), tmp_path)
    unknown = keep.index(UNKNOWN[kind]) if kind in UNKNOWN else None
    for text in (*texts_in("th", "ja", "ka", "ko", "ar")[::7], *TEXTS, "\U0001f9d1\u200d\U0001f680", "\x00", "<mask>"):
        ids = tokenizer_of(after).encode(text)
        assert ids
        assert max(ids) < len(keep)
        assert unknown is not None or text in TEXTS or len(tokenizer_of(after).pieces(text)) >= len(text.split()) > 0
    english = [tokenizer_of(after).pieces(text) for text in texts_in("en")]
    lost = [tokenizer_of(after).pieces(text) for text in texts_in("th")]
    if unknown is not None:
        assert sum(unknown in ids for ids in lost) > sum(unknown in ids for ids in english)


@pytest.mark.parametrize("kind", WRITERS)
def test_special_tokens_keep_their_meaning(kind: str, imported: Imported, tmp_path: Path) -> None:
    before = load_checkpoint(imported(kind))
    after, keep = trimmed_to(before, texts_in("en"), tmp_path)
    place = {token: number for number, token in enumerate(keep)}
    old, new = tokenizer_of(before), tokenizer_of(after)
    assert new.encode("") == [place[token] for token in old.encode("")]
    assert new.rules.pad_id == place[old.rules.pad_id]
    assert new.rules.end_id == (None if old.rules.end_id is None else place[old.rules.end_id])
    tables = [one.model.config.text_hf["config"] for one in (before, after)]
    for name, token in tables[0].items():  # type: ignore[attr-defined]
        if name.endswith("_token_id"):
            assert tables[1][name] == place.get(token, token)  # type: ignore[index]
    if kind == "siglip":
        return
    added = [library(one).get_added_tokens_decoder() for one in (before, after)]
    assert {place[token]: one.content for token, one in added[0].items()} == {
        token: one.content for token, one in added[1].items()
    }
    for one in added[0].values():  # spelt out in a text
        text = f"red {one.content} apple"
        assert new.encode(text) == [place[token] for token in old.encode(text)]


@pytest.mark.parametrize("kind", WRITERS)
def test_trimming_twice_is_trimming_once(kind: str, imported: Imported, tmp_path: Path) -> None:
    whole = load_checkpoint(imported(kind))
    (tmp_path / "more").mkdir()
    more, _ = trimmed_to(whole, texts_in("en", "hi"), tmp_path / "more")
    less, directly = (trimmed_to(one, texts_in("en"), tmp_path)[0] for one in (more, whole))
    assert less.model.config == directly.model.config
    assert tokenizer_of(less).files == tokenizer_of(directly).files
    state = directly.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in less.model.state_dict().items())


@pytest.mark.parametrize("kind", WRITERS)
def test_the_stage_saves_loads_and_trims_again(kind: str, imported: Imported, captions: Path, tmp_path: Path) -> None:
    parent, config = imported(kind), CompressConfig(ledger_texts=0, languages=KEPT, data=str(captions))
    made, again = (compress_artifact(parent, config, tmp_path / name) for name in ("made", "again"))
    assert made.digest == again.digest
    facts, table = made.manifest.summary, json.loads(made.file(VOCABULARY).read_text(encoding="utf-8"))
    before, after = load_checkpoint(parent), load_checkpoint(made)
    assert facts["vocabulary_parent"] == before.model.config.vocab_size
    assert facts["vocabulary"] == after.model.config.vocab_size < before.model.config.vocab_size
    assert made.manifest.languages == tuple(sorted(KEPT))
    for tag, loss in table.items():
        assert loss["is_asked"] == (tag in KEPT)
        if tag in KEPT:
            assert loss["coverage"] == 1
            assert loss["pieces_per_word_before"] == loss["pieces_per_word_after"]
            assert loss["recall_at_10_before"] == loss["recall_at_10_after"]
    assert min(loss["coverage"] for loss in table.values()) < 0.9
    keep = kept_pieces(before, count_pieces(before.tokenizer, [t for g, t in names()[::12] if g in KEPT]))
    assert_same_where_kept(before, after, keep, texts_in(*KEPT), 200)
    less = compress_artifact(
        made, CompressConfig(ledger_texts=0, languages=("en",), data=str(captions)), tmp_path / "less"
    )
    assert load_checkpoint(less).model.config.vocab_size < len(keep)


def test_int8_follows(imported: Imported, captions: Path, tmp_path: Path) -> None:
    config = CompressConfig(ledger_texts=0, languages=KEPT, data=str(captions), int8=True, calibration_items=6)
    made = load_checkpoint(compress_artifact(imported("siglip2"), config, tmp_path / "out"))
    table = made.model.state_dict()[token_table(made.model)]
    assert table.dtype == torch.int8
    assert len(table) == tokenizer_of(made).vocab_size


@pytest.mark.slow
@pytest.mark.thorough
def test_the_embedded_text_trims_an_imported_model(imported: Imported, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["compress", str(imported("clip").root), "--languages", "en,hi", "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    facts = load_artifact(out).manifest.summary
    assert f"vocabulary  {facts['vocabulary_parent']:,} -> {facts['vocabulary']:,} pieces" in result.stdout
    assert facts["coverage_worst_language"] == 1
    asked = facts["recall_at_10_asked"]
    assert asked[0] == pytest.approx(asked[1], abs=0.05)  # type: ignore[index]


def test_clip_with_its_first_configuration_pools_at_the_greatest_id(tmp_path: Path) -> None:
    """There `eos_token_id` is 2, which is an ordinary piece, and the end token is the last one."""
    folder = write_clip(tmp_path / "clip")
    table = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    table["text_config"] |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(table), encoding="utf-8")
    before = load_checkpoint(import_checkpoint(folder, tmp_path / "run"))
    after, keep = trimmed_to(before, ["red"], tmp_path)
    assert after.model.config.text_hf["config"]["eos_token_id"] == 2  # type: ignore[index]
    assert keep[:3] == (0, 1, 2)
    assert len(keep) < before.model.config.vocab_size
    assert_same_where_kept(before, after, keep, TEXTS, 3)


def with_text_tower(folder: Path) -> Checkpoint:
    """An imported text tower beside a picture tower of dmedge's own, drawn at random."""
    tower = text_tower(folder)
    assert tower.tokenizer is not None
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tower.vocab_size,
        classes=3,
        image_size=16,
        image_width=8,
        text="hf",
        text_width=tower.width,
        context_length=tower.tokenizer.context_length,
        text_hf=tower.hf,
        embed_dim=16,
        fusion="none",
    )
    model = DualEncoder(config).eval().requires_grad_(False)
    model.text.load_state_dict(tower.state_dict)
    return Checkpoint(model, tower.tokenizer, Preprocess(16), labels=("a", "b", "c"))


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_every_kind_of_text_tower_can_be_trimmed(kind: str, tmp_path: Path) -> None:
    before = with_text_tower(write_text(kind, tmp_path / kind))
    after, keep = trimmed_to(before, TEXTS[:1], tmp_path)
    assert len(keep) < before.model.config.vocab_size
    assert_same_where_kept(before, after, keep, (*TEXTS, "a red", "photo"), 3)


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_padding_does_not_move_where_positions_are_counted_from_it(kind: str, tmp_path: Path) -> None:
    before = with_text_tower(write_text(kind, tmp_path / kind))
    assert {0, 1} <= reserved_rows(before.model.config)
    after, _ = trimmed_to(before, ["a"], tmp_path)
    assert tokenizer_of(after).rules.pad_id == 1


def test_rows_without_a_piece_go(tmp_path: Path) -> None:
    """Tables are often filled up to a round number."""
    before = with_text_tower(write_text("bert", tmp_path / "bert"))
    config, table = before.model.config, token_table(before.model)
    filled = {**config.text_hf, "config": {**config.text_hf["config"], "vocab_size": 256}}  # type: ignore[dict-item]
    state = dict(before.model.state_dict())
    state[table] = torch.cat([state[table], torch.zeros(256 - len(state[table]), state[table].shape[1])])
    model = DualEncoder(ModelConfig(**{**vars_of(config), "vocab_size": 256, "text_hf": filled}))
    model.load_state_dict(state)
    padded = Checkpoint(model.eval().requires_grad_(False), before.tokenizer, before.preprocess, before.labels)
    after, keep = trimmed_to(padded, TEXTS[:-1], tmp_path)
    assert len(keep) <= tokenizer_of(before).vocab_size
    assert_same_where_kept(before, after, keep, TEXTS, 10)
    whole = trim_vocabulary(padded, range(256), tmp_path)
    assert whole.model.config == padded.model.config


def vars_of(config: ModelConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_the_table_is_found_by_its_module(tmp_path: Path) -> None:
    before = with_text_tower(write_text("electra", tmp_path / "electra"))
    assert token_table(before.model) == "text.model.embeddings.word_embeddings.weight"
    kept = keep_rows(before.model, range(5))
    assert isinstance(kept.get_submodule("text.model.embeddings.word_embeddings"), nn.Embedding)
    assert len(kept.state_dict()[token_table(kept)]) == 5


def word_level() -> bytes:
    return tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).to_str().encode()


def prefixed() -> bytes:
    model = tokenizers.models.BPE({"a": 0, "##b": 1, "ab": 2}, [("a", "##b")], continuing_subword_prefix="##")
    return tokenizers.Tokenizer(model).to_str().encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (word_level(), "found a vocabulary of kind WordLevel; expected one of BPE, Unigram, WordPiece; leave"),
        (prefixed(), "found byte-pair encoding with the prefix '##' within words; expected none; leave"),
    ],
    ids=["word level", "prefix"],
)
def test_vocabularies_of_other_kinds_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tokenizer_json.close_pieces(content, [0])


def test_byte_pairs_of_sentencepiece_are_refused() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:3]), model_writer=model, vocab_size=60, model_type="bpe", minloglevel=2
    )
    with pytest.raises(ConfigError, match="found a SentencePiece model of type 2; expected unigram, which is 1; leave"):
        sentencepiece_model.close_pieces(model.getvalue(), [0])


def test_ids_with_gaps_are_refused() -> None:
    """The library numbers an added token behind the number of pieces, wherever the file puts it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "c": 5}, []))
    tokenizer.add_tokens(["<x>"])
    with pytest.raises(DataError, match=r"expected .* as in one whose ids have no gaps; leave languages out"):
        tokenizer_json.keep_pieces(tokenizer.to_str().encode(), [0, 2, tokenizer.get_vocab()["<x>"]])


def test_pictures_are_embedded_once(
    imported: Imported, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded, original = [], LiveEncoder.images

    def count(self: LiveEncoder, images: Sequence[Any]) -> Any:
        embedded.append(len(images))
        return original(self, images)

    monkeypatch.setattr(LiveEncoder, "images", count)
    config = CompressConfig(ledger_texts=0, languages=("en",), data=str(captions))
    trim_languages(load_checkpoint(imported("siglip2")), config, tmp_path)
    assert embedded == [12]


def test_a_full_disk_leaves_nothing(
    imported: Imported, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dmedge.compress.trim.Trimmed.write", fail)
    config = CompressConfig(ledger_texts=0, languages=("en",), data=str(captions))
    with pytest.raises(ArtifactError, match="the disk is full; nothing was written"):
        compress_artifact(imported("siglip2"), config, tmp_path / "out")
    assert not list(tmp_path.iterdir())
