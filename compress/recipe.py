"""The `compress` stage: from a float checkpoint to a smaller one."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from dmedge.artifact import Artifact, Draft, new_artifact
from dmedge.compress.budget import asked_budget
from dmedge.compress.calibration import CalibrationSet, draw_calibration
from dmedge.compress.config import CompressConfig
from dmedge.compress.corpus import validation_set
from dmedge.compress.int8 import fidelity, quantize_checkpoint
from dmedge.compress.ledger import LedgerLine, ledger_line, write_ledger
from dmedge.compress.trim import Trimmed, trim_languages
from dmedge.data.content import TRAINED_ON, Ids, write_ids
from dmedge.data.evalset import EvalSet
from dmedge.data.languages import choose_languages
from dmedge.errors import ArtifactError
from dmedge.lineage import inherited
from dmedge.model.checkpoint import WEIGHTS, Checkpoint, checkpoint_programs, load_checkpoint, save_checkpoint
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import Range, Scheme
from dmedge.training.places import check_places, steps_folder

if TYPE_CHECKING:
    from dmedge.compress.learn import Learned
    from dmedge.training.distill import Teacher

__all__ = ["CompressConfig", "compress_artifact"]

CALIBRATION, VOCABULARY, LEDGER, SEARCH = "calibration.json", "vocabulary.json", "ledger.json", "search.json"
STORED = {"float16": torch.float16}  # of a float checkpoint on disk; float32 otherwise
QAT_RATE = 0.1  # of the learning rate: weights that are good already have but to make room for their rounding
PARENT = "parent"  # as a teacher: the checkpoint that is compressed


@dataclass
class Work:
    """A checkpoint on its way through the steps, and what has been written down about them."""

    parent: Artifact
    config: CompressConfig
    checkpoint: Checkpoint
    languages: tuple[str, ...]
    precision: dict[str, str]
    out: Path
    parents: dict[str, str]
    summary: dict[str, object] = field(default_factory=dict)
    lines: list[LedgerLine] = field(default_factory=list)
    shown: list[Ids] = field(default_factory=list)  # ids of pictures of one's own, by lesson
    data: EvalSet | None = None
    teacher: "Teacher | None" = None  # that distillation named
    trimmed: Trimmed | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of float weights on disk."""
        return STORED.get(self.precision.get("*", ""), torch.float32)

    def counted(self, data: EvalSet | None) -> frozenset[str]:
        """Languages of `data` that count: those that are kept, from the first line of the ledger on; empty for all."""
        if data is None or not self.config.languages:
            return frozenset()
        return frozenset(choose_languages(self.config.languages, set(data.languages)))

    def take(self, learned: "Learned") -> Checkpoint:
        """The checkpoint that was learned; what it learned from is noted."""
        if learned.shown is not None:
            self.shown.append(learned.shown)
        return learned.checkpoint

    def write_down(self, step: str) -> None:
        """Measure the checkpoint as it is now."""
        counted = self.counted(self.data)
        self.lines.append(ledger_line(step, self.checkpoint, self.data, counted, self.dtype))


def compress_artifact(parent: Artifact, config: CompressConfig, out: Path) -> Artifact:
    """Do to the checkpoint `parent` what `config` asks for, and write the result as a checkpoint of its own.

    What learns works in `OUT.steps`, and goes on from there after a kill when it is started again with the same
    settings; its metrics and curves stay in `OUT.log`.

    Raises:
        ArtifactError: `out` exists, or `parent` is no checkpoint or is quantized already; or the teacher is none.
        ConfigError: `config` names a module or a language that does not exist, or does not fit the model.
        DataError: the data cannot be used.
        VerifyError: no plan keeps the limits that `config` sets.
    """
    check_places(out)
    with new_artifact(out) as draft, TemporaryDirectory() as scratch:
        work = _begin(parent, config, out)
        work.write_down("start")
        if config.languages:
            _trim_(work, draft, Path(scratch))
        if config.distill:
            _distil_(work)
        if config.prune:
            _prune_(work)
        if config.int8:
            _quantize_(work, draft)
        artifact = _finish(work, draft)
    if steps_folder(out).exists():
        shutil.rmtree(steps_folder(out))
    return artifact


def _begin(parent: Artifact, config: CompressConfig, out: Path) -> Work:
    checkpoint, manifest = load_checkpoint(parent), parent.manifest
    if checkpoint.quantization is not None:
        raise ArtifactError(
            f"{parent.root}: is quantized already; expected a float checkpoint; compress the one it was made from"
        )
    if VOCABULARY in manifest.files:  # trimmed before: what was given up does not come back
        choose_languages(config.languages, manifest.languages)
    data = None
    if config.ledger_texts:
        data = validation_set(config.data, config.seed, config.ledger_texts)
    return Work(
        parent=parent,
        config=config,
        checkpoint=checkpoint,
        languages=tuple(manifest.languages),
        precision=dict(manifest.precision),
        out=out,
        parents={"parent": parent.digest},
        data=data,
    )


def _distil_(work: Work) -> None:
    from dmedge.compress.learn import Lesson, learn
    from dmedge.compress.student import make_student

    config, student = work.config, work.checkpoint
    work.teacher = _named_teacher(work)
    if config.student:
        student = make_student(student, config.student, config.seed)
    work.checkpoint = work.take(learn(student, work.teacher, config, Lesson("distil", work.out, work.parents)))
    work.write_down(f"distil {config.student}".strip())


def _prune_(work: Work) -> None:
    from dmedge.compress.importance import measured_importance
    from dmedge.compress.learn import Lesson, learn
    from dmedge.compress.prune import prune
    from dmedge.training.distill import ModelTeacher

    config, whole, teacher = work.config, work.checkpoint, work.teacher
    importance = measured_importance(whole, config)
    work.checkpoint = prune(whole, importance, config.prune, config.prune_scope)
    work.write_down(f"prune {config.prune:g}")
    if config.learn.steps:
        if not isinstance(teacher, ModelTeacher):  # a table says less than the model before
            teacher = ModelTeacher(whole.model)
        lesson = Lesson("prune", work.out, work.parents)
        work.checkpoint = work.take(learn(work.checkpoint, teacher, config, lesson))
        work.write_down("recover")


def _named_teacher(work: Work) -> "Teacher":
    """The teacher that `distill` names; one that reads what the parent reads is trimmed as that was."""
    from dmedge.compress.teachers import load_teacher
    from dmedge.training.distill import ModelTeacher

    config = work.config
    if config.distill == PARENT:
        work.parents["teacher"] = work.parent.digest
        return ModelTeacher(work.checkpoint.model)
    fit = work.trimmed.fit if work.trimmed else None
    teacher, digest = load_teacher(config.distill, work.checkpoint, config.data, config.learn.pivot_language, fit)
    if digest is not None:
        work.parents["teacher"] = digest
    return teacher


def _trim_(work: Work, draft: Draft, scratch: Path) -> None:
    trimmed = trim_languages(work.checkpoint, work.config, scratch)
    trimmed.write(draft.path / VOCABULARY)
    work.trimmed = trimmed
    work.checkpoint, work.languages = trimmed.checkpoint, trimmed.languages
    work.summary |= trimmed.summary()
    work.write_down("trim")


def _quantize_(work: Work, draft: Draft) -> None:
    calibration = draw_calibration(work.config, work.checkpoint.preprocess)
    calibration.write(draft.path / CALIBRATION)
    config = _search_(work, draft, calibration)
    tune = (lambda *given: _learn_rounded(work, *given)) if config.qat else None
    found = quantize_checkpoint(work.checkpoint, config, calibration, tune)
    work.summary |= fidelity(work.checkpoint, found.checkpoint, calibration)
    if work.config.smooth:
        work.summary["smoothed"] = {name: round(gain, 2) for name, gain in found.smoothed.items()}
    work.checkpoint, work.precision = found.checkpoint, dict(found.plan)
    step = "int4" if work.config.int4 else "int8"
    work.write_down(f"{step}, trained" if work.config.qat else step)


def _search_(work: Work, draft: Draft, calibration: CalibrationSet) -> CompressConfig:
    """The settings with the plan that keeps the budget, if there is one to keep."""
    budget = asked_budget(work.config)
    if budget is None:
        return work.config
    from dmedge.compress.judge import Question, with_kept
    from dmedge.compress.search import fitting_search

    data = validation_set(work.config.data, work.config.seed, work.config.search_texts)
    search = fitting_search(Question(work.checkpoint, work.config, budget, calibration, data, work.counted(data)))
    search.write(draft.path / SEARCH)
    work.summary["search"] = search.summary()
    return with_kept(work.config, search.best.kept)


def _learn_rounded(
    work: Work, model: DualEncoder, plan: Mapping[str, Scheme], ranges: Mapping[str, Range]
) -> DualEncoder:
    """Train with weights and fixed ranges rounded as they will be; the teacher is the model before."""
    from dmedge.compress.learn import Lesson, learn
    from dmedge.compress.qat import insert_rounding_, remove_rounding_
    from dmedge.training.distill import ModelTeacher

    insert_rounding_(model, plan, ranges)
    student, teacher = replace(work.checkpoint, model=model), ModelTeacher(work.checkpoint.model)
    rate = QAT_RATE * work.config.learn.learning_rate
    config = replace(work.config, learn=replace(work.config.learn, learning_rate=rate))
    learned = work.take(learn(student, teacher, config, Lesson("qat", work.out, work.parents))).model
    remove_rounding_(learned, plan, ranges)
    return learned


def _finish(work: Work, draft: Draft) -> Artifact:
    save_checkpoint(draft.path, work.checkpoint, dtype=work.dtype)
    write_ledger(draft.path / LEDGER, work.lines)
    if work.shown:
        write_ids(draft.path / TRAINED_ON, np.concatenate(work.shown))
    return draft.finish(
        kind="checkpoint",
        stage="compress",
        config=asdict(work.config),
        parents=work.parents,
        programs=checkpoint_programs(work.checkpoint.model.config),
        precision=work.precision,
        languages=work.languages,
        summary={
            "weight_bytes": (draft.path / WEIGHTS).stat().st_size,
            "weight_bytes_parent": work.parent.manifest.files[WEIGHTS].size_bytes,
            "parameters": count_costs(work.checkpoint.model).parameters,
            "ledger": [line.row() for line in work.lines],
            **inherited(work.parent.manifest),
            **work.summary,
        },
    )
