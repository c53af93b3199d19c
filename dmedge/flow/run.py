"""All stages of a recipe, each into a directory of its own; what stands already is kept."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dmedge.artifact import Artifact, load_artifact
from dmedge.errors import ArtifactError
from dmedge.flow.recipe import Recipe, Stage, StageKind
from dmedge.flow.twins import CACHE, TwinsAhead
from dmedge.manifest import canonical_json, read_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage made, or had made before."""

    stage: Stage
    artifact: Artifact
    is_kept: bool  # it stood already, with the same settings and parents

    @property
    def verdict(self) -> str | None:
        """The verdict of evidence; None for everything else, and where nothing was judged."""
        verdict = self.artifact.manifest.summary.get("verdict")
        return str(verdict) if self.artifact.manifest.kind == "evidence" and verdict is not None else None


@dataclass(frozen=True, slots=True)
class Sources:
    """What the next stage may read: the nearest of each kind above it."""

    recipe: Recipe
    baseline: Artifact | None = None  # the last that `train` made
    checkpoint: Artifact | None = None
    bundle: Artifact | None = None

    def parents(self, kind: StageKind) -> tuple[Artifact, ...]:
        """The artifacts that a stage of `kind` reads."""
        wanted = {
            "train": (),
            "compress": (self.checkpoint,),
            "export": (self.checkpoint,),
            "verify": (self.bundle, self.baseline),
            "bench": (self.bundle, self.baseline),
        }[kind]
        return tuple(artifact for artifact in wanted if artifact is not None)


def run_recipe(recipe: Recipe, out: Path) -> tuple[Outcome, ...]:
    """Run the stages in order, each into `out`/NAME; a verdict that failed does not stop the run.

    A stage whose artifact stands with the same settings and the same parents is skipped, so a run
    that was stopped goes on where it stood.

    Raises:
        ArtifactError: something else stands where a stage is to write; nothing has been run then,
            unless it is an artifact with the right settings but of other parents.
        DmedgeError: a stage failed.
    """
    for stage in recipe.stages:
        _check_settings(stage, recipe, out / stage.name)
    sources, outcomes = Sources(recipe), []
    with ExitStack() as stack:
        ahead: TwinsAhead | None = None
        for number, stage in enumerate(recipe.stages, 1):
            step, place = f"{number} of {len(recipe.stages)}: {stage.kind}", out / stage.name
            if place.exists():
                artifact = _kept(stage, place, sources.parents(stage.kind))
                logger.info("%s: %s stands already, kept", step, place)
                outcomes.append(Outcome(stage, artifact, is_kept=True))
            else:
                logger.info("%s: making %s", step, place)
                if ahead is not None and stage.kind == "bench":
                    ahead.wait()
                outcomes.append(Outcome(stage, _RUNNERS[stage.kind](stage.config, sources, place), is_kept=False))
            sources = _with(sources, outcomes[-1])
            if stage.kind == "train" and (wanted := _twins_after(number, recipe, out)):
                assert sources.baseline is not None
                ahead = stack.enter_context(closing(TwinsAhead(sources.baseline, wanted, out / CACHE)))
    return tuple(outcomes)


def _twins_after(number: int, recipe: Recipe, out: Path) -> list[tuple[str, str]]:
    """Target and runtime of the full-precision bundles that the stages from `number` on compare with.

    Those of variants are left out; they are made when they are asked for.
    """
    wanted: dict[tuple[str, str], None] = {}
    export: Any = None
    for stage in recipe.stages[number:]:
        if stage.kind == "train":
            break
        if stage.kind == "export":
            export = stage.config
        elif stage.kind in ("verify", "bench") and export.variant == "full" and not (out / stage.name).exists():
            wanted[export.target, stage.config.runtime or export.first_runtime] = None
    return list(wanted)


def _with(sources: Sources, outcome: Outcome) -> Sources:
    """What the stage after `outcome` may read."""
    made = outcome.artifact
    baseline = made if outcome.stage.kind == "train" else sources.baseline
    checkpoint = made if made.manifest.kind == "checkpoint" else sources.checkpoint
    bundle = made if made.manifest.kind == "bundle" else sources.bundle
    return Sources(sources.recipe, baseline, checkpoint, bundle)


def _check_settings(stage: Stage, recipe: Recipe, place: Path) -> None:
    """Refuse to go on if `place` holds anything but what `stage` would make of its settings."""
    if not place.exists():
        return
    manifest = read_manifest(place)
    want, have = _settings(stage, recipe), dict(_flat(manifest.config))
    off = {key: False for key, value in want.items() if value is False}  # as in what older versions made without it
    differing = [key for key in want if have.get(key, off.get(key)) != want[key]]
    if manifest.stage != stage.kind:
        found, expected = f"made by {manifest.stage}", f"made by {stage.kind}"
    elif differing:
        found = "made with " + ", ".join(f"{key} = {have.get(key)!r}" for key in differing)
        expected = ", ".join(f"{key} = {want[key]!r}" for key in differing)
    else:
        return
    raise ArtifactError(f"{place}: {found}; expected {expected}; remove it, or choose another --out")


def _kept(stage: Stage, place: Path, parents: Sequence[Artifact]) -> Artifact:
    """Load what stands at `place`, if it was made from `parents`."""
    artifact = load_artifact(place)
    made_from = set(artifact.manifest.parents.values())
    for parent in parents:
        if parent.digest not in made_from:
            raise ArtifactError(
                f"{place}: was not made from {parent.root} as it is now ({parent.digest[:12]}); "
                f"expected {stage.kind} of that; remove {place}, or choose another --out"
            )
    return artifact


def _settings(stage: Stage, recipe: Recipe) -> dict[str, object]:
    """Dotted key -> value of all that an artifact of `stage` records of its settings."""
    settings = asdict(stage.config)
    if stage.kind in ("verify", "bench"):
        settings["budget"] = asdict(recipe.budget)
        if stage.kind == "bench":
            settings["runner"] = _runner_digest(stage.config)
        settings.pop("data")  # evidence records the set that was found under this name, and its digest
    plain: dict[str, Any] = json.loads(canonical_json(settings))
    return dict(_flat(plain))


def _runner_digest(config: Any) -> str | None:
    from dmedge.evidence.bench import runner_digest

    return runner_digest(config)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _train(config: Any, sources: Sources, out: Path) -> Artifact:
    from dmedge.training.train import train

    return train(config, out)


def _compress(config: Any, sources: Sources, out: Path) -> Artifact:
    from dmedge.compress.recipe import compress_artifact

    assert sources.checkpoint is not None  # a recipe without one above does not load
    return compress_artifact(sources.checkpoint, config, out)


def _export(config: Any, sources: Sources, out: Path) -> Artifact:
    from dmedge.export.bundle import export_bundle

    assert sources.checkpoint is not None
    return export_bundle(sources.checkpoint, config, out, budget=sources.recipe.budget)


def _verify(config: Any, sources: Sources, out: Path) -> Artifact:
    from dmedge.flow.prove import verify

    assert sources.bundle is not None
    return verify(sources.bundle, config, out, baseline=sources.baseline, budget=sources.recipe.budget)


def _bench(config: Any, sources: Sources, out: Path) -> Artifact:
    from dmedge.flow.prove import bench

    assert sources.bundle is not None
    return bench(sources.bundle, config, out, baseline=sources.baseline, budget=sources.recipe.budget)


_RUNNERS: Mapping[StageKind, Callable[[Any, Sources, Path], Artifact]] = {
    "train": _train,
    "compress": _compress,
    "export": _export,
    "verify": _verify,
    "bench": _bench,
}
