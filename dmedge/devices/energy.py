"""What a machine tells of its energy: a processor by its counters, a phone by its battery, a board by its rails.

Each is the energy of something else, so every figure says of what it is, and no two of them are added.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

PATTERNS = (
    "/sys/class/powercap/*/name",
    "/sys/class/powercap/*/energy_uj",
    "/sys/class/powercap/*/max_energy_range_uj",
    "/sys/class/power_supply/battery/status",
    "/sys/class/power_supply/battery/charge_counter",
    "/sys/class/power_supply/battery/voltage_now",
    "/sys/class/power_supply/battery/current_now",
)
RAILS = ("vcgencmd", "pmic_read_adc")  # of a Raspberry Pi 5
RAILS_KEY = " ".join(RAILS)  # its output, among the files
PLAUSIBLE_W = (0.05, 200.0)  # of a whole phone or board at work; drivers that keep other units fall out of it

_BATTERY = "/sys/class/power_supply/battery"
_RAIL = re.compile(r"(?P<rail>\w+)_(?P<unit>[AV])\s+(?:current|volt)\(\d+\)=(?P<value>\d+\.?\d*)(?P=unit)")
_TIMEOUT_S = 5.0

Facts = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to know an energy."""

    name: str
    of: str  # whose energy it is
    by: str  # how it is known


RAPL = Way("rapl", "processor", "RAPL, counters of the processor")
CHARGE = Way("charge", "whole device", "charge counter and voltage of its battery")
CURRENT = Way("current", "whole device", "current and voltage of its battery, sampled")
BOARD = Way("rails", "board", "currents and voltages of its PMIC's rails, sampled")
WAYS = (RAPL, CHARGE, CURRENT, BOARD)  # the first that a machine has counts


def ask_rails() -> str:
    """What the power chip of this machine tells; "" where there is none, or none that answers."""
    if shutil.which(RAILS[0]) is None:
        return ""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(RAILS, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        return done.stdout
    return ""


def energy_facts(files: Mapping[str, str]) -> dict[str, object]:
    """Counters and meters of a machine, None for each that it has not.

    Args:
        files: content by path, and that of `RAILS_KEY`.
    """
    return {"energy": _counters(files), "fuel_gauge": _fuel_gauge(files), "rails_w": _rails_w(files)}


def is_metered(facts: Facts) -> bool:
    """Whether the machine tells a power, which has to be sampled while something runs."""
    return _battery_w(facts) is not None or facts.get("rails_w") is not None


def energies(states: Sequence[Facts], seconds: float) -> dict[str, float]:
    """Joules that were taken, by the name of every way that tells.

    Args:
        states: of one machine, ascending in time: before, any number meanwhile, and after; so near to each other that
            no counter began anew twice.
        seconds: that lie between the first and the last.
    """
    found = {RAPL.name: _counted(states[0], states[-1]), CHARGE.name: _drained(states)}
    for way, power in ((CURRENT, _battery_w), (BOARD, _board_w)):
        told = [power(state) for state in states[1:-1]]  # the first and the last are of a pause
        known = [watts for watts in told if watts is not None]
        found[way.name] = sum(known) / len(known) * seconds if known and len(known) == len(told) else None
    return {name: joules for name, joules in found.items() if joules is not None}


def told_by(parts: Sequence[Mapping[str, float]], seconds: float) -> tuple[Way, float] | None:
    """The first way that tells all parts of a run, and the joules of all of them; None if there is none.

    What cannot be is left out: a gauge that never moved, a current in another unit.

    Args:
        parts: what `energies` found of each.
        seconds: of all of them.
    """
    for way in WAYS:
        if parts and all(way.name in part for part in parts):
            joules = sum(part[way.name] for part in parts)
            if way is RAPL or PLAUSIBLE_W[0] <= joules / seconds <= PLAUSIBLE_W[1]:
                return way, joules
    return None


# The counters of a processor


def _counters(files: Mapping[str, str]) -> dict[str, dict[str, float]] | None:
    """Counters of whole processors (RAPL) by zone; parts of them, and other ways to the same counter, are left out.

    Source: Documentation/power/powercap/powercap.rst of Linux.
    """
    found = {}
    for path, content in files.items():
        folder, _, name = path.rpartition("/")
        zone, joules = folder.rpartition("/")[2], number_in(content)
        is_whole = (files.get(f"{folder}/name") or "").startswith("package") and "mmio" not in zone
        span = number_in(files.get(f"{folder}/max_energy_range_uj") or "")
        if name == "energy_uj" and is_whole and joules is not None and span is not None:
            found[zone] = {"joules": joules / 1e6, "range_joules": span / 1e6}
    return found or None


def _counted(before: Facts, after: Facts) -> float | None:
    start, end = before.get("energy"), after.get("energy")
    if not isinstance(start, Mapping) or not isinstance(end, Mapping) or start.keys() != end.keys():
        return None
    taken = [end[zone]["joules"] - start[zone]["joules"] for zone in end]
    ranges = [end[zone]["range_joules"] for zone in end]
    return float(sum(joules if joules >= 0 else joules + span for joules, span in zip(taken, ranges, strict=True)))


# The battery of a phone


def _fuel_gauge(files: Mapping[str, str]) -> dict[str, object] | None:
    """What a battery tells in plain units; the sign of a current is left out, for drivers do not agree on it.

    Source: Documentation/ABI/testing/sysfs-class-power and Documentation/power/power_supply_class.rst of Linux:
    microampere hours, which mean something only as a difference, microvolts and microamperes.
    """
    if f"{_BATTERY}/status" not in files:
        return None
    charge, volts, amperes = (
        number_in(files.get(f"{_BATTERY}/{name}") or "") for name in ("charge_counter", "voltage_now", "current_now")
    )
    return {
        "is_discharging": files[f"{_BATTERY}/status"] == "Discharging",
        "coulombs": None if charge is None else charge * 3600 / 1e6,
        "volts": None if volts is None else volts / 1e6,
        "amperes": None if amperes is None else abs(amperes) / 1e6,
    }


def _drained(states: Sequence[Facts]) -> float | None:
    """Joules by the charge that left the battery; None if it was charged at any time, or does not tell."""
    coulombs, volts = (_of_battery(states, name) for name in ("coulombs", "volts"))
    if coulombs is None or volts is None or any(later > earlier for earlier, later in pairwise(coulombs)):
        return None
    return (coulombs[0] - coulombs[-1]) * sum(volts) / len(volts)


def _of_battery(states: Sequence[Facts], name: str) -> list[float] | None:
    """One number of every state, if all of them have it and none is of a battery that is being charged."""
    gauges = [state.get("fuel_gauge") for state in states]
    found = [gauge[name] for gauge in gauges if isinstance(gauge, Mapping) and gauge["is_discharging"]]
    return found if len(found) == len(states) and None not in found else None


def _battery_w(state: Facts) -> float | None:
    volts, amperes = (_of_battery([state], name) for name in ("volts", "amperes"))
    return None if volts is None or amperes is None else volts[0] * amperes[0]


# The rails of a board


def _rails_w(files: Mapping[str, str]) -> float | None:
    """Power over all rails of which the PMIC of a Raspberry Pi 5 tells current and voltage.

    What hangs on its 5 V, such as USB, is not among them.
    """
    told: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for found in _RAIL.finditer(files.get(RAILS_KEY) or ""):
        told[found["unit"]][found["rail"]] = float(found["value"])
    rails = told["A"].keys() & told["V"].keys()
    return sum(told["A"][rail] * told["V"][rail] for rail in sorted(rails)) if rails else None


def _board_w(state: Facts) -> float | None:
    power = state.get("rails_w")
    return power if isinstance(power, float) else None


def number_in(text: str) -> float | None:
    """A number as a system file holds it; None for anything else."""
    with suppress(ValueError):
        return float(text)
    return None
