"""Where a run works beside what it writes: its states, and what there is to read of it."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dmedge.errors import ArtifactError, ConfigError, DmedgeError
from dmedge.manifest import canonical_json

MARK = "settings.sha256"


def steps_folder(out: Path) -> Path:
    """Where the run that writes `out` keeps its states; it goes when `out` stands."""
    return out.with_name(f"{out.name}.steps")


def log_folder(out: Path) -> Path:
    """Where the metrics, the curve and the summary of the run that writes `out` stay."""
    return out.with_name(f"{out.name}.log")


def check_places(out: Path) -> None:
    """Refuse to begin where something else stands in the way.

    Raises:
        ArtifactError: a file has the name of one of the folders of the run.
    """
    for folder in (steps_folder(out), log_folder(out)):
        if folder.exists() and not folder.is_dir():
            raise ArtifactError(
                f"{folder}: is a file; expected a folder for the run, or nothing; remove it, or choose another --out"
            )


def claim(folder: Path, settings: Mapping[str, object]) -> None:
    """Mark `folder` as that of a run with these settings.

    Raises:
        ConfigError: it is marked by a run with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = hashlib.sha256(canonical_json(settings)).hexdigest()
    mark = folder / MARK
    if mark.exists() and mark.read_text(encoding="utf-8") != fingerprint:
        raise ConfigError(
            f"{folder}: belongs to a run with other settings; expected the settings of this run; "
            "remove it, or choose another --out"
        )
    mark.write_text(fingerprint, encoding="utf-8")


@contextmanager
def unclaimed_on_error(folder: Path) -> Iterator[None]:
    """Take the mark of a run away where it cannot begin, so that the next one may have other settings."""
    try:
        yield
    except DmedgeError:
        with suppress(OSError):  # another rank was quicker
            if [path.name for path in folder.iterdir()] == [MARK]:
                shutil.rmtree(folder)
        raise
