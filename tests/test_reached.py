"""Devices over a wire compute what this machine computes, are timed, and leave nothing behind: real sshd, real adb."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dmedge.artifact import Artifact
from dmedge.cli.main import cli
from dmedge.devices.adb import AdbDevice, battery_facts
from dmedge.devices.energy import CURRENT
from dmedge.devices.folder import PREFIX
from dmedge.devices.names import find_device
from dmedge.devices.native_runner import COMMAND, LIBRARIES, build_runner
from dmedge.devices.protocol import Device
from dmedge.devices.remote import RemoteWork, machine_of, remote_facts
from dmedge.devices.ssh import CONFIG, SshDevice
from dmedge.devices.wheels import host_machine
from dmedge.errors import ArtifactError, ConfigError, DmedgeError
from dmedge.evidence import timings
from dmedge.evidence.config import BenchConfig
from dmedge.evidence.devices import prove_on
from dmedge.evidence.latency import Case, Paired, measure
from dmedge.evidence.sustained import energy_json, run_sustained
from dmedge.evidence.verdict import Budget
from dmedge.flow.prove import bench
from dmedge.runtime.native_session import open_device_session
from dmedge.runtime.session import open_session
from tests import adb_device
from tests.tiny_bundles import example_inputs, int8_checkpoint, onnx_bundle, onnx_int8_bundle, tiny_checkpoint

__all__ = ["int8_checkpoint", "onnx_bundle", "onnx_int8_bundle", "tiny_checkpoint"]  # fixtures

KINDS = [pytest.param("ssh", marks=pytest.mark.slow), pytest.param("adb", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Board"]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("b")))
        board = Board(tmp_path_factory.mktemp("sshd"))
        patch.setenv(CONFIG, str(board.config))
        yield board
        board.stop()


class Board:
    """OpenSSH's own server on this machine, with keys of its own, for the user who runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        host_key = (folder / "host.pub").read_text().split()[:2]
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {' '.join(host_key)}\n")
        self.config = folder / "config"
        self.config.write_text(
            f"Host *\n IdentityFile {folder / 'user'}\n IdentitiesOnly yes\n UserKnownHostsFile {folder / 'known'}\n"
        )
        server = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "authorized",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
        }
        (folder / "sshd").write_text("".join(f"{key} {value}\n" for key, value in server.items()))
        Path("/run/sshd").mkdir(exist_ok=True) if os.getuid() == 0 else None  # where Debian's sshd locks itself in
        self.server = subprocess.Popen([shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd"])
        self.name = f"ssh:{getpass.getuser()}@127.0.0.1:{self.port}"
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.1)

    def stop(self) -> None:
        device = SshDevice.parse(self.name.removeprefix("ssh:"))
        subprocess.run([*device.shell("true")[:-3], "-O", "exit", device.host], capture_output=True, check=False)
        self.server.terminate()
        self.server.wait()


@pytest.fixture(scope="module")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server of adb for these tests alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("adb-home")))
        yield
        subprocess.run(["adb", "kill-server"], capture_output=True, check=False)


@pytest.fixture
def phone(adb_server: None, tmp_path: Path) -> Iterator[adb_device.AdbDevice]:
    (tmp_path / "phone").mkdir()
    with adb_device.AdbDevice(tmp_path / "phone") as phone:
        told = subprocess.run(["adb", "connect", phone.address], capture_output=True, text=True, check=True).stdout
        assert "connected to" in told, told
        yield phone
    subprocess.run(["adb", "disconnect", phone.address], capture_output=True, check=False)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Name of a device, and the folder in which it keeps its work."""
    if request.param == "ssh":
        board = request.getfixturevalue("board")
        return board.name, Path(os.environ["TMPDIR"])
    phone, home = request.getfixturevalue("phone"), request.getfixturevalue("tmp_path")
    return f"adb:{phone.address}", home / "phone"


def left_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(PREFIX)]


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_outputs_are_those_of_this_machine(place: tuple[str, Path], onnx_int8_bundle: Artifact) -> None:
    name, folder = place
    inputs = example_inputs("encode_text")
    with open_session(onnx_int8_bundle) as here, open_device_session(onnx_int8_bundle, name) as there:
        for mine, theirs in zip(here.run("encode_text", inputs), there.run("encode_text", inputs), strict=True):
            assert mine.tobytes() == theirs.tobytes()
        assert there.time("encode_text", inputs, 5).shape == (5,)
        assert (there.facts()["peak_rss_bytes"] or 0) > 1e6
        if name.startswith("adb"):
            assert left_in(folder)
    assert not left_in(folder)
    assert prove_on(onnx_int8_bundle, name).error_ratio <= 1


@pytest.mark.parametrize("place", [pytest.param("ssh", marks=pytest.mark.thorough), KINDS[1]], indirect=True)
@pytest.mark.usefixtures("onnx_bundle")  # the fp32 twin, which would be exported otherwise
def test_a_benchmark_on_it_says_where_it_was_taken(
    place: tuple[str, Path], onnx_int8_bundle: Artifact, tmp_path: Path
) -> None:
    name, home = place
    zone = home / f"{adb_device.SYSTEM}{adb_device.HEAT}thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("31500\n")  # that the shell of the phone reads
    config = BenchConfig(device=name, rounds=2, repeats=1, minutes=0.02, roofline=True)
    bench(onnx_int8_bundle, config, tmp_path / "bench")
    report = json.loads((tmp_path / "bench/bench.json").read_text("utf-8"))
    assert report["device"] == name and report["label"] == f"measured on {name}"
    assert report["host"]["before"]["platform"] == "Linux x86_64"
    assert report["host"]["before"]["affinity"] == sorted(os.sched_getaffinity(0))
    assert report["front_end"] == {}
    assert report["programs"]["encode_text"]["artifact"]["p50_ms"] > 0
    assert len(report["sustained"]["windows"]) >= 1 and report["sustained"]["slowdown"]["value"] > 0
    if name.startswith("adb"):
        assert (report["cooling"]["start_c"], report["cooling"]["limit_c"]) == (31.5, 34.5)
        waits = [(wait["before"], wait["is_cool"]) for wait in report["cooling"]["waits"]]
        assert waits == [("repeat 1", True), ("loading", True), ("the sustained run", True)]
    assert report["roofline"]["peaks"]["int8_macs_per_s"] > 1e9 and report["roofline"]["peaks"]["bytes_per_s"] is None
    assert all(row["bound"] == "compute" for row in report["roofline"]["programs"]["artifact"].values())


@pytest.mark.slow
def test_the_energy_of_a_phone_is_that_of_its_battery(
    phone: adb_device.AdbDevice, onnx_int8_bundle: Artifact, tmp_path: Path
) -> None:
    """Files of a battery, read by the real adb."""
    folder = Path(f"{tmp_path}/phone/{adb_device.SYSTEM}{adb_device.BATTERY}")
    folder.mkdir(parents=True)
    files = {"status": "Discharging", "charge_counter": 2_000_000, "voltage_now": 3_850_000, "current_now": -400_000}
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    device = AdbDevice(phone.address)
    gauge = {"is_discharging": True, "coulombs": 7200.0, "volts": 3.85, "amperes": 0.4}
    assert device.facts()["fuel_gauge"] == gauge
    case = Case("encode_text", "encode_text", [example_inputs("encode_text")], [])
    with open_device_session(onnx_int8_bundle, device) as session:
        windows = list(run_sustained(session, case, 0.02, device.facts))
    energy = energy_json(windows)  # the charge stands still here, so the current tells
    assert energy is not None and (energy["of"], energy["by"]) == (CURRENT.of, CURRENT.by)
    assert energy["watts"] == pytest.approx(3.85 * 0.4)


def processes_in(folder: Path) -> list[int]:
    """Those that work in `folder`, shells apart."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_shell = process.joinpath("exe").resolve().name in ("sh", "dash", "bash")
            if process.joinpath("cwd").resolve() == folder.resolve() and not is_shell:
                found.append(int(process.name))
    return found


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_a_runner_that_a_signal_ends_is_told_by_its_name(place: tuple[str, Path], onnx_bundle: Artifact) -> None:
    name, _ = place
    with open_device_session(onnx_bundle, name) as session:
        assert isinstance(session._work, RemoteWork)
        work = Path(session._work.root)
        (runner,) = processes_in(work)
        os.kill(runner, signal.SIGSEGV)
        with pytest.raises(DmedgeError, match=f"{name}: runner was ended by SIGSEGV while running encode_text"):
            session.run("encode_text", example_inputs("encode_text"))
    assert not work.exists()


@pytest.mark.slow
def test_a_device_that_vanishes_is_named(phone: adb_device.AdbDevice, onnx_bundle: Artifact) -> None:
    with open_device_session(onnx_bundle, f"adb:{phone.address}") as session:
        session.run("encode_text", example_inputs("encode_text"))
        phone.vanish()
        with pytest.raises(DmedgeError, match=f"adb:{phone.address}"):
            session.run("encode_text", example_inputs("encode_text"))


@pytest.mark.slow
@pytest.mark.usefixtures("onnx_bundle")  # the fp32 twin, which would be exported otherwise
def test_a_device_that_vanishes_while_it_is_timed_leaves_what_was_finished(
    phone: adb_device.AdbDevice, onnx_int8_bundle: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second repeat, which begins with the last case."""
    cases = iter(range(100))

    def measure_until_gone(*arguments: Any, **settings: Any) -> Paired:
        if next(cases) == 5:
            phone.vanish()
        return measure(*arguments, **settings)

    monkeypatch.setattr(timings, "measure", measure_until_gone)
    out, name = tmp_path / "timed", f"adb:{phone.address}"
    config = BenchConfig(device=name, rounds=2, repeats=2)
    kept = tmp_path / "timed-unfinished"
    with pytest.raises(DmedgeError, match=f"{name}: .*; what was finished until then is in {kept}"):
        bench(onnx_int8_bundle, config, out)
    assert not out.exists()
    report = json.loads((kept / "unfinished.json").read_text("utf-8"))
    assert report["error"].startswith(name) and report["artifact_sha256"] == onnx_int8_bundle.digest
    done = {name: len(row["ratio"]["repeats"]) for name, row in report["programs"].items()}
    assert done == {"encode_image": 1, "encode_text": 1, "encode_text_longest": 1, "fuse": 2}
    assert report["host"]["before"]["platform"] == "Linux x86_64"
    with np.load(kept / "samples.npz") as samples:
        assert samples["fuse_artifact_ns"].shape[0] == 4 and samples["encode_text_fp32_ns"].shape[0] == 2
    with pytest.raises(DmedgeError, match=name) as gone:  # nothing is finished, so nothing is left
        bench(onnx_int8_bundle, config, out)
    assert "finished" not in str(gone.value)
    assert sorted(path.name for path in tmp_path.glob("timed*")) == ["timed-unfinished"]


@pytest.mark.slow
def test_a_board_that_is_not_reached_is_an_error(board: Board) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DmedgeError, match=f"ssh:127.0.0.1:{port}: ssh ended with exit status 255 and said: .*refused"):
        find_device(f"ssh:127.0.0.1:{port}").open()


@pytest.mark.slow
def test_a_missing_phone_is_an_error(adb_server: None) -> None:
    with pytest.raises(DmedgeError, match="adb:none: adb ended with exit status 1 and said: .*'none' not found"):
        find_device("adb:none").open()


@pytest.mark.slow
def test_an_own_runner_is_taken_as_it_is(phone: adb_device.AdbDevice, onnx_bundle: Artifact, tmp_path: Path) -> None:
    """A script stands for it: what is pushed is that file alone, and it is started without a loader."""
    runner = tmp_path / "runner"
    runner.write_text('#!/bin/sh\nls lib 2>&1 >/dev/null | head -1 >&2; echo \'{"error": "a script"}\'; cat\n')
    runner.chmod(0o700)
    device = find_device(f"adb:{phone.address}", runner)
    with pytest.raises(DmedgeError, match="a script"):
        open_device_session(onnx_bundle, device)


@pytest.mark.slow
def test_a_bundle_conforms_by_a_runner_of_ones_own(
    phone: adb_device.AdbDevice, onnx_bundle: Artifact, tmp_path: Path
) -> None:
    """The runner of this machine, which finds its libraries by itself, as one does that has them linked in."""
    files = build_runner("onnxruntime", host_machine()).files
    libraries = {str(file.parent) for name, file in files.items() if name.startswith(LIBRARIES)}
    runner = tmp_path / "own"
    runner.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH={":".join(sorted(libraries))} exec {files[COMMAND.removeprefix("./")]} "$@"\n'
    )
    runner.chmod(0o700)
    command = ["conform", str(onnx_bundle.root), "--device", f"adb:{phone.address}", "--runner", str(runner), "--json"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["conforms"]
    runner.write_text("#!/bin/sh\nexit 7\n")
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code == 1 and "exit status 7" in refused.stderr


@pytest.mark.parametrize(
    "name, found",
    [
        ("ssh:pi@board", SshDevice("pi@board")),
        ("ssh:board:2222", SshDevice("board", 2222)),
        ("ssh:pi@[fe80::1%eth0]:22", SshDevice("pi@fe80::1%eth0", 22)),
        ("adb:emulator-5554", AdbDevice("emulator-5554")),
        ("adb:192.168.1.7:5555", AdbDevice("192.168.1.7:5555")),
    ],
)
def test_names_are_read(name: str, found: Device) -> None:
    assert find_device(name) == found


@pytest.mark.parametrize("name", ["ssh:-oProxyCommand=x", "ssh:pi@-x", "ssh:a b", "ssh:", "adb:", "adb:-a", "adb:a b"])
def test_odd_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no device"):
        find_device(name)


def test_a_benchmark_here_takes_no_runner(onnx_bundle: Artifact, tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    (tmp_path / "runner").write_text("")
    for runner, words in ((tmp_path / "runner", "takes no runner"), (tmp_path / "none", "takes no runner")):
        with pytest.raises(ConfigError, match=words):
            bench(onnx_bundle, BenchConfig(runner=str(runner)), tmp_path / "out", baseline=tiny_checkpoint)
    assert not (tmp_path / "out").exists()


def test_only_android_takes_a_runner(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no runner"):
        find_device("local", tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        find_device("adb:x", tmp_path / "none")


@pytest.mark.parametrize("told", ["Linux armv7l", "Darwin arm64", ""])
def test_other_processors_are_refused(told: str) -> None:
    with pytest.raises(DmedgeError, match="expected Linux on x86_64 or aarch64"):
        machine_of("ssh:board", told)


def test_facts_of_a_board_are_read_from_its_files() -> None:
    facts = remote_facts(
        {
            "/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\nprocessor\t: 1\n",
            "/proc/meminfo": "MemTotal:        8000 kB",
            "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000",
            "/sys/devices/system/cpu/cpu4/cpufreq/scaling_cur_freq": "2400000",
            "/sys/class/thermal/thermal_zone0/temp": "48500",
            "uname": "Linux aarch64",
        }
    )
    assert facts["cpu"] == "Arm part 0xd0b" and facts["cores"] == 2
    assert (facts["frequency_mhz"], facts["temperature_c"], facts["memory_bytes"]) == (2400.0, 48.5, 8_192_000)
    assert facts["governor"] is None and facts["platform"] == "Linux aarch64"


def test_a_phone_that_shows_no_thermal_zone_is_as_warm_as_its_battery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"uname": "Linux aarch64", "battery": "  level: 81\n  temperature: 305\n"}
    monkeypatch.setattr("dmedge.devices.adb.read_state", lambda *_: told)
    assert AdbDevice("x").facts()["temperature_c"] == 30.5
    told["/sys/class/thermal/thermal_zone0/temp"] = "48500"
    assert AdbDevice("x").facts()["temperature_c"] == 48.5


def test_a_battery_tells_its_state() -> None:
    told = "  AC powered: false\n  USB powered: true\n  level: 81\n  temperature: 305\n"
    assert battery_facts(told) == {"level_percent": 81, "temperature_c": 30.5, "is_charging": True}
    assert battery_facts("") is None


def test_a_benchmark_needs_a_device_with_time_that_runs_the_bundle(onnx_bundle: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is emulated"):
        bench(onnx_bundle, BenchConfig(device="qemu:cortex-a76"), tmp_path / "out", budget=Budget())
    with pytest.raises(ArtifactError, match="expected a bundle for browsers"):
        bench(onnx_bundle, BenchConfig(device="web"), tmp_path / "out", budget=Budget())
