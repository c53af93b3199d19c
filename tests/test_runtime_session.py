"""A session gives the model's own numbers in every runtime, and outlives or explains whatever goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dmedge.artifact import Artifact, Program, load_artifact, new_artifact
from dmedge.errors import ArtifactError, DataError, DmedgeError
from dmedge.runtime.session import Session, open_session
from dmedge.runtime.wire import Array, pack, unpack
from dmedge.runtime.worker_session import CHUNK, WorkerSession
from tests.conftest import MakeArtifact, OpenOnce
from tests.tiny_bundles import CONFIG, example_inputs, onnx_bundle, pte_bundle, tiny_checkpoint

__all__ = ["onnx_bundle", "pte_bundle", "tiny_checkpoint"]  # fixtures

RUNTIMES = ["torch", "onnxruntime", pytest.param("executorch", marks=pytest.mark.slow)]
FIXTURES = {"torch": "tiny_checkpoint", "onnxruntime": "onnx_bundle", "executorch": "pte_bundle"}
PROGRAMS = ("encode_image", "encode_text", "fuse")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def artifact(runtime: str, request: pytest.FixtureRequest) -> Artifact:
    found = request.getfixturevalue(FIXTURES[runtime])
    assert isinstance(found, Artifact)
    return found


@pytest.fixture
def session(artifact: Artifact, sessions: OpenOnce) -> Session:
    """One that many tests share, and each leaves as it found it."""
    return sessions(artifact)


@pytest.fixture
def worker(onnx_bundle: Artifact) -> Iterator[WorkerSession]:
    with open_session(onnx_bundle, timeout_s=20) as opened:
        assert isinstance(opened, WorkerSession)
        yield opened


def text(length: int) -> list[Array]:
    return example_inputs("encode_text", length)


@pytest.mark.parametrize("name", PROGRAMS)
def test_runs_equal_the_checkpoint(name: str, session: Session, tiny_checkpoint: Artifact) -> None:
    inputs = example_inputs(name)
    with open_session(tiny_checkpoint) as baseline:
        for found, want in zip(session.run(name, inputs), baseline.run(name, inputs), strict=True):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, want, rtol=1e-5, atol=2e-6)


def test_many_runs_equal_single_runs_in_order(session: Session) -> None:
    items = [text(length) for length in (2, 9, 16, 1, 9, 5)]
    for inputs, found in zip(items, session.run_many("encode_text", items), strict=True):
        for many, single in zip(found, session.run("encode_text", inputs), strict=True):
            np.testing.assert_allclose(many, single, rtol=1e-5, atol=1e-5)


def test_result_of_a_bundle_does_not_depend_on_its_neighbours(worker: WorkerSession) -> None:
    items = [text(4) for _ in range(5)]
    alone = worker.run("encode_text", items[3])
    among = worker.run_many("encode_text", items)[3]
    assert all(np.array_equal(a, b) for a, b in zip(alone, among, strict=True))


def test_outputs_can_be_left_out(session: Session) -> None:
    items = [text(3), text(5)]
    whole = session.run_many("encode_text", items)
    for part, all_outputs in zip(session.run_many("encode_text", items, outputs=(1,)), whole, strict=True):
        assert len(part) == 1
        np.testing.assert_array_equal(part[0], all_outputs[1])


def test_nothing_to_run_gives_nothing(session: Session) -> None:
    assert session.run_many("encode_text", []) == []


def test_more_items_than_one_message_holds(worker: WorkerSession) -> None:
    items = [text(2 + i % 3) for i in range(CHUNK + 3)]
    found = worker.run_many("encode_text", items, outputs=(0,))
    np.testing.assert_array_equal(found[-1][0], worker.run("encode_text", items[-1])[0])
    assert len(found) == len(items)


def test_times_are_positive_nanoseconds(session: Session) -> None:
    elapsed = session.time("encode_image", example_inputs("encode_image"), 7)
    assert elapsed.dtype == np.int64
    assert elapsed.shape == (7,)
    assert (elapsed > 1000).all()  # a network of six convolutions takes more than a microsecond


def test_facts_name_runtime_threads_and_memory(session: Session, runtime: str) -> None:
    session.run("encode_image", example_inputs("encode_image"))
    facts = session.facts()
    assert facts["runtime"] == runtime
    assert facts["threads"] == 1
    assert (facts["load_ms"] or 0) > 0
    assert (facts["peak_rss_bytes"] or 0) >= (facts["base_rss_bytes"] or 0) > 10_000_000
    json.dumps(facts)


def test_worker_does_not_report_the_memory_of_its_parent(worker: WorkerSession) -> None:
    ballast = np.ones(200_000_000, np.uint8)  # touched, so it counts
    with open_session(load_artifact(worker._root)) as fresh:
        assert 0 < (fresh.facts()["peak_rss_bytes"] or 0) < 150_000_000
    assert ballast[-1] == 1


def test_threads_are_those_asked_for(artifact: Artifact) -> None:
    with open_session(artifact, threads=2) as session:
        assert session.facts()["threads"] == 2
        session.run("encode_image", example_inputs("encode_image"))
    with pytest.raises(DmedgeError, match="threads is 0; expected 1 or more"):
        open_session(artifact, threads=0)
    with open_session(artifact) as session:  # torch's number is one for the whole process
        assert session.facts()["threads"] == 1


WRONG: dict[str, tuple[Callable[[], list[Array]], str, str]] = {
    "rank": (lambda: [np.zeros((3, 3), np.uint8)], "encode_image", r"'pixels' is uint8\[3, 3\]; expected uint8\["),
    "size": (lambda: [np.zeros((1, 8, 16, 3), np.uint8)], "encode_image", r"expected uint8\[.+, 16, 16, 3\]"),
    "dtype": (lambda: [np.zeros((1, 16, 16, 3), np.float32)], "encode_image", "is float32"),
    "ids": (lambda: [np.ones((1, 4), np.int64), np.ones((1, 4), np.int32)], "encode_text", r"'ids' is int64\[1, 4\]"),
    "lengths": (lambda: [np.ones((1, 4), np.int32), np.ones((1, 5), np.int32)], "encode_text", "'mask' is int32"),
    "count": (lambda: [np.ones((1, 4), np.int32)], "encode_text", "1 inputs; expected 2: ids, mask"),
}


@pytest.mark.parametrize("case", WRONG)
def test_unfit_inputs_are_refused_and_the_session_lives(case: str, session: Session) -> None:
    make, program, message = WRONG[case]
    calls: list[Callable[[], object]] = [
        lambda: session.run(program, make()),
        lambda: session.run_many(program, [make()]),
        lambda: session.time(program, make(), 1),
    ]
    for call in calls:
        with pytest.raises(DataError, match=message):
            call()
    session.run("encode_text", text(3))


def test_unknown_program_names_the_nearest(session: Session) -> None:
    with pytest.raises(DmedgeError, match=r"no program 'encode_txt' in this artifact; did you mean 'encode_text'"):
        session.run("encode_txt", text(3))


@pytest.mark.parametrize("kind", ["onnxruntime", pytest.param("executorch", marks=pytest.mark.slow)])
def test_text_beyond_the_context_is_refused_and_the_worker_lives(kind: str, request: pytest.FixtureRequest) -> None:
    with open_session(request.getfixturevalue(FIXTURES[kind])) as session:
        with pytest.raises(DmedgeError, match="encode_text failed"):
            session.run("encode_text", text(CONFIG.context_length + 9))
        session.run("encode_text", text(CONFIG.context_length))


def test_closed_session_says_so(artifact: Artifact) -> None:
    session = open_session(artifact)
    session.close()
    session.close()
    with pytest.raises(DmedgeError, match="closed; expected an open"):
        session.run("encode_text", text(3))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT], ids=lambda number: number.name)
def test_worker_ended_by_a_signal_is_an_error_that_names_it(number: signal.Signals, worker: WorkerSession) -> None:
    os.kill(worker.process_id, number)
    with pytest.raises(DmedgeError, match=rf"encode_text\.onnx.*ended by {number.name} while running encode_text"):
        worker.run("encode_text", text(3))
    with pytest.raises(DmedgeError, match="closed"):
        worker.run("encode_text", text(3))


def test_worker_that_hangs_is_ended(onnx_bundle: Artifact) -> None:
    with open_session(onnx_bundle, timeout_s=2) as session:
        assert isinstance(session, WorkerSession)
        os.kill(session.process_id, signal.SIGSTOP)
        with pytest.raises(DmedgeError, match=r"no answer within 2 s while running encode_text and was ended"):
            session.run("encode_text", text(3))
        with pytest.raises(ProcessLookupError):
            os.kill(session.process_id, 0)


def test_worker_ends_with_its_parent(onnx_bundle: Artifact) -> None:
    script = (
        "import sys, time; from dmedge.artifact import load_artifact; from dmedge.runtime.session import open_session\n"
        "session = open_session(load_artifact(sys.argv[1])); print(session.process_id, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, onnx_bundle.root], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _becomes_true(lambda: not _is_running(worker))


def _is_running(process_id: int) -> bool:
    """Whether the process still does anything; one that nobody has waited for is a zombie."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _becomes_true(condition: Callable[[], bool], timeout_s: float = 10) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_modules_in_the_working_directory_do_not_shadow_libraries(
    onnx_bundle: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    with open_session(onnx_bundle) as session:
        assert session.facts()["runtime"] == "onnxruntime"


def damaged(bundle: Artifact, out: Path, change: Callable[[bytes], bytes]) -> Artifact:
    """The same bundle with other programs, and digests that fit them."""
    with new_artifact(out) as draft:
        (draft.path / "programs").mkdir()
        for program in bundle.manifest.programs:
            (draft.path / program.file).write_bytes(change(bundle.file(program.file).read_bytes()))
        return draft.finish(kind="bundle", stage="test", config={}, programs=bundle.manifest.programs, tools={})


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "text": lambda content: b"this is no program",
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: content[:64] + bytes(len(content) - 64),
}


@pytest.mark.parametrize("kind", ["onnxruntime", pytest.param("executorch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_program_is_an_error_that_names_it(
    damage: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle = damaged(request.getfixturevalue(FIXTURES[kind]), tmp_path / "bundle", DAMAGES[damage])
    with pytest.raises(DmedgeError, match=rf"(?s){bundle.root}.*(encode_image\.onnx|model\.pte).*run dmedge export"):
        open_session(bundle)


def test_program_of_other_names_than_the_manifest_is_refused(onnx_bundle: Artifact, tmp_path: Path) -> None:
    image, text, fuse = onnx_bundle.manifest.programs
    swapped = Program(image.name, text.file, image.runtime, image.inputs, image.outputs)
    with new_artifact(tmp_path / "bundle") as draft:
        (draft.path / "programs").mkdir()
        for program in (text, fuse):
            (draft.path / program.file).write_bytes(onnx_bundle.file(program.file).read_bytes())
        bundle = draft.finish(kind="bundle", stage="test", config={}, programs=[swapped, text, fuse], tools={})
    with pytest.raises(DmedgeError, match=r"encode_text\.onnx: has inputs and outputs \(\['ids', 'mask'\]"):
        open_session(bundle)


def test_artifact_without_programs_is_refused(make_artifact: MakeArtifact) -> None:
    with pytest.raises(ArtifactError, match=r"evidence without programs; expected a checkpoint, or a bundle"):
        open_session(make_artifact("evidence", kind="evidence"))


def test_packing_keeps_every_array() -> None:
    items: list[list[Array]] = [
        [np.arange(n, dtype=np.int32).reshape(1, n), np.full((2, n), n, np.float32), np.array(n, np.float32)]
        for n in (1, 4, 2)
    ]
    for before, after in zip(items, unpack(pack(items), len(items)), strict=True):
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
            assert b.flags.writeable
