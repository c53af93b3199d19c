"""Arm processors that QEMU emulates: what programs compute there is what they compute on the real one's instructions.

How long they take says nothing of any device, so nothing is timed here.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dmedge.devices.folder import FolderWork
from dmedge.devices.native_runner import NativeRunner, build_runner, compiler_needs
from dmedge.devices.needs import Need, check_needs
from dmedge.devices.wheels import Machine, host_machine
from dmedge.manifest import Runtime

EMULATOR = Need("qemu-aarch64-static", "qemu-user-static")
SYSROOT = Path("/usr/aarch64-linux-gnu")  # where Debian's cross compiler keeps the C libraries of Arm


@dataclass(frozen=True, slots=True)
class Cpu:
    """One processor, as far as its /proc/cpuinfo tells."""

    description: str
    part: str
    features: str


# SME is left out on purpose: QEMU 7.2 and XNNPACK disagree on it.
CPUS = {
    "cortex-a53": Cpu("Armv8.0, plain NEON", "0xd03", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
    "cortex-a76": Cpu(
        "Armv8.2, dot products and fp16",
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs",
    ),
}


@dataclass(frozen=True, slots=True)
class EmulatedDevice:
    """An arm64 Linux whose instructions QEMU emulates."""

    cpu: str  # a key of CPUS

    machine: ClassVar[Machine] = "aarch64"
    can_time: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """See `Device.name`."""
        return f"qemu:{self.cpu}"

    @property
    def needs(self) -> tuple[Need, ...]:
        """See `Device.needs`."""
        return (EMULATOR, *compiler_needs(self.machine))

    def runner(self, runtime: Runtime) -> NativeRunner:
        """See `Device.runner`."""
        return build_runner(runtime, self.machine)

    def open(self) -> FolderWork:
        """See `Device.open`."""
        check_needs(self.needs)
        root = "sysroot"
        work = FolderWork(self.name, (EMULATOR.command, "-cpu", self.cpu, "-L", root))
        if host_machine() != self.machine:
            work.push(SYSROOT / "lib", f"{root}/lib")
        # The emulator looks in its root first. onnxruntime crashes on the /proc/cpuinfo of another processor.
        cpuinfo = work.root / root / "proc/cpuinfo"
        cpuinfo.parent.mkdir(parents=True)
        cpuinfo.write_text(_cpuinfo(self.cpu), encoding="ascii")
        return work

    def facts(self) -> dict[str, object]:
        """See `Device.facts`."""
        told = subprocess.run([_emulator(), "--version"], capture_output=True, text=True, check=True).stdout
        return {
            "platform": f"Linux {self.machine}",
            "cpu": self.cpu,
            "cpu_features": CPUS[self.cpu].features.split(),
            "emulator": told.splitlines()[0],
            "is_emulated": True,
        }


def _emulator() -> str:
    check_needs((EMULATOR,))
    found = shutil.which(EMULATOR.command)
    assert found is not None
    return found


def _cpuinfo(cpu: str) -> str:
    """What Linux tells of one core of `cpu`."""
    lines = {
        "processor": "0",
        "BogoMIPS": "50.00",
        "Features": CPUS[cpu].features,
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": "0x0",
        "CPU part": CPUS[cpu].part,
        "CPU revision": "4",
    }
    return "".join(f"{key}\t: {value}\n" for key, value in lines.items()) + "\n"
