"""Where the members of a tar shard lie: found once from its headers, then kept in the cache folder."""

import hashlib
import json
import re
import tarfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from dmedge.data.addresses import fingerprint, opened
from dmedge.environment import cache_folder
from dmedge.errors import DataError
from dmedge.logs import logger

_VERSION = 1  # of the files in the cache folder
_NAME = re.compile(r"(?:\./)?((?:.*/)?[^./]+)\.([^/]*)")  # key up to the first dot of the file name, and suffix
_IMAGES = ("jpg", "jpeg", "png", "webp")
_READ = ("txt", "json", "cls")
_CLASS_DIGITS = 6  # of the number of a class, at most
_BLOCK = 512  # bytes; a tar file is a row of them, and ends with some that are zero


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard. As it stands in the index, texts and languages are as written, not yet checked."""

    key: str
    offset: int  # bytes, of the picture
    size: int  # bytes
    texts: Any
    languages: Any
    label: int | None = None


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The samples of a shard, and those that have no picture or text, with the reason."""

    samples: tuple[Sample, ...]
    bad: tuple[tuple[str, str], ...]


def index_shard(address: str) -> ShardIndex:
    """The index of a shard, from the cache folder if the shard has not changed since.

    Raises:
        DataError: the shard is missing, damaged or compressed.
        DmedgeError: an address other than a local path needs fsspec.
    """
    digest = hashlib.sha256(f"{_VERSION} {fingerprint(address)}".encode()).hexdigest()
    cached = cache_folder() / "shards" / f"{digest[:32]}.json"
    found = _load(cached)
    if found is None:
        found = _scan(address)
        _save(cached, found)
    return found


def _load(cached: Path) -> ShardIndex | None:
    try:
        content = json.loads(cached.read_bytes())
        samples = tuple(Sample(*row) for row in content["samples"])
        return ShardIndex(samples, tuple((key, reason) for key, reason in content["bad"]))
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or a damaged one: it is made again
        return None


def _save(cached: Path, index: ShardIndex) -> None:
    draft = cached.with_name(f"{cached.stem}.{uuid4().hex}.part")
    content = {"samples": [astuple(sample) for sample in index.samples], "bad": index.bad}
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        draft.replace(cached)  # several processes may do this at once
    except OSError as error:
        logger.warning("%s: cannot be written (%s); the shard is scanned again next time", cached, error)


def _scan(address: str) -> ShardIndex:
    """Read all headers, and the members that are no pictures."""
    samples: list[Sample] = []
    bad: list[tuple[str, str]] = []
    try:
        with opened(address) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            key: str = ""
            members: dict[str, Any] = {}
            for member in archive:
                parts = _NAME.fullmatch(member.name)
                if member.isreg() and parts is not None:
                    if parts[1] != key:
                        _add(key, members, samples, bad)
                        key, members = parts[1], {}
                    _read_member(archive, member, parts[2].lower(), members)
            _add(key, members, samples, bad)
            _check_end(address, stream, archive.offset)
    except tarfile.TarError as error:
        raise DataError(
            f"{address}: cannot be read as a tar file ({error}); expected a whole, uncompressed one; "
            "unpack it if it ends in .gz or .zst, else fetch it again"
        ) from error
    return ShardIndex(tuple(samples), tuple(bad))


def _check_end(address: str, stream: IO[bytes], end: int) -> None:
    """The tar reader takes a header that is damaged or missing for the end; but a real end is zeros."""
    stream.seek(end)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise DataError(
            f"{address}: damaged or cut short at byte {end}; expected another member or the end of a tar file; "
            "fetch the shard again"
        )


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, members: dict[str, Any]) -> None:
    if suffix in members:
        members["twice"] = True
    elif suffix in _IMAGES:
        members[suffix] = (member.offset_data, member.size)
    elif suffix in _READ:
        stream = archive.extractfile(member)
        members[suffix] = b"" if stream is None else stream.read()
        if len(members[suffix]) != member.size:
            raise tarfile.ReadError("unexpected end of data")
    archive.members = []  # type: ignore[attr-defined]  # or it would keep every header


def _add(key: str, members: dict[str, Any], samples: list[Sample], bad: list[tuple[str, str]]) -> None:
    if not key:
        return
    try:
        samples.append(_sample(key, members))
    except DataError as error:
        bad.append((key, str(error)))


def _sample(key: str, members: dict[str, Any]) -> Sample:
    place = next((members[suffix] for suffix in _IMAGES if suffix in members), None)
    if place is None or members.get("twice"):
        raise DataError("two members of one name" if place else "no picture")
    details = _json(members.get("json", b"{}"))
    texts: Any = details.get("caption", details.get("text"))
    if "txt" in members:
        texts = members["txt"].decode("utf-8-sig", errors="surrogateescape")
    label = members["cls"].strip() if "cls" in members else None
    if label is not None and not (label.isdigit() and len(label) <= _CLASS_DIGITS):
        raise DataError("cls is no class number")
    offset, size = place
    return Sample(key, offset, size, texts, details.get("language"), None if label is None else int(label))


def _json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content.decode("utf-8", errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise DataError("json cannot be read") from error
    if not isinstance(found, dict):
        raise DataError("json is no object")
    return found
