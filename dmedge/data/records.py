"""What every dataset reader returns: pictures with texts, and perhaps labels or answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Record:
    """One picture and what is said of it."""

    key: str  # stable name of the record in its dataset
    image: Path | bytes  # a picture file, or the bytes of one
    texts: tuple[str, ...]  # captions, or one question
    languages: tuple[str, ...]  # one for every text
    labels: tuple[int, ...] = ()  # indexes into `Dataset.labels`
    answers: Mapping[str, float] = field(default_factory=dict)  # answer -> score in 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """Where a dataset lies and how it is read; `data` of the recipe names the format.

    `path` is a folder, a file, or for shards any address that fsspec opens, with braces such as
    `{000..127}`. `images` is the folder of the pictures, where the format keeps it apart.
    """

    path: str = ""
    images: str = ""
    split: str = "train"
    language: str = "en"  # of texts that do not name their language
    max_bad_share: float = 0.01  # of records that may be unreadable before a run stops
    max_megapixels: float = 64.0  # larger pictures count as bad records
    answers: int = 3000  # most frequent answers that a VQA head chooses from

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {self.max_bad_share}; expected a share between 0 and 1")
        if self.max_megapixels <= 0 or self.answers < 1:
            raise ValueError(
                f"max_megapixels is {self.max_megapixels}, answers {self.answers}; expected more than 0, 1 or more"
            )


class Dataset(Protocol):
    """Records by number, cheap to ask for: pictures are opened when they are used."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; empty without."""
        ...

    @property
    def answers(self) -> tuple[str, ...]:
        """Answers that a VQA head chooses from; empty without."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """One record; its picture may still prove unreadable."""
        ...

    def text_languages(self) -> tuple[tuple[str, ...], ...]:
        """Languages of the texts of every record, without reading any picture."""
        ...
