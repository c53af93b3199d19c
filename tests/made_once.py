"""What many test files read is made once per run, by whichever worker asks first."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dmedge.artifact import Artifact, load_artifact


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Artifact:
    """The artifact `name` of a folder that all workers share; `make` writes it where none stands."""
    return load_artifact(folder_once(factory, name, make))


def folder_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """As `made_once`, for a folder that is no artifact.

    Whoever comes while another worker makes it waits for that one.
    """
    folder = shared_folder(factory)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            make(folder / name)
    return folder / name


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that is the same in every worker, and new in every run."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder
