"""VQA v2: questions about pictures, the answers of ten people each, and the official accuracy."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import Any

from dmedge.data.annotations import (
    check_folder,
    find_file,
    find_pictures,
    list_in,
    load_json,
    shared,
    text_problem,
    usable_texts,
)
from dmedge.data.pictures import BadRecords
from dmedge.data.records import DatasetConfig, Record
from dmedge.errors import DataError

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # the official code removes no more
_DIGIT_COMMA = re.compile(r"\d,\d")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"} | {
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
# The words with apostrophes that answers are mended to; each stands for itself less one of its apostrophes.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_MENDED = {"somebody'd": "somebodyd"} | {
    word[: mark.start()] + word[mark.end() :]: word for word in _CONTRACTIONS.split() for mark in re.finditer("'", word)
}


def _tidy(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=65536)
def normalise_answer(answer: str) -> str:
    """An answer as the official evaluation compares it.

    Punctuation goes, or becomes a space between letters; letters become small; number words become
    digits; articles go; contractions get their apostrophe back.

    Source: the evaluation code of visualqa.org, of which this has the quirks: one comma between digits
    removes all punctuation without a space, and "somebody'd" loses its apostrophe.
    """
    answer = _tidy(answer)
    text = answer
    for mark in _PUNCTUATION:
        drops = f"{mark} " in answer or f" {mark}" in answer or _DIGIT_COMMA.search(answer)
        text = text.replace(mark, "" if drops else " ")
    words = (_NUMBERS.get(word, word) for word in _PERIOD.sub("", text, count=_PERIODS).lower().split())
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


def _form(answers: Sequence[str]) -> Callable[[str], str]:
    """What the official code compares: answers as they are where all people agree, else normalised ones."""
    return normalise_answer if len(set(map(_tidy, answers))) > 1 else _tidy


def _accuracy(agree: int, people: int) -> float:
    """Mean over the people of min(others that agree / 3, 1), each person being left out in turn."""
    left_out_agrees, left_out_differs = min((agree - 1) / 3, 1), min(agree / 3, 1)
    return (agree * left_out_agrees + (people - agree) * left_out_differs) / people


def vqa_accuracy(predicted: str, answers: Sequence[str]) -> float:
    """Official accuracy of one predicted answer, in 0..1.

    Args:
        answers: of all people that were asked, ten in VQA v2, as they stand in the annotations.

    Raises:
        ValueError: there are no answers.

    Source: Antol et al. 2015, arXiv:1505.00468, and the evaluation code of visualqa.org.
    """
    if not answers:
        raise ValueError("no answers; expected those of ten people")
    form = _form(answers)
    return _accuracy(sum(form(answer) == form(predicted) for answer in answers), len(answers))


def answer_scores(answers: Sequence[str]) -> dict[str, float]:
    """Every answer that somebody gave with its official accuracy: soft targets for training.

    An answer is normalised, unless all people gave the very same one.
    """
    agree = Counter(map(_form(answers), answers))
    return {answer: _accuracy(people, len(answers)) for answer, people in agree.items()}


def given_scores(answers: Sequence[str]) -> dict[str, float]:
    """Every answer that somebody gave, normalised, with min(people / 3, 1); of one or two people, with their share.

    For questions of one's own: where few were asked, leaving each out in turn, as `answer_scores` does, would find
    nobody right.
    """
    agree = Counter(map(normalise_answer, answers))
    return {answer: min(people / min(3, len(answers)), 1.0) for answer, people in agree.items()}


def answer_vocabulary(counts: Iterable[tuple[str, int]], size: int) -> tuple[str, ...]:
    """The `size` most frequent normalised answers, the most frequent first.

    Args:
        counts: answers as `answer_scores` spells them, with the number of people; one answer may occur again.
    """
    total: Counter[str] = Counter()
    for answer, count in counts:
        total[answer] += count
    usable = ((-count, answer) for answer, count in total.items() if answer and normalise_answer(answer) == answer)
    return tuple(answer for _, answer in sorted(usable)[:size])


@dataclass(frozen=True, slots=True)
class _Question:
    number: int
    image: int
    text: str
    scores: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class VqaDataset:
    """One record for every question: its picture, the question, and the scores of its answers."""

    name: str
    folder: Path
    subset: str  # such as train2014, part of the names of the pictures
    language: str
    questions: tuple[_Question, ...]
    answers: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Record:
        """One record; its picture may still prove unreadable."""
        question = self.questions[index]
        image = self.folder / f"COCO_{self.subset}_{question.image:012d}.jpg"
        languages = shared((self.language,))
        return Record(str(question.number), image, (question.text,), languages, answers=dict(question.scores))

    def text_languages(self) -> tuple[tuple[str, ...], ...]:
        """Languages of the texts of every record."""
        return (shared((self.language,)),) * len(self)


def read_vqa(config: DatasetConfig) -> VqaDataset:
    """One record for every question.

    `path` is the folder with v2_OpenEnded_mscoco_{split}2014_questions.json and
    v2_mscoco_{split}2014_annotations.json, or the file of the questions; `images` is the folder with
    COCO_{split}2014_000000000001.jpg and so on, or the one above. The vocabulary is that of this split:
    take it from the training split for all of them.

    Raises:
        DataError: a file or folder is missing or is another one, or too many questions cannot be used.

    Source: Goyal et al. 2017, arXiv:1612.00837.
    """
    path = find_file(config, [f"v2_OpenEnded_mscoco_{config.split}2014_questions.json"])
    content = load_json(path, _reduce)
    subset = str(content.get("data_subtype") or f"{config.split}2014")
    folder = find_pictures(config, [path.parent / subset, path.parent / "images"], inside=[subset])
    annotations = path.with_name(f"v2_mscoco_{subset}_annotations.json")
    if not annotations.is_file():
        raise DataError(f"{path.parent}: no {annotations.name}; expected it beside {path.name}; fetch it too")
    scores, counts, problems = _scores(list_in(load_json(annotations, _reduce), "annotations", annotations))
    bad = BadRecords(config.max_bad_share, str(path))
    questions = []
    for entry in list_in(content, "questions", path):
        number, image, question = entry if isinstance(entry, tuple) else (str(entry)[:80], 0, None)
        if number in scores:
            texts, _ = usable_texts(f"question {number}", question, None, config.language, bad)
            questions += [_Question(number, image, text, scores[number]) for text in texts]
        else:
            bad.saw()
            bad.add(f"question {number}", problems.get(number, "no answers"))
    bad.finish()
    vocabulary = answer_vocabulary(counts.items(), config.answers)
    data = VqaDataset(f"vqa/{subset}", folder, subset, config.language, tuple(questions), vocabulary)
    if not questions:
        raise DataError(f"{path}: no question with answers; expected at least one; fetch both files again")
    check_folder(folder, (data[i].image for i in range(len(data))), path)
    return data


Scores = tuple[tuple[str, float], ...]


def _scores(annotations: list[Any]) -> tuple[dict[int, Scores], Counter[str], dict[int, str]]:
    """By question: scores of its answers, or why there are none; and how many people gave each answer in all."""
    scores: dict[int, Scores] = {}
    counts: Counter[str] = Counter()
    problems: dict[int, str] = {}
    same: dict[Scores, Scores] = {}
    for number, answers in (annotation for annotation in annotations if isinstance(annotation, tuple)):
        found_problems = {text_problem(answer) for answer in answers} - {"", "empty text"}  # people may write nothing
        if found_problems:
            problems[number] = min(found_problems).replace("text", "answer", 1)
        elif answers:
            counts.update(map(intern, map(_form(answers), answers)))
            found = tuple((intern(answer), score) for answer, score in answer_scores(answers).items())
            scores[number] = same.setdefault(found, found)
    return scores, counts, problems


def _reduce(entry: dict[str, Any]) -> Any:
    """An answer as its text, questions and annotations as tuples; other objects stay."""
    if "answer_id" in entry and isinstance(entry.get("answer"), str):
        return intern(entry["answer"])
    if isinstance(entry.get("question_id"), int):
        if isinstance(entry.get("answers"), list):
            return entry["question_id"], tuple(entry["answers"])
        if isinstance(entry.get("image_id"), int) and "question" in entry:
            return entry["question_id"], entry["image_id"], entry["question"]
    return entry
