"""Whether a bundle computes on a device what torch computed when it was exported."""

from dmedge.artifact import Artifact
from dmedge.devices.protocol import Device
from dmedge.evidence.parity import ParityReport, check_parity
from dmedge.runtime.native_session import open_device_session


def prove_on(bundle: Artifact, device: str | Device, *, runtime: str | None = None, threads: int = 1) -> ParityReport:
    """Run the conformance pack of `bundle` on a device, by the native runner of its runtime.

    Args:
        bundle: what to run.
        device: a name such as "qemu:cortex-a76", or the device.
        runtime: one of those that the bundle has programs for [default: that of its first program].
        threads: threads that one run may use.

    Raises:
        ArtifactError: the pack is missing or unreadable, or the bundle holds nothing that runs there.
        ConfigError: there is no such device.
        DmedgeError: something that the device needs is missing, or the runner failed.
    """
    with open_device_session(bundle, device, runtime=runtime, threads=threads) as session:
        return check_parity(session, bundle)
