"""The official VQA accuracy, worked out by hand, and the reader of VQA v2."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dmedge.data.readers import read_dataset
from dmedge.data.vqa import answer_scores, answer_vocabulary, normalise_answer, read_vqa, vqa_accuracy
from dmedge.errors import DataError
from tests.tiny_datasets import FIXTURES, write_dataset

TEN = ["yes"] * 3 + ["no"] * 2 + ["2 dogs", "two dogs", "the dog", "dont know", "don't know"]


@pytest.mark.parametrize(
    ("agree", "accuracy"),
    [
        # Leaving out each of ten people in turn: `agree` times one who agrees, else one who does not.
        (0, 0.0),
        (1, 0.3),  # (1 * min(0/3, 1) + 9 * min(1/3, 1)) / 10 = 3/10
        (2, 0.6),  # (2 * 1/3 + 8 * 2/3) / 10 = (2 + 16) / 30
        (3, 0.9),  # (3 * 2/3 + 7 * 1) / 10
        (4, 1.0),  # (4 * 1 + 6 * 1) / 10
        (9, 1.0),
    ],
)
def test_accuracy_is_the_mean_over_nine_people(agree: int, accuracy: float) -> None:
    answers = ["red"] * agree + [f"other {number}" for number in range(10 - agree)]
    assert vqa_accuracy("red", answers) == pytest.approx(accuracy)
    assert vqa_accuracy("red", answers[::-1]) == pytest.approx(accuracy)


def test_accuracy_by_leaving_out_one_after_the_other() -> None:
    for predicted in ("yes", "no", "2 dogs", "dog", "don't know", "cat"):
        form = [normalise_answer(answer) for answer in TEN]
        left_out = [min((form[:i] + form[i + 1 :]).count(predicted) / 3, 1) for i in range(10)]
        assert vqa_accuracy(predicted, TEN) == pytest.approx(sum(left_out) / 10)


def test_answers_are_compared_as_they_are_where_all_agree() -> None:
    assert vqa_accuracy("The Dog", ["dog"] * 10) == 0.0
    assert vqa_accuracy(" dog\n", ["dog"] * 10) == 1.0
    assert vqa_accuracy("The Dog", ["dog"] * 9 + ["Dog"]) == 1.0


def test_accuracy_needs_answers() -> None:
    with pytest.raises(ValueError, match="no answers; expected those of ten people"):
        vqa_accuracy("yes", [])


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("Yes!", "yes"),
        ("a cat and the dog", "cat and dog"),
        ("two", "2"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("it's", "it's"),
        ("oclock", "o'clock"),
        ("off-white", "off white"),  # between letters it becomes a space
        ("red, white", "red white"),  # beside a space it goes
        ("1,000", "1000"),  # a comma between digits: all punctuation goes
        ("1,000 - a/b", "1000 ab"),
        ("3.5", "3.5"),  # before a digit a full stop stays
        ("3. ", "3"),
        ("St. Bernard", "st bernard"),
        ("line\nbreak\ttab", "line break tab"),
        ("what's [this]?", "what's this"),
        ("somebody'd", "somebodyd"),  # an oddity of the official table
        ("Größe", "größe"),
        ("", ""),
    ],
)
def test_normalised_answers(answer: str, normalised: str) -> None:
    assert normalise_answer(answer) == normalised
    assert normalise_answer(normalised) == normalised


def test_scores_are_the_accuracy_of_each_answer() -> None:
    # yes 3 people; no 2; "2 dogs" and "two dogs" 2; "the dog" 1; "dont know" and "don't know" 2
    scores = {"yes": 0.9, "no": 0.6, "2 dogs": 0.6, "dog": 0.3, "don't know": 0.6}
    assert answer_scores(TEN) == pytest.approx(scores)
    assert all(vqa_accuracy(answer, TEN) == score for answer, score in answer_scores(TEN).items())


def test_vocabulary_is_the_most_frequent_normalised_answers() -> None:
    counts = [("yes", 5), ("no", 7), ("blue", 3), ("The Dog", 9), ("", 9), ("blue", 3), ("2", 5)]
    assert answer_vocabulary(counts, 3) == ("no", "blue", "2")  # 7, 3 + 3, 5; "2" is before "yes"
    assert answer_vocabulary(counts, 10) == ("no", "blue", "2", "yes")


def test_reader_gives_a_record_for_every_question(tmp_path: Path) -> None:
    data = read_dataset("vqa", write_dataset("vqa", tmp_path / "vqa"))
    assert data.name == "vqa/train2014"
    assert [data[index].key for index in range(4)] == ["458752000", "458752001", "262146000", "524291000"]
    assert data[2].texts == ("What color is the snow?",)
    assert data[2].image == tmp_path / "vqa/train2014/COCO_train2014_000000262146.jpg"
    # people: pitcher 10, white 6 + 1, net 7 + 1, yes 3, then those of two by the alphabet
    assert data.answers[:7] == ("pitcher", "net", "white", "yes", "2 dogs", "don't know", "no")
    assert data[0].answers == pytest.approx({"net": 1.0, "netting": 0.3, "mesh": 0.3})
    assert data[3].answers == pytest.approx(answer_scores(TEN))
    assert data.text_languages() == (("en",),) * 4


def test_score_of_every_answer_of_the_vocabulary_is_its_official_accuracy(tmp_path: Path) -> None:
    data = read_vqa(write_dataset("vqa", tmp_path / "vqa"))
    content = json.loads((FIXTURES / "vqa/v2_mscoco_train2014_annotations.json").read_text("utf-8"))
    given = {
        str(annotation["question_id"]): [answer["answer"] for answer in annotation["answers"]]
        for annotation in content["annotations"]
    }
    for index in range(len(data)):
        for answer in data.answers:
            assert data[index].answers.get(answer, 0.0) == vqa_accuracy(answer, given[data[index].key])


def test_the_vocabulary_is_as_large_as_the_recipe_says(tmp_path: Path) -> None:
    assert read_vqa(write_dataset("vqa", tmp_path / "vqa", answers=2)).answers == ("pitcher", "net")


def test_questions_without_answers_are_bad_records(tmp_path: Path) -> None:
    config = write_dataset("vqa", tmp_path / "vqa", max_bad_share=0.3)
    path = tmp_path / "vqa" / "v2_mscoco_train2014_annotations.json"
    content = json.loads(path.read_text("utf-8"))
    del content["annotations"][1]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert [read_vqa(config)[index].key for index in range(3)] == ["458752000", "262146000", "524291000"]
    with pytest.raises(DataError, match=r"1 no answers \(first: question 458752001\)"):
        read_vqa(replace(config, max_bad_share=0.2))


def test_answers_in_a_wrong_encoding_are_a_bad_record(tmp_path: Path) -> None:
    config = write_dataset("vqa", tmp_path / "vqa", max_bad_share=0.3)
    path = tmp_path / "vqa" / "v2_mscoco_train2014_annotations.json"
    path.write_bytes(path.read_bytes().replace(b'"netting"', b'"n\xe9tting"'))
    assert len(read_vqa(config)) == 3
    with pytest.raises(DataError, match=r"1 answer is not UTF-8 \(first: question 458752000\)"):
        read_vqa(replace(config, max_bad_share=0.2))


def test_both_files_are_needed(tmp_path: Path) -> None:
    config = write_dataset("vqa", tmp_path / "vqa")
    (tmp_path / "vqa" / "v2_mscoco_train2014_annotations.json").unlink()
    with pytest.raises(DataError, match="no v2_mscoco_train2014_annotations.json; expected it beside v2_OpenEnded"):
        read_vqa(config)
    with pytest.raises(DataError, match="none of v2_OpenEnded_mscoco_val2014_questions.json; expected"):
        read_vqa(replace(config, split="val"))
