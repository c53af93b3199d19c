"""A device that tells its temperature is waited for; one that does not is not."""

from collections.abc import Iterator

import pytest

from dmedge.config import load_config
from dmedge.errors import ConfigError, DmedgeError
from dmedge.evidence.config import BenchConfig
from dmedge.evidence.cooling import MARGIN_C, PAUSE_S, Gate, cooling_words


class Phone:
    """Loses a degree in so many seconds of its own time."""

    def __init__(self, temperature_c: float | None, *, seconds_per_degree: float = 4.0) -> None:
        self.temperature_c, self.seconds_per_degree, self.seconds = temperature_c, seconds_per_degree, 0.0

    def facts(self) -> dict[str, object]:
        return {"temperature_c": self.temperature_c}

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        if self.temperature_c is not None:
            self.temperature_c -= seconds / self.seconds_per_degree

    def gate(self, cooldown_s: float = 120.0, cool_c: float | None = None) -> Gate:
        return Gate(self.facts(), self.facts, cooldown_s, cool_c, clock=lambda: self.seconds, sleep=self.sleep)


def test_a_cool_device_is_not_waited_for() -> None:
    phone = Phone(30.0)
    gate = phone.gate()
    phone.temperature_c = 30.0 + MARGIN_C
    gate.wait("repeat 1")
    assert phone.seconds == 0
    (wait,) = gate.waits
    assert (wait.before, wait.temperature_c, wait.waited_s, wait.is_cool) == ("repeat 1", 33.0, 0.0, True)


def test_a_warm_device_is_waited_for_until_it_is_as_at_the_start() -> None:
    phone = Phone(30.0)
    gate = phone.gate()
    phone.temperature_c = 40.0
    gate.wait("repeat 2")
    (wait,) = gate.waits
    assert wait.is_cool and 30.0 < wait.temperature_c <= 33.0
    assert wait.waited_s == phone.seconds == 28.0  # seven degrees of four seconds
    told = gate.to_json()
    assert told is not None
    assert (told["start_c"], told["limit_c"], told["cooldown_s"]) == (30.0, 33.0, 120.0)
    assert cooling_words(told) == "temperature 30 C at the start; waited 28 s in all to be at 33 C at most"


def test_patience_ends_and_that_is_told() -> None:
    phone = Phone(30.0, seconds_per_degree=1e6)
    gate = phone.gate(cooldown_s=2.5 * PAUSE_S)
    phone.temperature_c = 45.0
    gate.wait("repeat 3")
    assert phone.seconds == 2.5 * PAUSE_S
    assert not gate.waits[0].is_cool and gate.waits[0].temperature_c == pytest.approx(45, abs=0.01)
    told = gate.to_json()
    assert told is not None and cooling_words(told).endswith("; still warmer before repeat 3")


def test_no_patience_reads_and_does_not_wait() -> None:
    phone = Phone(30.0)
    gate = phone.gate(cooldown_s=0)
    phone.temperature_c = 45.0
    gate.wait("repeat 2")
    assert phone.seconds == 0 and not gate.waits[0].is_cool


def test_a_limit_of_ones_own_takes_the_place_of_the_start() -> None:
    phone = Phone(50.0)
    gate = phone.gate(cool_c=40.0)
    gate.wait("repeat 1")
    assert gate.waits[0].temperature_c <= 40.0 and gate.waits[0].waited_s == 40.0


def test_a_machine_that_tells_no_temperature_is_not_waited_for() -> None:
    phone = Phone(None)
    gate = phone.gate()
    gate.wait("repeat 1")
    assert (phone.seconds, gate.waits, gate.to_json()) == (0, [], None)


def test_a_sensor_that_falls_silent_ends_the_wait() -> None:
    told: Iterator[float | None] = iter([50.0, None])
    gate = Gate({"temperature_c": 30.0}, lambda: {"temperature_c": next(told)}, 120.0, sleep=lambda _: None)
    gate.wait("repeat 2")
    assert gate.waits == []


def test_a_device_that_goes_away_while_cooling_is_an_error() -> None:
    def gone() -> dict[str, object]:
        raise DmedgeError("adb:x: gone")

    with pytest.raises(DmedgeError, match="gone"):
        Gate({"temperature_c": 30.0}, gone, 120.0).wait("repeat 2")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cooldown_s": -1}, "cooldown_s -1; expected 0 to 3600"),
        ({"more_threads": [2, 2]}, "threads 1, 2, 2; expected each number once"),
        ({"more_threads": [1]}, "threads 1, 1; expected each number once"),
        ({"more_threads": [0]}, "and 1 or more"),
        ({"repeats": 0}, "repeats 0"),
    ],
)
def test_odd_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(BenchConfig, settings, where="bench")
