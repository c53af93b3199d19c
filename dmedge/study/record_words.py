"""How the page of a study speaks of records."""

from collections.abc import Mapping

from dmedge.study.record_pairs import Question
from dmedge.study.source import Words

STANDING = (
    "The readers of COCO, Flickr30k and VQA v2 and this study of them are tested on small files in their formats; "
    "dmedge's authors have run neither on the sets themselves, and published figures, which rest on models trained for "
    "these sets from end to end, cannot be compared with these."
)
TASKS: Mapping[str, str] = {
    "one": "The class of a record, one of {n}, from its picture and one of its texts.",
    "several": "Which of {n} classes a picture holds, from the picture and one of its texts. Accuracy counts a pair as "
    "right where the likeliest class is a true one; precision, recall and F1 are of the classes with a probability "
    "above a half, macro as means over the classes that occur, micro over all decisions.",
    "answer": "The answer to a question about a picture, one of the {n} most frequent ones of the training data. "
    "Accuracy is the official one of VQA, min(n / 3, 1) of the people who gave the answer, averaged over the ten "
    "ways to leave one out; F1, precision and recall are those of the answer that most people gave. A question "
    "whose answers are all others counts, and is never right.",
    "match": "Whether a text belongs to a picture: half of the pairs hold a text of another picture. The data has "
    "neither classes nor answers, so this is all that can be asked of a pair.",
}
HEADLINES: Mapping[str, str] = {
    "one": "Class of a picture and its text",
    "several": "Likeliest class of a picture and its text is a true one",
    "answer": "Answer to a question about a picture",
    "match": "Whether a text belongs to a picture",
}


def record_words(question: Question, train: str, test: str, *, is_standard: bool) -> Words:
    """The words for one task on records.

    Args:
        train: name of the data that is trained on.
        test: name of the data that is judged on.
        is_standard: whether they are COCO, Flickr30k or VQA v2.
    """
    task = "match" if question.is_match else question.kind
    return Words(
        data=f"{test}, heads trained on {train}",
        sample="picture",
        samples="pictures",
        headline=f"{HEADLINES[task]} ({test})",
        task=TASKS[task].format(n=len(question.classes)),
        design="Cross-attention",
        heads="Heads with the joint vector",
        found=f"in {test}",
        gallery=f"Pictures of {test} and all their texts.",
        no_gallery="Left out: a question does not say what its picture shows, so neither is searched by the other.",
        no_more="Long descriptions and texts switched between languages are made of the words that the embedded data "
        "has in 100 locales, so both are left out here; so is the count of languages near English, unless the data has "
        "texts in English and in others.",
        standing=STANDING if is_standard else "",
    )
