"""Questions about pictures, and classes of pictures, as evaluation data: from VQA v2 and from folders of one's own."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dmedge.artifact import Artifact
from dmedge.cli.main import cli
from dmedge.data.evalset import folder_evalset
from dmedge.data.questions import question_evalset
from dmedge.data.readers import read_dataset
from dmedge.data.records import DatasetConfig
from dmedge.data.vqa import answer_scores, given_scores
from dmedge.errors import DataError
from dmedge.evidence.choices import UNKNOWN, true_classes
from dmedge.evidence.leakage import data_digest
from dmedge.evidence.report import render
from dmedge.evidence.report_data import collect
from dmedge.evidence.report_markdown import render_markdown
from dmedge.export.bundle import ExportConfig, export_bundle
from dmedge.flow.evaluate import format_of, open_evalset
from dmedge.model.checkpoint import load_checkpoint
from tests.forged import altered, tensor_changed
from tests.tiny_answers import QUESTIONS, answering, asked
from tests.tiny_bundles import tiny_checkpoint
from tests.tiny_records import COLOURS, SIZE, write_coco, write_flickr30k, write_picture

__all__ = ["answering", "asked", "tiny_checkpoint"]


def run(*command: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, command)))


@pytest.fixture(scope="module")
def bundle(answering: Artifact) -> Artifact:
    config = ExportConfig(target="linux-x86_64", runtimes=("onnxruntime",), variant="fused")
    return export_bundle(answering, config, answering.sibling("answering-fused"))


def verified(
    bundle: Artifact, data: Path, baseline: Artifact, out: Path, *limits: str
) -> tuple[Result, dict[str, Any]]:
    options = [part for limit in ("program_size_ratio=1.1", *limits) for part in ("--budget", limit)]
    done = run("verify", bundle.root, "--baseline", baseline.root, "--data", data, *options, "--out", out)
    return done, json.loads((out / "verify.json").read_text("utf-8"))


def test_a_folder_of_vqa_is_answered_by_both_sides(
    bundle: Artifact, answering: Artifact, asked: Path, tmp_path: Path
) -> None:
    out = tmp_path / "verify"
    done, report = verified(bundle, asked, answering, out, "vqa_accuracy_drop=0.01")
    assert done.exit_code == 0, done.stderr
    assert (report["schema_version"], report["data"]["name"]) == (2, "vqa/val2014")
    assert report["data"]["training_checked"] == "by content"
    assert set(report["heads"]) == {"answer"}
    head = report["heads"]["answer"]
    found = head["figures"]["vqa_accuracy"]
    assert (head["n"], head["clusters"], head["agreement"]["value"], head["languages"]) == (QUESTIONS, QUESTIONS, 1, {})
    history: Any = answering.manifest.summary["validation"]
    trained = history[-1]["vqa_accuracy"]  # by another way through the model
    assert found["artifact"] == found["baseline"] == pytest.approx(trained, abs=1e-6)
    assert found["change"] == {"value": 0, "low": 0, "high": 0}
    lines = {line["name"]: line["verdict"] for line in report["budgets"]}
    assert lines["vqa_accuracy_drop"] == "not enough data"  # 96 questions could not have shown a loss of 1 %
    assert "VQA accuracy" in render(collect(out))
    page = render_markdown(collect(out))
    assert f"| answer | VQA accuracy | {QUESTIONS} |" in page and "--data vqa:FOLDER" in page
    told = run("eval", answering.root, "--data", f"vqa:{asked}", "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout)["vqa_accuracy"]["value"] == found["baseline"]
    assert f"{QUESTIONS} questions about {QUESTIONS} images" in run("eval", answering.root, "--data", asked).stdout


def test_an_answer_that_is_never_given_any_more_fails(
    bundle: Artifact, answering: Artifact, asked: Path, tmp_path: Path
) -> None:
    never = -100 * (np.array(load_checkpoint(answering).answers) == "no").astype(np.float32)
    shifted = tensor_changed("fuse_pair", "fusion.answer.bias", lambda bias: bias + never)
    done, report = verified(
        altered(bundle, tmp_path / "shifted", shifted), asked, answering, tmp_path / "v", "vqa_accuracy_drop=0.02"
    )
    assert done.exit_code == 3
    change = report["heads"]["answer"]["figures"]["vqa_accuracy"]["change"]
    assert change["low"] < change["value"] < change["high"] < -0.1  # every second answer was yes or no, most of them no
    failed = {line["name"] for line in report["budgets"] if line["verdict"] == "fail"}
    assert failed == {"parity_error_ratio", "choice_agreement", "vqa_accuracy_drop"}


def test_what_has_no_answers_is_asked_nothing(tiny_checkpoint: Artifact, asked: Path) -> None:
    refused = run("eval", tiny_checkpoint.root, "--data", asked)
    assert refused.exit_code == 1
    assert "has no head that answers, and vqa/val2014 asks questions" in " ".join(refused.stderr.split())


def test_questions_about_one_picture_are_one_cluster(asked: Path) -> None:
    whole = read_dataset("vqa", DatasetConfig(path=str(asked), split="val"))
    some = question_evalset(whole, 20, seed=1)
    assert (len(some.texts), len(some.answers), len(some.images)) == (20, 20, 20)
    assert data_digest(some) == data_digest(question_evalset(whole, 20, seed=1))
    assert data_digest(some) != data_digest(replace(some, answers=some.answers[::-1]))

    class Twice:
        name, labels, answers = "twice", (), whole.answers

        def __len__(self) -> int:
            return 2 * len(whole)

        def __getitem__(self, row: int) -> Any:
            return replace(whole[row // 2], key=str(row))

    both = question_evalset(Twice())  # type: ignore[arg-type]  # no languages by record are asked for
    assert (len(both.texts), len(both.clusters)) == (2 * QUESTIONS, QUESTIONS)
    assert both.text_image.tolist() == [row // 2 for row in range(2 * QUESTIONS)]
    assert format_of(str(asked)) == format_of(f"vqa:{asked}") == "vqa"
    with pytest.raises(DataError, match="no such folder, and no data format 'vga'; did you mean 'vqa'"):
        open_evalset("vga:somewhere", style="")
    assert format_of("emoji") is format_of(str(asked / "val2014")) is None


def write_folder(folder: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    for number, name in enumerate(dict.fromkeys(row[0] for row in rows)):
        write_picture(folder / "images" / name, list(COLOURS)[number % len(COLOURS)], number)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return folder


ASKED = (
    ("a.png", "en", "What colour is it?", "Red | red|orange"),
    ("a.png", "de", "Welche Farbe hat es?", "red"),
    ("b.png", "en", "Is it red?", "no"),
    ("b.png", "de", "Ist es rot?", "no"),
)


def test_questions_of_ones_own_are_answered_by_language(bundle: Artifact, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "own", ["image", "language", "text", "answer"], ASKED)
    data = folder_evalset(folder)
    assert [*data.answers] == [{"red": 2 / 3, "orange": 1 / 3}, {"red": 1}, {"no": 1}, {"no": 1}]
    assert data.subset(np.array([False, True, True, False])).answers == data.answers[1:3]
    done = run("verify", bundle.root, "--data", folder, "--budget", "program_size_ratio=1.1", "--out", tmp_path / "v")
    assert done.exit_code == 0, done.stderr
    assert "VQA accuracy, de" in done.stdout and "VQA accuracy, en" in done.stdout
    head = json.loads((tmp_path / "v" / "verify.json").read_text("utf-8"))["heads"]["answer"]
    assert {tag: (row["n"], row["clusters"]) for tag, row in head["languages"].items()} == {"de": (2, 2), "en": (2, 2)}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_the_folder_that_is_verified_is_read_alike_to_train_on(suffix: str, tmp_path: Path) -> None:
    header = ["image", "language", "text", "answer", "label"]
    labelled = [(*row, "apple" if row[0] == "a.png" else "") for row in ASKED]
    folder = write_folder(tmp_path / "own", header, labelled)
    wanted, format, path = folder_evalset(folder), "folder", folder
    if suffix != "csv":  # where answers may be a list
        (folder / "captions.csv").unlink()
        rows = [dict(zip(header, row, strict=True)) | {"answer": row[3].split("|")} for row in labelled]
        if suffix == "parquet":
            parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
            parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "captions.parquet")
            assert folder_evalset(folder).answers == wanted.answers
        else:
            format, path = "table", folder / "images/asked.jsonl"
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    data = read_dataset(format, DatasetConfig(path=str(path)))
    records = [data[row] for row in range(len(data))]
    assert tuple(text for record in records for text in record.texts) == wanted.texts
    assert tuple(tag for record in records for tag in record.languages) == wanted.languages
    assert tuple(record.answers for record in records) == wanted.answers
    assert data.answers == ("red", "no", "orange")  # the most frequent first
    assert (data.labels, [record.labels for record in records]) == (("apple",), [(0,), (0,), (), ()])
    assert len({record.key for record in records}) == len(records)


@pytest.mark.parametrize("format", ["coco", "flickr30k", "table"])
def test_formats_that_are_trained_on_are_evaluated_too(format: str, tmp_path: Path) -> None:
    if format == "table":
        folder = write_folder(tmp_path / "own", ["image", "text", "label"], [("a.png", "x", "apple")])
        path = (folder / "captions.csv").rename(folder / "images/a.csv")  # beside its pictures
    else:
        path = Path({"coco": write_coco, "flickr30k": write_flickr30k}[format](tmp_path).path)
    data = open_evalset(f"{format}:{path}", style="")
    assert (len(data.images), data.labels) == {"coco": (40, ()), "flickr30k": (8, ()), "table": (1, ("apple",))}[format]
    assert data.images[0].size == (SIZE, SIZE) and not data.answers


def test_a_question_without_an_answer_is_an_error(tmp_path: Path) -> None:
    rows = [*ASKED, ("c.png", "en", "And this?", " ")]
    with pytest.raises(DataError, match="caption row 5: no answer; expected one, as other rows have; fill it in"):
        folder_evalset(write_folder(tmp_path / "own", ["image", "language", "text", "answer"], rows))
    config = DatasetConfig(path=str(tmp_path / "own"))
    with pytest.raises(
        DataError, match=r"1 of 5 records .*: 1 no answer, as other rows have \(first: c.png, question 1\)"
    ):
        read_dataset("folder", config)
    assert len(read_dataset("folder", replace(config, max_bad_share=0.2))) == len(ASKED)


def test_few_people_count_in_full() -> None:
    """Leaving each of one or two people out, as the official accuracy of ten does, would find nobody right."""
    assert answer_scores(["Red"]) == {"Red": 0.0}
    assert given_scores(["Red"]) == given_scores(["red", "Red"]) == {"red": 1.0}
    assert given_scores(["a red", "blue"]) == {"red": 0.5, "blue": 0.5}
    assert given_scores(["red"] * 4 + ["blue"]) == {"red": 1.0, "blue": pytest.approx(1 / 3)}


def test_labels_of_ones_own_are_the_truth_of_the_class(tmp_path: Path) -> None:
    labels = {"a.png": ("apple", "apple"), "b.png": ("", ""), "c.png": ("pear", "")}
    rows = [(name, "en", f"text {i}", label) for name, both in labels.items() for i, label in enumerate(both)]
    data = folder_evalset(write_folder(tmp_path / "own", ["image", "language", "text", "label"], rows))
    assert (data.labels, data.answers) == (("apple", "", "pear"), ())
    assert true_classes(("pear", "apple"), data).tolist() == [1, UNKNOWN, 0]
    plain = write_folder(tmp_path / "plain", ["image", "language", "text"], [row[:3] for row in rows])
    assert folder_evalset(plain).labels == ()
    several = [*rows, ("c.png", "en", "another", "fruit")]  # no one class of a picture can be right then
    assert folder_evalset(write_folder(tmp_path / "two", ["image", "language", "text", "label"], several)).labels == ()
