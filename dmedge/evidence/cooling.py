"""Waiting until a device is about as cool as it was at the start, where it tells its temperature.

A processor that is hot runs slower, so a repeat that begins hot measures what came before it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dmedge.logs import progress

MARGIN_C = 3.0  # above the temperature of the start
PAUSE_S = 2.0  # between two looks

Facts = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Wait:
    """What became of one wait."""

    before: str
    temperature_c: float
    waited_s: float
    is_cool: bool


@dataclass(eq=False)
class Gate:
    """Lets measurements begin when the device has cooled down, or patience ends; all is written down.

    Args:
        start: facts of the machine before anything ran there.
        facts_of: asks for them again.
        cooldown_s: how long one wait lasts at most.
        cool_c: what counts as cool [default: `MARGIN_C` above the start].
        clock: seconds, ascending.
        sleep: waits for so many of them.
    """

    start: Facts
    facts_of: Callable[[], Facts]
    cooldown_s: float
    cool_c: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    waits: list[Wait] = field(default_factory=list)

    @property
    def limit_c(self) -> float | None:
        """What counts as cool; None where the machine tells no temperature."""
        found = _temperature(self.start)
        if found is None:
            return None
        return found + MARGIN_C if self.cool_c is None else self.cool_c

    def wait(self, before: str) -> None:
        """Wait for the device to cool down, if it tells.

        Args:
            before: what is measured next, such as "repeat 2".

        Raises:
            DmedgeError: the device went away.
        """
        if self.limit_c is None:
            return
        began = self.clock()
        with progress(f"cooling to {self.limit_c:g} C", self.cooldown_s) as advance:
            while (found := _temperature(self.facts_of())) is not None and found > self.limit_c:
                waited = self.clock() - began
                if waited >= self.cooldown_s:
                    break
                self.sleep(min(PAUSE_S, self.cooldown_s - waited))
                advance(min(PAUSE_S, self.cooldown_s - waited), f"{found:g} C")
        if found is not None:
            self.waits.append(Wait(before, found, self.clock() - began, found <= self.limit_c))

    def to_json(self) -> dict[str, object] | None:
        """What bench.json says of it; None where the machine tells no temperature."""
        if self.limit_c is None:
            return None
        return {
            "start_c": _temperature(self.start),
            "limit_c": self.limit_c,
            "cooldown_s": self.cooldown_s,
            "waits": [asdict(wait) for wait in self.waits],
        }


def cooling_words(cooling: Mapping[str, Any]) -> str:
    """One sentence on the waits that bench.json tells of."""
    waits = cooling["waits"]
    hot = [wait["before"] for wait in waits if not wait["is_cool"]]
    waited = sum(wait["waited_s"] for wait in waits)
    began, limit = cooling["start_c"], cooling["limit_c"]
    words = f"temperature {began:g} C at the start; waited {waited:.0f} s in all to be at {limit:g} C at most"
    return f"{words}; still warmer before {', '.join(hot)}" if hot else words


def _temperature(facts: Facts) -> float | None:
    found = facts.get("temperature_c")
    return float(found) if isinstance(found, (int, float)) else None
