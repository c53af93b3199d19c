"""What the machine tells, read from made-up system files."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from dmedge.devices.local import local_facts
from dmedge.devices.remote import read_state, remote_facts
from dmedge.devices.state import cores_in, state_facts


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_facts_are_read_in_plain_units(tmp_path: Path) -> None:
    write(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    write(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2400000\n")
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", "41000\n")
    write(tmp_path / "sys/class/thermal/thermal_zone1/temp", "52500\n")
    write(tmp_path / "proc/loadavg", "0.25 0.10 0.05 1/99 1234\n")
    write(tmp_path / "proc/meminfo", "MemTotal:       2048 kB\nMemFree: 10 kB\n")
    write(tmp_path / "proc/self/status", "Name:\tcat\nCpus_allowed:\t4f\nCpus_allowed_list:\t0-3,6\n")
    write(tmp_path / "etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    facts = local_facts(tmp_path)
    assert (facts["governor"], facts["frequency_mhz"], facts["temperature_c"]) == ("performance", 2400.0, 52.5)
    assert (facts["load_average"], facts["memory_bytes"]) == (0.25, 2048 * 1024)
    assert (facts["affinity"], facts["os"]) == ([0, 1, 2, 3, 6], "Debian GNU/Linux 12 (bookworm)")


def test_what_is_not_told_is_none_and_never_guessed(tmp_path: Path) -> None:
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", "not a number\n")
    facts = local_facts(tmp_path)
    for name in state_facts({}):
        assert facts[name] is None or name == "rails_w", name
    assert isinstance(facts["cores"], int)


def test_clusters_of_cores_have_frequencies_of_their_own() -> None:
    """Eight cores of a phone in three clusters, and one that is off."""
    speeds = [1800] * 4 + [2400] * 3 + [3200]
    path = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
    files = {path.format(core): f"{mhz}000" for core, mhz in enumerate(speeds)} | {path.format(8): ""}
    facts = state_facts(files)
    assert (facts["frequencies_mhz"], facts["frequency_mhz"]) == ([1800.0, 2400.0, 3200.0], 3200.0)


TREE = {"/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}
TREE |= {"/proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"}
CHIP = {"/sys/devices/soc0/family": "Snapdragon\n", "/sys/devices/soc0/machine": "SM8550\n"}


@pytest.mark.parametrize(
    "files, model, soc",
    [
        (TREE, "Raspberry Pi 5 Model B Rev 1.0", "brcm,bcm2712"),
        (CHIP, None, "Snapdragon SM8550"),
        (TREE | CHIP, "Raspberry Pi 5 Model B Rev 1.0", "Snapdragon SM8550"),
        ({}, None, None),
    ],
    ids=["device tree", "soc bus", "both", "neither"],
)
def test_a_board_names_itself_and_its_chip(files: Mapping[str, str], model: str | None, soc: str | None) -> None:
    facts = remote_facts(dict(files))
    assert (facts["model"], facts["soc"]) == (model, soc)


@pytest.mark.parametrize(
    "text, cores", [("0", [0]), ("0-1,4,6-7", [0, 1, 4, 6, 7]), ("", None), ("all", None), ("3-1-2", None)]
)
def test_lists_of_cores_are_read_as_linux_writes_them(text: str, cores: list[int] | None) -> None:
    assert cores_in(text) == cores


def test_affinity_is_that_of_the_shell_that_starts_a_runner() -> None:
    here = sorted(os.sched_getaffinity(0))
    assert local_facts()["affinity"] == here
    for wrapper, cores in (([], here), (["taskset", "-c", str(here[0])], here[:1])):
        state = read_state("board", lambda script, wrapper=wrapper: [*wrapper, "/bin/sh", "-c", script])  # type: ignore[misc]
        assert remote_facts(state)["affinity"] == cores
