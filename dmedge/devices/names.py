"""The devices by their names on the command line."""

from collections.abc import Callable, Mapping

from dmedge.config import near_match
from dmedge.devices.emulated import CPUS, EmulatedDevice
from dmedge.devices.local import LocalDevice
from dmedge.devices.protocol import Device
from dmedge.errors import ConfigError, DmedgeError

DEVICES = {"local": "this machine"}  # that programs can be timed on
EMULATED = {f"qemu:{cpu}": f"emulated arm64, {facts.description}; parity, no times" for cpu, facts in CPUS.items()}

WEB = "web"  # headless Chromium, which runs bundles of the target web alone

_MAKERS: Mapping[str, Callable[[], Device]] = {
    "local": LocalDevice,
    **{f"qemu:{cpu}": lambda cpu=cpu: EmulatedDevice(cpu) for cpu in CPUS},  # type: ignore[misc]
}


def check_replay(name: str) -> str:
    """Return `name` if a conformance pack can be replayed there.

    Raises:
        ConfigError: it cannot.
    """
    if name != WEB:
        find_device(name)
    return name


def find_device(name: str) -> Device:
    """The device called `name`; it is not reached yet.

    Raises:
        ConfigError: there is none.
    """
    if name not in _MAKERS:
        found = ", ".join(f"{device} ({what})" for device, what in {**DEVICES, **EMULATED}.items())
        raise ConfigError(f"no device {name!r}{near_match(name, list(_MAKERS))}; known are {found}")
    return _MAKERS[name]()


def check_device(name: str) -> str:
    """Return `name` if programs can be timed there.

    Raises:
        ConfigError: they cannot.
    """
    if name in EMULATED:
        raise ConfigError(str(no_times(name)))
    if name not in DEVICES:
        found = ", ".join(f"{device} ({what})" for device, what in DEVICES.items())
        raise ConfigError(f"no device {name!r}{near_match(name, list(DEVICES))}; this version times on {found} only")
    return name


def no_times(name: str) -> DmedgeError:
    """The error of whoever asks an emulated device for a time."""
    return DmedgeError(
        f"{name} is emulated: a time taken there is the emulator's, and no latency of any device; "
        f"expected a device that can be timed; use --device {next(iter(DEVICES))}, or compare outputs there"
    )
