"""Flickr30k with the Karpathy split: dataset_flickr30k.json."""

from typing import Any

from dmedge.config import near_match
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
from dmedge.errors import DataError


def read_flickr30k(config: DatasetConfig) -> RecordTable:
    """One record for every picture of the split.

    `path` is dataset_flickr30k.json, or the folder with it; `images` is the folder with the JPEGs.

    Raises:
        DataError: a file, a folder or the split is missing, or too many captions cannot be used.

    Source: Young et al. 2014, TACL 2; split of Karpathy and Fei-Fei 2015, arXiv:1412.2306.
    """
    path = find_file(config, ["dataset_flickr30k.json"])
    guesses = [path.parent / name for name in ("flickr30k-images", "flickr30k_images", "images")]
    folder = find_pictures(config, guesses)
    images = list_in(load_json(path, _reduce), "images", path)
    bad = BadRecords(config.max_bad_share, str(path))
    records = []
    splits: set[str] = set()
    for image in images:
        if not isinstance(image, tuple):
            bad.saw()
            bad.add(str(image)[:80], "image without filename, split or sentences")
            continue
        file_name, split, sentences = image
        splits.add(split)
        if split == config.split:
            texts, languages = usable_texts(file_name, sentences, None, config.language, bad)
            if texts:
                records.append(Record(file_name, folder / file_name, texts, languages))
    if config.split not in splits:
        raise DataError(f"{path}: no split {config.split!r}{near_match(config.split, sorted(splits))}")
    bad.finish()
    check_folder(folder, (record.image for record in records), path)
    return RecordTable(f"flickr30k/{config.split}", tuple(records))


def _reduce(entry: dict[str, Any]) -> Any:
    """A sentence as its raw text, an image as name, split and sentences; other objects stay."""
    if "raw" in entry:
        return entry["raw"]
    if isinstance(entry.get("filename"), str) and {"split", "sentences"} <= entry.keys():
        return entry["filename"], str(entry["split"]), entry["sentences"]
    return entry
