"""Files by address: a local path, or anything that fsspec opens."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import IO, Any

from dmedge.errors import DataError, require

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_addresses(pattern: str) -> list[str]:
    """The addresses that braces and * stand for: those of braces in their order, those of * sorted.

    Raises:
        DataError: there are none.
        DmedgeError: an address other than a local path needs fsspec.
    """
    addresses = [found for address in _expand_braces(pattern) for found in _expand_glob(address)]
    if not addresses:
        raise DataError(f"{pattern}: no such file; expected tar files; set path of the dataset")
    return addresses


def _expand_braces(pattern: str) -> list[str]:
    parts = _BRACES.split(pattern)  # text, inside of braces, text, ...
    return ["".join(choice) for choice in product(*(_choices(part, i) for i, part in enumerate(parts)))]


def _choices(part: str, place: int) -> Sequence[str]:
    if place % 2 == 0:
        return [part]
    bounds = _RANGE.fullmatch(part)
    if bounds is None:
        return part.split(",")
    first, last = bounds.groups()
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _expand_glob(address: str) -> list[str]:
    if "://" not in address:
        local = Path(address).expanduser()
        root = Path(local.anchor)
        return sorted(map(str, root.glob(str(local.relative_to(root))))) if "*" in address else [str(local)]
    if "*" not in address:
        return [address]
    if "::" in address:
        raise DataError(f"{address}: * in a chained address; expected braces such as {{000..127}}; write them out")
    with _errors(address):
        files, path = filesystem(address)
        return [files.unstrip_protocol(found) for found in sorted(files.glob(path))]


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    It is made anew in every process, as open connections survive no fork.

    Raises:
        DmedgeError: fsspec is not installed.
    """
    fsspec: Any = require("fsspec.core", "data")
    files, path = fsspec.url_to_fs(address)
    return files, path


def fingerprint(address: str) -> str:
    """Facts about a file: another text for another address, size or time of change.

    Raises:
        DataError: there is no such file.
        DmedgeError: an address other than a local path needs fsspec.
    """
    with _errors(address):
        if "://" in address:
            files, path = filesystem(address)
            return repr((address, files.size(path), files.ukey(path)))
        stat = Path(address).stat()
        return repr((str(Path(address).resolve()), stat.st_size, stat.st_mtime_ns))


@contextmanager
def opened(address: str) -> Iterator[IO[bytes]]:
    """A file, open for reading at any place.

    Raises:
        DataError: it cannot be opened or read.
        DmedgeError: an address other than a local path needs fsspec.
    """
    with _errors(address):
        if "://" in address:
            files, path = filesystem(address)
            with files.open(path, "rb") as stream:
                yield stream
        else:
            with Path(address).open("rb") as stream:
                yield stream


def read_bytes(address: str, offset: int, size: int) -> bytes:
    """Some bytes of a file; of a remote one, no more than these are fetched.

    Raises:
        DataError: the file cannot be read, or ends before.
        DmedgeError: an address other than a local path needs fsspec.
    """
    if "://" in address:
        with _errors(address):
            files, path = filesystem(address)
            content: bytes = files.cat_file(path, start=offset, end=offset + size)
    else:
        with opened(address) as stream:
            stream.seek(offset)
            content = stream.read(size)
    if len(content) != size:
        raise DataError(
            f"{address}: {len(content)} bytes at {offset}; expected {size}; the file was cut short, fetch it again"
        )
    return content


@contextmanager
def _errors(address: str) -> Iterator[None]:
    try:
        yield
    except _kinds() as error:
        raise DataError(f"{address}: cannot be read ({error}); expected a file; check the address") from error


def _kinds() -> tuple[type[Exception], ...]:
    """Errors that file systems raise: an unknown protocol, a missing package, and those of the network."""
    http = sys.modules.get("aiohttp")  # its errors are not all OSError
    return (OSError, ValueError, ImportError, *((http.ClientError,) if http else ()))
