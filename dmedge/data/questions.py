"""Questions about pictures as an evaluation set: a random choice of them, and the pictures that they are about."""

from collections.abc import Iterator

import numpy as np

from dmedge.data.evalset import EvalSet
from dmedge.data.pictures import BadRecords, RecordImages, check_record_image
from dmedge.data.records import Dataset, Record
from dmedge.errors import DataError

QUESTIONS = 2000  # of each language, unless another number is asked for


def question_evalset(
    dataset: Dataset, limit: int | None = None, *, seed: int = 0, max_megapixels: float = 64.0
) -> EvalSet:
    """Some questions of a data set with answers. Several about one picture are of one cluster.

    Args:
        dataset: records of one question each, with the scores of its answers.
        limit: of the questions [default: `QUESTIONS`].
        seed: of the choice.
        max_megapixels: of a picture; a question about a larger one, or one that cannot be read, is named in the log
            and left out.

    Raises:
        DataError: no record has an answer and a picture that can be read.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(dataset))[: limit or QUESTIONS])
    place: dict[object, int] = {}
    pictures: list[int] = []
    asked: list[tuple[int, Record]] = []
    for row, record in _usable(dataset, rows.tolist(), max_megapixels):
        if record.image not in place:
            place[record.image] = len(pictures)
            pictures.append(row)
        asked.append((place[record.image], record))
    if not asked:
        raise DataError(f"{dataset.name}: no question with answers and a picture; expected at least one; mend the data")
    return EvalSet(
        name=dataset.name,
        images=RecordImages(dataset, pictures, max_megapixels),
        clusters=tuple(dataset[row].key for row in pictures),
        texts=tuple(record.texts[0] for _, record in asked),
        text_image=np.array([image for image, _ in asked], np.int64),
        languages=tuple(record.languages[0] for _, record in asked),
        answers=tuple(record.answers for _, record in asked),
    )


def _usable(dataset: Dataset, rows: list[int], max_megapixels: float) -> Iterator[tuple[int, Record]]:
    bad, checked = BadRecords(1.0, dataset.name), set[object]()
    for row in rows:
        record = dataset[row]
        if not (record.texts and record.answers):
            continue
        bad.saw()
        try:
            if record.image not in checked:
                check_record_image(record.image, max_megapixels)
            checked.add(record.image)
        except DataError as error:
            bad.add(f"question {record.key}", str(error))
        else:
            yield row, record
    bad.finish()
