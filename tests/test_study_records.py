"""The study on records: COCO, VQA v2 and Flickr30k in their original formats, a few records of each."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.cli.study import DataParam
from dmedge.data.evalset import folder_evalset
from dmedge.data.readers import read_dataset
from dmedge.data.records import DatasetConfig
from dmedge.data.transforms import Preprocess
from dmedge.data.vqa import vqa_accuracy
from dmedge.errors import ConfigError, DataError
from dmedge.evidence.attention_study import study_attention
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.hf_import import import_checkpoint
from dmedge.study.attention import run_attention
from dmedge.study.config import StudyConfig, load_study
from dmedge.study.contestants import FAMILIES
from dmedge.study.context import Study
from dmedge.study.errors import run_errors
from dmedge.study.heads import StudyHead
from dmedge.study.record_errors import kind_of_answer
from dmedge.study.record_folders import write_captions
from dmedge.study.record_pairs import Question, question_of, record_pairs
from dmedge.study.record_source import RecordSource, open_records
from dmedge.study.retrieval import run_retrieval
from dmedge.study.scores import figures_of, several_classes
from dmedge.study.scratch import run_comparison
from dmedge.study.variants import run_variants
from tests.tiny_bundles import CONFIG, tiny_checkpoint, tiny_model, tiny_tokenizer, write_checkpoint
from tests.tiny_datasets import FIXTURES, write_dataset
from tests.tiny_hf import write_clip
from tests.tiny_records import write_coco, write_colours, write_flickr30k, write_questions

__all__ = ["tiny_checkpoint"]  # a fixture

WRITE = {"coco": write_coco, "vqa": write_questions, "flickr30k": write_flickr30k}
TINY = StudyConfig(
    seeds=2,
    train_pairs=30,
    test_pairs=40,
    head_steps=2,
    head_batch=8,
    scratch_steps=1,
    scratch_batch=4,
    candidates=3,
    robustness_pairs=6,
    attention_pairs=4,
    bench_rounds=2,
)


def tiny_study(data: str, folder: Path) -> StudyConfig:
    """The tiniest settings, with data of a format below `folder`."""
    folder.mkdir()
    return replace(TINY, data=data, dataset=WRITE[data](folder))


def source_of(data: str, folder: Path) -> RecordSource:
    return open_records(tiny_study(data, folder))


# Figures


def test_figures_of_several_classes_by_hand() -> None:
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    logits = np.array([[2.0, -1, 1], [-1, 3, -2], [1, 2, -1], [-2, -3, -1]], np.float32)
    found = several_classes(truth, logits)
    # class 0: named in rows 0, 2, true in 0, 1; class 1: named and true in 1, 2; class 2: named in row 0
    assert found["macro_precision"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["macro_recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["macro_f1"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["micro_f1"] == pytest.approx(2 * 3 / (5 + 4))  # three hits, five named, four true
    # class 0 ranks rows 0, 2, 1: precision 1 and 2/3 at the true ones; class 1 ranks its own two first
    assert found["average_precision"] == pytest.approx({"0": (1 + 2 / 3) / 2, "1": 1.0})
    assert found["mean_average_precision"] == pytest.approx((5 / 6 + 1) / 2)


def test_perfect_logits_have_perfect_figures(tmp_path: Path) -> None:
    pairs = source_of("coco", tmp_path / "data").pairs("test")
    logits = pairs.targets(np.arange(len(pairs)), 6).numpy() - np.float32(0.5)
    assert {figures_of(pairs, logits)[key] for key in ("accuracy", "mean_average_precision", "micro_f1")} == {1.0}
    assert pairs.loss(torch.from_numpy(100 * logits), np.arange(len(pairs))).item() == pytest.approx(0, abs=1e-6)


def test_answers_are_worth_their_official_accuracy(tmp_path: Path) -> None:
    data = read_dataset("vqa", write_dataset("vqa", tmp_path / "data"))
    question = question_of(data)
    pairs = record_pairs("test", data, question, DatasetConfig(max_bad_share=1.0), 100, seed=0)
    table = json.loads((FIXTURES / "vqa/v2_mscoco_train2014_annotations.json").read_text(encoding="utf-8"))
    asked = json.loads((FIXTURES / "vqa/v2_OpenEnded_mscoco_train2014_questions.json").read_text(encoding="utf-8"))
    given = {row["question_id"]: [answer["answer"] for answer in row["answers"]] for row in table["annotations"]}
    answers = {row["question"]: given[row["question_id"]] for row in asked["questions"] if row["question_id"] in given}
    assert len(pairs) >= 3
    for number, name in enumerate(question.classes):
        official = [vqa_accuracy(name, answers[text]) for text in pairs.texts]
        assert pairs.right(np.full(len(pairs), number)) == pytest.approx(official), name
    best = max(np.mean(pairs.right(np.full(len(pairs), number))) for number in range(len(question.classes)))
    assert pairs.commonest(len(question.classes)) == pytest.approx(best)


@pytest.mark.parametrize(
    ("answer", "kind"), [("yes", "yes or no"), ("2", "number"), ("2 dogs", "other"), ("", "none of the classes")]
)
def test_answers_come_in_the_kinds_of_vqa(answer: str, kind: str) -> None:
    assert kind_of_answer(answer) == kind


# Pairs


def test_half_of_the_pairs_without_classes_hold_the_text_of_another_picture(tmp_path: Path) -> None:
    source = source_of("flickr30k", tmp_path / "data")
    pairs = source.pairs("test")
    assert source.question == Question("one", source.classes, is_match=True)
    assert pairs.label.mean() == 0.5
    np.testing.assert_array_equal(pairs.is_own, pairs.label == 1)
    own: dict[int, set[str]] = {}
    for place, text in zip(pairs.picture[pairs.is_own], np.array(pairs.texts)[pairs.is_own], strict=True):
        own.setdefault(int(place), set()).add(str(text))
    texts = {record.texts for record in (source.test[row] for row in range(len(source.test)))}
    assert all(any(mine <= set(of) for of in texts) for mine in own.values())  # all texts of a picture are its record's
    for place, text in zip(pairs.picture[~pairs.is_own], np.array(pairs.texts)[~pairs.is_own], strict=True):
        assert not any({str(text)} | own[int(place)] <= set(of) for of in texts)


def test_the_first_pairs_show_their_own_pictures(tmp_path: Path) -> None:
    pairs = source_of("coco", tmp_path / "data").pairs("test")
    few = pairs.first(5)
    assert (few.texts, few.scores) == (pairs.texts[:5], pairs.scores[:5])
    for row in range(5):
        assert few.pictures[few.picture[row]] == pairs.pictures[int(pairs.picture[row])]


@pytest.mark.parametrize(("split", "test"), [("train", "coco/val2017"), ("val", "coco/val2017")])
def test_nothing_is_judged_on_that_was_trained_on(split: str, test: str, tmp_path: Path) -> None:
    config = tiny_study("coco", tmp_path / "data")
    source = open_records(replace(config, dataset=replace(config.dataset, split=split)))
    assert source.test.name == test
    assert source.train.name == f"coco/{split}2017"
    keys = [{data[row].key for row in range(len(data))} for data in (source.train, source.test)]
    assert keys[0] and keys[1] and not keys[0] & keys[1]


def test_other_data_are_other_cells(tmp_path: Path) -> None:
    config = tiny_study("coco", tmp_path / "data")
    first, again = open_records(config).settings, open_records(config).settings
    assert first == again
    path = tmp_path / "data/annotations/captions_val2017.json"
    path.write_text(path.read_text().replace("a red square", "a crimson square"))
    assert open_records(config).settings != first


def test_written_folders_are_what_compression_and_timing_read(tmp_path: Path) -> None:
    pairs = source_of("flickr30k", tmp_path / "data").pairs("train")
    data = folder_evalset(Path(write_captions(pairs, tmp_path / "folder")))
    rows = np.flatnonzero(pairs.is_own)
    assert data.texts == tuple(pairs.texts[row] for row in rows)
    for row, text in zip(rows, range(len(data.texts)), strict=True):
        assert data.images[int(data.text_image[text])] == pairs.pictures[int(pairs.picture[row])]


# Refusals


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ("cocoo:there", 2, "no data format 'cocoo'; did you mean 'coco'"),
        ("nowhere", 2, "no such folder"),
        ("coco:nowhere", 1, "nowhere"),
        ("vqa:.", 1, "questions.json"),
        ("flickr30k:.", 1, "dataset_flickr30k.json"),
    ],
)
def test_data_that_is_not_there_is_named(
    data: str, code: int, message: str, tiny_checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["study", str(tiny_checkpoint.root), "--data", data, "--out", "study"])
    assert done.exit_code == code, done.output
    assert message in " ".join(done.output.split())
    assert not Path("study").exists()


def test_too_few_records_and_no_captions_are_refused(tmp_path: Path) -> None:
    config = tiny_study("coco", tmp_path / "data")
    path = tmp_path / "data/annotations/captions_val2017.json"
    table = json.loads(path.read_text())
    few = {"images": table["images"][:1], "annotations": table["annotations"][:2]}
    path.write_text(json.dumps(few))
    with pytest.raises(DataError, match="1 pictures with a class and a text for the test pairs; expected two or more"):
        open_records(config).pairs("test")
    path.write_text(json.dumps({**few, "annotations": []}))
    with pytest.raises(DataError, match="no record with a picture and a text"):
        open_records(config)
    folder = write_colours(tmp_path / "folder", 12)
    with pytest.raises(DataError, match=r"12 records; expected enough to hold some out; set \[test\]"):
        open_records(replace(TINY, data="folder", dataset=folder))


def test_settings_of_data_bind_and_come_back(tmp_path: Path) -> None:
    changes = ["data=coco", "dataset.path=/a b", "dataset.split=val", "test.path=/c", "seeds=4"]
    config = load_study("study", changes)
    assert (config.dataset, config.test) == (DatasetConfig(path="/a b", split="val"), DatasetConfig(path="/c"))
    assert load_study("study", config.changes()) == config
    assert StudyConfig().changes() == []
    with pytest.raises(ConfigError, match="did you mean 'coco'"):
        load_study("study", ["data=cocoa"])
    with pytest.raises(ConfigError, match="dataset or test is set"):
        load_study("study", ["dataset.path=/a"])


def test_data_is_named_by_format_and_path_or_as_a_folder(tmp_path: Path) -> None:
    def named(data: str) -> tuple[str, str]:
        config = load_study("study", DataParam().convert(data, None, None))
        return config.data, config.dataset.path

    assert named("emoji") == ("emoji", "")
    assert named("coco:1.5") == ("coco", "1.5")  # a path, though a number too
    assert named('vqa:a "b" c') == ("vqa", 'a "b" c')
    assert named("webdataset:s3://there/{000..127}.tar") == ("webdataset", "s3://there/{000..127}.tar")
    assert named(str(tmp_path)) == ("folder", str(tmp_path))


# Cells


@pytest.mark.parametrize("data", ["vqa", "flickr30k"])
def test_cells_of_questions_and_of_captions_without_classes(
    data: str, tiny_checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: FAMILIES[name] for name in ("dmedge", "ViLBERT-style")}  # two encoders, and one stream
    monkeypatch.setattr("dmedge.study.scratch.FAMILIES", few)
    run = Study(tiny_study(data, tmp_path / "data"), tiny_checkpoint, tmp_path / "cells")
    variants = run_variants(run)
    assert next(iter(variants)) == run.design == "cross-attention"
    result = variants[run.design][0].result
    right = run.test.right(np.array(result["predicted"]))
    assert result["accuracy"] == pytest.approx(right.mean())
    retrieval, errors = run_retrieval(run), run_errors(run, variants[run.design]).result
    assert (retrieval is None) == (data == "vqa")
    attention = run_attention(run)
    assert attention is not None and attention.result["n"] == TINY.attention_pairs
    assert ("by_answer" in errors, "by_class" in errors) == (data == "vqa", data == "flickr30k")
    assert "by_language" not in errors and "hardest" not in errors
    for done in run_comparison(run).values():
        assert ("recall_at_1" in done.result) == (data == "flickr30k")
        assert 0 <= done.result["accuracy"] <= 1


def test_a_model_that_answers_is_asked_for_the_answer(tmp_path: Path) -> None:
    source = source_of("vqa", tmp_path / "data")
    config = replace(CONFIG, classes=0, answers=len(source.classes), concepts=0)
    answers = source.classes[::-1]  # an order of its own
    checkpoint = Checkpoint(tiny_model(config), tiny_tokenizer(tmp_path), Preprocess(CONFIG.image_size), (), answers)
    pairs, target = source.attention_pairs(checkpoint)
    assert (target, len(pairs.texts)) == ("class", TINY.attention_pairs)
    assert pairs.classes is not None
    test = source.pairs("test")
    assert [answers[number] for number in pairs.classes] == [source.classes[label] for label in test.label[:4]]
    assert study_attention(checkpoint, pairs, target, steps=1).regions.target == "class"


def test_an_imported_model_reads_its_own_tokens_and_has_no_attention(tmp_path: Path) -> None:
    imported = import_checkpoint(write_clip(tmp_path / "clip"), tmp_path / "imported")
    run = Study(tiny_study("flickr30k", tmp_path / "data"), imported, tmp_path / "cells")
    assert run_attention(run) is None
    rows = np.array([3, 0])
    patches, tokens, mask = run.test_features.draw(run.test.picture[rows], rows)
    for place, row in enumerate(rows):
        ids, own = map(torch.from_numpy, run.checkpoint.tokenizer.batch([run.test.texts[row]]))
        alone = run.checkpoint.model.encode_text(ids, own)[1][0, own[0].bool()]
        torch.testing.assert_close(tokens[place, : len(alone)], alone, atol=4e-3, rtol=4e-3)  # kept in float16
        assert int(mask[place].sum()) == len(alone)
    head = StudyHead(run.checkpoint.model, run.source.variants[0], run.members)
    assert head(patches, tokens, mask).shape == (2, 2)


@pytest.mark.slow
def test_the_whole_study_of_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a checkpoint without a fusion, which is soonest exported."""
    checkpoint = write_checkpoint(tmp_path / "plain", replace(CONFIG, text="bag", fusion="none", concepts=0))
    monkeypatch.setattr("dmedge.study.turns.ROUNDS", 3)
    config = tiny_study("coco", tmp_path / "data")
    options = [f"--set={change}" for change in TINY.changes()]
    out = tmp_path / "study"
    command = ["study", str(checkpoint.root), "--data", f"coco:{config.dataset.path}", *options, "--out", str(out)]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Likeliest class of a picture and its text is a true one (coco/val2017)" in done.stdout
    made = load_artifact(out, kind="evidence")
    figures = json.loads(made.file("study.json").read_text(encoding="utf-8"))
    assert figures["summary"]["accuracy"]["n"] == TINY.test_pairs
    assert "languages_near_english" not in figures["summary"]
    cells = figures["cells"]
    head = cells["head-cross-attention-0"]
    assert head["mean_average_precision"] == pytest.approx(np.mean(list(head["average_precision"].values())))
    assert {row["name"] for row in cells["errors"]["weakest"]} <= {"red", "green", "blue", "yellow", "white", "black"}
    assert cells["retrieval"]["n_texts"] == 2 * cells["retrieval"]["n_images"]
    assert cells["cost"]["texts"] == cells["retrieval"]["n_texts"]
    assert not {
        name for name in cells if name in ("long-text", "robustness-code-switching", "head-shipped-0", "attention")
    }
    page, text = (made.file(name).read_text(encoding="utf-8") for name in ("study.html", "study.md"))
    for words in ("Without one modality", "Beside other designs", "mean average precision", "Weakest classes"):
        assert words in page and words in text
    assert "have run neither on the sets themselves" in text
    assert "both are left out here" in text
    assert "no cross-attention, so there is nothing to look at" in text
    assert "emoji," not in text
