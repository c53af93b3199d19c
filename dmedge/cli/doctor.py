"""dmedge doctor: what is installed here, what loads, and the command that installs what is missing."""

import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import click

from dmedge import __version__
from dmedge.cli.common import json_option, print_json
from dmedge.cli.tables import print_tables
from dmedge.environment import PACKAGES, host_facts, package_version

# Runtime -> a statement that proves that it loads; run in a process of its own, which a bad library may take down.
_PROOFS = {
    "onnxruntime": "import onnxruntime; onnxruntime.SessionOptions()",
    "torch": "import torch; torch.zeros(1) + 1",
    "executorch": "from executorch.runtime import Runtime; Runtime.get()",
}
_PROOF_TIMEOUT_S = 120

# What reaches other devices: program -> (what for, Debian package).
_DEVICE_TOOLS = {
    "adb": ("Android phones", "adb"),
    "ssh": ("boards in the network", "openssh-client"),
    "chromium": ("the web", "chromium"),
    "g++": ("native runners", "g++"),
    "qemu-aarch64-static": ("emulated arm64", "qemu-user-static"),
    "aarch64-linux-gnu-g++": ("emulated arm64", "g++-aarch64-linux-gnu"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked for."""

    name: str
    found: str | None  # version, path or time; None: missing, or it does not load
    needed_for: str
    fix: str  # the command that mends it


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what is installed here, which runtimes load, and what is missing."""
    packages, runtimes, devices = find_packages(), find_runtimes(), find_device_tools()
    if as_json:
        findings = {"packages": packages, "runtimes": runtimes, "devices": devices}
        tables = {title: [asdict(finding) for finding in group] for title, group in findings.items()}
        print_json({"dmedge": __version__, "host": host_facts(), **tables})
    else:
        _print_findings({"packages": packages, "runtimes": runtimes, "devices": devices})


def find_packages() -> list[Finding]:
    """Version of every package that dmedge uses."""
    return [
        Finding(name, package_version(name), extra or "everything", _pip(extra)) for name, extra in PACKAGES.items()
    ]


def find_runtimes() -> list[Finding]:
    """Whether each runtime loads, tried in a process of its own."""
    return [_try_runtime(name) for name in _PROOFS if package_version(name) is not None]


def find_device_tools() -> list[Finding]:
    """The programs that reach other devices; this machine itself always counts."""
    here = Finding("local", "this machine", "this machine", "")
    return [here] + [
        Finding(name, shutil.which(name), purpose, f"apt-get install {package}")
        for name, (purpose, package) in _DEVICE_TOOLS.items()
    ]


def _try_runtime(name: str) -> Finding:
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROOFS[name]], capture_output=True, text=True, timeout=_PROOF_TIMEOUT_S, check=False
        )
        problem = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        loads = done.returncode == 0
    except subprocess.TimeoutExpired:
        loads, problem = False, [f"no answer in {_PROOF_TIMEOUT_S} s"]
    if loads:
        return Finding(name, f"loads in {time.monotonic() - began:.1f} s", "programs", "")
    reinstall = f"pip install --force-reinstall --no-deps {name}=={package_version(name)}"
    return Finding(name, None, f"programs ({problem[0]})", reinstall)


def _pip(extra: str) -> str:
    return f"pip install 'dmedge[{extra}]'" if extra else "pip install dmedge"


def _print_findings(groups: dict[str, list[Finding]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    host = Table(show_header=False, box=None)
    for name, value in {"dmedge": __version__, **host_facts()}.items():
        host.add_row(name, escape(" ".join(value) if isinstance(value, list) else str(value)))
    print_tables(host)
    for title, findings in groups.items():
        table = Table("name", "found", "for", title=title, title_justify="left")
        for finding in findings:
            table.add_row(finding.name, escape(finding.found or "missing"), escape(finding.needed_for))
        print_tables(table)
    fixes = dict.fromkeys(finding.fix for findings in groups.values() for finding in findings if not finding.found)
    click.echo("Nothing is missing." if not fixes else "To add what is missing:")
    for fix in fixes:
        click.echo(f"  {fix}")
