"""What a checkpoint learned from is written down, and never comes back as evaluation data."""

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dmedge.artifact import Artifact, new_artifact
from dmedge.cli.main import cli
from dmedge.compress.config import CompressConfig, LearnConfig
from dmedge.compress.recipe import compress_artifact
from dmedge.data.content import TRAINED_ON, picture_id, read_ids, write_ids
from dmedge.data.evalset import emoji_evalset, folder_evalset
from dmedge.data.records import Dataset, DatasetConfig
from dmedge.errors import ArtifactError, DataError
from dmedge.evidence.leakage import check_training, find_training
from dmedge.model.checkpoint import load_checkpoint
from dmedge.study.config import StudyConfig
from dmedge.study.record_source import open_records
from dmedge.training.record_materials import split_records
from tests.tiny_records import record_config, train_on_records, write_colours

PICTURES = 40
LEARN: dict[str, Any] = {"steps": 2, "batch_size": 4, "fusion_steps": 0}
Settings = dict[str, Any]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    return write_colours(tmp_path_factory.mktemp("colours") / "data", PICTURES, has_labels=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, colours: DatasetConfig) -> Artifact:
    """After one pass over all of the training part."""
    config = record_config("folder", colours, steps=8, batch_size=10, eval_every=8)
    return train_on_records(config, tmp_path_factory.mktemp("runs") / "trained")


def pictures_of(data: Dataset | None) -> set[Path]:
    assert data is not None
    return {Path(str(data[row].image)) for row in range(len(data))}


def ids_of(pictures: Iterable[Path]) -> set[int]:
    return {picture_id(path) for path in pictures}


def write_folder(folder: Path, pictures: Iterable[Path]) -> Path:
    """A folder to evaluate on, with copies of these pictures under other names."""
    (folder / "images").mkdir(parents=True)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "language", "text"])
        for picture in sorted(pictures):
            shutil.copy(picture, folder / "images" / f"copy-{picture.name}")
            rows.writerow([f"copy-{picture.name}", "en", f"number {picture.stem}"])
    return folder


def child_of(parent: Artifact, out: Path, role: str = "parent", **facts: Any) -> Artifact:
    """What a stage makes that learns nothing, without its files."""
    with new_artifact(out) as draft:
        settings = {"kind": "bundle", "stage": "export", "config": {}, "parents": {role: parent.digest}}
        return draft.finish(**settings | facts)


def evaluate(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, ["eval", *(str(argument) for argument in arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_checkpoint_names_what_it_learned_from_and_nothing_that_was_held_out(
    trained: Artifact, colours: DatasetConfig
) -> None:
    train, held_out = split_records(record_config("folder", colours))
    ids = read_ids(trained.file(TRAINED_ON))
    assert set(ids.tolist()) == ids_of(pictures_of(train))
    assert not set(ids.tolist()) & ids_of(pictures_of(held_out))
    assert trained.manifest.files[TRAINED_ON].size_bytes == 8 * len(pictures_of(train))


def test_only_what_was_shown_is_named(colours: DatasetConfig, tmp_path: Path) -> None:
    run = train_on_records(record_config("folder", colours, steps=1, batch_size=3, eval_every=1), tmp_path / "run")
    assert len(read_ids(run.file(TRAINED_ON))) <= 3


def test_a_picture_that_was_trained_on_is_refused_under_another_name(
    trained: Artifact, colours: DatasetConfig, tmp_path: Path
) -> None:
    train, held_out = split_records(record_config("folder", colours))
    seen = min(pictures_of(train))
    folder = write_folder(tmp_path / "mixed", {seen, *pictures_of(held_out)})
    result = evaluate(trained.root, "--data", folder)
    assert result.exit_code == 1
    told = " ".join(result.stderr.split())
    assert f"folder/mixed: 1 of {1 + len(pictures_of(held_out))} pictures were trained on, such as" in told
    assert f"'copy-{seen.name}'; expected none" in told


def test_pictures_that_were_held_out_of_the_same_folder_are_no_leak(
    trained: Artifact, colours: DatasetConfig, tmp_path: Path
) -> None:
    held_out = pictures_of(split_records(record_config("folder", colours))[1])
    result = evaluate(trained.root, "--data", write_folder(tmp_path / "new", held_out), "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["training_checked"] == "by content"


def test_the_record_is_found_by_lineage(trained: Artifact, colours: DatasetConfig, tmp_path: Path) -> None:
    runs = trained.root.parent
    child = child_of(child_of(trained, runs / "small"), runs / "bundle")
    found = find_training(child)
    assert found.is_recorded and found.pictures.tolist() == read_ids(trained.file(TRAINED_ON)).tolist()
    with pytest.raises(DataError, match=f"38 of {PICTURES} pictures were trained on"):
        check_training(found, folder_evalset(Path(colours.path)))
    assert find_training(child_of(child, tmp_path / "far")).is_recorded is False
    assert find_training(child_of(child, tmp_path / "near"), (runs,)).pictures.tolist() == found.pictures.tolist()
    taught = find_training(child_of(trained, runs / "taught", "teacher"))
    assert taught.is_recorded and not taught.pictures.size  # a teacher's pictures were not shown


def test_a_study_is_not_judged_by_what_was_trained_on(trained: Artifact, colours: DatasetConfig) -> None:
    """With its own seed a part is held out as training held it out."""
    checkpoint, seed = load_checkpoint(trained), record_config("folder", colours).seed
    open_records(StudyConfig(data="folder", dataset=colours, seed=seed)).check(checkpoint, trained)
    with pytest.raises(DataError, match=f"38 of {PICTURES} pictures were trained on"):
        open_records(StudyConfig(data="folder", dataset=colours, test=colours)).check(checkpoint, trained)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"stage": "train", "config": {"data": "folder"}}, "not recorded"),  # made before there were records
        ({"stage": "train", "config": {"data": "emoji"}}, "by content"),
        ({"stage": "import"}, "not recorded"),
        ({"stage": "train", "config": {"data": "emoji"}, "summary": {"text_tower": {}}}, "not recorded"),
        ({"stage": "compress", "config": {"data": "photos", "int8": True}}, "by content"),
        ({"stage": "compress", "config": {"data": "photos", "qat": True}}, "not recorded"),
        ({"stage": "compress", "config": {"data": "emoji", "qat": True}}, "by content"),
        ({"stage": "compress", "config": {"data": "photos", "prune": 0.1, "learn": {"steps": 0}}}, "by content"),
        ({"stage": "compress", "config": {"data": "photos", "prune": 0.1, "learn": {"steps": 9}}}, "not recorded"),
    ],
    ids=str,
)
def test_what_is_not_recorded_is_said_to_be(facts: Settings, told: str, colours: DatasetConfig, tmp_path: Path) -> None:
    with new_artifact(tmp_path / "old") as draft:
        old = draft.finish(kind="checkpoint", **{"config": {}, **facts})
    assert check_training(find_training(old), folder_evalset(Path(colours.path))) == told


def test_the_embedded_data_is_split_by_construction(trained: Artifact) -> None:
    data = emoji_evalset(locales=["en"])
    assert check_training(find_training(trained), data) == "by construction"


@pytest.mark.parametrize("changes", [{"distill": "parent"}, {"prune": 0.1}], ids=["distil", "prune"])
def test_what_a_compressed_checkpoint_learned_from_is_added(
    changes: Settings, trained: Artifact, tmp_path: Path
) -> None:
    other = write_colours(tmp_path / "other", 24, first=500, has_labels=False)
    config = CompressConfig(data=other.path, ledger_texts=0, learn=LearnConfig(**LEARN), **changes)
    small = compress_artifact(trained, config, trained.root.parent / f"small-{next(iter(changes))}")
    learned = set(read_ids(small.file(TRAINED_ON)).tolist())
    assert learned and learned <= ids_of(pictures_of(split_records(record_config("folder", other))[0]))
    assert set(find_training(small).pictures.tolist()) == learned | set(read_ids(trained.file(TRAINED_ON)).tolist())


def test_ids_are_kept_once_and_a_damaged_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    write_ids(path, np.array([2**64 - 1, 3, 3], np.uint64))
    assert read_ids(path).tolist() == [3, 2**64 - 1]
    for content in (b"123", path.read_bytes()[::-1]):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="expected ascending numbers of 8 bytes"):
            read_ids(path)
    with pytest.raises(DataError, match="missing picture"):
        picture_id(tmp_path / "nowhere.png")
