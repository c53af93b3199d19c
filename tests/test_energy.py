"""Energy by counters, batteries and power chips, read from made-up system files, here and through shells."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmedge.cli.bench import _energy_words
from dmedge.devices.energy import BOARD, CHARGE, CURRENT, RAPL, energies, energy_facts, is_metered, told_by
from dmedge.devices.local import local_facts
from dmedge.devices.remote import read_state, remote_facts
from dmedge.errors import DmedgeError
from dmedge.evidence.latency import Case, Nanoseconds
from dmedge.evidence.sustained import Window, energy_json, run_sustained
from dmedge.runtime.wire import Array

Facts = Mapping[str, object]
BATTERY = "sys/class/power_supply/battery"
# Two of the rails of a Raspberry Pi 5, one without a current, and the battery of its clock.
PMIC = """ 3V3_SYS_A current(1)=0.10000000A
 VDD_CORE_A current(7)=2.00000000A
  3V3_SYS_V volt(9)=3.30000000V
 VDD_CORE_V volt(15)=0.85000000V
 EXT5V_V volt(24)=5.10000000V
 BATT_V volt(25)=0.00000000V
"""


def powercap(root: Path, zones: Mapping[str, tuple[str, int]]) -> Facts:
    """Facts of a machine with these counters: zone -> its name, and microjoules."""
    for zone, (name, microjoules) in zones.items():
        folder = root / "sys/class/powercap" / zone
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in {"name": name, "energy_uj": microjoules, "max_energy_range_uj": 10_000_000}.items():
            (folder / file).write_text(f"{content}\n", encoding="utf-8")
    return local_facts(root)


def battery(root: Path, **files: object) -> Facts:
    """Facts of a machine with these files of a battery, which is being discharged unless they say otherwise."""
    folder = root / BATTERY
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in {"status": "Discharging", **files}.items():
        (folder / name).write_text(f"{content}\n", encoding="utf-8")
    return local_facts(root)


def rails(text: str) -> Facts:
    return energy_facts({"vcgencmd pmic_read_adc": text})


def power_chip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `vcgencmd` here tell what `PMIC` says."""
    folder.mkdir()
    (folder / "pmic").write_text(PMIC)
    tool = folder / "vcgencmd"
    tool.write_text(f'#!/bin/sh\n[ "$*" = pmic_read_adc ] && cat {folder}/pmic\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_energy_of_a_processor_is_that_of_whole_ones_and_counters_begin_anew(tmp_path: Path) -> None:
    apart = {"intel-rapl:0:0": ("core", 5), "intel-rapl-mmio:0": ("package-0", 5), "intel-rapl:2": ("psys", 5)}
    before = powercap(tmp_path, {"intel-rapl:0": ("package-0", 9_000_000), "intel-rapl:1": ("package-1", 0), **apart})
    after = powercap(tmp_path, {"intel-rapl:0": ("package-0", 1_000_000), "intel-rapl:1": ("package-1", 500_000)})
    # 2 J past the end of the one, 0.5 J of the other
    assert energies([before, after], 1.0) == {RAPL.name: pytest.approx(2.5)}
    assert energies([before, before], 1.0) == {RAPL.name: 0}
    assert energies([local_facts(tmp_path / "nothing"), after], 1.0) == {}


def test_a_battery_tells_by_the_charge_that_left_it(tmp_path: Path) -> None:
    """10,000 uAh are 36 C, at 4 V 144 J; the counter may be below zero."""
    before = battery(tmp_path, charge_counter=-50_000, voltage_now=4_100_000)
    after = battery(tmp_path, charge_counter=-60_000, voltage_now=3_900_000)
    assert energies([before, after], 60.0) == {CHARGE.name: pytest.approx(144)}


@pytest.mark.parametrize("sign", [-1, 1], ids=["as the kernel says", "as some drivers do"])
def test_a_battery_tells_by_its_current_and_the_pauses_do_not_count(sign: int, tmp_path: Path) -> None:
    idle, busy = (battery(tmp_path, voltage_now=4_000_000, current_now=sign * amps) for amps in (100_000, 500_000))
    assert is_metered(idle)
    assert energies([idle, busy, busy, idle], 10.0) == {CURRENT.name: pytest.approx(20)}  # 2 W for 10 s
    assert energies([idle, idle], 10.0) == {}  # nothing was sampled meanwhile


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_battery_that_is_not_discharged_all_along_tells_nothing(status: str, place: int, tmp_path: Path) -> None:
    told = {"charge_counter": 100_000, "voltage_now": 4_000_000, "current_now": -500_000}
    states = [battery(tmp_path, **told | {"charge_counter": 100_000 - 1000 * step}) for step in range(3)]
    assert energies(states, 1.0).keys() == {CHARGE.name, CURRENT.name}
    states[place] = battery(tmp_path, **told, status=status)
    # What is sampled leaves the pauses out, and with them whether there was a cable then.
    assert energies(states, 1.0).keys() == ({CURRENT.name} if place != 1 else set())


def test_a_charge_that_rises_tells_nothing(tmp_path: Path) -> None:
    states = [battery(tmp_path, charge_counter=charge, voltage_now=4_000_000) for charge in (9000, 8000, 8500)]
    assert energies(states, 1.0) == {}


def test_rails_of_which_both_are_known_make_the_power_of_a_board() -> None:
    assert rails(PMIC)["rails_w"] == pytest.approx(0.1 * 3.3 + 2.0 * 0.85)
    assert energies([rails(PMIC)] * 3, 10.0) == {BOARD.name: pytest.approx(20.3)}
    for text in ("", 'error=1 error_msg="Command not registered"', "EXT5V_V volt(24)=5.1V"):
        assert rails(text)["rails_w"] is None and not is_metered(rails(text))


def test_the_power_chip_is_asked_here_and_through_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_facts(tmp_path)["rails_w"] is None or shutil.which("vcgencmd")
    power_chip(tmp_path / "bin", monkeypatch)
    there = remote_facts(read_state("board", lambda script: ["/bin/sh", "-c", script]))
    assert local_facts(tmp_path)["rails_w"] == there["rails_w"] == pytest.approx(2.03)


# What is made of them


def part(**joules: float) -> Window:
    return Window(0, 2.0, np.full(4, 1e6), {"n": 4}, 1.0, energies_j=joules)


def test_energy_of_a_run_is_that_of_the_first_way_that_tells_every_window() -> None:
    both = part(rapl=6.0, rails=10.0)
    told = {"of": "processor", "by": RAPL.by, "joules_per_run": 1.5, "watts": 3.0}
    assert energy_json([both, both]) == told
    assert energy_json([both, part(rails=10.0)]) == told | {"of": "board", "by": BOARD.by} | {
        "joules_per_run": 2.5,
        "watts": 5.0,
    }
    assert energy_json([both, part()]) is None
    assert energy_json([both, part(charge=1.0)]) is None  # of two different things


@pytest.mark.parametrize("charge", [0.0, 0.01, 1e6], ids=["stands still", "milliampere hours", "nanoampere hours"])
def test_a_gauge_that_cannot_be_right_leaves_it_to_the_next_way(charge: float) -> None:
    told = told_by([{"charge": charge, "current": 4.0}], 2.0)
    assert told == (CURRENT, 4.0)
    assert told_by([{"charge": charge}], 2.0) is None


@pytest.mark.parametrize(
    ("energy", "words"),
    [
        (None, "energy: not available"),
        (
            {"of": "whole device", "by": CHARGE.by, "joules_per_run": 0.02, "watts": 3.5},
            "energy of the whole device: 20",
        ),
    ],
    ids=["nothing", "phone"],
)
def test_a_figure_says_whose_energy_it_is(energy: dict[str, Any] | None, words: str) -> None:
    assert _energy_words(energy).startswith(words)


class Machine:
    """A session whose runs take a thousandth of a second each, waited for."""

    def __init__(self) -> None:
        self.runs = 0

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> Nanoseconds:
        import time

        time.sleep(1e-3 * runs)
        self.runs += runs
        return np.full(runs, 1_000_000)


def sustain(facts_of: Callable[[], Facts]) -> list[Window]:

    case = Case("encode_image", "encode_image", [[np.zeros(1)]], [])
    return list(run_sustained(Machine(), case, 0.01, facts_of))  # type: ignore[arg-type]


def test_a_power_is_sampled_while_the_program_runs() -> None:
    windows = sustain(lambda: rails(PMIC))
    found = energy_json(windows)
    assert found is not None and found["of"] == "board"
    assert found["watts"] == pytest.approx(2.03)
    assert found["joules_per_run"] == pytest.approx(2.03e-3, rel=0.5)  # of a run of 1 ms and what lies between


def test_a_device_that_goes_away_while_it_is_sampled_is_an_error() -> None:
    left = iter([rails(PMIC)] * 4)

    def facts() -> Facts:
        found = next(left, None)
        if found is None:
            raise DmedgeError("board: not reached")
        return found

    with pytest.raises(DmedgeError, match="board: not reached"):
        sustain(facts)


def test_nothing_is_sampled_where_no_power_is_told() -> None:
    asked: list[int] = []

    def facts() -> Facts:
        asked.append(1)
        return {}

    assert len(asked) == 0 and len(sustain(facts)) + 1 == len(asked)
