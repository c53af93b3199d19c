"""The search for a plan inside a budget: what is tried, what is chosen, and what is said where nothing fits."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from click.testing import CliRunner

from dmedge.artifact import Artifact
from dmedge.cli.main import cli
from dmedge.compress import recipe
from dmedge.compress.budget import Limits, Trial, relative_drop, worst_drop
from dmedge.compress.config import CompressConfig
from dmedge.compress.cost_table import Cost, cost_table, latency_ratio
from dmedge.compress.observe import observe_ranges
from dmedge.compress.plan import plan_precision
from dmedge.compress.recipe import compress_artifact
from dmedge.compress.sensitivity import plan_groups, sensitivity_db
from dmedge.data.evalset import EvalSet
from dmedge.errors import VerifyError
from dmedge.evidence.report_data import Collection
from dmedge.evidence.report_ledger import searches
from dmedge.manifest import read_manifest
from dmedge.model.checkpoint import load_checkpoint
from dmedge.model.image import fold_batch_norm_
from tests.tiny_bundles import tiny_checkpoint as tiny_checkpoint
from tests.tiny_bundles import tiny_model
from tests.tiny_training import tiny_evalset

TRIAL = Trial(
    keep=(),
    recall_at_10=0.6,
    drop=0.02,
    worst_language="sw",
    drop_worst_language=0.08,
    size_mb=3.0,
    latency_ratio=0.5,
)


@pytest.fixture
def tiny_data() -> Iterator[EvalSet]:
    """The search measures on a few pictures."""
    data = tiny_evalset()
    with mock.patch.object(recipe, "validation_set", lambda *choice: data):
        yield data


def config(**limits: Any) -> CompressConfig:
    return CompressConfig(int8=True, calibration_items=6, ledger_texts=2, **limits)


def test_a_score_is_1_where_all_limits_are_kept_and_falls_with_the_worst_miss() -> None:
    assert TRIAL.score(Limits(drop=0.02, size_mb=3.0)) == 1.0
    assert TRIAL.overshoots(Limits(drop=0.01, size_mb=2.0)) == pytest.approx({"drop": 1.0, "size_mb": 0.5})
    assert TRIAL.score(Limits(drop=0.01, size_mb=2.0)) == pytest.approx(0.5)
    assert TRIAL.score(Limits(drop=0.01)) < TRIAL.score(Limits(drop=0.015)) < 1


def test_drops_are_relative() -> None:
    assert relative_drop(0.5, 0.4) == pytest.approx(0.2)
    assert relative_drop(0.0, 0.0) == 0.0
    assert worst_drop({"en": 0.75, "sw": 0.5}, {"en": 0.75, "sw": 0.375}) == ("sw", 0.25)


def test_groups_hold_every_quantized_module_once_and_keep_understands_them() -> None:
    model = tiny_model()
    fold_batch_norm_(model)
    plan = plan_precision(model)
    groups = plan_groups(plan)
    named = [name for names in groups.values() for name in names]
    assert sorted(named) == sorted(name for name in plan if not name.endswith("_point"))
    assert {"image.stem", "image.blocks.0", "text.token", "text.blocks.1", "head", "fusion"} <= set(groups)
    for group, names in groups.items():
        kept = plan_precision(model, [group])
        assert all(kept[name] == "float32" for name in names)


def test_the_group_with_the_coarsest_weights_is_the_most_sensitive() -> None:
    """One weight a thousand times the others leaves no steps for them."""
    model = tiny_model()
    fold_batch_norm_(model)
    with torch.no_grad():
        model.get_submodule("text.blocks.1.feed_forward.down").get_parameter("weight")[:, 0] *= 1000
    plan = plan_precision(model)
    pixels = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    ranges = observe_ranges(model, [name for name in plan if name.endswith("_point")], [pixels])
    ids = torch.randint(1, 320, (4, 7), dtype=torch.int32)
    found = sensitivity_db(
        model, plan, ranges, lambda one: [one.encode_image(pixels)[0], one.encode_text(ids, torch.ones_like(ids))[0]]
    )
    assert next(iter(found)) == "text.blocks.1"
    assert list(found.values()) == sorted(found.values())


def test_costs_add_up_and_a_float_plan_costs_what_float_costs() -> None:
    costs = {"a": Cost(2.0, 1.0), "b": Cost(6.0, 2.0)}
    assert latency_ratio(costs, {"a": "float32", "b": "float32"}) == 1.0
    assert latency_ratio(costs, {"a": "float32", "b": "int8_dynamic"}) == pytest.approx(0.5)
    assert latency_ratio(costs, {"a": "int8_dynamic", "b": "int8_static"}) == pytest.approx(3 / 8)


def test_every_layer_is_timed() -> None:
    model = tiny_model()
    fold_batch_norm_(model)
    costs = cost_table(model)
    plan = plan_precision(model)
    assert set(costs) == {
        name for name, scheme in plan.items() if scheme != "int8_rows" and not name.endswith("_point")
    }
    assert all(cost.float_s > 0 and cost.int8_s > 0 for cost in costs.values())


def test_a_loose_budget_takes_all_int8_at_the_first_trial(
    tiny_checkpoint: Artifact, tiny_data: EvalSet, tmp_path: Path
) -> None:
    made = compress_artifact(tiny_checkpoint, config(max_drop=1.0), tmp_path / "out")
    plain = compress_artifact(tiny_checkpoint, config(), tmp_path / "plain")
    found = json.loads(made.file("search.json").read_text())
    assert (len(found["trials"]), found["keep"]) == (1, [])
    assert made.manifest.precision == plain.manifest.precision
    assert made.manifest.files["model.safetensors"] == plain.manifest.files["model.safetensors"]


def test_a_budget_that_int8_misses_gives_float_back_to_what_is_most_sensitive(
    tiny_checkpoint: Artifact, tmp_path: Path
) -> None:
    """The metric is made to need the two most sensitive groups, whichever these are."""
    from dmedge.compress import search as module

    def recalls(search: module.Search, model: Any, image_plan: str) -> dict[str, float]:
        needed = set(list(search.sensitivity)[:2])
        kept = set(getattr(model, "searched_keep", needed))
        return {"en": 0.8 if needed <= kept else 0.7, "sw": 0.5}

    with mock.patch.object(module, "_recalls", recalls):
        made = compress_artifact(tiny_checkpoint, config(max_drop=0.01), tmp_path / "out")
    found = json.loads(made.file("search.json").read_text())
    assert found["keep"] == list(found["sensitivity_db"])[:2]
    assert [len(trial["keep"]) for trial in found["trials"]] == [0, 1, 2]
    assert found["trials"][0]["drop"] == pytest.approx(0.1 / 1.3)
    assert found["trials"][0]["worst_language"] == "en"
    assert list(found["trials"][0]["misses"]) == ["drop"]
    for group in found["keep"]:
        below = [name for name in made.manifest.precision if name == group or name.startswith(f"{group}.")]
        assert {made.manifest.precision[name] for name in below if not name.endswith("_point")} == {"float32"}
    assert load_checkpoint(made).quantization == dict(made.manifest.precision)


def test_the_same_search_twice_gives_the_same_weights(
    tiny_checkpoint: Artifact, tiny_data: EvalSet, tmp_path: Path
) -> None:
    twice = [compress_artifact(tiny_checkpoint, config(max_drop=0.5), tmp_path / name) for name in ("a", "b")]
    assert twice[0].manifest.files["model.safetensors"] == twice[1].manifest.files["model.safetensors"]


def test_no_plan_fits_and_nothing_is_left_behind(tiny_checkpoint: Artifact, tiny_data: EvalSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(VerifyError, match=r"no plan of \d+ keeps the budget: the best \(no --keep\) has size_mb"):
        compress_artifact(tiny_checkpoint, config(max_size_mb=0.001), out)
    arguments = ["compress", str(tiny_checkpoint.root), "--int8", "--max-size-mb", "0.001", "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert getattr(result.exception, "exit_code", result.exit_code) == 3
    assert not list(tmp_path.iterdir())


def test_the_table_and_the_report_show_the_search(
    tiny_checkpoint: Artifact, tiny_data: EvalSet, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["compress", str(tiny_checkpoint.root), "--int8", "--max-drop", "1", "--calibration", "4"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "stays float32" in result.stdout
    assert "neural" not in result.stdout.lower()  # its own tables are held back
    assert "Auto-Tune" not in result.output
    manifest = read_manifest(out)
    page = searches(Collection("runs", {manifest.digest: (out, manifest)}, ()))
    assert "out: which parts rounding hurts" in page
    assert "<svg" in page


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_drop": -0.1}, "limits .* expected numbers from 0"),
        ({"max_size_mb": float("nan")}, "limits .* expected numbers from 0"),
        ({"max_drop": 0.1, "int8": False, "prune": 0.1}, "a budget to search in without int8; expected both"),
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CompressConfig(int8=True), **limits)
