"""Fixtures that many tests share."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from dmedge.artifact import Artifact, new_artifact
from dmedge.manifest import Kind
from dmedge.runtime.session import Session, open_session

if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each, and for what each starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: a worker that takes one up last would keep all waiting."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same random numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    try:
        import torch
    except ImportError:  # a core install, in which the torch tests are not collected
        return
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


OpenOnce = Callable[[Artifact], Session]


@pytest.fixture(scope="module")
def sessions() -> Iterator[OpenOnce]:
    """Opens the session of an artifact once, however many tests ask for it."""
    with ExitStack() as stack:
        opened: dict[str, Session] = {}

        def session_of(artifact: Artifact) -> Session:
            if artifact.digest not in opened:
                opened[artifact.digest] = stack.enter_context(open_session(artifact))
            return opened[artifact.digest]

        yield session_of


MakeArtifact = Callable[..., Artifact]


@pytest.fixture
def make_artifact(tmp_path: Path) -> MakeArtifact:
    """Write a small artifact of any kind: `make_artifact("runs/a", kind="bundle", files={"x": b"1"})`."""

    def make(
        out: str | Path,
        *,
        kind: Kind = "checkpoint",
        files: dict[str, bytes] | None = None,
        parents: dict[str, str] | None = None,
        config: dict[str, object] | None = None,
    ) -> Artifact:
        with new_artifact(tmp_path / out) as draft:
            for name, content in (files or {"weights.bin": b"weights"}).items():
                (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
                (draft.path / name).write_bytes(content)
            return draft.finish(kind=kind, stage="test", config=config or {"seed": 0}, parents=parents)

    return make
