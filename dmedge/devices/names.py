"""The devices that programs can be timed on."""

from dmedge.config import near_match
from dmedge.errors import ConfigError

DEVICES = {"local": "this machine"}


def check_device(name: str) -> str:
    """Return `name` if programs can be timed there.

    Raises:
        ConfigError: they cannot.
    """
    if name not in DEVICES:
        found = ", ".join(f"{device} ({what})" for device, what in DEVICES.items())
        raise ConfigError(f"no device {name!r}{near_match(name, list(DEVICES))}; this version times on {found} only")
    return name
