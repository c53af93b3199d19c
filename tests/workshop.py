"""Stages that take no time, for tests of what runs them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dmedge.artifact import Artifact, new_artifact
from dmedge.errors import ExportError
from dmedge.flow import run as flow
from dmedge.flow.recipe import StageKind
from dmedge.flow.run import Sources


class Workshop:
    """Stages that write a few bytes; keeps count of what it made and can be told to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.read: dict[str, list[str]] = {}
        self.breaks_at: str | None = None
        self.verdict = "pass"
        monkeypatch.setattr(flow, "_RUNNERS", {kind: self._runner(kind) for kind in flow._RUNNERS})
        monkeypatch.setattr(flow, "TwinsAhead", self._twins)
        self.twins: list[tuple[str, str]] = []  # asked for ahead, and whether a benchmark waited for them
        self.waited = 0

    def _twins(self, baseline: Artifact, wanted: Sequence[tuple[str, str]], cache: Path) -> "Workshop":
        self.twins += wanted
        return self

    def wait(self) -> None:
        """See `TwinsAhead`."""
        self.waited += 1

    def close(self) -> None:
        """See `TwinsAhead`."""

    def _runner(self, kind: StageKind) -> Any:
        def make(config: Any, sources: Sources, out: Path) -> Artifact:
            parents = sources.parents(kind)
            with new_artifact(out) as draft:
                (draft.path / "content").write_text(out.name)
                if self.breaks_at == out.name:
                    raise ExportError(f"{out.name} broke")
                if kind in ("verify", "bench"):
                    report = self.report(kind, *parents)
                    (draft.path / f"{kind}.json").write_text(json.dumps(report))
                self.made.append(out.name)
                self.read[out.name] = [parent.name for parent in parents]
                return self._finish(draft, kind, asdict(config), parents, sources)

        return make

    def _finish(self, draft: Any, kind: str, config: dict[str, Any], parents: Any, sources: Sources) -> Artifact:
        if kind in ("verify", "bench"):
            config |= {"data": "emoji/twemoji/test/all", "budget": asdict(sources.recipe.budget)}
        artifact: Artifact = draft.finish(
            kind={"train": "checkpoint", "compress": "checkpoint", "export": "bundle"}.get(kind, "evidence"),
            stage=kind,
            config=config,
            parents={str(number): parent.digest for number, parent in enumerate(parents)},
            summary={"verdict": self.verdict if kind == "verify" else None, "failed": ["program_size_ratio"]},
            tools={},
        )
        return artifact

    def report(self, kind: str, bundle: Artifact, baseline: Artifact) -> Mapping[str, Any]:
        """The parts of verify.json and bench.json that tables read."""
        digests = {"artifact_sha256": bundle.digest, "baseline_sha256": baseline.digest}
        if kind == "bench":
            ratios = {"encode_image": {"ratio": {"value": 0.5}}, "encode_text": {"ratio": {"value": 0.25}}}
            return {**digests, "verdict": None, "programs": ratios}
        sides = {
            "artifact": {"recall_at_1": 0.4, "recall_at_10": 0.6},
            "baseline": {"recall_at_1": 0.5, "recall_at_10": 0.7},
        }
        return {
            **digests,
            "verdict": self.verdict,
            "tags": {"known": {"text_to_image": sides}},
            "worst_language": "sw",
            "languages": {"sw": {"retention_at_10": 0.96}},
        }
