"""Native runners compute what the runtimes compute under Python, on this machine and on emulated arm64."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dmedge.artifact import Artifact, new_artifact
from dmedge.cli.main import cli
from dmedge.devices.conversation import ProcessConversation
from dmedge.devices.folder import PREFIX, FolderWork
from dmedge.devices.jobs import Job, read_outputs, write_job
from dmedge.devices.jobs import read_answer as read_line
from dmedge.devices.native_runner import COMMAND, build_runner
from dmedge.devices.wheels import host_machine
from dmedge.errors import ArtifactError, DataError, DmedgeError
from dmedge.evidence.devices import prove_on
from dmedge.evidence.parity import output_error
from dmedge.runtime.native_session import NativeSession, open_device_session
from dmedge.runtime.session import Session, open_session
from dmedge.runtime.wire import Array
from tests.conftest import MakeArtifact
from tests.tiny_bundles import (
    CONFIG,
    example_inputs,
    int8_checkpoint,
    onnx_bundle,
    onnx_int8_bundle,
    pte_bundle,
    pte_int8_bundle,
    tiny_checkpoint,
)

__all__ = [
    "int8_checkpoint",
    "onnx_bundle",
    "onnx_int8_bundle",
    "pte_bundle",
    "pte_int8_bundle",
    "tiny_checkpoint",
]  # fixtures

pytestmark = pytest.mark.slow

RUNTIMES = ("onnxruntime", "executorch")
BUNDLES = {("onnxruntime", "fp32"): "onnx_bundle", ("onnxruntime", "int8"): "onnx_int8_bundle"}
BUNDLES |= {("executorch", "fp32"): "pte_bundle", ("executorch", "int8"): "pte_int8_bundle"}
# One of them computes int8 with dot products, the other without.
EMULATED = (pytest.param("qemu:cortex-a53", marks=pytest.mark.thorough), "qemu:cortex-a76")
DEVICES = ("local", *EMULATED)
PROGRAMS = ("encode_image", "encode_text", "fuse")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fp32(runtime: str, request: pytest.FixtureRequest) -> Artifact:
    return find_bundle(runtime, "fp32", request)


@pytest.fixture
def int8(runtime: str, request: pytest.FixtureRequest) -> Artifact:
    return find_bundle(runtime, "int8", request)


@pytest.fixture(params=["fp32", "int8"])
def bundle(runtime: str, request: pytest.FixtureRequest) -> Artifact:
    return find_bundle(runtime, request.param, request)


def find_bundle(runtime: str, precision: str, request: pytest.FixtureRequest) -> Artifact:
    found = request.getfixturevalue(BUNDLES[runtime, precision])
    assert isinstance(found, Artifact)
    return found


@pytest.fixture(scope="module")
def on_device() -> Iterator[Callable[[Artifact, str], NativeSession]]:
    """Sessions that many tests share, since an emulated process takes seconds to load its programs."""
    opened: dict[tuple[Path, str], NativeSession] = {}

    def open_once(bundle: Artifact, device: str) -> NativeSession:
        if (bundle.root, device) not in opened:
            opened[bundle.root, device] = open_device_session(bundle, device)
        return opened[bundle.root, device]

    yield open_once
    for session in opened.values():
        session.close()


@pytest.fixture
def session(onnx_bundle: Artifact) -> Iterator[NativeSession]:
    """On this machine, and of its own: it may be broken."""
    with open_device_session(onnx_bundle, "local") as opened:
        yield opened


def cases(name: str) -> list[list[Array]]:
    np.random.seed(1)
    return [example_inputs(name, length) for length in (6, 2, 16)]


def run_all(session: Session) -> dict[str, list[list[Array]]]:
    return {name: session.run_many(name, cases(name)) for name in PROGRAMS}


def bits(outputs: list[list[Array]]) -> list[list[bytes]]:
    return [[array.tobytes() for array in arrays] for arrays in outputs]


def process_of(session: NativeSession) -> int:
    assert isinstance(session._talk, ProcessConversation)
    return session._talk.process_id


def folder_of(session: NativeSession) -> Path:
    assert isinstance(session._work, FolderWork)
    return session._work.root


# The same numbers


@pytest.mark.parametrize("device", DEVICES)
def test_the_conformance_pack_is_kept(device: str, bundle: Artifact) -> None:
    report = prove_on(bundle, device)
    assert set(report.programs) == set(PROGRAMS)
    assert report.error_ratio <= 1
    if bundle.manifest.summary["precision"] == "float32":
        assert max(row.max_error for row in report.programs.values()) < 1e-5


def test_the_native_runner_computes_the_bits_of_the_python_runtime(
    bundle: Artifact, on_device: Callable[[Artifact, str], NativeSession]
) -> None:
    native = run_all(on_device(bundle, "local"))
    with open_session(bundle) as session:
        python = run_all(session)
    assert {name: bits(found) for name, found in native.items()} == {
        name: bits(found) for name, found in python.items()
    }


@pytest.mark.parametrize("device", EMULATED)
def test_conform_replays_the_pack_on_a_device(device: str, int8: Artifact) -> None:
    done = CliRunner().invoke(cli, ["conform", str(int8.root), "--device", device, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["conforms"] is True
    assert found["runtime"]["load_ms"] is None


@pytest.mark.parametrize("device", EMULATED)
def test_the_static_int8_image_tower_is_the_same_to_the_bit_on_arm(
    device: str, int8: Artifact, on_device: Callable[[Artifact, str], NativeSession]
) -> None:
    here, there = (on_device(int8, name).run_many("encode_image", cases("encode_image")) for name in ("local", device))
    for mine, theirs in zip(here, there, strict=True):
        # The patches leave the statically quantized tower; the concept head behind it is quantized dynamically.
        np.testing.assert_array_equal(mine[1], theirs[1])


@pytest.mark.parametrize("device", EMULATED)
def test_dynamic_int8_points_the_same_way_on_arm(
    device: str, int8: Artifact, on_device: Callable[[Artifact, str], NativeSession]
) -> None:
    here, there = run_all(on_device(int8, "local")), run_all(on_device(int8, device))
    for name in PROGRAMS:
        for mine, theirs in zip(here[name], there[name], strict=True):
            assert min(output_error(a, b)[1] for a, b in zip(mine, theirs, strict=True)) > 0.999


# A session like any other


def test_outputs_can_be_left_out_and_nothing_gives_nothing(session: NativeSession) -> None:
    items = cases("encode_text")
    whole = session.run_many("encode_text", items)
    part = session.run_many("encode_text", items, outputs=(1,))
    assert bits(part) == [[arrays[1].tobytes()] for arrays in whole]
    assert session.run_many("encode_text", []) == []


def test_this_machine_is_timed_and_tells_its_memory(
    runtime: str, fp32: Artifact, on_device: Callable[[Artifact, str], NativeSession]
) -> None:
    session = on_device(fp32, "local")
    elapsed = session.time("encode_image", example_inputs("encode_image"), 7)
    assert elapsed.dtype == np.int64
    assert elapsed.shape == (7,)
    assert (elapsed > 1000).all()
    facts = session.facts()
    assert (facts["runtime"], facts["threads"]) == (runtime, 1)
    assert (facts["load_ms"] or 0) > 0
    assert 1_000_000 < (facts["base_rss_bytes"] or 0) < (facts["peak_rss_bytes"] or 0) < 100_000_000


def test_a_job_that_is_timed_again_travels_once(session: NativeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    push = session._work.push

    def noted(source: Path, name: str) -> None:
        sent.append(name)
        push(source, name)

    monkeypatch.setattr(session._work, "push", noted)
    inputs = example_inputs("encode_text")
    for _ in range(3):
        assert session.time("encode_text", inputs, 3).shape == (3,)
    assert len(sent) == 2  # the job and its inputs
    assert session.time("encode_text", inputs, 4).shape == (4,)
    assert len(sent) == 4
    before, after = (session.run("encode_text", inputs) for _ in range(2))
    assert len(sent) == 8  # what runs once is not kept
    assert bits([before]) == bits([after])


def test_emulated_arm_tells_neither_time_nor_memory(
    runtime: str, fp32: Artifact, on_device: Callable[[Artifact, str], NativeSession]
) -> None:
    session = on_device(fp32, "qemu:cortex-a76")
    with pytest.raises(DmedgeError, match="qemu:cortex-a76 is emulated: .* no latency of any device"):
        session.time("encode_image", example_inputs("encode_image"), 7)
    facts = session.facts()
    assert facts["runtime"] == runtime
    assert [facts["load_ms"], facts["base_rss_bytes"], facts["peak_rss_bytes"]] == [None] * 3


def test_two_threads_compute_the_same(runtime: str, fp32: Artifact) -> None:
    with open_device_session(fp32, "local", threads=2) as two, open_session(fp32) as one:
        assert two.facts()["threads"] == 2
        for found, want in zip(
            two.run("encode_image", cases("encode_image")[0]),
            one.run("encode_image", cases("encode_image")[0]),
            strict=True,
        ):
            np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    with pytest.raises(DmedgeError, match="threads is 0"):
        open_device_session(fp32, "local", threads=0)


def test_what_is_no_bundle_for_a_runner_is_refused(make_artifact: MakeArtifact, tiny_checkpoint: Artifact) -> None:
    with pytest.raises(ArtifactError, match="evidence without programs"):
        open_device_session(make_artifact("a", kind="evidence"), "local")
    with pytest.raises(DmedgeError, match="no native runner for torch; expected one of executorch, onnxruntime"):
        open_device_session(tiny_checkpoint, "local")


# What goes wrong


def test_unfit_inputs_are_refused_and_the_session_lives(
    fp32: Artifact, on_device: Callable[[Artifact, str], NativeSession]
) -> None:
    session = on_device(fp32, "local")
    with pytest.raises(DataError, match=r"'ids' is int64\[1, 4\]"):
        session.run("encode_text", [np.ones((1, 4), np.int64), np.ones((1, 4), np.int32)])
    with pytest.raises(DmedgeError, match=rf"{fp32.root} on local: failed while running encode_text: .*"):
        session.run("encode_text", example_inputs("encode_text", CONFIG.context_length + 9))
    session.run("encode_text", example_inputs("encode_text", CONFIG.context_length))


@pytest.mark.parametrize("device", ["local", "qemu:cortex-a53"])
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL], ids=lambda number: number.name)
def test_a_crash_of_the_runner_is_an_error_that_names_it(
    number: signal.Signals, device: str, onnx_bundle: Artifact
) -> None:
    session = open_device_session(onnx_bundle, device)
    folder = folder_of(session)
    os.kill(process_of(session), number)
    with pytest.raises(
        DmedgeError, match=rf"{onnx_bundle.root} on {device}: {device}: runner was ended by {number.name} while running"
    ):
        session.run("encode_text", example_inputs("encode_text"))
    assert not folder.exists()
    with pytest.raises(DmedgeError, match="closed; expected an open session"):
        session.run("encode_text", example_inputs("encode_text"))


@pytest.mark.parametrize("device", ["local", "qemu:cortex-a76"])
@pytest.mark.parametrize("damage", ["empty", "text", "half", "zeros"])
def test_a_damaged_program_is_an_error_and_leaves_nothing(
    damage: str, device: str, fp32: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda content: b"",
        "text": lambda content: b"this is no program",
        "half": lambda content: content[: len(content) // 2],
        "zeros": lambda content: content[:64] + bytes(len(content) - 64),
    }
    with new_artifact(tmp_path / "bundle") as draft:
        (draft.path / "programs").mkdir()
        for name in {program.file for program in fp32.manifest.programs}:
            (draft.path / name).write_bytes(changes[damage](fp32.file(name).read_bytes()))
        bundle = draft.finish(kind="bundle", stage="test", config={}, programs=fp32.manifest.programs, tools={})
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "work"))
    with pytest.raises(DmedgeError, match=rf"{bundle.root} on {device}: .*while loading programs/.*run dmedge export"):
        open_device_session(bundle, device)
    assert list((tmp_path / "work").glob(f"{PREFIX}*")) == []


def test_work_directories_are_removed(session: NativeSession) -> None:
    folder = folder_of(session)
    session.run("encode_text", example_inputs("encode_text"))
    assert list((folder / "jobs").iterdir()) == []
    process = process_of(session)
    session.close()
    session.close()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(DmedgeError, match="closed"):
        session.facts()


# The runner alone, as a person or a shell on a phone starts it


def job_folder(bundle: Artifact, name: str, folder: Path) -> Job:
    (program,) = [program for program in bundle.manifest.programs if program.name == name]
    folder.mkdir()
    return Job(
        program=str(bundle.file(program.file)),
        method=name,
        inputs=tuple(spec.name for spec in program.inputs),
        outputs=tuple((index, spec.name) for index, spec in enumerate(program.outputs)),
        runs=4,
        warmup=2,
    )


def test_the_runner_takes_jobs_as_arguments(runtime: str, fp32: Artifact, tmp_path: Path) -> None:
    job = job_folder(fp32, "encode_image", tmp_path / "job")
    inputs = cases("encode_image")
    write_job(tmp_path / "job", job, inputs)
    runner = build_runner(fp32.manifest.programs[0].runtime, host_machine())
    for name, file in runner.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(file)
    done = subprocess.run(
        [COMMAND, "job", "none"],
        cwd=tmp_path,
        env={"LD_LIBRARY_PATH": "lib"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1  # one of them failed
    first, second = done.stdout.splitlines()
    answer = read_line(first)
    assert (answer.runtime, answer.version) == (runtime, runner.version)
    assert [len(samples) for samples in answer.samples_ns] == [4, 4, 4]
    assert json.loads(second) == {"error": "none/job.txt: No such file or directory"}
    with open_session(fp32) as session:
        want = session.run_many("encode_image", inputs)
    assert bits(read_outputs(tmp_path / "job/outputs.bin", answer)) == bits(want)


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "format": (
        lambda text: text.replace("dmedge-job 1", "dmedge-job 9"),
        r"job.txt:1: dmedge-job 9; expected dmedge-job 1",
    ),
    "word": (lambda text: text + "colour red\n", "unknown or misplaced word colour"),
    "threads": (lambda text: text.replace("threads 1", "threads none"), "job.txt:4: threads none"),
    "dtype": (lambda text: text.replace("tensor uint8", "tensor complex64"), "unfit tensor complex64"),
    "shape": (lambda text: text.replace("tensor uint8 1", "tensor uint8 9"), r"inputs.bin: \d+ bytes; expected \d+"),
    "case": (lambda text: text + "case\n", "the last case has 0 inputs"),
    "program": (lambda text: text.replace("program ", "program missing"), "missing"),
    "output": (lambda text: text.replace("output 0", "output 9"), r"2 outputs; the job names number 9"),
    "inputs": (lambda text: text.replace("input pixels", "input pixels\ninput more"), "inputs"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_job_is_refused_and_the_runner_lives(case: str, fp32: Artifact, tmp_path: Path) -> None:
    change, message = BROKEN[case]
    runner = build_runner(fp32.manifest.programs[0].runtime, host_machine())
    with FolderWork("local") as work:
        for name, file in runner.files.items():
            work.push(file, name)
        for name in ("broken", "whole"):
            job = job_folder(fp32, "encode_image", work.root / name)
            write_job(work.root / name, job, cases("encode_image")[:1])
        text = work.root / "broken/job.txt"
        text.write_text(change(text.read_text()))
        talk = work.start((COMMAND,))
        with pytest.raises(DmedgeError, match=message):
            read_line(talk.ask("broken", "", 60))
        assert read_line(talk.ask("whole", "", 60)).outputs
        talk.close()
