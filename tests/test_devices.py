"""Devices: their names, what they need, their work directories, the jobs of the runners, wheels for arm64."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dmedge.cli.main import cli
from dmedge.devices import wheels
from dmedge.devices.conversation import ProcessConversation
from dmedge.devices.emulated import CPUS, EmulatedDevice
from dmedge.devices.folder import PREFIX, FolderWork
from dmedge.devices.inventory import list_devices
from dmedge.devices.jobs import Job, read_answer, read_outputs, write_job
from dmedge.devices.local import LocalDevice
from dmedge.devices.names import check_device, find_device
from dmedge.devices.native_runner import SOURCES, build_runner
from dmedge.devices.wheels import library_folder, runtime_version, unpack_wheel
from dmedge.errors import ConfigError, DmedgeError
from tests.conftest import MakeArtifact

ECHO = (sys.executable, "-c", "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/dmedge"


def conversation(tmp_path: Path, script: str) -> ProcessConversation:
    command = (sys.executable, "-c", script)
    return ProcessConversation(command, name="local: runner", folder=tmp_path, environment={})


def write_wheel(path: Path, files: dict[str, bytes], *, changed: str | None = None) -> Path:
    """A wheel whose RECORD is right for all but the file `changed`."""
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content + (b"!" if name == changed else b""))
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(content)}")
        archive.writestr("x-1.dist-info/RECORD", "\n".join([*rows, "x-1.dist-info/RECORD,,"]))
    return path


# Names


@pytest.mark.parametrize("cpu", CPUS)
def test_emulated_devices_are_found_by_name_and_cannot_time(cpu: str) -> None:
    device = find_device(f"qemu:{cpu}")
    assert (device.name, device.machine, device.can_time) == (f"qemu:{cpu}", "aarch64", False)
    assert device.facts()["is_emulated"] is True
    with pytest.raises(ConfigError, match=rf"qemu:{cpu} is emulated: .* no latency of any device; .*--device local"):
        check_device(f"qemu:{cpu}")


def test_this_machine_can_time() -> None:
    device = find_device("local")
    assert device.can_time
    assert "governor" in device.facts()


def test_an_unknown_device_names_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError, match=r"no device 'qemu:cortex-a75'; did you mean 'qemu:cortex-a7[36]'.*local \("):
        find_device("qemu:cortex-a75")


def test_bench_refuses_an_emulated_device_before_any_work(make_artifact: MakeArtifact) -> None:
    bundle = make_artifact("bundle", kind="bundle")
    done = CliRunner().invoke(cli, ["bench", str(bundle.root), "--device", "qemu:cortex-a76"])
    assert done.exit_code == 1
    assert "qemu:cortex-a76 is emulated: a time taken there is the emulator's" in done.stderr


# What is missing


def test_the_table_names_every_device_and_nothing_missing() -> None:
    done = CliRunner().invoke(cli, ["devices"])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[1:8]] == [
        "local",
        *(f"qemu:{cpu}" for cpu in CPUS),
        "ssh:[user@]host[:port]",
        "adb:SERIAL",
        "web",
        "web:webgpu",
    ]
    rows = json.loads(CliRunner().invoke(cli, ["devices", "--json"]).stdout)
    emulated = {f"qemu:{cpu}" for cpu in CPUS} | {row["name"] for row in rows if row["description"].endswith("no GPU")}
    assert {row["name"] for row in rows if row["tells"] == "outputs"} == emulated


def test_missing_programs_are_named_with_the_command_that_brings_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = {row.name: row for row in list_devices()}
    assert rows["qemu:cortex-a53"].missing == ("qemu-aarch64-static", "aarch64-linux-gnu-g++")
    wanted = "apt-get install --no-install-recommends qemu-user-static g++-aarch64-linux-gnu"
    assert rows["qemu:cortex-a53"].install == (wanted,)
    with pytest.raises(
        DmedgeError,
        match=rf"no qemu-aarch64-static, aarch64-linux-gnu-g\+\+ on the PATH; .* run: {wanted.replace('+', '.')}",
    ):
        EmulatedDevice("cortex-a53").open()
    with pytest.raises(
        DmedgeError, match=r"no g\+\+ on the PATH; .* run: apt-get install --no-install-recommends g\+\+"
    ):
        LocalDevice().open()
    text = CliRunner().invoke(cli, ["devices"]).stdout
    assert f"  {wanted}\n" in text


def test_a_machine_that_is_no_linux_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(DmedgeError, match="this machine is Darwin arm64; expected Linux on x86_64 or aarch64"):
        build_runner("onnxruntime", "aarch64")
    rows = {row.name: row for row in list_devices()}
    assert rows["local"].is_available  # by the Python packages of the runtimes
    assert not rows["qemu:cortex-a53"].is_available


# Work directories and what runs in them


def test_a_work_directory_is_unique_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with FolderWork("local") as one, FolderWork("local") as other:
        assert one.root != other.root
        assert one.root.name.startswith(PREFIX)
        one.push(tmp_path / "file", "deep/down")
        assert not (other.root / "deep").exists()
        one.pull("deep/down", tmp_path / "copy")
        one.remove("deep")
        one.remove("deep")
        with pytest.raises(DmedgeError, match="local: deep/down: No such file or directory; expected a file"):
            one.pull("deep/down", tmp_path / "copy")
    assert not one.root.exists()
    assert not other.root.exists()
    one.close()
    assert (tmp_path / "file").read_text() == (tmp_path / "copy").read_text() == "content"


def test_a_work_directory_goes_with_the_process(tmp_path: Path) -> None:
    script = "from dmedge.devices.folder import FolderWork\nwork = FolderWork('local')\nprint(work.root)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert PREFIX in done.stdout
    assert not Path(done.stdout.strip()).exists()


def test_every_line_is_answered_by_a_line(tmp_path: Path) -> None:
    talk = ProcessConversation(ECHO, name="echo", folder=tmp_path, environment={})
    assert [talk.ask(line, "", 20) for line in ("one", "zwei", "三")] == ["ONE", "ZWEI", "三"]
    talk.close()
    talk.close()
    with pytest.raises(DmedgeError, match="echo is closed; expected an open session"):
        talk.ask("four", "", 20)
    with pytest.raises(ProcessLookupError):
        os.kill(talk.process_id, 0)


ENDS = {
    "status": (
        "import sys; input(); sys.exit('out of ideas')",
        r"ended with exit status 1 while running x; .* it last said: out of ideas",
    ),
    "signal": (
        "import os; input(); os.kill(os.getpid(), 11)",
        "was ended by SIGSEGV while running x; .* run dmedge export",
    ),
    "at once": ("import os; os._exit(3)", "ended with exit status 3 while running x"),
}


@pytest.mark.parametrize("case", ENDS)
def test_a_command_that_ends_is_an_error_that_says_how(case: str, tmp_path: Path) -> None:
    script, message = ENDS[case]
    with pytest.raises(DmedgeError, match=f"local: runner {message}"):
        conversation(tmp_path, script).ask("x", "while running x", 20)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (139, "was ended by SIGSEGV"),
        (137, "was ended by SIGKILL while running x; .* memory runs out"),
        (255, "ended with exit status 255 while running x; .* the connection broke"),
        (3, "ended with exit status 3"),
    ],
)
def test_what_a_shell_tells_of_a_signal_is_told_by_its_name(status: int, words: str, tmp_path: Path) -> None:
    command = (sys.executable, "-c", f"import os; input(); os._exit({status})")
    talk = ProcessConversation(command, name="ssh:board: runner", folder=tmp_path, environment={}, is_shell=True)
    with pytest.raises(DmedgeError, match=f"ssh:board: runner {words}"):
        talk.ask("x", "while running x", 20)


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    talk = conversation(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(DmedgeError, match=r"gave no answer within 0.2 s while running x and was ended"):
        talk.ask("x", "while running x", 0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(talk.process_id, signal.SIG_DFL)


def test_a_command_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    with FolderWork("local") as work, pytest.raises(DmedgeError, match="cannot start ./runner: No such file"):
        work.start(("./runner",))


# Jobs


def test_a_job_is_what_the_page_says(tmp_path: Path) -> None:
    job = Job(
        program="programs/text.onnx",
        method="encode_text",
        inputs=("ids", "mask"),
        outputs=((0, "embedding"),),
        config=(("session.key", "1"),),
        runs=7,
    )
    ids, mask = np.arange(6, dtype=np.int32).reshape(1, 6), np.ones((1, 6), np.int32)
    write_job(tmp_path, job, [[ids, mask], [ids[:, :2], mask[:, :2]]])
    found = (tmp_path / "job.txt").read_text()
    page = (Path(__file__).parent.parent / "docs/devices.md").read_text(encoding="utf-8")
    assert f"```\n{found}```" in page
    content = (tmp_path / "inputs.bin").read_bytes()
    assert len(content) == 4 * 64
    np.testing.assert_array_equal(np.frombuffer(content[:24], np.int32), ids[0])
    assert content[24:64] == bytes(40)


def test_the_lines_of_a_job_are_those_that_runners_know() -> None:
    source = (SOURCES / "runner.h").read_text(encoding="utf-8")
    words = ("program", "method", "threads", "config", "run", "time", "input", "output", "case", "tensor")
    assert [word for word in words if f'strcmp(line, "{word}")' not in source] == []


ANSWER = {
    "runtime": "onnxruntime",
    "version": "1.0",
    "threads": 1,
    "base_rss_bytes": 1,
    "peak_rss_bytes": 2,
    "outputs": [[{"dtype": "float32", "shape": [1, 2]}], [{"dtype": "float32", "shape": [1]}]],
    "samples_ns": [[5], [6]],
}


def test_outputs_are_read_case_by_case(tmp_path: Path) -> None:
    answer = read_answer(json.dumps(ANSWER))
    assert (answer.load_ms, answer.samples_ns) == (None, ((5,), (6,)))
    (tmp_path / "outputs.bin").write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    first, second = read_outputs(tmp_path / "outputs.bin", answer)
    np.testing.assert_array_equal(first[0], [[1, 2]])
    np.testing.assert_array_equal(second[0], [3])
    (tmp_path / "outputs.bin").write_bytes(b"1234")
    with pytest.raises(DmedgeError, match="4 bytes; the runner announced 12"):
        read_outputs(tmp_path / "outputs.bin", answer)


@pytest.mark.parametrize("line", ["", "nonsense", "[]", '{"outputs": []}', json.dumps({**ANSWER, "more": 1})])
def test_what_is_no_answer_is_refused(line: str) -> None:
    with pytest.raises(DmedgeError, match="expected one line of JSON"):
        read_answer(line)


def test_a_refusal_of_the_runner_is_an_error() -> None:
    with pytest.raises(DmedgeError, match="program.pte: not found; expected a program and inputs that fit"):
        read_answer('{"error": "program.pte: not found"}')


# Wheels


def test_libraries_of_this_machine_are_those_installed(cache: Path) -> None:
    import onnxruntime

    assert library_folder("onnxruntime", wheels.host_machine()) == Path(onnxruntime.__file__).parent
    assert runtime_version("onnxruntime") == onnxruntime.__version__
    assert not cache.exists()


def test_only_what_is_asked_for_is_unpacked(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "x.whl", {"x/lib/a.so": b"a", "x/b.py": b"b"})
    unpack_wheel(wheel, tmp_path / "out", ("x/lib/*.so",))
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["a.so"]
    with pytest.raises(DmedgeError, match=r"x.whl: holds no x/\*.h"):
        unpack_wheel(wheel, tmp_path / "other", ("x/*.h",))


@pytest.mark.parametrize("damage", ["changed", "half", "text"])
def test_a_damaged_wheel_is_refused(damage: str, tmp_path: Path) -> None:
    changed = "x/a.so" if damage == "changed" else None
    wheel = write_wheel(tmp_path / "x.whl", {"x/a.so": b"a" * 100}, changed=changed)
    if damage != "changed":
        wheel.write_bytes(wheel.read_bytes()[:60] if damage == "half" else b"text")
    with pytest.raises(DmedgeError, match=r"x.whl: .*fetch (the wheel|it) again"):
        unpack_wheel(wheel, tmp_path / "out", ("x/*",))


def test_a_wheel_stays_within_its_folder(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "x.whl", {"x/../../../evil": b"a"})
    with pytest.raises(DmedgeError, match="unsafe file name"):
        unpack_wheel(wheel, tmp_path / "out/put", ("x/*",))
    assert not (tmp_path.parent / "evil").exists()


def test_without_a_registry_the_error_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    other: wheels.Machine = "aarch64" if wheels.host_machine() == "x86_64" else "x86_64"
    with pytest.raises(DmedgeError, match="pip cannot fetch onnxruntime .*connect this machine, or let PIP_FIND_LINKS"):
        library_folder("onnxruntime", other)
    assert list((cache / "wheels").iterdir()) == []


def test_sources_that_do_not_compile_leave_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "runner.h").write_text("")
    (tmp_path / "onnx_runner.c").write_text("int main(void) { return nothing; }")
    monkeypatch.setattr("dmedge.devices.native_runner.SOURCES", tmp_path)
    with pytest.raises(DmedgeError, match=r"g\+\+ cannot compile the runner: .*nothing.*undeclared"):
        build_runner("onnxruntime", wheels.host_machine())
    assert list((cache / "runners").iterdir()) == []


def test_a_runner_is_compiled_once_and_again_when_its_source_changes(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = build_runner("onnxruntime", wheels.host_machine()).files["runner"]
    written = first.stat().st_mtime_ns
    assert build_runner("onnxruntime", wheels.host_machine()).files["runner"].stat().st_mtime_ns == written
    for name in ("runner.h", "onnx_runner.c"):
        (tmp_path / name).write_bytes((SOURCES / name).read_bytes() + b"\n")
    monkeypatch.setattr("dmedge.devices.native_runner.SOURCES", tmp_path)
    assert build_runner("onnxruntime", wheels.host_machine()).files["runner"] != first
    assert len(list((cache / "runners").iterdir())) == 2
