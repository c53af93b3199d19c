"""Attention, gradients and curves obey their laws, and `dmedge explain` draws what they say or says why it cannot."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from dmedge.artifact import Artifact
from dmedge.cli.main import cli
from dmedge.data.emoji import load_pack
from dmedge.data.evalset import EvalSet
from dmedge.data.languages import LANGUAGES
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError, DataError
from dmedge.evidence.attention import AttentionMap, attention_maps, entropy
from dmedge.evidence.attention_study import compare_orders, study_attention
from dmedge.evidence.intervals import mean_figure, midranks, rank_correlation
from dmedge.evidence.pairs import Pairs, emoji_pairs, encode_pairs, probabilities
from dmedge.evidence.regions import Curves, gradient_regions, order_by, random_order, removal_curves
from dmedge.evidence.weighting import judge_shift, picture_weighting, text_weighting
from dmedge.flow import lettering
from dmedge.flow.attention_gallery import emoji_triples, write_gallery
from dmedge.flow.explain import explain_pair, open_picture
from dmedge.flow.explain_picture import draw_explanation, unwritten
from dmedge.flow.explain_tiles import PALETTE, heat_tile, signed_tile
from dmedge.model.checkpoint import Checkpoint
from tests.tiny_bundles import (
    CONFIG,
    WORDS,
    int8_checkpoint,
    tiny_checkpoint,
    tiny_model,
    tiny_tokenizer,
    write_checkpoint,
)

__all__ = ["int8_checkpoint", "tiny_checkpoint"]  # fixtures

LARGER = replace(CONFIG, image_size=32)  # 4 x 4 regions


def made(folder: Path, **changes: object) -> Checkpoint:
    config = replace(LARGER, **changes)  # type: ignore[arg-type]
    labels = tuple(f"label {i}" for i in range(config.classes))
    return Checkpoint(tiny_model(config), tiny_tokenizer(folder), Preprocess(config.image_size), labels)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    yield made(tmp_path_factory.mktemp("explain"))


def some_pairs(count: int = 7, *, has_classes: bool = True) -> Pairs:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    classes = rng.integers(0, CONFIG.classes, count) if has_classes else None
    return Pairs(pixels, tuple(WORDS[i % len(WORDS)] for i in range(count)), classes)


def test_attention_sums_to_one_over_regions_and_names_every_token(model: Checkpoint) -> None:
    pairs = some_pairs()
    for text, found in zip(pairs.texts, attention_maps(model, pairs), strict=True):
        ids = model.tokenizer.encode(text)
        assert found.tokens == tuple(model.tokenizer.piece(token) for token in ids)
        assert (found.heads.shape, found.grid) == ((4, len(ids), 16), (4, 4))
        np.testing.assert_allclose(found.heads.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(found.regions.sum(), 1, atol=1e-5)


def test_attention_of_a_pair_is_that_of_the_pair_alone(model: Checkpoint) -> None:
    pairs = some_pairs(4)
    together = attention_maps(model, pairs)
    for i, found in enumerate(together):
        alone = attention_maps(model, Pairs(pairs.pixels[i : i + 1], pairs.texts[i : i + 1]))[0]
        np.testing.assert_allclose(found.heads, alone.heads, atol=1e-5)


def test_entropy_is_one_for_even_and_nought_for_single_regions() -> None:
    np.testing.assert_allclose(entropy(np.full((2, 9), 1 / 9, np.float32)), 1, atol=1e-6)
    np.testing.assert_array_equal(entropy(np.eye(9, dtype=np.float32)), 0)
    heads = np.eye(9, dtype=np.float32)[:4, None]  # each head its own region
    found = AttentionMap(("a",), heads, (3, 3))
    assert found.entropy == 0
    np.testing.assert_allclose(entropy(found.weights), np.log(4) / np.log(9), rtol=1e-6)  # mixing only spreads


@pytest.mark.parametrize("fill", ["white", "blur"])
def test_curves_begin_and_end_at_the_whole_and_the_empty_picture(model: Checkpoint, fill: str) -> None:
    pairs = some_pairs(4)
    encoded = encode_pairs(model, pairs)
    orders = {
        "random": random_order(4, 16),
        "first": order_by(np.tile(np.arange(16.0)[::-1], (4, 1)).astype(np.float32)),
    }
    found = removal_curves(model, pairs, encoded, orders, fill=fill, steps=4)  # type: ignore[arg-type]
    whole = probabilities(model, encoded, pairs.classes)
    for own in found.values():
        np.testing.assert_allclose(own.deletion[:, 0], whole, atol=1e-6)
        np.testing.assert_array_equal(own.deletion[:, 0], own.insertion[:, -1])
        np.testing.assert_array_equal(own.deletion[:, -1], own.insertion[:, 0])
        np.testing.assert_array_equal(own.shares, [0, 0.25, 0.5, 0.75, 1])
    if fill == "white":
        blank = replace(pairs, pixels=np.full_like(pairs.pixels, 255))
        np.testing.assert_allclose(
            own.deletion[:, -1], probabilities(model, encode_pairs(model, blank), pairs.classes), atol=1e-6
        )


def test_insertion_in_an_order_is_deletion_in_the_reverse_order_backwards(model: Checkpoint) -> None:
    pairs = some_pairs(3)
    order = random_order(3, 16)
    found = removal_curves(model, pairs, encode_pairs(model, pairs), {"to": order, "fro": order[:, ::-1]}, steps=4)
    np.testing.assert_allclose(found["to"].insertion, found["fro"].deletion[:, ::-1], atol=1e-6)


def test_gradient_times_input_is_the_slope_along_the_patches(model: Checkpoint) -> None:
    pairs = some_pairs(3)
    encoded = encode_pairs(model, pairs)
    step = 1e-3

    def match(scale: float) -> torch.Tensor:
        return model.model.fuse(encoded.patches * scale, encoded.tokens, encoded.mask)[0]

    slope = (match(1 + step) - match(1 - step)) / (2 * step)
    np.testing.assert_allclose(gradient_regions(model, encoded, None).sum(1), slope.numpy(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("classes", [None, np.array([0, 1, 2])], ids=["match", "class"])
def test_gradient_of_a_model_that_ignores_the_image_is_nought(tmp_path: Path, classes: np.ndarray | None) -> None:
    blind = made(tmp_path, modality="text")
    np.testing.assert_array_equal(gradient_regions(blind, encode_pairs(blind, some_pairs(3)), classes), 0)


def test_an_order_beats_random_only_where_both_intervals_say_so() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, (50, 1)).astype(np.float32)
    ones = np.ones_like(noise)

    def curves(deletion: float, insertion: float, spread: float = 0) -> Curves:
        middle = insertion + noise + spread * np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
        went = np.concatenate([ones, deletion + noise, 0 * ones], 1)
        return Curves(np.array([0, 0.5, 1], np.float32), went, np.concatenate([0 * ones, middle, ones], 1))

    orders = {
        "random": (curves(0.5, 0.5), "not shown to differ"),
        "good": (curves(0.2, 0.8), "beats random"),
        "bad": (curves(0.8, 0.2), "worse than random"),
        "both": (curves(0.2, 0.2), "better one way, worse the other"),
        "unsure": (curves(0.2, 0.5, spread=1), "not shown to differ"),
    }
    found = compare_orders({name: own for name, (own, _) in orders.items()})
    assert {name: figures.verdict for name, figures in found.items()} == {
        name: said for name, (_, said) in orders.items()
    }
    assert found["good"].deletion_gain.value == pytest.approx(0.15, abs=1e-6)  # half of 0.3, by the trapezoid


def test_intervals_hold_the_mean_and_narrow_with_the_root_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    few, many = mean_figure(rng.normal(1, 1, 100)), mean_figure(rng.normal(1, 1, 1600))
    assert few.low < few.value < few.high
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.2)
    same = mean_figure(np.full(9, 0.5))
    assert same.n == 9
    assert [same.value, same.low, same.high] == pytest.approx([0.5, 0.5, 0.5])


def test_rank_correlation_is_of_ranks_alone() -> None:
    x = np.array([1, 1, 2, 5, 9, 9])
    np.testing.assert_array_equal(midranks(x), [0.5, 0.5, 2, 3, 4.5, 4.5])
    assert rank_correlation(x, np.exp(x.astype(float))).value == pytest.approx(1)
    assert rank_correlation(x, -x.astype(float)).value == pytest.approx(-1)
    assert rank_correlation(x, np.zeros(6)).value == 0


def test_weighting_changes_nothing_where_nothing_changes(model: Checkpoint) -> None:
    pairs = some_pairs()
    encoded = encode_pairs(model, pairs)
    same = picture_weighting(model, pairs, encoded, blurs_px=(0.0, 0.0))
    assert {figure.value for figure in same.trends.values()} == {0}
    assert set(same.directions.values()) == {"unclear"}
    assert judge_shift(same) == {"trust": "not shown", "drop": "not shown"}
    moved = replace(same, directions={**same.directions, "image_drop": "below", "text_drop": "above"})
    assert judge_shift(moved) == {"trust": "not shown", "drop": "confirmed"}
    moved = replace(same, directions={"image_drop": "above", "text_drop": "below"})
    assert judge_shift(moved) == {"drop": "refuted"}  # no concepts, no trust
    longest = int(encoded.mask.sum(1).max())
    kept = text_weighting(model, pairs, encoded, kept=(longest, longest))
    assert kept is None or {figure.value for figure in kept.trends.values()} == {0}


def test_a_side_that_is_not_looked_at_is_worth_nothing(tmp_path: Path) -> None:
    blind, pairs = made(tmp_path, modality="text"), some_pairs()
    found = picture_weighting(blind, pairs, encode_pairs(blind, pairs), blurs_px=(0.0, 4.0))
    for level in found.levels:
        assert level.figures["image_drop"].value == level.figures["trust_image"].value == 0
        assert level.figures["text_drop"].value != 0


def test_study_of_the_emoji_is_plain_json_and_the_same_again(model: Checkpoint) -> None:
    pack = load_pack()
    data = EvalSet(
        name="some",
        images=tuple(pack.images("twemoji")[0][:30]),
        clusters=tuple(emoji.hexcode for emoji in pack.emoji[:30]),
        texts=tuple(emoji.name for emoji in pack.emoji[:30]) * 2,
        text_image=np.tile(np.arange(30), 2),
        languages=("en",) * 60,
    )
    assert len(emoji_pairs(model, data, 60).texts) == 30  # no picture twice
    pairs = emoji_pairs(model, data, 24)
    assert pairs.classes is None  # the labels of this model are no groups of emoji
    first, again = (study_attention(model, pairs, steps=2) for _ in range(2))
    assert first == again
    table = json.loads(json.dumps(first.to_json()))
    assert table["n"] == 24
    assert set(table["regions"]["orders"]) == {"attention", "gradient", "random"}
    assert table["weighting"][0]["axis"] == "blur of the picture"
    with pytest.raises(DataError, match="have no classes.*ask for the match"):
        study_attention(model, pairs, "class")


def test_heat_is_seen_where_it_is_and_nowhere_else() -> None:
    picture = Image.new("RGB", (80, 80), "white")
    cold = np.asarray(heat_tile(picture, np.zeros(16, np.float32), (4, 4), 2.0))
    hot = np.asarray(heat_tile(picture, np.eye(16, dtype=np.float32)[0] * 2, (4, 4), 2.0))
    assert (hot[5:15, 5:15] != cold[5:15, 5:15]).any(2).all()
    np.testing.assert_array_equal(hot[50:, 50:], cold[50:, 50:])
    both = np.asarray(signed_tile(picture, np.array([1, 0, 0, -1], np.float32), (2, 2))).astype(int)
    assert both[10, 10, 0] > both[10, 10, 2]  # red speaks for
    assert both[-10, -10, 2] > both[-10, -10, 0]  # blue against


def test_right_to_left_text_has_its_first_token_on_the_right(model: Checkpoint) -> None:
    picture = Image.new("RGB", (32, 32), (200, 30, 30))
    found = {text: explain_pair(model, picture, text, has_curves=False) for text in ("בית אדום", "red house", "123")}
    assert [one.is_right_to_left for one in found.values()] == [True, False, False]
    places = {}
    for text, one in found.items():
        row = np.asarray(draw_explanation(one))[445:475]  # below the first tokens
        chips = np.argwhere((row == PALETTE[0]).all(2))[:, 1]
        places[text] = chips.mean() / row.shape[1]
    assert places["בית אדום"] > 0.7
    assert places["red house"] < 0.3


def test_what_no_font_can_write_is_told_by_number(model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_font_files", lambda letters: ())
    picture = Image.new("RGB", (32, 32), (200, 30, 30))
    text, *tokens = unwritten(explain_pair(model, picture, "ラーメン", has_curves=False))
    assert text == "text: ラーメン"
    assert all(re.fullmatch(r"token \d+: .+", token) for token in tokens)
    assert unwritten(explain_pair(model, picture, "red house", has_curves=False)) == []


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["explain", *map(str, arguments)])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.effect_noise((40, 24), 80).convert("RGB").save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_command_draws_a_picture_and_tells_the_figures(
    tiny_checkpoint: Artifact, picture: Path, tmp_path: Path
) -> None:
    done = run(tiny_checkpoint.root, picture, "red apple", "--out", tmp_path / "new/x.png", "--json")
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert len(table["attention"]) == len(table["tokens"])
    assert all(len(row) == len(table["gradient"]) == np.prod(table["grid"]) for row in table["attention"])
    assert set(table["curves"]) == {"attention", "gradient", "random"}
    assert table["curves"]["random"]["deletion"][0] == pytest.approx(table["match"], abs=1e-5)
    with Image.open(tmp_path / "new/x.png") as drawn:
        assert min(drawn.size) > 500
    again = run(tiny_checkpoint.root, picture, "red apple", "--out", tmp_path / "new/x.png")
    assert again.exit_code == 1
    assert "exists already; expected a new file; choose another --out" in again.stderr


def test_command_writes_a_page_that_asks_for_nothing(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "x.html"
    done = run(tiny_checkpoint.root, "emoji:🍜", "حساء <b>", "--out", out, "--target", "class")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"page: {out}"
    page = out.read_text(encoding="utf-8")
    assert 'dir="rtl"' in page
    assert "حساء &lt;b&gt;" in page
    assert "<b>" not in page
    assert not {"<script", "http://", "https://"} & set(page.split('"'))
    assert page.count('src="data:image/png;base64,') == page.count("<img")


@pytest.mark.parametrize(
    ("fusion", "modality"), [("concatenation", "full"), ("product", "full"), ("cross-attention", "no-attention")]
)
def test_fusion_without_attention_says_so_and_still_has_a_gradient(
    tmp_path: Path, picture: Path, fusion: str, modality: str
) -> None:
    checkpoint = write_checkpoint(tmp_path / "plain", replace(CONFIG, fusion=fusion, modality=modality))  # type: ignore[arg-type]
    refused = run(checkpoint.root, picture, "red apple", "--out", tmp_path / "a.png")
    assert refused.exit_code == 1
    assert "attends to nothing; expected cross-attention" in refused.stderr
    assert "--by gradient" in refused.stderr
    done = run(checkpoint.root, picture, "red apple", "--out", tmp_path / "a.png", "--by", "gradient", "--json")
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert table["attention"] is None
    assert set(table["curves"]) == {"gradient", "random"}


def test_model_without_a_fusion_is_refused(tmp_path: Path, picture: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "apart", replace(CONFIG, fusion="none"))
    for by in ("attention", "gradient"):
        done = run(checkpoint.root, picture, "red apple", "--out", tmp_path / "a.png", "--by", by)
        assert done.exit_code == 1
        assert "fusion = 'none'" in done.stderr


def test_quantized_checkpoint_shows_attention_and_has_no_gradient(
    int8_checkpoint: Artifact, picture: Path, tmp_path: Path
) -> None:
    done = run(int8_checkpoint.root, picture, "red apple", "--out", tmp_path / "a.png", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["gradient"] is None
    refused = run(int8_checkpoint.root, picture, "red apple", "--out", tmp_path / "b.png", "--by", "gradient")
    assert refused.exit_code == 1
    assert "no gradient passes through rounding; expected a float checkpoint" in refused.stderr


@pytest.mark.parametrize(
    ("image", "text", "out", "message"),
    [
        ("none.png", "apple", "a.png", "missing picture"),
        ("broken.png", "apple", "a.png", "broken picture"),
        ("emoji:xyz", "apple", "a.png", "draws no such emoji"),
        ("emoji:🍜", "  ", "a.png", "the text is empty"),
        ("emoji:🍜", "apple", "a.gif", r"ends in '\.gif'; expected \.png or \.html"),
    ],
    ids=["missing", "broken", "no emoji", "no text", "other file"],
)
def test_what_cannot_be_used_is_named(
    tiny_checkpoint: Artifact, tmp_path: Path, image: str, text: str, out: str, message: str
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    name = image if image.startswith("emoji:") else str(tmp_path / image)
    done = run(tiny_checkpoint.root, name, text, "--out", tmp_path / out)
    assert done.exit_code == 1
    assert re.search(message, done.stderr)
    assert not (tmp_path / out).exists()


def test_wrong_number_of_arguments_is_wrong_usage(tmp_path: Path) -> None:
    done = run("one", "--out", tmp_path / "a.png")
    assert done.exit_code == 2
    assert "expected [CHECKPOINT] IMAGE TEXT" in done.stderr


def test_emoji_is_found_by_its_character_and_its_code_points() -> None:
    by_character, by_code = (np.asarray(open_picture(f"emoji:{name}", "twemoji")) for name in ("❤", "2764"))
    np.testing.assert_array_equal(by_character, by_code)
    with pytest.raises(DataError, match="did you mean 'twemoji'"):
        open_picture("emoji:❤", "twemoj")


def test_gallery_has_a_section_for_every_text(model: Checkpoint, tmp_path: Path) -> None:
    triples = emoji_triples()
    assert len({LANGUAGES[one.language].script for one in triples}) == 7
    triples = [one for one in triples if one.language in ("ar", "zh")]
    page = write_gallery(model, triples, tmp_path / "gallery.html", title="Two scripts").read_text(encoding="utf-8")
    assert all(one.text in page for one in triples)
    assert page.count("<section") == len(triples) == 2
    with pytest.raises(DataError, match="exists already"):
        write_gallery(model, triples, tmp_path / "gallery.html", title="Two scripts")
    with pytest.raises(DataError, match="no pictures to show"):
        write_gallery(model, [], tmp_path / "other.html", title="None")


def test_attention_of_a_model_without_any_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="train with fusion"):
        study_attention(made(tmp_path, fusion="product"), some_pairs(2))
