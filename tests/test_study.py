"""The dual-modal study: its task, its heads, its cells, and the whole of it on a tiny model."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.config import read_toml
from dmedge.data.emoji import TEST_STYLE, TRAIN_STYLES, load_pack
from dmedge.data.splits import cell_split, is_unseen_emoji
from dmedge.errors import ArtifactError, ConfigError, DmedgeError
from dmedge.evidence.figures import classification
from dmedge.study.cells import Cell, run_cell
from dmedge.study.config import StudyConfig, load_study, study_recipes
from dmedge.study.contestants import FAMILIES, IMAGE_SIZE
from dmedge.study.context import Study
from dmedge.study.features import tower_features
from dmedge.study.findings import judged
from dmedge.study.heads import FUSIONS, PLAIN, VARIANTS, StudyHead, matched, parameters
from dmedge.study.long_text import long_descriptions, windowed
from dmedge.study.looks import contrast, parts
from dmedge.study.other_sections import cost
from dmedge.study.pairs import degrade, judged_pairs, training_pairs
from dmedge.study.published import FIGURES
from dmedge.study.scores import clustered, over_seeds
from dmedge.study.scratch import one_cycle
from dmedge.study.study import study
from dmedge.study.turns import ROUNDS, in_turns
from dmedge.study.words import PUBLISHED
from tests.made_once import made_once
from tests.tiny_bundles import CONFIG, int8_checkpoint, tiny_checkpoint, write_checkpoint

__all__ = ["int8_checkpoint", "tiny_checkpoint"]  # fixtures

SEEN = sum(not is_unseen_emoji(emoji.hexcode) for emoji in load_pack().emoji)
TINY = StudyConfig(
    seeds=2,
    train_pairs=300,
    test_pairs=120,
    views=1,
    head_steps=3,
    head_batch=16,
    scratch_steps=2,
    scratch_batch=8,
    candidates=4,
    texts_per_language=2,
    robustness_pairs=20,
    attention_pairs=8,
    long_descriptions=12,
    bench_rounds=2,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny random model with a concept for every emoji that may be trained on."""
    config = replace(CONFIG, concepts=SEEN, embed_dim=SEEN)
    return made_once(tmp_path_factory, "concepts", lambda out: write_checkpoint(out, config))


@pytest.fixture(scope="module")
def run(checkpoint: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(TINY, checkpoint, tmp_path_factory.mktemp("cells"))


@pytest.mark.parametrize("recipe", study_recipes())
def test_every_recipe_binds(recipe: str) -> None:
    assert load_study(recipe).seeds >= 2


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'head_steps'"):
        load_study("study", ["head_step=3"])
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        load_study("quik")


def test_figures_of_a_classification_by_hand() -> None:
    label, predicted = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 3])
    found = classification(label, predicted).whole(6)
    assert found["accuracy"] == pytest.approx(3 / 6)
    # precision 1/2, 2/3, 0; recall 1/2, 2/3, 0; F1 equals them where they agree
    assert found["macro_precision"] == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert found["macro_recall"] == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert found["macro_f1"] == pytest.approx((1 / 2 + 2 / 3) / 3)


def test_intervals_resample_clusters_not_pairs() -> None:
    rng = np.random.default_rng(0)
    of_cluster = rng.random(40) < 0.5
    once = clustered(of_cluster.astype(float), np.arange(40))
    often = clustered(np.repeat(of_cluster, 25).astype(float), np.repeat(np.arange(40), 25))
    assert often.n == 25 * once.n
    assert often.high - often.low == pytest.approx(once.high - once.low)  # copies say nothing new
    same = clustered(np.zeros(40), np.arange(40))
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_an_interval_over_seeds_is_students() -> None:
    # two runs: half the distance times t(1 degree of freedom, 0.975) = 12.706
    assert over_seeds([0.4, 0.6])["half_width"] == pytest.approx(12.706 * 0.1, rel=1e-3)
    with pytest.raises(ValueError, match="2 or more"):
        over_seeds([0.5])


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.03, 0.05, "reached"), (0.0, 0.01, "missed"), (0.01, 0.05, "not enough data")]
)
def test_a_wish_is_judged_by_its_interval(low: float, high: float, verdict: str) -> None:
    assert judged(low, high, 0.02) == verdict


def test_degrading_keeps_flat_pictures_and_takes_more_from_fewer_pixels() -> None:
    flat = np.full((3, 48, 48, 3), 90, np.uint8)
    np.testing.assert_array_equal(degrade(flat, np.array([6, 8, 48])), flat)
    images, present = load_pack().images("noto")
    whole = images[np.flatnonzero(present)[:16]]
    errors = [np.abs(degrade(whole, np.full(16, side)).astype(int) - whole).mean() for side in (24, 16, 8, 6)]
    assert errors == sorted(errors)


def test_pairs_are_judged_on_what_nobody_trained_on() -> None:
    pack = load_pack()
    test, train = judged_pairs("test", 300, seed=0), training_pairs(300, 2, seed=0)
    tiles, _ = pack.images(TEST_STYLE)
    for row in range(0, 300, 37):
        emoji, language = pack.emoji[test.cluster[row]], test.languages[row]
        assert cell_split(emoji.hexcode, language) == "test"
        assert test.texts[row] in pack.keywords(language)[test.cluster[row]]
        assert test.label[row] == emoji.subgroup
        shown = degrade(tiles[test.cluster[row]][None], np.array([8]))[0]
        np.testing.assert_array_equal(test.pictures[test.picture[row]], shown)
        own = pack.emoji[train.cluster[row]]
        assert cell_split(own.hexcode, train.languages[row]) == "train"
        assert not is_unseen_emoji(own.hexcode)
    assert TEST_STYLE not in TRAIN_STYLES


def test_drawn_features_are_what_the_towers_say(run: Study) -> None:
    features, pairs, model = run.test_features, run.test, run.checkpoint.model
    rows = np.array([3, 0, 7])
    patches, tokens, mask = features.draw(pairs.picture[rows], rows)
    for place, row in enumerate(rows):
        ids, own_mask = (torch.from_numpy(part) for part in run.checkpoint.tokenizer.batch([pairs.texts[row]]))
        _, alone = model.encode_text(ids, own_mask)
        length = ids.shape[1]
        torch.testing.assert_close(tokens[place, :length], alone[0], atol=4e-3, rtol=4e-3)  # kept in float16
        assert mask[place].tolist() == [1] * length + [0] * (mask.shape[1] - length)
    again = tower_features(run.checkpoint, pairs)
    torch.testing.assert_close(patches, again.patches[torch.from_numpy(pairs.picture[rows])].float())


def test_fusions_have_the_same_number_of_parameters(run: Study) -> None:
    model, members = run.checkpoint.model, run.members
    budget = parameters(StudyHead(model, FUSIONS[0], members))
    for variant in (*FUSIONS[1:], PLAIN):
        count = parameters(StudyHead(model, matched(model, variant, members, budget), members))
        assert count == pytest.approx(budget, rel=0.02), variant.name


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_heads_hear_only_their_modality(variant: object, run: Study) -> None:
    torch.manual_seed(0)
    head = StudyHead(run.checkpoint.model, variant, run.members)  # type: ignore[arg-type]
    for parameter in head.parameters():  # branches that start at zero would hide the picture
        torch.nn.init.normal_(parameter, std=0.2)
    patches, tokens, mask = run.test_features.draw(run.test.picture[:4], np.arange(4))
    base = head(patches, tokens, mask)
    is_deaf_to_image = torch.equal(head(patches.roll(1, 0), tokens, mask), base)
    is_deaf_to_text = torch.equal(head(patches, tokens.roll(1, 0), mask.roll(1, 0)), base)
    assert is_deaf_to_image == (variant.modality == "text")  # type: ignore[attr-defined]
    assert is_deaf_to_text == (variant.modality == "vision")  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", FAMILIES)
def test_contestants_do_not_see_padding(family: str) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family](50, 7).eval()
    pixels = torch.randint(0, 256, (2, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8)
    ids, mask = torch.randint(1, 50, (2, 5), dtype=torch.int32), torch.ones(2, 5, dtype=torch.int32)
    padded = torch.nn.functional.pad(ids, (0, 3)), torch.nn.functional.pad(mask, (0, 3))
    with torch.no_grad():
        alone, wide = model(pixels, ids, mask), model(pixels, *padded)
    assert alone.classes.shape == (2, 7)
    torch.testing.assert_close(wide.classes, alone.classes, atol=1e-4, rtol=1e-4)
    assert (alone.match is None) != (alone.image is None) or family == "dmedge"


def test_every_model_is_timed_in_every_round() -> None:
    order: list[str] = []

    class Named(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, *inputs: torch.Tensor) -> None:
            order.append(self.name)

    times = in_turns({name: Named(name) for name in ("a", "b", "c")})
    assert {len(own) for own in times.values()} == {ROUNDS}
    runs = order[::2]  # each is run once more before, for its caches
    assert order[::2] == order[1::2]
    rounds = ["".join(runs[start : start + 3]) for start in range(0, len(runs), 3)]
    assert set(rounds) == {"abc", "cba"} and abs(rounds.count("abc") - rounds.count("cba")) <= 1


def test_one_window_is_the_text_itself(run: Study) -> None:
    model = run.checkpoint.model
    ids = [[5, 9, 11], [7]]
    alone = [model.encode_text(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.int32))[0][0] for row in ids]
    np.testing.assert_allclose(windowed(model, ids, 16), torch.stack(alone).numpy(), atol=1e-5)
    twice = windowed(model, [ids[0] * 2], 3)  # two equal windows
    np.testing.assert_allclose(twice[0], alone[0].numpy(), atol=1e-5)


def test_long_descriptions_name_their_emoji_in_the_manner_of_the_locale() -> None:
    pack = load_pack()
    texts, owners = long_descriptions(2, seed=0, own_every=4)
    own = {pack.names("en")[owners[0]], *pack.keywords("en")[owners[0]]}
    words = texts[0].replace(", and ", ", ").split(", ")
    share = sum(word in own for word in words) / len(words)
    assert 0.2 < share < 0.5  # one in four, and what others share with it
    assert texts[0].rsplit(", ", 1)[1].startswith("and ")
    alone, owners = long_descriptions(1, seed=0, own_every=1)
    own = {pack.names("en")[owners[0]], *pack.keywords("en")[owners[0]]}
    assert set(alone[0].replace(", and ", ", ").split(", ")) <= own


def test_lists_are_joined_as_the_locale_does() -> None:
    pack = load_pack()
    assert pack.joined([], "en") == ""
    assert pack.joined(["a"], "en") == "a"
    assert pack.joined(["a", "b"], "en") == "a and b"
    assert pack.joined(["a", "b", "c", "d"], "en") == "a, b, c, and d"
    assert pack.joined(["a", "b", "c"], "ja") == "a、b、c"
    assert pack.joined(["{0}", "{1}", "c"], "de") == "{0}, {1} und c"  # words are no patterns


def test_parts_and_contrast_of_drawn_pictures() -> None:
    picture = np.full((48, 48, 3), 255, np.uint8)
    assert parts(picture) == 0
    picture[4:14, 4:14] = 0
    picture[20:40, 20:40] = 100
    picture[0, 47] = 0  # a speck is no part
    assert parts(picture) == 2
    picture[13:21, 13:21] = 50  # now they touch
    assert parts(picture) == 1
    half = np.zeros((1, 48, 48, 3), np.uint8)
    half[:, :24] = 255
    assert contrast(half)[0] == pytest.approx(0.5)


def test_a_cell_is_run_once_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    calls: list[str] = []

    def measure(folder: Path) -> dict[str, object]:
        calls.append("run")
        (folder / "weights.bin").write_bytes(b"x")
        return {"value": 3}

    cell = Cell("counted", {"size": 1}, measure)
    first, second = (run_cell(cell, tmp_path, {"checkpoint": "0" * 64}) for _ in range(2))
    assert calls == ["run"]
    assert first.result == second.result
    assert first.result["value"] == 3
    run_cell(replace(cell, settings={"size": 2}), tmp_path, {"checkpoint": "0" * 64})
    run_cell(cell, tmp_path, {"checkpoint": "1" * 64})
    assert len(calls) == 3  # other settings and other parents are other cells

    def fail(folder: Path) -> dict[str, object]:
        raise DmedgeError("it broke")

    before = sorted(tmp_path.iterdir())
    with pytest.raises(DmedgeError, match="it broke"):
        run_cell(Cell("broken", {}, fail), tmp_path, {})
    assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_of_other_data_is_refused(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="one for every emoji"):
        study(tiny_checkpoint, TINY, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_quantized_checkpoint_is_refused(int8_checkpoint: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is quantized"):
        study(int8_checkpoint, TINY, tmp_path / "study")
    assert not list(tmp_path.iterdir())


def test_two_recipes_are_one_too_many(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["study", "--quick", "--recipe", "mine.toml", "--out", str(tmp_path / "study")])
    assert done.exit_code == 2
    assert "leave one out" in done.output


def test_a_report_passes_over_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_cell(Cell("one", {}, lambda folder: {"value": 1}), tmp_path / "runs" / "study.steps", {})
    done = CliRunner().invoke(cli, ["report"])
    assert done.exit_code == 1
    assert "no fitting evidence" in done.output
    (cell,) = (tmp_path / "runs" / "study.steps").iterdir()
    done = CliRunner().invoke(cli, ["report", str(cell), "--out", "page.html"])
    assert done.exit_code == 1
    assert "expected that of verify or bench" in done.output
    assert not (tmp_path / "page.html").exists()


def test_the_whole_study_and_that_nothing_is_run_twice(
    checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [f"--set={change}" for change in TINY.changes()]
    out = tmp_path / "study"
    command = ["study", str(checkpoint.root), *options, "--json", "--out"]
    done = CliRunner().invoke(cli, [*command, str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    made = load_artifact(out, kind="evidence")
    assert made.manifest.stage == "study"
    summary = json.loads(done.stdout)["summary"]
    assert summary["accuracy"]["n"] == TINY.test_pairs
    page, text = (made.file(name).read_text(encoding="utf-8") for name in ("study.html", "study.md"))
    for title in ("Without one modality", "Ways to fuse", "Beside other designs", "Attention", "Robustness"):
        assert title in page
        assert title in text
    assert 'src="http' not in page
    assert "<script" not in page
    _published_figures_stand_beside_ours(text)
    for cell in json.loads(made.file("study.json").read_text(encoding="utf-8"))["cells"]:
        assert any(name.startswith(f"cells/{cell}-") for name in made.manifest.files), cell

    def never(*args: object) -> None:
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr("dmedge.study.variants.train_head", never)
    monkeypatch.setattr("dmedge.study.scratch._train", never)
    out.rename(tmp_path / "before")
    assert CliRunner().invoke(cli, [*command, str(out)], catch_exceptions=False).exit_code == 0
    assert load_artifact(out).digest == made.digest


def _published_figures_stand_beside_ours(text: str) -> None:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    for name, figures in read_toml(FIGURES).items():
        for label, figure in figures.items():
            (row,) = (row for row in rows if row[0] == label and row[-1] == figure)
            assert any(row[1:-1]) == (name != "latency"), f"{label}: no row of ours has this name"
    assert PUBLISHED in text


@pytest.mark.parametrize("timed", [{"n": 4}, {"n": 40, "p50_ms": 2.0}], ids=["few samples", "enough"])
def test_a_slow_program_timed_in_few_rounds_still_has_a_page(timed: dict[str, float]) -> None:
    ratio = {"value": 0.8, "low": 0.7, "high": 0.9, "rounds": 2}
    size = {"program_bytes": 1, "download_bytes": 2}
    result = {
        "programs": {"encode_image": {"fp32": timed, "artifact": timed, "ratio": ratio}},
        "size": {"fp32": size, "artifact": size},
        "costs": {"parameters": 1, "macs": 1},
        "goal": {"limit": 0.7},
    }
    found: Any = SimpleNamespace(cost=SimpleNamespace(result=result, artifact=SimpleNamespace(name="cost")))
    study_of_nothing: Any = None
    row = cost(study_of_nothing, found).tables[0].rows[0]
    shown = ["2 ms", "2 ms", "500 / s"] if "p50_ms" in timed else ["too few samples", "too few samples", ""]
    assert list(row[1:4]) == shown


@pytest.mark.parametrize("steps", [2, 9, 10, 11, 20, 400])
def test_a_comparison_may_take_any_number_of_steps(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    schedule = one_cycle(optimizer, 0.1, steps)
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] < 0.1
