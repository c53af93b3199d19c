"""Every shipped recipe fits the settings that it is for, and a recipe that does not fit says why."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmedge.artifact import load_artifact
from dmedge.compress.config import CompressConfig
from dmedge.config import RECIPES, find_recipe, read_toml, recipe_names
from dmedge.errors import ConfigError
from dmedge.evidence.config import BenchConfig, VerifyConfig
from dmedge.evidence.verdict import Budget
from dmedge.export.config import ExportConfig
from dmedge.flow.recipe import CONFIGS, build_recipe, load_recipe
from dmedge.model.checkpoint import load_checkpoint
from dmedge.model.hf_import import import_checkpoint
from dmedge.training.config import TrainConfig
from dmedge.training.train import train
from tests.tiny_datasets import write_dataset
from tests.tiny_hf import write_image, write_siglip2, write_text
from tests.tiny_training import tiny_train, tiny_world

KINDS: dict[str, type[Any]] = {
    "train": TrainConfig,
    "compress": CompressConfig,
    "export": ExportConfig,
    "verify": VerifyConfig,
    "bench": BenchConfig,
}
TRAIN: dict[str, Any] = {"kind": "train"}
INT8: dict[str, Any] = {"kind": "compress", "int8": True}
ANDROID: dict[str, Any] = {"kind": "export", "target": "android"}


def build(*stages: dict[str, Any], **keys: Any) -> Any:
    return build_recipe({"stage": list(stages), **keys}, where="my.toml")


def test_the_recipes_that_the_commands_need_are_there() -> None:
    assert {"emoji", "emoji-quick", "emoji-tiny"} <= set(recipe_names())
    assert {path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*.toml")} == {
        f"{name}.toml" for name in recipe_names()
    }


def written_as(setting: Any, written: Any) -> bool:
    """Whether a setting has the value that a recipe gives it, tables alike."""
    if isinstance(written, dict):
        return all(written_as(getattr(setting, key), value) for key, value in written.items())
    return bool(setting == (tuple(written) if isinstance(written, list) else written))


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_fits_the_settings_of_its_stages(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert [type(stage.config) for stage in recipe.stages] == [KINDS[stage.kind] for stage in recipe.stages]
    written = read_toml(find_recipe(name))["stage"]
    for entry, stage in zip(written, recipe.stages, strict=True):
        for key in entry.keys() - {"kind", "name"}:
            assert written_as(getattr(stage.config, key), entry[key])


def exports(name: str) -> bool:
    return any(stage.kind == "export" for stage in load_recipe(name).stages)


def test_what_is_trained_on_other_data_than_the_embedded_only_trains() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        assert exports(name) == (recipe.first("train").config.data == "emoji")
        assert exports(name) or [stage.kind for stage in recipe.stages] == ["train"]


@pytest.mark.parametrize("name", [name for name in recipe_names() if exports(name)])
def test_every_shipped_recipe_judges_and_times_each_bundle(name: str) -> None:
    kinds = [stage.kind for stage in load_recipe(name).stages]
    assert kinds[:2] == ["train", "compress"]
    assert kinds[2:] == ["export", "verify", "bench"] * 2


def test_the_quick_recipe_writes_where_the_demo_promises() -> None:
    names = [stage.name for stage in load_recipe("emoji-quick").stages if stage.kind not in ("verify", "bench")]
    assert names == ["baseline", "int8", "android", "linux-x86_64"]
    limits = {"match_auc_drop": 0.01, "class_accuracy_drop": 0.02, "class_macro_f1_drop": 0.02}
    assert load_recipe("emoji-quick").budget == Budget(**limits)


def test_the_table_of_kinds_is_complete() -> None:
    assert {kind: config() for kind, config in CONFIGS.items()} == KINDS


# Dry runs: each recipe on tiny data in its own format, smaller, and otherwise as it is

SHRINKS: dict[str, Any] = {
    "steps": 2,
    "epochs": 0.0,
    "batch_size": 2,
    "vocab_size": 400,
    "warmup_steps": 1,
    "workers": 0,
    "eval_every": 1,
    "save_every": 1,
    "precision": "float32",
    "trackers": (),
    "sharding": "none",  # which takes several processes
    "compile": False,  # which takes a minute
}
SMALL_TOWERS: dict[str, Any] = {
    "image_size": 32,
    "image_width": 16,
    "image_layers": 1,
    "image_heads": 2,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 4,
    "context_length": 16,
    "embed_dim": 8,
}


def shrunk(config: TrainConfig, folder: Path) -> TrainConfig:
    """The settings of a recipe for tiny data below `folder`, with towers to match."""
    model = replace(config.model, **SMALL_TOWERS)
    if config.model.image == "hf":
        model = replace(model, image_from=str(write_image("vit", folder / "vit")))
    if config.model.text == "hf":
        model = replace(model, text_from=str(write_text("bert", folder / "bert")))
    changes = dict(SHRINKS) | {"model": model, "grad_cache_parts": min(config.grad_cache_parts, 2)}
    changes["fusion_steps"] = min(config.fusion_steps, 1)
    changes["steps"] = min(config.steps, 2) if not config.epochs else 2
    if config.init and config.data == "emoji":
        changes["init"] = str(tiny_train(folder / "first").root)
    elif config.init:
        changes["init"] = str(import_checkpoint(write_siglip2(folder / "siglip2"), folder / "imported").root)
    if config.data != "emoji":
        written = write_dataset(config.data, folder / "data")
        changes["dataset"] = replace(config.dataset, path=written.path)
        changes["validation"] = None if config.validation is None else changes["dataset"]
        if config.early_stop and config.data == "vqa":
            changes["validation"] = changes["dataset"]  # the tiny VQA has no split for it
    return replace(config, **changes)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_trains_on_tiny_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = shrunk(load_recipe(name).first("train").config, tmp_path)
    with tiny_world():
        artifact = train(config, tmp_path / "run")
    checkpoint = load_checkpoint(load_artifact(artifact.root, kind="checkpoint"))
    assert artifact.manifest.summary["steps"] == config.steps
    is_imported = config.init and config.data != "emoji"
    assert (checkpoint.model.fusion is not None) == (config.model.fusion != "none" and not is_imported)
    assert set(artifact.manifest.parents) == ({"init"} if config.init else set())


@pytest.mark.parametrize("name", recipe_names())
def test_the_path_of_the_data_is_set_from_the_command_line(name: str) -> None:
    config = load_recipe(name, ["train.dataset.path=/mine"]).first("train").config
    assert config.dataset.path == "/mine"


# Settings


def test_a_stage_gets_its_own_settings_and_the_defaults_for_the_rest() -> None:
    recipe = build({**TRAIN, "steps": 7, "model": {"text": "bag"}}, INT8, ANDROID)
    train = recipe.stages[0].config
    assert (train.steps, train.model.text, train.batch_size) == (7, "bag", TrainConfig().batch_size)
    assert recipe.stages[2].config == ExportConfig(target="android")


def test_names_follow_from_the_kind_and_may_be_given() -> None:
    verify, bench = {"kind": "verify"}, {"kind": "bench"}
    recipe = build(TRAIN, {**INT8, "name": "small"}, ANDROID, verify, bench)
    assert [stage.name for stage in recipe.stages] == [
        "baseline",
        "small",
        "android",
        "android-verify",
        "android-bench",
    ]


@pytest.mark.parametrize(
    ("stages", "keys", "message"),
    [
        ([], {"stages": []}, r"my.toml: holds no stage, only \['stage', 'stages'\]; expected \[\[stage\]\] tables"),
        ([TRAIN], {"budgets": {}}, "unknown key 'budgets'; did you mean 'budget'"),
        ([{"kind": "trian"}], {}, "stage 0: kind is 'trian'; did you mean 'train'"),
        ([{}], {}, "stage 0: kind is None; expected one of"),
        ([{**TRAIN, "stpes": 1}], {}, r"stage 0 \(train\): unknown key 'stpes'; did you mean 'steps'"),
        ([{**TRAIN, "model": {"txt": "bag"}}], {}, r"stage 0 \(train\).model: unknown key 'txt'; did you mean 'text'"),
        ([{**TRAIN, "steps": "many"}], {}, "steps: found 'many'; expected int"),
        ([TRAIN, {"kind": "compress"}], {}, r"stage 1 \(compress\): there is nothing to do"),
        ([TRAIN, {"kind": "export"}], {}, r"stage 1 \(export\): missing key 'target'"),
        ([TRAIN, {**ANDROID, "target": "andriod"}], {}, "no target 'andriod'; did you mean 'android'"),
        (
            [INT8],
            {},
            r"stage 0 \(compress\): nothing above it makes a checkpoint; put a stage of kind 'train' before it",
        ),
        (
            [TRAIN, {"kind": "verify"}],
            {},
            r"\(verify\): nothing above it makes a bundle; put a stage of kind 'export' before it",
        ),
        ([TRAIN, ANDROID, ANDROID], {}, "'android' is taken by a stage above it"),
        ([{**TRAIN, "name": "../up"}], {}, "name is '../up'; expected a plain directory name"),
        ([{**TRAIN, "name": ""}], {}, "name is ''; expected a plain directory name"),
        ([TRAIN], {"name": "../up"}, "name is '../up'; expected a plain directory name"),
        ([TRAIN], {"name": 3}, "name is 3; expected a plain directory name"),
        ([TRAIN], {"budget": {"latency_ration": 1.0}}, "budget: unknown key 'latency_ration'; did you mean"),
        ([TRAIN], {"budget": {"latency_ratio": -1.0}}, "latency_ratio is -1.0"),
    ],
)
def test_what_does_not_fit_is_named(stages: list[dict[str, Any]], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(*stages, **keys)


def test_stage_that_is_no_array_of_tables() -> None:
    with pytest.raises(ConfigError, match="holds no stage"):
        build_recipe({"stage": {"kind": "train"}}, where="my.toml")


# Overrides


@pytest.mark.parametrize(
    "override", ["stage.0.steps=5", "baseline.steps=5", "train.steps=5"], ids=["number", "name", "kind"]
)
def test_an_override_reaches_its_stage(tmp_path: Path, override: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[[stage]]\nkind = "train"\nname = "baseline"\n[[stage]]\nkind = "compress"\nint8 = true\n')
    recipe = load_recipe(path, [override, "compress.seed=3", "budget.latency_ratio=1", "name=mine"])
    assert recipe.stages[0].config.steps == 5
    assert recipe.stages[1].config.seed == 3
    assert recipe.budget.latency_ratio == 1.0
    assert recipe.name == "mine"


def test_an_override_of_a_kind_that_stands_twice_asks_which() -> None:
    with pytest.raises(ConfigError, match=r"'verify' may be any of stage.3, stage.6; expected one"):
        load_recipe("emoji-quick", ["verify.threads=2"])
    stages = load_recipe("emoji-quick", ["android-verify.threads=2"]).stages
    assert [stage.config.threads for stage in stages if stage.kind == "verify"] == [2, 1]


def test_an_override_of_nothing_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown key 'trian'; did you mean 'train'"):
        load_recipe("emoji-quick", ["trian.steps=5"])


def test_recipe_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="no recipe 'emojis'; did you mean 'emoji'"):
        load_recipe("emojis")
    with pytest.raises(ConfigError, match=r"mine.toml: no such recipe file"):
        load_recipe("mine.toml")
