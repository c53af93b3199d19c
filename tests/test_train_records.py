"""Training on data of one's own: every format, every kind of tower, fusion and head, and what must not change it."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.data.content import TRAINED_ON
from dmedge.data.readers import FORMATS, read_dataset
from dmedge.data.records import DatasetConfig
from dmedge.errors import ConfigError, DataError
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.model.hf_import import import_checkpoint
from dmedge.model.image import ConvNorm
from dmedge.training.record_materials import record_materials, split_records
from dmedge.training.record_source import Grouped, RecordSource
from tests.tiny_answers import answering, asked
from tests.tiny_datasets import write_dataset
from tests.tiny_hf import write_clip, write_image, write_siglip2, write_text
from tests.tiny_records import (
    COLOURS,
    LEARNS,
    TOWERS,
    killed_config,
    record_config,
    train_on_records,
    write_colours,
    write_questions,
)

__all__ = ["answering", "asked"]

VIT = replace(TOWERS, image="vit", image_width=16, image_layers=1, image_heads=2, patch_size=8, positions="rotary")
QUICK_INT8 = """
[[stage]]
kind = "train"
[[stage]]
kind = "compress"
int8 = true
calibration_items = 16
ledger_texts = 1
"""


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    return write_colours(tmp_path_factory.mktemp("colours") / "data")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def loaded(artifact: Artifact) -> Checkpoint:
    """The checkpoint, its digests checked."""
    return load_checkpoint(load_artifact(artifact.root, kind="checkpoint"))


def figures(artifact: Artifact) -> dict[str, float]:
    history: Any = artifact.manifest.summary["validation"]
    return dict(history[-1])


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


# Formats

# What the tiny data of each format holds: languages, classes, answers.
HOLDS: Mapping[str, tuple[set[str], int, bool]] = {
    "folder": ({"de", "en"}, 0, False),
    "coco": ({"en"}, 5, False),
    "flickr30k": ({"en"}, 0, False),
    "vqa": ({"en"}, 0, True),
    "xm3600": ({"ar", "de", "en", "he", "qu", "sw", "zh"}, 0, False),
    "table": ({"de", "en"}, 3, False),
    "webdataset": ({"de", "en", "fr"}, 3, False),
    "huggingface": ({"de", "en", "eo"}, 2, False),
}


@pytest.mark.parametrize("data", FORMATS)
def test_every_format_trains_to_a_checkpoint_that_loads(data: str, tmp_path: Path) -> None:
    dataset = write_dataset(data, tmp_path / "data")
    _, classes, has_answers = HOLDS[data]
    weights = {"match_weight": 0.5, "class_weight": float(classes > 0), "answer_weight": float(has_answers)}
    artifact = train_on_records(record_config(data, dataset, batch_size=2, **weights), tmp_path / "run")
    checkpoint, source = loaded(artifact), read_dataset(data, dataset)
    assert checkpoint.labels == source.labels and len(source.labels) == classes
    assert checkpoint.answers == source.answers and bool(source.answers) == has_answers
    assert set(artifact.manifest.languages) == {tag for tags in source.text_languages() for tag in tags}
    assert json.loads(artifact.file("labels.json").read_text(encoding="utf-8")) == list(source.labels)
    assert ("answers.json" in artifact.manifest.files) == has_answers
    assert artifact.manifest.files[TRAINED_ON].size_bytes >= 8


def test_the_languages_of_the_tiny_data_are_as_written(tmp_path: Path) -> None:
    for data, (languages, _, _) in HOLDS.items():
        read = read_dataset(data, write_dataset(data, tmp_path / data))
        assert {tag for tags in read.text_languages() for tag in tags} == languages, data


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_table_trains_alike_in_every_spelling(suffix: str, tmp_path: Path) -> None:
    folder = Path(write_dataset("table", tmp_path / "data").path)
    rows = [json.loads(line) for line in (folder / "same.jsonl").read_text(encoding="utf-8").splitlines()]
    if suffix == "parquet":
        parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        names = sorted({name for row in rows for name in row})
        columns = {name: [row.get(name) for row in rows] for name in names}
        parquet.write_table(pyarrow.table(columns), folder / "same.parquet")
    name = "train.csv" if suffix == "csv" else f"same.{suffix}"
    artifact = train_on_records(record_config("table", DatasetConfig(path=str(folder / name))), tmp_path / "run")
    assert loaded(artifact).labels == ("bird", "cat", "dog")
    assert set(artifact.manifest.languages) == {"de", "en"}


def test_the_command_line_trains_by_a_recipe_file(
    colours: DatasetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(
        '[[stage]]\nkind = "train"\ndata = "folder"\nsteps = 2\nbatch_size = 4\nvocab_size = 400\nfusion_steps = 1\n'
        "trackers = []\n[stage.dataset]\npath = 'nowhere'\n"
        "[stage.model]\nimage_size = 16\nimage_width = 8\ntext_width = 16\ncontext_length = 16\nembed_dim = 8\n",
        encoding="utf-8",
    )
    result = invoke("train", "my.toml", "--out", "out", "--set", f"dataset.path={colours.path}")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == "out"
    assert load_artifact(Path("out"), kind="checkpoint").manifest.languages == ("de", "en")


def test_the_package_runs_as_a_module_for_torchrun() -> None:
    found = subprocess.run([sys.executable, "-m", "dmedge", "--version"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("dmedge, version")


# Learning


def test_a_model_learns_colours_by_their_names_in_two_languages(colours: DatasetConfig, tmp_path: Path) -> None:
    validation = write_colours(tmp_path / "validation", len(COLOURS), first=600)  # a picture of each colour
    config = record_config("folder", colours, validation=validation, **LEARNS)
    artifact = train_on_records(config, tmp_path / "run")
    metrics = [json.loads(line) for line in (tmp_path / "run.log/metrics.jsonl").read_text().splitlines()]
    assert figures(artifact)["recall_at_1"] > 0.8  # chance is 1 in 6
    assert min(metrics[-1]["recall_at_10/en"], metrics[-1]["recall_at_10/de"]) == 1.0
    assert metrics[-1]["loss"] < metrics[0]["loss"]


def test_questions_are_answered_better_than_by_the_commonest_answer(answering: Artifact, asked: Path) -> None:
    validation = read_dataset("vqa", DatasetConfig(path=str(asked), split="val"))
    assert validation.name == "vqa/val2014"
    given = [next(iter(validation[row].answers)) for row in range(len(validation))]
    commonest = max(map(given.count, given)) / len(given)
    assert set(loaded(answering).answers) == {*COLOURS, "yes", "no"}
    assert figures(answering)["vqa_accuracy"] > commonest + 0.2
    assert "recall_at_1" not in figures(answering)  # the embeddings are not trained


def test_questions_of_ones_own_are_learnt_as_those_of_vqa(asked: Path, tmp_path: Path) -> None:
    """The same questions in a folder with a column `answer` make the same model, number by number."""
    parts = [_as_folder(asked, split, tmp_path / split) for split in ("train", "val")]
    weights: dict[str, Any] = {"contrastive_weight": 0.0, "answer_weight": 1.0}
    own = record_config("folder", parts[0], validation=parts[1], **weights)
    mine = train_on_records(own, tmp_path / "own")
    theirs = train_on_records(record_config("vqa", DatasetConfig(path=str(asked)), **weights), tmp_path / "vqa")
    assert loaded(mine).answers == loaded(theirs).answers
    state = loaded(theirs).model.state_dict()
    assert all(torch.equal(found, state[name]) for name, found in loaded(mine).model.state_dict().items())
    assert figures(mine) == figures(theirs)


def _as_folder(asked: Path, split: str, folder: Path) -> DatasetConfig:
    """A split of VQA as captioned pictures, with what one of the ten people answered."""
    folder.mkdir()
    (folder / "images").symlink_to(asked / f"{split}2014")
    data = read_dataset("vqa", DatasetConfig(path=str(asked), split=split))
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "language", "text", "answer"])
        for record in (data[row] for row in range(len(data))):
            assert isinstance(record.image, Path)
            rows.writerow([record.image.name, *record.languages, *record.texts, *record.answers])
    return DatasetConfig(path=str(folder))


def test_one_class_each_is_learnt(colours: DatasetConfig, tmp_path: Path) -> None:
    validation = write_colours(tmp_path / "validation", 2 * len(COLOURS), first=600)
    config = record_config("folder", colours, validation=validation, class_weight=1.0, **LEARNS)
    artifact = train_on_records(config, tmp_path / "run")
    assert loaded(artifact).labels == tuple(sorted(COLOURS))
    assert figures(artifact)["class_accuracy"] > 0.8  # chance is 1 in 6


def test_several_classes_each_are_judged_by_average_precision(tmp_path: Path) -> None:
    dataset = write_dataset("coco", tmp_path / "data")
    config = record_config("coco", dataset, batch_size=2, class_weight=1.0, validation=dataset)
    found = figures(train_on_records(config, tmp_path / "run"))
    assert 0 < found["class_map"] <= 1
    assert "class_accuracy" not in found


# Towers, fusions, losses


@pytest.mark.parametrize("fusion", ["cross-attention", "concatenation", "product", "none"])
def test_every_fusion_trains(fusion: Any, colours: DatasetConfig, tmp_path: Path) -> None:
    weights = {"match_weight": 0.5, "class_weight": 0.0 if fusion == "none" else 1.0, "fusion_steps": 2}
    config = record_config("folder", colours, model=replace(TOWERS, fusion=fusion), **weights)
    model = loaded(train_on_records(config, tmp_path / "run")).model
    assert (model.fusion is None) == (fusion == "none")
    assert model.config.classes == (0 if fusion == "none" else len(COLOURS))


@pytest.mark.parametrize("modality", ["full", "vision", "text", "no-attention"])
def test_every_modality_trains(modality: Any, colours: DatasetConfig, tmp_path: Path) -> None:
    config = record_config("folder", colours, model=replace(TOWERS, modality=modality), class_weight=1.0)
    model = loaded(train_on_records(config, tmp_path / "run")).model
    assert model.fusion is not None
    assert model.fusion.attends == (modality == "full")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": VIT, "gradient_checkpointing": True},
        {"model": replace(TOWERS, text="bag")},
        {"matryoshka": (2, 4)},
        {"loss": "siglip"},
        {"grad_cache_parts": 2},
        {"epochs": 0.1},
    ],
    ids=["vit and rotary text", "bag", "matryoshka", "siglip", "parts", "epochs"],
)
def test_what_a_recipe_may_choose_trains(changes: dict[str, Any], colours: DatasetConfig, tmp_path: Path) -> None:
    artifact = train_on_records(record_config("folder", colours, **changes), tmp_path / "run")
    model = loaded(artifact).model
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.config.embed_dim == TOWERS.embed_dim
    assert (model.logit_bias is not None) == (changes.get("loss") == "siglip")


def test_a_narrow_convolution_trains_as_it_is_evaluated() -> None:
    layer = ConvNorm(4, 8, kernel=1, stride=2)
    pictures = torch.randn(12, 4, 8, 8).to(memory_format=torch.channels_last)
    layer.norm = torch.nn.Identity()
    torch.testing.assert_close(layer.train()(pictures), layer.eval()(pictures))


@pytest.mark.parametrize("sides", ["image", "text", "both"])
def test_imported_towers_train_and_are_named(sides: str, colours: DatasetConfig, tmp_path: Path) -> None:
    towers = TOWERS
    if sides != "text":
        towers = replace(towers, image="hf", image_from=str(write_image("vit", tmp_path / "vit")))
    if sides != "image":
        towers = replace(towers, text="hf", text_from=str(write_text("bert", tmp_path / "bert")))
    artifact = train_on_records(record_config("folder", colours, model=towers, match_weight=0.5), tmp_path / "run")
    config = loaded(artifact).model.config
    assert (config.image == "hf", config.text == "hf") == (sides != "text", sides != "image")
    assert ("image_tower" in artifact.manifest.summary) == (sides != "text")
    assert ("text_tower" in artifact.manifest.summary) == (sides != "image")


# Continuing from a checkpoint


def test_a_run_from_a_checkpoint_starts_with_its_weights_and_names_it(colours: DatasetConfig, tmp_path: Path) -> None:
    first = train_on_records(record_config("folder", colours), tmp_path / "first")
    still = record_config("folder", colours, init=str(first.root), learning_rate=1e-30, weight_decay=0.0)
    second = train_on_records(replace(still, ema_decay=0.0), tmp_path / "second")
    assert second.manifest.parents == {"init": first.digest}
    before, after = (dict(loaded(artifact).model.named_parameters()) for artifact in (first, second))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_with_other_classes_is_refused(colours: DatasetConfig, tmp_path: Path) -> None:
    first = train_on_records(record_config("folder", colours, class_weight=1.0), tmp_path / "first")
    other = write_dataset("coco", tmp_path / "coco")
    config = record_config("coco", other, batch_size=2, class_weight=1.0, init=str(first.root))
    with pytest.raises(ConfigError, match="has 6 classes and 0 answers; expected the 5 and 0"):
        train_on_records(config, tmp_path / "second")


def test_a_checkpoint_with_concepts_is_refused(colours: DatasetConfig, tmp_path: Path) -> None:
    """Its concepts are those of the emoji; keys of records lie beyond them."""
    config = record_config("folder", colours, init="emoji")
    with pytest.raises(ConfigError, match=r"emoji has a concept head, and .* has no concepts; expected data = 'emoji'"):
        train_on_records(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_siglip_from_a_checkpoint_without_a_bias_is_refused(colours: DatasetConfig, tmp_path: Path) -> None:
    import_checkpoint(write_clip(tmp_path / "clip"), tmp_path / "imported")
    config = record_config("folder", colours, init=str(tmp_path / "imported"), loss="siglip")
    with pytest.raises(ConfigError, match="has no logit_bias; expected one for loss = 'siglip'"):
        train_on_records(config, tmp_path / "run")


def test_an_imported_checkpoint_is_fine_tuned(colours: DatasetConfig, tmp_path: Path) -> None:
    parent = import_checkpoint(write_siglip2(tmp_path / "siglip2"), tmp_path / "imported")
    config = record_config("folder", colours, init=str(parent.root), loss="siglip", layer_decay=0.8)
    artifact = train_on_records(replace(config, gradient_checkpointing=True, grad_cache_parts=2), tmp_path / "run")
    assert artifact.manifest.parents == {"init": parent.digest}
    assert loaded(artifact).model.config.image == "hf"


# Bad records


def test_bad_records_are_skipped_and_named_up_to_their_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = replace(write_colours(tmp_path / "data", broken=(3, 17)), max_bad_share=0.1)
    caplog.set_level("WARNING", logger="dmedge")
    train_on_records(record_config("folder", dataset, steps=16, batch_size=12), tmp_path / "run")
    assert any("skipped 0" in message and "broken picture" in message for message in caplog.messages)


def test_too_many_bad_records_stop_the_run_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = write_colours(tmp_path / "data", broken=range(0, 60, 3))
    Path("my.toml").write_text(
        "[[stage]]\nkind = 'train'\ndata = 'folder'\nsteps = 20\nbatch_size = 12\nvocab_size = 400\ntrackers = []\n"
        f"[stage.dataset]\npath = '{dataset.path}'\n[stage.model]\nimage_size = 16\nimage_width = 8\ntext_width = 16\n",
        encoding="utf-8",
    )
    result = invoke("train", "my.toml", "--out", "out")
    assert result.exit_code == 1
    last = " ".join(result.stderr.split()).partition("error: ")[2]
    assert "records cannot be used" in last and "mend the data, or raise max_bad_share" in last
    assert not Path("out").exists()
    assert not list(Path().glob("*.part*"))


# What must not change a run


def test_a_killed_run_on_records_continues_to_the_very_same_checkpoint(tmp_path: Path) -> None:
    folder = Path(write_colours(tmp_path / "data").path)
    child = subprocess.run(
        [sys.executable, "-m", "tests.tiny_records", str(tmp_path / "killed"), str(folder), "7"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=False,
    )
    assert child.returncode == -9, child.stderr
    assert not (tmp_path / "killed").exists()
    assert [path.name for path in (tmp_path / "killed.steps").glob("step-*.pt")] == ["step-00000004.pt"]
    config = killed_config(folder)
    resumed, whole = (train_on_records(config, tmp_path / name) for name in ("killed", "whole"))
    assert resumed.manifest.files == whole.manifest.files
    assert TRAINED_ON in whole.manifest.files
    assert not (tmp_path / "killed.steps").exists()


def test_workers_change_no_weight(colours: DatasetConfig, tmp_path: Path) -> None:
    runs = [
        train_on_records(record_config("folder", colours, workers=workers), tmp_path / str(workers))
        for workers in (0, 2)
    ]
    assert runs[0].manifest.files == runs[1].manifest.files


def test_without_a_validation_split_a_part_is_held_out_and_never_trained_on(colours: DatasetConfig) -> None:
    config = record_config("folder", colours)
    train, validation = split_records(config)
    assert validation is not None
    names = [{data[row].key for row in range(len(data))} for data in (train, validation)]
    assert len(names[1]) == 3  # 5 % of 60
    assert not names[0] & names[1] and len(names[0] | names[1]) == 60
    again = split_records(config)[1]
    assert again is not None and {again[row].key for row in range(len(again))} == names[1]


@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_text_in_other_languages_is_not_shown(kind: str, tmp_path: Path) -> None:
    made = write_colours(tmp_path / "data", 8) if kind == "folder" else write_dataset(kind, tmp_path / "data")
    config = record_config(kind, made, languages=("de",))
    source = record_materials(config, tmp_path).source
    assert isinstance(source, RecordSource)
    shown = [source.dataset[row] for row in range(len(source.dataset))]
    assert {tag for record in shown for tag in record.languages} == {"de"}
    whole = read_dataset(kind, made)
    assert isinstance(source.dataset, Grouped) == isinstance(whole, Grouped)
    assert [len(record.texts) for record in shown] == [len(tags) for tags in source.dataset.text_languages()]
    with pytest.raises(ConfigError, match="no text in 'sw'"):
        record_materials(replace(config, languages=("sw",)), tmp_path)


def test_questions_about_one_picture_are_held_out_together(colours: DatasetConfig, tmp_path: Path) -> None:
    rows = [(f"{number:03d}.png", "en", f"Is it {colour}?", "no") for number in range(40) for colour in COLOURS]
    (tmp_path / "images").symlink_to(Path(colours.path) / "images")
    with (tmp_path / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("image", "language", "text", "answer"), *rows])
    train, validation = split_records(record_config("folder", DatasetConfig(path=str(tmp_path))))
    assert validation is not None and len(train) + len(validation) == len(rows)
    assert len(validation) == 2 * len(COLOURS)  # two pictures, as they are the fewest with 5 % of all questions
    pictures = [{data[row].image for row in range(len(data))} for data in (train, validation)]
    assert not pictures[0] & pictures[1]


# What comes after


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["no classes", "answers"])
def test_what_was_trained_on_records_is_evaluated_exported_and_compressed(kind: str, tmp_path: Path) -> None:
    folder = write_colours(tmp_path / "data", 12, has_labels=False)
    if kind == "answers":
        questions = write_questions(tmp_path / "questions", 12)
        config = record_config("vqa", questions, contrastive_weight=0.0, answer_weight=1.0)
    else:
        config = record_config("folder", folder, model=VIT, match_weight=1.0)
    run = train_on_records(config, tmp_path / "run").root
    other = write_colours(tmp_path / "other", 12, first=700, has_labels=False)
    found = invoke("eval", run, "--data", other.path, "--json")
    assert found.exit_code == 0, found.stderr
    assert set(json.loads(found.stdout)["languages"]) == {"de", "en"}
    leaked = invoke("eval", run, "--data", folder.path)
    assert (leaked.exit_code == 1 and "were trained on" in leaked.stderr) == (kind == "no classes")
    choice = ["--target", "linux-x86_64", "--runtime", "onnxruntime"]
    bundle = invoke("export", run, *choice, "--out", tmp_path / "bundle")
    assert bundle.exit_code == 0, bundle.stderr
    assert (tmp_path / "bundle/answers.json").exists() == (kind == "answers")
    programs = load_artifact(tmp_path / "bundle", kind="bundle").manifest.programs
    fuse = next(program for program in programs if program.name == "fuse")
    heads = ["match", "answers"] if kind == "answers" else ["match"]
    assert [output.name for output in fuse.outputs] == heads
    assert f"-> {', '.join(heads)}`" in (tmp_path / "bundle/README.md").read_text(encoding="utf-8")
    (tmp_path / "int8.toml").write_text(QUICK_INT8)
    small = invoke("compress", run, "--recipe", tmp_path / "int8.toml", "--out", tmp_path / "int8")
    assert small.exit_code == 0, small.stderr
    assert load_checkpoint(load_artifact(tmp_path / "int8")).answers == loaded(load_artifact(run)).answers


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_weight": 1.0}, "no answers; expected some for answer_weight"),
        ({"dataset": DatasetConfig()}, "has no path; expected a folder"),
        ({"dataset": DatasetConfig(path="/nowhere")}, "no folder images/"),
    ],
    ids=["answers", "no path", "no folder"],
)
def test_what_the_data_does_not_hold_is_named(
    changes: dict[str, Any], message: str, colours: DatasetConfig, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        train_on_records(record_config("folder", **{"dataset": colours} | changes), tmp_path / "run")
