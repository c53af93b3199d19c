"""Every data format by its name."""

from collections.abc import Callable

from dmedge.config import near_match
from dmedge.data.coco import read_coco
from dmedge.data.crossmodal import read_crossmodal
from dmedge.data.flickr30k import read_flickr30k
from dmedge.data.hub import read_huggingface
from dmedge.data.languages import language_name
from dmedge.data.records import Dataset, DatasetConfig
from dmedge.data.shards import read_shards
from dmedge.data.tables import read_folder, read_table
from dmedge.data.vqa import read_vqa
from dmedge.errors import DataError

FORMATS: dict[str, Callable[[DatasetConfig], Dataset]] = {
    "folder": read_folder,
    "table": read_table,
    "coco": read_coco,
    "flickr30k": read_flickr30k,
    "vqa": read_vqa,
    "xm3600": read_crossmodal,
    "webdataset": read_shards,
    "huggingface": read_huggingface,
}


def read_dataset(format: str, config: DatasetConfig) -> Dataset:
    """A data set by the name of its format.

    Annotations are read now, and those that cannot be used are counted and skipped; pictures are opened
    when they are used.

    Raises:
        DataError: unknown format or language, a file is missing or is another one, or too many
            annotations cannot be used.
        DmedgeError: the format needs a package that is not installed.
    """
    if format not in FORMATS:
        raise DataError(f"no data format {format!r}{near_match(format, list(FORMATS))}")
    if not config.path:
        raise DataError(f"data {format!r} has no path; expected a folder, file or address; set path of the dataset")
    language_name(config.language)
    return FORMATS[format](config)
