"""Trimming a vocabulary: what is kept segments and embeds as before, and every language's loss is told."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dmedge.artifact import SHIPPED, Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.compress.config import CompressConfig, artifact_name
from dmedge.compress.corpus import texts_by_language
from dmedge.compress.recipe import VOCABULARY, compress_artifact
from dmedge.compress.token_rows import OWN_TABLE as TABLE
from dmedge.compress.vocabulary import count_pieces, frequent_pieces, kept_pieces, trim_vocabulary
from dmedge.config import load_config
from dmedge.data.emoji import load_pack
from dmedge.data.languages import choose_languages
from dmedge.data.tokenizer import Tokenizer
from dmedge.errors import ArtifactError, ConfigError
from dmedge.files import list_files
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from tests.tiny_bundles import tiny_checkpoint

__all__ = ["tiny_checkpoint"]  # fixture

ASKED = ("en", "hi", "sr", "zh")


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return load_checkpoint(load_artifact(SHIPPED / "emoji"))


@pytest.fixture(scope="module")
def vocabulary(shipped: Checkpoint) -> Tokenizer:
    return own_vocabulary(shipped)


@pytest.fixture(scope="module")
def trimmed(shipped: Checkpoint, vocabulary: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return trim_vocabulary(shipped, kept_of(shipped, ASKED), tmp_path_factory.mktemp("trimmed"))


def own_vocabulary(checkpoint: Checkpoint) -> Tokenizer:
    assert isinstance(checkpoint.tokenizer, Tokenizer)
    return checkpoint.tokenizer


def kept_of(shipped: Checkpoint, languages: tuple[str, ...]) -> tuple[int, ...]:
    texts = texts_by_language("emoji")
    asked = (texts[language] for language in choose_languages(languages, texts))
    return kept_pieces(shipped, {token for own in asked for token in count_pieces(shipped.tokenizer, own)})


def all_names() -> Iterator[str]:
    """Every name of the pack, held-out ones included."""
    pack = load_pack()
    return (name for locale in pack.locales for name in pack.names(locale) if name is not None)


def test_keeping_everything_changes_nothing(shipped: Checkpoint, vocabulary: Tokenizer, tmp_path: Path) -> None:
    after = trim_vocabulary(shipped, range(vocabulary.vocab_size), tmp_path)
    assert after.model.config == shipped.model.config
    before = shipped.model.state_dict()
    for name, tensor in after.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    own = own_vocabulary(after)
    assert [own.piece(token) for token in range(own.vocab_size)] == [
        vocabulary.piece(token) for token in range(vocabulary.vocab_size)
    ]
    assert own.encode("Straßenbahn 東京 🦕") == vocabulary.encode("Straßenbahn 東京 🦕")


def test_text_whose_pieces_are_left_is_segmented_as_before(
    shipped: Checkpoint, vocabulary: Tokenizer, trimmed: Checkpoint
) -> None:
    """Over the whole corpus, in all languages."""
    keep, after = kept_of(shipped, ASKED), own_vocabulary(trimmed)
    place = {token: number for number, token in enumerate(keep)}
    survivors = 0
    for name in set(all_names()):
        before = vocabulary.encode(name)
        if all(token in place for token in before):
            survivors += 1
            assert after.encode(name) == [place[token] for token in before], name
    assert survivors > 10_000


def test_such_text_embeds_bit_for_bit(shipped: Checkpoint, vocabulary: Tokenizer, trimmed: Checkpoint) -> None:
    keep = set(kept_of(shipped, ASKED))
    names = [name for name in sorted(set(all_names()))[::7] if set(vocabulary.encode(name)) <= keep]
    assert len(names) > 1_000
    for start in range(0, len(names), 500):
        rows = [
            one.model.encode_text(*map(torch.from_numpy, one.tokenizer.batch(names[start : start + 500])))
            for one in (shipped, trimmed)
        ]
        assert torch.equal(rows[0][0], rows[1][0])
        assert torch.equal(rows[0][1], rows[1][1])


def test_no_choice_of_pieces_changes_how_they_segment(
    vocabulary: Tokenizer, shipped: Checkpoint, tmp_path: Path
) -> None:
    """Not only pieces of whole languages: random ones, in random order, which brings unlikely neighbours together."""
    rng = random.Random(3)
    for number in range(3):
        keep = kept_pieces(shipped, rng.sample(range(vocabulary.vocab_size), 300))
        folder = tmp_path / str(number)
        folder.mkdir()
        after = own_vocabulary(trim_vocabulary(shipped, keep, folder))
        place = {token: row for row, token in enumerate(keep)}
        normal = [token for token in keep if not vocabulary.piece(token).startswith("<")]
        texts = ["".join(vocabulary.piece(t) for t in rng.choices(normal, k=5)) for _ in range(2_000)]
        checked = 0
        for text in (text.replace("\u2581", " ") for text in texts):
            before = vocabulary.encode(text)
            if all(token in place for token in before):
                checked += 1
                assert after.encode(text) == [place[token] for token in before], text
        assert checked > 50


def test_lost_characters_fall_back_to_bytes(trimmed: Checkpoint) -> None:
    after = own_vocabulary(trimmed)
    pieces = [after.piece(token) for token in after.encode("ไทย")]  # no language that was asked for writes Thai
    assert pieces
    assert all(piece.startswith("<0x") for piece in pieces if piece != "\u2581")


def test_rows_are_those_of_the_pieces(shipped: Checkpoint, vocabulary: Tokenizer, trimmed: Checkpoint) -> None:
    keep = kept_of(shipped, ASKED)
    assert trimmed.model.config == replace(shipped.model.config, vocab_size=len(keep))
    assert torch.equal(trimmed.model.state_dict()[TABLE], shipped.model.state_dict()[TABLE][list(keep)])
    assert len(keep) < 0.6 * vocabulary.vocab_size


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.999, 1.0])
def test_coverage_is_reached_with_the_fewest_pieces(rng: np.random.Generator, coverage: float) -> None:
    counts = {token: int(count) for token, count in enumerate(rng.geometric(0.05, 200))}
    chosen, total = frequent_pieces(counts, coverage), sum(counts.values())
    covered = sum(counts[token] for token in chosen)
    assert covered >= coverage * total
    assert covered - min(counts[token] for token in chosen) < coverage * total


def test_a_language_stands_for_its_scripts() -> None:
    known = ("de", "en", "sr", "sr-Latn", "sv")
    assert choose_languages(("sr", "de"), known) == ("de", "sr", "sr-Latn")
    assert choose_languages(("sr-Latn",), known) == ("sr-Latn",)
    with pytest.raises(ConfigError, match="no text in 'srr', or it was given up; did you mean 'sr'"):
        choose_languages(("srr",), known)


@pytest.fixture(scope="module")
def both(tiny_checkpoint: Artifact) -> Artifact:
    return compress_artifact(tiny_checkpoint, settings(), tiny_checkpoint.sibling("for-trim-tests"))


def settings() -> CompressConfig:
    return CompressConfig(languages=("en", "de"), int8=True, ledger_texts=0, calibration_items=8)


def test_trimming_and_int8_compose(tiny_checkpoint: Artifact, both: Artifact) -> None:
    loaded = load_checkpoint(both)
    assert both.manifest.parents == {"parent": tiny_checkpoint.digest}
    assert set(both.manifest.languages) == set(choose_languages(("en", "de"), load_pack().locales))
    assert loaded.quantization == both.manifest.precision
    table = loaded.model.state_dict()[TABLE]
    assert table.dtype == torch.int8
    assert len(table) == own_vocabulary(loaded).vocab_size == both.manifest.summary["vocabulary"]
    calibrated = json.loads(both.file("calibration.json").read_text(encoding="utf-8"))["items"]
    assert {item["language"] for item in calibrated} <= set(both.manifest.languages)


def test_the_same_command_gives_the_same_bytes(tiny_checkpoint: Artifact, both: Artifact, tmp_path: Path) -> None:
    assert compress_artifact(tiny_checkpoint, settings(), tmp_path / "again").digest == both.digest


def test_every_language_is_told_what_it_loses(both: Artifact) -> None:
    table = json.loads(both.file(VOCABULARY).read_text(encoding="utf-8"))
    assert set(table) == set(load_pack().locales)
    assert {tag for tag, loss in table.items() if loss["is_asked"]} == set(both.manifest.languages)
    assert all(0 <= loss["coverage"] <= 1 for loss in table.values())
    assert all(loss["coverage"] == 1 for loss in table.values() if loss["is_asked"])
    assert all(loss["pieces_per_word_after"] >= loss["pieces_per_word_before"] - 1e-9 for loss in table.values())


def test_a_trimmed_float_checkpoint_keeps_its_precision(tmp_path: Path) -> None:
    parent = load_artifact(SHIPPED / "emoji")
    made = compress_artifact(parent, CompressConfig(languages=ASKED, ledger_texts=0), tmp_path / "out")
    assert dict(made.manifest.precision) == dict(parent.manifest.precision) == {"*": "float16"}
    before, after = (load_checkpoint(one).model.state_dict() for one in (parent, made))
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items() if name != TABLE)
    asked, others = made.manifest.summary["recall_at_10_asked"], made.manifest.summary["recall_at_10_others"]
    assert asked[0] == pytest.approx(asked[1], abs=0.02)  # type: ignore[index]
    assert others[1] < others[0]  # type: ignore[index]


def test_a_quantized_checkpoint_is_refused(both: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is quantized already"):
        compress_artifact(both, CompressConfig(languages=("en",), ledger_texts=0), tmp_path / "out")


def test_wrong_coverage_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"coverage is 1\.5; expected a share"):
        load_config(CompressConfig, {"languages": ["en"], "coverage": 1.5})


def test_the_command_prints_what_was_lost(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(
        cli, ["compress", str(tiny_checkpoint.root), "--languages", "en, hi", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    facts = load_artifact(out).manifest.summary
    assert f"vocabulary  {facts['vocabulary_parent']} -> {facts['vocabulary']} pieces" in result.stdout
    assert "hi " in result.stdout
    assert VOCABULARY in list_files(out)


def test_an_unknown_language_is_an_error(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli, ["compress", str(tiny_checkpoint.root), "--languages", "en,xx", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert "no text in 'xx'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_names_say_what_was_done() -> None:
    assert artifact_name({"languages": ["en"], "int8": True}) == "trimmed-int8"
    assert artifact_name({"int8": True}) == "int8"
    assert artifact_name({"languages": ["en"]}) == "trimmed"


def test_a_language_that_was_given_up_does_not_come_back(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    once = compress_artifact(tiny_checkpoint, CompressConfig(languages=("en",), ledger_texts=0), tmp_path / "once")
    with pytest.raises(ConfigError, match="no text in 'hi', or it was given up"):
        compress_artifact(once, CompressConfig(languages=("hi",), ledger_texts=0), tmp_path / "twice")
