"""A work directory on another machine, reached by a command that hands a script to a shell there.

Files go there and come back through the streams of such a shell, so nothing but a shell is needed:
no file server, no Python.
"""

import shlex
import subprocess
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Self

from dmedge.devices.conversation import ProcessConversation
from dmedge.devices.energy import RAILS_KEY
from dmedge.devices.folder import PREFIX
from dmedge.devices.native_runner import LIBRARIES
from dmedge.devices.state import PATTERNS, state_facts
from dmedge.devices.wheels import Machine
from dmedge.environment import features_in, model_in
from dmedge.errors import DmedgeError

TIMEOUT_S = 120.0  # of one command; a file may have to travel through it

Shell = Callable[[str], Sequence[str]]  # a script -> the command of this machine that has it run there


def run_there(name: str, shell: Shell, script: str, *, stdin: IO[bytes] | None = None) -> bytes:
    """Run a script on the device and return what it printed.

    Args:
        name: of the device, for messages.
        shell: hands a script to the shell there.
        stdin: what the script reads [default: nothing].

    Raises:
        DmedgeError: the device is not reached, does not answer in time, or the script failed.
    """
    command = list(shell(script))
    try:
        done = subprocess.run(
            command, stdin=stdin or subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DmedgeError(
            f"{name}: no answer within {TIMEOUT_S:g} s; expected a device that is awake; look at its network or cable"
        ) from error
    except OSError as error:
        raise DmedgeError(f"{name}: cannot start {command[0]}: {error.strerror}; run dmedge devices") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        said = " | ".join(lines[-3:]) or "nothing"
        raise DmedgeError(
            f"{name}: {command[0]} ended with exit status {done.returncode} and said: {said}; "
            "expected a device that is reached and has room; run the same command by hand"
        )
    return done.stdout


class RemoteWork:
    """A work directory on another machine; see `WorkDirectory`."""

    def __init__(self, name: str, shell: Shell, parent: str, *, wrapper: Sequence[str] = ()) -> None:
        """Make the directory.

        Args:
            name: of the device, for messages.
            shell: hands a script to the shell there.
            parent: folder there for temporary files, as that shell spells it.
            wrapper: command and options that every command is handed to, such as a loader of libraries.

        Raises:
            DmedgeError: the device is not reached, or has no such folder.
        """
        self._name, self._shell, self._wrapper = name, shell, tuple(wrapper)
        made = run_there(name, shell, f'mktemp -d "{parent}/{PREFIX}XXXXXX"').decode("utf-8", "replace").strip()
        if PREFIX not in made or not made.startswith("/"):
            raise DmedgeError(f"{name}: mktemp answered {made[:80]!r}; expected the path of a new folder")
        self.root = PurePosixPath(made)
        self._made: set[PurePosixPath] = set()
        self._end = weakref.finalize(self, _remove, shell, self.root)

    def push(self, source: Path, name: str) -> None:
        """See `WorkDirectory.push`; a file that may be executed here may be executed there."""
        place, folder = self._place(name), self._place(name).parent
        steps = [] if folder in self._made else [f"mkdir -p {shlex.quote(str(folder))}"]
        steps.append(f"cat > {shlex.quote(str(place))}")
        if source.stat().st_mode & 0o100:
            steps.append(f"chmod 700 {shlex.quote(str(place))}")
        with source.open("rb") as stream:
            run_there(self._name, self._shell, " && ".join(steps), stdin=stream)
        self._made.add(folder)

    def pull(self, name: str, target: Path) -> None:
        """See `WorkDirectory.pull`."""
        target.write_bytes(run_there(self._name, self._shell, f"cat {shlex.quote(str(self._place(name)))}"))

    def remove(self, name: str) -> None:
        """See `WorkDirectory.remove`."""
        place = self._place(name)
        self._made = {folder for folder in self._made if not folder.is_relative_to(place)}
        run_there(self._name, self._shell, f"rm -rf {shlex.quote(str(place))}")

    def start(self, command: Sequence[str]) -> ProcessConversation:
        """See `WorkDirectory.start`."""
        words = shlex.join([*self._wrapper, *command])
        # The shell stays, to tell how the command ended: of one that a signal ended ssh alone tells 255.
        script = f"cd {shlex.quote(str(self.root))} && LD_LIBRARY_PATH={LIBRARIES} {words}; exit $?"
        return ProcessConversation(
            list(self._shell(script)),
            name=f"{self._name}: {Path(command[0]).name}",
            folder=Path.cwd(),
            environment={},
            is_shell=True,
        )

    def close(self) -> None:
        """See `WorkDirectory.close`; a device that is gone keeps what it has."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _place(self, name: str) -> PurePosixPath:
        return self.root / name


def _remove(shell: Shell, root: PurePosixPath) -> None:
    command = list(shell(f"rm -rf {shlex.quote(str(root))}"))
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return  # out of reach


# What is there, and what a figure must carry


def ask_machine(name: str, shell: Shell) -> Machine:
    """The processor of the device.

    Raises:
        DmedgeError: it is not reached, or native runners are not made for it.
    """
    return machine_of(name, run_there(name, shell, "uname -sm").decode("utf-8", "replace").strip())


_MARK = "==dmedge=="
_FACTS = (
    f'for file in {" ".join(PATTERNS)}; do if [ -r "$file" ]; then echo "{_MARK} $file"; cat "$file"; echo; fi; done; '
    f'echo "{_MARK} uname"; uname -sm; echo "{_MARK} release"; uname -r'
)


def read_state(name: str, shell: Shell, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the files hold in which Linux keeps its state, by path, and what the power chip tells.

    Files that cannot be read are left out.

    Args:
        more: name -> command whose output is wanted as well.

    Raises:
        DmedgeError: the device is not reached.
    """
    asked = {**(more or {}), RAILS_KEY: RAILS_KEY}
    commands = "".join(f'; echo "{_MARK} {key}"; {command} 2>/dev/null' for key, command in asked.items())
    told = run_there(name, shell, f"{_FACTS}{commands}; true").decode("utf-8", "replace")
    found: dict[str, str] = {}
    for part in told.split(f"{_MARK} ")[1:]:
        key, _, content = part.partition("\n")
        found[key.strip()] = content.strip()
    return found


def machine_of(name: str, told: str) -> Machine:
    """The processor by what `uname -sm` told.

    Raises:
        DmedgeError: native runners are not made for it.
    """
    known: dict[str, Machine] = {"Linux x86_64": "x86_64", "Linux aarch64": "aarch64"}
    if told not in known:
        raise DmedgeError(f"{name}: is {told!r}; expected Linux on x86_64 or aarch64 (64 bits), for native runners")
    return known[told]


def remote_facts(state: dict[str, str]) -> dict[str, object]:
    """Facts that a latency figure must carry, from what `read_state` found."""
    cpuinfo = state.get("/proc/cpuinfo", "")
    cores = sum(1 for line in cpuinfo.splitlines() if line.partition(":")[0].strip() == "processor")
    return {
        "platform": state.get("uname"),
        "kernel": state.get("release"),
        "cpu": model_in(cpuinfo),
        "cpu_features": list(features_in(cpuinfo)),
        "cores": cores or None,
        **state_facts(state),
    }
