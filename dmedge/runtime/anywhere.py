"""The programs of an artifact, loaded wherever they are to run."""

from dmedge.artifact import Artifact
from dmedge.devices.browser import BrowserDevice
from dmedge.devices.protocol import Device
from dmedge.manifest import Runtime
from dmedge.runtime.browser_session import BrowserSession
from dmedge.runtime.native_session import open_device_session
from dmedge.runtime.session import Session, open_session


def open_anywhere(artifact: Artifact, runtime: Runtime, device: Device | BrowserDevice | None, threads: int) -> Session:
    """Load the programs of an artifact here, on a device, or in a browser.

    Args:
        device: where they run [default: here, by the Python package of their runtime].
        threads: threads that one run may use.

    Raises:
        ArtifactError: the artifact holds nothing to run there.
        DmedgeError: the runtime, or something that the device needs, is missing, or cannot load the programs.
    """
    if device is None:
        return open_session(artifact, runtime=runtime, threads=threads)
    if isinstance(device, BrowserDevice):
        return BrowserSession(artifact, provider=device.provider, threads=threads)
    return open_device_session(artifact, device, runtime=runtime, threads=threads)
