"""Crossmodal-3600: captions in 36 languages, one JSON object a line."""

from collections.abc import Mapping
from typing import Any

from dmedge.data.annotations import RecordTable, check_folder, find_file, find_pictures, jsonl_rows, usable_texts
from dmedge.data.pictures import BadRecords
from dmedge.data.records import DatasetConfig, Record

_TAGS = {"quz": "qu", "iw": "he"}  # Cusco Quechua, and the old code of Hebrew


def read_crossmodal(config: DatasetConfig) -> RecordTable:
    """One record for every picture, with its captions in all languages, in the order of the file.

    `path` is captions.jsonl, or the folder with it; `images` is the folder with KEY.jpg. The file has no
    splits, and `split` is not looked at.

    Raises:
        DataError: a file or folder is missing, or too many captions cannot be used.

    Source: Thapliyal et al. 2022, arXiv:2205.12522.
    """
    path = find_file(config, ["captions.jsonl"])
    folder = find_pictures(config, [path.parent / "images", path.parent])
    bad = BadRecords(config.max_bad_share, str(path))
    records = []
    for line, row in jsonl_rows(path, bad):
        key = row.get("image/key")
        if not isinstance(key, str) or not key:
            bad.saw()
            bad.add(line, "no image/key")
            continue
        captions = _captions(row)
        texts, languages = usable_texts(
            key, [text for text, _ in captions], [tag for _, tag in captions], config.language, bad
        )
        if texts:
            records.append(Record(key, folder / f"{key}.jpg", texts, languages))
    bad.finish()
    check_folder(folder, (record.image for record in records), path)
    return RecordTable("xm3600", tuple(records))


def _captions(row: Mapping[str, Any]) -> list[tuple[object, str]]:
    """Captions as written, not the tokenized ones, with their languages."""
    found = []
    for tag, entry in row.items():
        captions = entry.get("caption") if isinstance(entry, dict) else None
        if isinstance(captions, list):
            found += [(caption, _TAGS.get(tag, tag)) for caption in captions]
    return found
