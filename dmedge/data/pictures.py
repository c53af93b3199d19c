"""Pictures of records: opened with care, and what happens to records that cannot be used."""

import math
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import overload

from PIL import Image

from dmedge.data.records import Dataset
from dmedge.errors import DataError
from dmedge.logs import logger

# What Pillow's decoders are known to raise on damaged files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)

_DEVIATIONS = 3.0  # of a binomial distribution, by which bad records must exceed their share before the end


def open_record_image(image: Path | bytes, max_megapixels: float) -> Image.Image:
    """One picture, completely decoded, in the mode that its file has.

    The size is read from the header, so that a picture of too many pixels costs nothing.

    Args:
        image: a picture file, or the bytes of one.
        max_megapixels: width times height / 1,000,000, at most. Pillow itself opens no more than 178.9.

    Raises:
        DataError: the file is missing, broken or cut short, or the picture has too many pixels. The
            message begins with the reason, so `BadRecords` can count by it.
    """
    with _opened(image, max_megapixels) as picture:
        _decode(picture, image)
        return picture


def check_record_image(image: Path | bytes, max_megapixels: float) -> None:
    """Make sure that `open_record_image` will succeed, in less time: JPEG is decoded at an eighth of its size.

    Raises:
        DataError: it would not.
    """
    with _opened(image, max_megapixels) as picture:
        picture.draft(None, (max(1, picture.width // 8), max(1, picture.height // 8)))
        _decode(picture, image)


def _opened(image: Path | bytes, max_megapixels: float) -> Image.Image:
    where = _where(image)
    if image == b"":
        raise DataError("missing picture (no bytes); expected an encoded picture; write the record again")
    try:
        with warnings.catch_warnings():  # the limit below is the one that counts
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(BytesIO(image) if isinstance(image, bytes) else image)
    except FileNotFoundError as error:
        raise DataError(f"missing picture ({where}); expected a file; restore it, or correct its name") from error
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(f"{where}: {error}", max_megapixels)) from error
    except _BROKEN as error:
        raise DataError(_broken(where, error)) from error
    if picture.width * picture.height > max_megapixels * 1e6:
        megapixels = picture.width * picture.height / 1e6
        picture.close()
        raise DataError(
            _too_large(f"{where}: {picture.width} x {picture.height} = {megapixels:.4g} megapixels", max_megapixels)
        )
    return picture


def _decode(picture: Image.Image, image: Path | bytes) -> None:
    try:
        picture.load()
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise DataError(_broken(_where(image), error)) from error


def _where(image: Path | bytes) -> str:
    return f"{len(image)} bytes" if isinstance(image, bytes) else str(image)


def _too_large(found: str, max_megapixels: float) -> str:
    return f"too many pixels ({found}); expected at most {max_megapixels:g} megapixels; scale it down, or remove it"


def _broken(where: str, error: Exception) -> str:
    return f"broken picture ({where}: {error}); expected JPEG, PNG, WebP or alike; replace it"


class BadRecords:
    """Counts the records that cannot be used, names the first of each kind, and stops when they are too many."""

    def __init__(
        self,
        max_bad_share: float,
        where: str,
        minimum: int = 100,
        advice: str = "mend the data, or raise max_bad_share",
    ) -> None:
        """Start with no records.

        Args:
            max_bad_share: of the records, in 0..1; with 0 the first bad record stops.
            where: what the records belong to, for messages.
            minimum: records to see before `add` stops anything; `finish` asks for none.
            advice: what to do about too many.
        """
        self._max_bad_share = max_bad_share
        self._where = where
        self._minimum = minimum
        self._advice = advice
        self._reasons: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self.seen = 0

    @property
    def bad(self) -> int:
        """How many records were bad."""
        return self._reasons.total()

    @property
    def reasons(self) -> Mapping[str, int]:
        """How many records were bad for each reason."""
        return dict(self._reasons)

    def saw(self, records: int = 1) -> None:
        """Count records, good and bad ones alike."""
        self.seen += records

    def add(self, name: str, reason: str) -> None:
        """One of the records seen is bad.

        Before the end it stops only if they exceed their share by three standard deviations, so that a few
        bad records among the first stop nothing.

        Args:
            name: of the record.
            reason: records count together when it is the same up to the first bracket or semicolon.

        Raises:
            DataError: more than `max_bad_share` of the records are bad, and enough were seen to tell.
        """
        kind = re.split(r" \(|[;:]", reason, maxsplit=1)[0]
        self._reasons[kind] += 1
        if kind not in self._first:
            self._first[kind] = name
            logger.warning("%s: skipped %s: %s; more of this kind are only counted", self._where, name, reason)
        if self.seen >= self._minimum or self._max_bad_share == 0:
            self._check(_DEVIATIONS * math.sqrt(self._max_bad_share * (1 - self._max_bad_share) * self.seen))

    def finish(self) -> None:
        """All records were seen, perhaps for another time: call it at the end of every epoch.

        Raises:
            DataError: more than `max_bad_share` of them are bad.
        """
        self._check(0.0)
        if self.bad:
            logger.warning("%s: %s", self._where, self.summary())

    def summary(self) -> str:
        """How many of how many were bad, why, and the first of each kind."""
        kinds = (f"{count} {kind} (first: {self._first[kind]})" for kind, count in self._reasons.most_common())
        return f"{self.bad} of {self.seen} records cannot be used: {', '.join(kinds) or 'none'}"

    def _check(self, margin: float) -> None:
        if self.bad > self._max_bad_share * self.seen + margin:
            raise DataError(
                f"{self._where}: {self.summary()}; expected at most {self._max_bad_share:.3g} of them; {self._advice}"
            )


class RecordImages(Sequence[Image.Image]):
    """Pictures of some records, opened one at a time."""

    def __init__(self, dataset: Dataset, records: Sequence[int], max_megapixels: float) -> None:
        self._dataset = dataset
        self._records = tuple(records)
        self._max_megapixels = max_megapixels

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "RecordImages": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | RecordImages":
        """One picture, or a range of pictures not yet opened.

        Raises:
            DataError: the picture cannot be read.
        """
        if isinstance(index, slice):
            return RecordImages(self._dataset, self._records[index], self._max_megapixels)
        return open_record_image(self._dataset[self._records[index]].image, self._max_megapixels)

    def encoded(self, index: int) -> Path | bytes:
        """The file of one picture, or its bytes."""
        return self._dataset[self._records[index]].image
