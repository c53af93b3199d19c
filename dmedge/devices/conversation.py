"""A process that answers lines with lines, and what is said of it when it ends."""

import os
import select
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from dmedge.errors import DmedgeError, RuntimeFailure

ADVICE = {
    -signal.SIGKILL: "the system ends processes so when memory runs out: close other programs or use fewer workers",
    -signal.SIGILL: "the runtime uses instructions that this processor lacks: use another machine",
    255: "the connection broke: see that the device is awake and reached, and run it again",  # as ssh ends
}
DAMAGED = "the program may be damaged: run dmedge export again"
SHELL_SIGNALS = 128  # POSIX, exit status of a command that a signal ended
_TAIL_BYTES = 2000
END_WAIT_S = 2.0


class ProcessConversation:
    """A command on this machine, or one that reaches another (ssh, adb) and passes its streams on."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        folder: Path,
        environment: Mapping[str, str],
        is_shell: bool = False,
    ) -> None:
        """Start `command` in `folder`.

        Args:
            name: of what runs, for messages.
            environment: added to that of this process.
            is_shell: whether a shell runs it and tells how it ended, as one on another machine does.

        Raises:
            DmedgeError: it cannot be started.
        """
        self._name, self._is_shell = name, is_shell
        self._heard = b""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `_end`
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd=folder,
                env={**os.environ, **environment},
                bufsize=0,
            )
        except OSError as error:
            self._stderr.close()
            raise DmedgeError(f"{name}: cannot start {command[0]}: {error.strerror}; run dmedge devices") from error
        self._end = weakref.finalize(self, _end, self._process, self._stderr)

    @property
    def process_id(self) -> int:
        """Process id on this machine."""
        return self._process.pid

    def ask(self, question: str, doing: str, timeout_s: float) -> str:
        """See `Conversation.ask`."""
        if not self._end.alive:
            raise DmedgeError(f"{self._name} is closed; expected an open session; open it again")
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer, or its absence, tells what happened
            self._process.stdin.write(f"{question}\n".encode())
        return self._read_line(doing, timeout_s)

    def close(self) -> None:
        """End the process; closing twice is fine."""
        self._end()

    def _read_line(self, doing: str, timeout_s: float) -> str:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._overdue(doing, timeout_s)
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise self._obituary(doing)
            self._heard += chunk
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode("utf-8", "replace")

    def _overdue(self, doing: str, timeout_s: float) -> DmedgeError:
        self._process.kill()
        self.close()
        return overdue(self._name, doing, timeout_s)

    def _obituary(self, doing: str) -> DmedgeError:
        error = obituary(self._name, doing, self._process, self._stderr, is_shell=self._is_shell)
        self.close()
        return error


def overdue(name: str, doing: str, timeout_s: float) -> RuntimeFailure:
    """What is said of a process that was ended because it did not answer in time."""
    return RuntimeFailure(
        f"{name} gave no answer within {timeout_s:g} s {doing} and was ended; "
        "expected an answer; use a smaller input, or a longer time limit"
    )


def obituary(
    name: str, doing: str, process: subprocess.Popen[bytes], stderr: IO[bytes], *, is_shell: bool = False
) -> RuntimeFailure:
    """What is said of a process that hung up: how it ended, and its last words."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_WAIT_S)
    code = _behind_shell(process.returncode) if is_shell else process.returncode
    last_words = _tail(stderr)
    heard = f"; it last said: {last_words}" if last_words else ""
    advice = DAMAGED if code is None else ADVICE.get(code, DAMAGED)
    return RuntimeFailure(f"{name} {_exit_words(code)} {doing}; expected an answer; {advice}{heard}")


def _behind_shell(code: int | None) -> int | None:
    """What `subprocess` would tell of a command whose shell ended with `code`: 128 more than the signal, if one did."""
    if code is not None and code > SHELL_SIGNALS:
        with suppress(ValueError):  # no signal: 255 is what ssh itself ends with
            return -signal.Signals(code - SHELL_SIGNALS)
    return code


def _exit_words(code: int | None) -> str:
    if code is None:
        return "closed its connection"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"


def _tail(stream: IO[bytes]) -> str:
    """The last lines that a process wrote, on one line."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _TAIL_BYTES))
    lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])


def _end(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    try:
        process.wait(END_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    stderr.close()
