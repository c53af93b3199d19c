"""COCO captions, with the object classes of the instances as labels; the original JSON files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmedge.data.annotations import (
    RecordTable,
    check_folder,
    find_file,
    find_pictures,
    list_in,
    load_json,
    usable_texts,
)
from dmedge.data.pictures import BadRecords
from dmedge.data.records import DatasetConfig, Record


def read_coco(config: DatasetConfig) -> RecordTable:
    """One record for every picture that has a caption.

    `path` is captions_{split}2017.json (or 2014), or the folder with it; the instances file beside it, if
    there is one, gives the labels. `images` is the folder with the JPEGs, or the one above.

    Raises:
        DataError: a file or folder is missing or is another one, or too many captions cannot be used.

    Source: Lin et al. 2014, arXiv:1405.0312; Chen et al. 2015, arXiv:1504.00325.
    """
    names = [f"captions_{config.split}{year}.json" for year in ("2017", "2014", "")]
    path = find_file(config, names, folders=("", "annotations"))
    part = path.stem.removeprefix("captions_")
    root = path.parent.parent
    folder = find_pictures(
        config, [root / part, path.parent / part, root / "images" / part, root / "images"], inside=[part]
    )
    content = load_json(path, _reduce)
    bad = BadRecords(config.max_bad_share, str(path))
    captions = _captions(list_in(content, "annotations", path), bad)
    classes, of_image = _labels(path.with_name(f"instances_{part}.json"))
    records = []
    for image in list_in(content, "images", path):
        if not isinstance(image, tuple):
            bad.saw()
            bad.add(str(image)[:80], "image without id or file_name")
        elif image[0] in captions:
            number, file_name = image
            texts, languages = usable_texts(file_name, captions.pop(number), None, config.language, bad)
            if texts:
                labels = of_image.get(number, ())
                records.append(Record(str(number), folder / file_name, texts, languages, labels))
    _add_orphans(captions, bad)
    bad.finish()
    check_folder(folder, (record.image for record in records), path)
    return RecordTable(f"coco/{part}", tuple(records), classes)


def _captions(annotations: list[Any], bad: BadRecords) -> dict[int, list[str]]:
    texts: dict[int, list[str]] = {}
    for annotation in annotations:
        if isinstance(annotation, tuple):
            texts.setdefault(annotation[0], []).append(annotation[1])
        else:
            bad.saw()
            bad.add(str(annotation)[:80], "annotation without image_id or caption")
    return texts


def _add_orphans(captions: Mapping[int, list[str]], bad: BadRecords) -> None:
    for number, texts in captions.items():
        bad.saw(len(texts))
        for _ in texts:
            bad.add(f"image {number}", "caption of an unknown image")


def _labels(path: Path) -> tuple[tuple[str, ...], dict[int, tuple[int, ...]]]:
    """Names of the classes by category id, and indexes of those that occur in each image."""
    if not path.is_file():
        return (), {}
    content = load_json(path, _reduce)
    categories = sorted(
        (category["id"], str(category["name"]))
        for category in list_in(content, "categories", path)
        if isinstance(category, dict) and isinstance(category.get("id"), int) and "name" in category
    )
    index = {number: place for place, (number, _) in enumerate(categories)}
    found: dict[int, set[int]] = {}
    for annotation in list_in(content, "annotations", path):
        if isinstance(annotation, tuple) and isinstance(annotation[1], int) and annotation[1] in index:
            found.setdefault(annotation[0], set()).add(index[annotation[1]])
    shared = {labels: labels for labels in map(tuple, map(sorted, found.values()))}
    return tuple(name for _, name in categories), {image: shared[tuple(sorted(of))] for image, of in found.items()}


def _reduce(entry: dict[str, Any]) -> Any:
    """What is needed of one object of the file, as a tuple; other objects stay."""
    if isinstance(entry.get("image_id"), int):
        for key in ("caption", "category_id"):
            if key in entry:
                return entry["image_id"], entry[key]
    if isinstance(entry.get("id"), int) and isinstance(entry.get("file_name"), str):
        return entry["id"], entry["file_name"]
    return entry
