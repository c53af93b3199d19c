"""The conformance pack of a bundle replayed: by whatever runs its programs, and by the bundled program itself."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dmedge.artifact import Artifact
from dmedge.devices.names import BROWSERS, check_replay, find_browser, find_device
from dmedge.evidence.pack import BUNDLED, FOLDER, read_pack
from dmedge.evidence.parity import ParityReport, check_parity
from dmedge.runtime.bundled import SelfCheck, check_bundled
from dmedge.runtime.native_session import open_device_session
from dmedge.runtime.session import Session, SessionFacts, open_session, runtime_of

BUNDLED_FILE = f"{FOLDER}/{BUNDLED}"


@dataclass(frozen=True, slots=True)
class Conformance:
    """What a replay found."""

    parity: ParityReport
    facts: SessionFacts
    self_checks: Mapping[str, SelfCheck] | None = None  # by program; None: nothing judged itself

    @property
    def failures(self) -> tuple[str, ...]:
        """What is not as it was exported, each on one line; empty if the bundle conforms."""
        found = []
        if self.parity.error_ratio > 1:
            first = self.parity.first
            found.append(f"{first[0]}: {first[1]}" if first else "nothing was compared")
        for name, check in (self.self_checks or {}).items():
            if check.failure is not None:
                found.append(f"{BUNDLED}: {name} judges itself wrong: {check.failure}")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The figures by name."""
        checks = self.self_checks
        return {
            "conforms": not self.failures,
            "failures": list(self.failures),
            "parity": self.parity.to_json(),
            "runtime": dict(self.facts),
            "self_checks": None if checks is None else {name: asdict(check) for name, check in checks.items()},
        }


def conform_on(bundle: Artifact, device: str, *, runtime: str | None = None, runner: Path | None = None) -> Conformance:
    """Replay the pack of `bundle` on a device: "local" by the Python package of a runtime, others by its native runner.

    Args:
        runner: a native runner of one's own, which Android devices take.

    Raises:
        ArtifactError: the pack is missing, unreadable, or lacks a program.
        ConfigError: there is no such device, or it takes no runner.
        DmedgeError: the runtime failed, or something that the device needs is missing.
    """
    check_replay(device, runner)
    if device == "local":
        with open_session(bundle, runtime=runtime) as session:
            return conform_here(bundle, session)
    if device in BROWSERS:
        from dmedge.evidence.browser import check_in_browser, open_browser_session

        runtime_of(bundle, runtime)  # a runtime that the bundle has not is an error there too
        with open_browser_session(bundle, provider=find_browser(device).provider) as browser:
            return Conformance(check_in_browser(browser, bundle), browser.facts())
    with open_device_session(bundle, find_device(device, runner), runtime=runtime) as session:
        return conform(bundle, session)


def conform(bundle: Artifact, session: Session) -> Conformance:
    """Replay the pack of `bundle` by the programs of `session`, on whatever device they run.

    Raises:
        ArtifactError: the pack is missing, unreadable, or lacks a program.
        DmedgeError: the runtime failed.
    """
    return Conformance(check_parity(session, bundle), session.facts())


def conform_here(bundle: Artifact, session: Session) -> Conformance:
    """As `conform`, for a session of this machine; a bundled program, if there is one, judges itself too.

    Raises:
        ArtifactError: the pack is missing, unreadable, or lacks a program.
        DmedgeError: the runtime failed.
    """
    found = conform(bundle, session)
    if found.facts["runtime"] != "executorch" or BUNDLED_FILE not in bundle.manifest.files:
        return found
    checks = check_bundled(bundle.file(BUNDLED_FILE), read_pack(bundle).bundled)
    return Conformance(found.parity, found.facts, checks)
