"""A search inside a budget gives back as little float32 as the limits allow, or says by how much it missed."""

import csv
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from torch import nn

from dmedge.artifact import Artifact, load_artifact, new_artifact
from dmedge.cli.main import cli
from dmedge.compress.budget import Budget, Kept, PlanCost, Trial, least_score, relative_drops, score
from dmedge.compress.calibration import draw_calibration
from dmedge.compress.config import CompressConfig
from dmedge.compress.corpus import validation_set
from dmedge.compress.cost_table import TIME, cost_table
from dmedge.compress.judge import Question
from dmedge.compress.plan import plan_precision
from dmedge.compress.recipe import SEARCH, compress_artifact
from dmedge.compress.search import Search, miss_message, search_plan
from dmedge.compress.sensitivity import cumulative_variants, embedding_sides, group_modules
from dmedge.config import load_config
from dmedge.data.transforms import Preprocess
from dmedge.errors import ConfigError, DmedgeError, VerifyError
from dmedge.evidence.report_search import search_section
from dmedge.files import digest_file, list_files
from dmedge.model.checkpoint import Checkpoint, checkpoint_programs, load_checkpoint, save_checkpoint
from dmedge.training.validation import LiveEncoder
from tests.tiny_bundles import CONFIG, tiny_model, tiny_tokenizer

PICTURES, TEXTS = 40, 30
KEPT = ("image", "image_projection", "head")  # leaves the text tower, where less takes less time
HURT = "text.blocks.0.feed_forward.up"  # by int8, and by nothing else
COST = PlanCost(size_mb=4, recall_at_10=0.792, drop=0.01, worst_language="sw", worst_drop=0.05, latency_ratio=0.5)


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A checkpoint in which one column of a weight is so large that int8 rounds all others to nothing.

    The norm before it makes that column's input as small, so the float model computes what it did.
    """
    model = tiny_model()
    norm, linear = model.get_submodule("text.blocks.0.feed_forward_norm"), model.get_submodule(HURT)
    assert isinstance(norm, nn.LayerNorm) and isinstance(linear, nn.Linear)
    norm.weight[0] /= 1000
    norm.bias[0] /= 1000
    linear.weight[:, 0] *= 1000
    with new_artifact(tmp_path_factory.mktemp("budget") / "hurt") as draft, TemporaryDirectory() as folder:
        labels = tuple(f"label {i}" for i in range(CONFIG.classes))
        checkpoint = Checkpoint(model, tiny_tokenizer(Path(folder)), Preprocess(CONFIG.image_size), labels)
        save_checkpoint(draft.path, checkpoint)
        return draft.finish(kind="checkpoint", stage="test", config={}, programs=checkpoint_programs(CONFIG), tools={})


@pytest.fixture(scope="module")
def folder(hurt: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and texts that are said to mean the picture that the float model finds: its recall is 1."""
    place, rng = tmp_path_factory.mktemp("captions"), np.random.default_rng(0)
    (place / "images").mkdir()
    pictures = [
        np.clip(rng.integers(0, 256, 3) + rng.integers(-60, 61, (16, 16, 3)), 0, 255).astype(np.uint8)
        for _ in range(PICTURES)
    ]
    texts = [" ".join(rng.choice(list("abcdefghijklmnop"), 5)) for _ in range(2 * TEXTS)]
    checkpoint = load_checkpoint(hurt)
    encoder = LiveEncoder(checkpoint.model, checkpoint.tokenizer, checkpoint.preprocess)
    best = (encoder.texts(texts) @ encoder.images(pictures).T).argmax(1)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(place / f"images/{number}.png")
    with (place / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "language", "text"])
        for number in range(PICTURES):  # all pictures are in the gallery
            rows.writerow([f"{number}.png", "fr", f"filler {number}"])
        for place_of, text in enumerate(texts):
            rows.writerow([f"{best[place_of]}.png", ("de", "en")[place_of % 2], text])
    return place


@pytest.fixture(scope="module")
def ask(hurt: Artifact, folder: Path) -> Callable[..., Search]:
    config = CompressConfig(int8=True, calibration_items=32, data=str(folder))
    checkpoint = load_checkpoint(hurt)
    calibration = draw_calibration(config, checkpoint.preprocess)
    data = validation_set(config.data, 0)

    def search(budget: Budget, keep: tuple[str, ...] = (), *, int4: bool = False) -> Search:
        settings = replace(config, keep=keep, int4=int4)
        return search_plan(Question(checkpoint, settings, budget, calibration, data, frozenset({"de", "en"})))

    return search


@pytest.fixture(scope="module")
def hopeless(ask: Callable[..., Search]) -> Search:
    """Every plan tried, since none can be that small."""
    return ask(Budget(max_size_mb=1e-6))


def _settings(folder: Path, **limits: float) -> CompressConfig:
    return CompressConfig(int8=True, calibration_items=32, ledger_texts=0, keep=KEPT, data=str(folder), **limits)  # type: ignore[arg-type]


def test_drops_are_relative_and_from_a_language_that_has_something_to_lose() -> None:
    assert relative_drops({"en": 0.8, "sw": 0.0}, {"en": 0.6, "sw": 0.1}) == pytest.approx({"en": 0.25})


def test_a_limit_holds_where_it_is_met_exactly() -> None:
    assert Budget(max_drop=0.01, max_size_mb=4).overshoots(COST) == {}
    assert Budget(max_drop=0.004, max_latency_ratio=0.4).overshoots(COST) == pytest.approx(
        {"max_drop": 0.006, "max_latency_ratio": 0.1}
    )


@pytest.mark.parametrize("recall", [0.0, 0.5, 0.79, 0.7919999, 0.792, 0.8, 1.0])
@pytest.mark.parametrize("max_drop", [None, 0.0, 0.01, 0.5])
def test_the_score_is_good_enough_just_where_the_budget_holds(recall: float, max_drop: float | None) -> None:
    budget = Budget(max_drop=max_drop, max_size_mb=5)
    for size in (4.0, 5.0, 6.0):
        over = budget.overshoots(replace(COST, recall_at_10=recall, drop=(0.8 - recall) / 0.8, size_mb=size))
        assert (score(budget, 0.8, recall, over) >= least_score(budget, 0.8)) == (not over)


def test_groups_part_the_modules() -> None:
    model = tiny_model()
    names = [name for name in plan_precision(model) if not name.endswith("_point")]
    sides = embedding_sides(model, names)
    assert not [name for name in sides.names if name.startswith("fusion")]
    assert set(sides.image) & set(sides.text) == {"head.keys"}
    groups = group_modules(sides.names)
    for name in sides.names:
        assert len([group for group in groups if name == group or name.startswith(f"{group}.")]) == 1
    assert 8 <= len(groups) <= 30


def test_the_last_group_is_never_given_back(hopeless: Search) -> None:
    variants = cumulative_variants(hopeless.sensitivity)
    assert [len(variant.float32) for variant in variants] == list(range(len(hopeless.sensitivity)))
    assert not any(variant.int8 for variant in variants)
    assert [trial.kept for trial in hopeless.trials] == variants


def test_int4_is_given_back_to_int8_before_anything_becomes_float(ask: Callable[..., Search]) -> None:
    found, eights = (ask(Budget(max_size_mb=1e-6), KEPT, int4=int4) for int4 in (True, False))
    short = [one.group for one in found.sensitivity if one.scheme == "int4"]
    assert short and [one for one in found.sensitivity if one.scheme == "int8"] == list(eights.sensitivity)
    kept = [trial.kept for trial in found.trials]
    assert kept[: len(short)] == [Kept(int8=tuple(short[:count])) for count in range(len(short))]
    assert kept[len(short) :] == [trial.kept._replace(int8=tuple(short)) for trial in eights.trials]
    # With all of them given back, embeddings are those of int8; the fusion, which recall does not see, stays int4.
    costs = [replace(trial.cost, size_mb=0) for trial in found.trials[len(short) :]]
    assert costs == [replace(trial.cost, size_mb=0) for trial in eights.trials]
    sizes = [trial.cost.size_mb for trial in found.trials]
    assert sizes == sorted(sizes)
    page = search_section("tiny", found.to_json())
    assert page.count("<svg") == 2 and page.count("<rect") == len(found.sensitivity)


def test_the_checkpoint_of_a_search_with_int4_keeps_what_the_plan_says(
    hurt: Artifact, folder: Path, tmp_path: Path
) -> None:
    given = ["compress", str(hurt.root), "--int4", "--data", str(folder), "--calibration", "32", "--json"]
    for name in KEPT:
        given += ["--keep", name]
    whole = CliRunner().invoke(cli, [*given, "--out", str(tmp_path / "whole")])
    assert whole.exit_code == 0, whole.output
    size = json.loads(whole.stdout)["weight_bytes"] / 1e6
    result = CliRunner().invoke(cli, [*given, "--max-size-mb", f"{1e-3 + size}", "--out", str(tmp_path / "fits")])
    assert result.exit_code == 0, result.output
    search = json.loads(result.stdout)["search"]
    chosen = search["trials"][search["chosen"]]
    assert (chosen["kept_int8"], chosen["kept_float32"]) == ([], [])
    missed = CliRunner().invoke(cli, [*given, "--max-size-mb", "0.001", "--out", str(tmp_path / "misses")])
    assert missed.exit_code == 3
    assert "make that plan with --int4 --keep image" in missed.stderr


def test_what_int8_hurts_is_found(hopeless: Search) -> None:
    first = hopeless.sensitivity[0]
    assert first.group == HURT or HURT.startswith(f"{first.group}.")
    assert first.image_error < 1e-9 < first.text_error  # folding batch normalisation moves a little


def test_more_float_is_larger_and_slower(hopeless: Search) -> None:
    for before, after in zip(hopeless.trials, hopeless.trials[1:], strict=False):
        assert before.cost.size_mb < after.cost.size_mb
        assert before.cost.latency_ratio <= after.cost.latency_ratio


def test_an_all_float_plan_takes_the_float_time() -> None:
    model = tiny_model()
    plan = plan_precision(model)
    costs = cost_table(model, embedding_sides(model, [name for name in plan if not name.endswith("_point")]))
    assert costs.latency_ratio(dict.fromkeys(plan, "float32")) == 1
    assert min(TIME.values()) < costs.latency_ratio(plan) < 1


def test_a_loose_budget_is_kept_by_the_first_plan(ask: Callable[..., Search]) -> None:
    found = ask(Budget(max_drop=0.99, max_drop_worst_language=0.99))
    assert [trial.kept for trial in found.trials] == [Kept()]
    assert found.best.fits


def test_a_budget_between_keeps_what_is_sensitive(ask: Callable[..., Search], hopeless: Search) -> None:
    rounded, helped = (trial.cost.drop for trial in hopeless.trials[:2])
    assert helped < rounded  # the float model finds everything, and the hurt one does not
    found = ask(Budget(max_drop=(rounded + helped) / 2))
    assert found.best.kept == Kept((hopeless.sensitivity[0].group,))
    assert len(found.trials) == 2  # neural-compressor stopped where the budget held


def test_kept_modules_are_not_searched_over(ask: Callable[..., Search]) -> None:
    found = ask(Budget(max_drop=0.99), ("image",))
    assert not [one.group for one in found.sensitivity if one.group.split(".")[0] == "image"]


def test_the_checkpoint_is_the_plan_that_was_chosen(
    hurt: Artifact, folder: Path, hopeless: Search, tmp_path: Path
) -> None:
    limit = sum(trial.cost.worst_drop for trial in hopeless.trials[:2]) / 2
    artifact = compress_artifact(hurt, _settings(folder, max_drop_worst_language=limit), tmp_path / "one")
    search = json.loads(artifact.file(SEARCH).read_text(encoding="utf-8"))
    chosen = search["trials"][search["chosen"]]
    plan = artifact.manifest.precision
    kept = {name for name, scheme in plan.items() if scheme == "float32"}
    assert kept and kept == {
        name
        for name in plan
        if any(name == group or name.startswith(f"{group}.") for group in (*KEPT, *chosen["kept_float32"]))
    }
    assert load_checkpoint(artifact).quantization == plan
    assert artifact.manifest.summary["search"]["trials"] == search["trials"]  # type: ignore[index]
    again = compress_artifact(hurt, _settings(folder, max_drop_worst_language=limit), tmp_path / "two")
    assert [digest_file(artifact.root / name) for name in list_files(artifact.root)] == [
        digest_file(again.root / name) for name in list_files(again.root)
    ]


def test_an_impossible_budget_leaves_nothing(hurt: Artifact, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    given = ["compress", str(hurt.root), "--int8", "--max-size-mb", "0.001", "--data", str(folder), "--out", str(out)]
    kept = [argument for name in KEPT for argument in ("--keep", name)]
    result = CliRunner().invoke(cli, [*given, "--calibration", "32", *kept])
    assert result.exit_code == 3
    assert "no plan of" in result.stderr and "size_mb" in result.stderr and "over by" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_limit_finer_than_one_text_is_called_so(hopeless: Search) -> None:
    finer = replace(hopeless, budget=Budget(max_drop_worst_language=0.5 / TEXTS, max_size_mb=1e-6))
    found = miss_message(finer, CompressConfig(int8=True))
    assert re.search(r"one of the 30 texts in \w\w is 0.0333 of its recall; measure on more", found)
    coarser = replace(hopeless, budget=Budget(max_drop_worst_language=2 / TEXTS, max_size_mb=1e-6))
    assert "measure on more" not in miss_message(coarser, CompressConfig(int8=True))


def test_the_message_says_how_to_make_the_best_plan(hurt: Artifact, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match=r"latency_ratio 1\.0000 \(limit 0\.01, over by .*--int8"):
        compress_artifact(hurt, _settings(folder, max_latency_ratio=0.01), tmp_path / "fast")


def test_the_table_and_json_of_a_search(hurt: Artifact, folder: Path, tmp_path: Path) -> None:
    given = ["compress", str(hurt.root), "--int8", "--max-drop", "0.98", "--data", str(folder), "--calibration", "32"]
    shown = CliRunner().invoke(cli, [*given, "--out", str(tmp_path / "shown")])
    assert shown.exit_code == 0, shown.output
    assert "worst language (lost)" in shown.stdout and "nothing" in shown.stdout
    result = CliRunner().invoke(cli, [*given, "--out", str(tmp_path / "json"), "--json"])
    facts = json.loads(result.stdout)
    assert facts["search"]["chosen"] == 0 and facts["search"]["trials"][0]["fits"]
    assert load_artifact(tmp_path / "json").manifest.summary["search"] == facts["search"]


def test_the_report_has_a_bar_for_every_group(hopeless: Search) -> None:
    page = search_section("tiny <int8>", hopeless.to_json())
    assert "tiny &lt;int8&gt;" in page
    assert page.count("<rect") == len(hopeless.sensitivity)
    assert page.count("<tr>") == 1 + len(hopeless.trials)


def test_a_missing_tuner_says_what_to_install(
    hurt: Artifact, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "neural_compressor.common", None)
    with pytest.raises(DmedgeError, match=r"pip install 'dmedge\[compress\]'"):
        compress_artifact(hurt, _settings(folder, max_drop=0.5), tmp_path / "none")


def test_a_limit_needs_int8() -> None:
    result = CliRunner().invoke(cli, ["compress", "--languages", "en", "--max-drop", "0.01"])
    assert result.exit_code == 2
    assert "--max-drop without --int8; expected both, or --int4" in result.stderr


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"languages": ["en"], "max_drop": 0.01}, "max_drop without int8"),
        ({"int8": True, "max_drop": 1.0}, "max_drop is 1.0; expected a share"),
        ({"int8": True, "max_drop_worst_language": -0.1}, "max_drop_worst_language is -0.1"),
        ({"int8": True, "max_size_mb": 0}, "max_size_mb is 0.0; expected more than 0"),
        ({"int8": True, "max_latency_ratio": -1}, "max_latency_ratio is -1.0"),
        ({"int8": True, "qat": True, "max_drop": 0.01}, "max_drop with qat"),
        ({"int8": True, "search_texts": 0}, "search_texts is 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_budgets_without_sense_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(CompressConfig, table)


def test_a_trial_fits_without_overshoots() -> None:
    assert Trial(kept=Kept(), cost=COST, overshoots={}, score=1).fits
