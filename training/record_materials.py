"""Materials of a run on data of the user's own: any format, own towers or imported ones."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from dmedge.data.evalset import EvalSet, dataset_evalset
from dmedge.data.hf_tokenizer import AnyTokenizer, HfTokenizer
from dmedge.data.languages import choose_languages
from dmedge.data.readers import FORMATS, read_dataset
from dmedge.data.records import Dataset, Record
from dmedge.data.transforms import Preprocess
from dmedge.errors import ConfigError, DataError
from dmedge.logs import progress
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.training.config import TrainConfig
from dmedge.training.fusion import record_fusion_loss
from dmedge.training.materials import Materials, initial_checkpoint, model_config, own_tokenizer
from dmedge.training.record_source import ClassKind, Grouped, RecordSource
from dmedge.training.validation import Evaluate, LiveEncoder, fusion_figures, retrieval

logger = logging.getLogger(__name__)

VALIDATION_SPLITS: Mapping[str, str] = {"coco": "val", "flickr30k": "val", "vqa": "val"}
HELD_OUT_SHARE, MOST_HELD_OUT = 0.05, 1000  # of the records, where a format has no split for validation
VOCABULARY_RECORDS = 500_000  # whose texts a vocabulary is fitted to, at most


@dataclass(frozen=True, eq=False)
class Rows:
    """Some records of a dataset, with texts in some languages; none named means all."""

    whole: Dataset
    rows: Sequence[int]
    languages: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.whole.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.whole.labels

    @property
    def answers(self) -> tuple[str, ...]:
        """Answers that a VQA head chooses from."""
        return self.whole.answers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        record = self.whole[self.rows[index]]
        if not self.languages:
            return record
        kept = [place for place, tag in enumerate(record.languages) if tag in self.languages]
        texts = tuple(record.texts[place] for place in kept)
        return replace(record, texts=texts, languages=tuple(record.languages[place] for place in kept))

    def text_languages(self) -> tuple[tuple[str, ...], ...]:
        """Languages of the texts of every record."""
        found = self.whole.text_languages()
        return tuple(
            tuple(tag for tag in found[row] if not self.languages or tag in self.languages) for row in self.rows
        )


@dataclass(frozen=True, eq=False)
class GroupedRows(Rows):
    """All records of a dataset whose records lie in groups."""

    def groups(self) -> Sequence[tuple[int, int]]:
        """First record, and one after the last, of every group."""
        assert isinstance(self.whole, Grouped)
        return self.whole.groups()


def in_languages(data: Dataset, languages: frozenset[str]) -> Dataset:
    """The same records, with texts in these languages only."""
    return (GroupedRows if isinstance(data, Grouped) else Rows)(data, range(len(data)), languages)


def record_materials(config: TrainConfig, folder: Path, start: Checkpoint | None = None) -> Materials:
    """Read the data that `config` names and build the model, or go on with `start`.

    A vocabulary of its own is kept in `folder`.

    Raises:
        DataError: the data cannot be read.
        ConfigError: the settings do not fit the data, or each other.
    """
    if config.data not in FORMATS:
        raise ConfigError(f"data = {config.data!r}; expected 'emoji', or one of {', '.join(FORMATS)}")
    train, validation = split_records(config)
    if config.languages:
        chosen = frozenset(choose_languages(config.languages, {tag for tags in train.text_languages() for tag in tags}))
        train = in_languages(train, chosen)
        validation = None if validation is None else in_languages(validation, chosen)
    kind = class_kind(train)
    if config.class_weight > 0 and kind == "none":
        raise DataError(f"{train.name}: no classes; expected some for class_weight; set class_weight = 0")
    if config.answer_weight > 0 and not train.answers:
        raise DataError(
            f"{train.name}: no answers; expected some for answer_weight; name data that has them, or set "
            "answer_weight = 0"
        )
    begin = _start_of_records(config, train, folder, start)
    source = RecordSource(train, begin.tokenizer, begin.preprocess, config, kind)
    return Materials(
        model=begin.model,
        tokenizer=begin.tokenizer,
        preprocess=begin.preprocess,
        source=source,
        evaluate=_record_evaluation(config, begin, validation, kind, train.answers),
        fusion_loss=lambda trained, step: record_fusion_loss(trained, source, step),
        sharpen=lambda trained: {},  # without concepts there is nothing to sharpen
        labels=train.labels,
        answers=train.answers,
        languages=tuple(sorted({tag for tags in train.text_languages() for tag in tags})),
        parents=begin.parents,
        facts=begin.facts,
    )


def split_records(config: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """Training and validation records: the split that is named or that the format has, else a part held out.

    Shards are read in their order, so nothing is held out of them.

    Raises:
        DataError: the data cannot be read.
    """
    train = read_dataset(config.data, config.dataset)
    if config.validation is not None:
        return train, read_dataset(config.data, config.validation)
    if split := VALIDATION_SPLITS.get(config.data):
        try:
            return train, read_dataset(config.data, replace(config.dataset, split=split))
        except DataError as error:
            logger.info("no validation split (%s)", error)
    return hold_out(train, config.seed)


def hold_out(train: Dataset, seed: int) -> tuple[Dataset, Dataset | None]:
    """The records without 5 % of them, about 1,000 at most, and those; all and None where that cannot be done."""
    if isinstance(train, Grouped):
        logger.warning("%s: no validation data; set [stage.validation] to see how the run does", train.name)
        return train, None
    held_out = min(round(HELD_OUT_SHARE * len(train)), MOST_HELD_OUT)
    if held_out < 2:
        logger.warning("%s: too few records (%d) to hold some out for validation", train.name, len(train))
        return train, None
    rest, held = draw_out(train, held_out, [seed, 5])
    if not rest:
        logger.warning("%s: too few pictures to hold some out for validation", train.name)
        return train, None
    logger.info("%s: %d of %d records are held out for validation", train.name, len(held), len(train))
    return rest, held


def draw_out(data: Dataset, count: int, seed: Sequence[int]) -> tuple[Rows, Rows]:
    """All records but `count` random ones, and those. Questions about one picture stay together, which may be more."""
    together = [[row] for row in range(len(data))]
    if data.answers:
        of_picture: dict[object, list[int]] = {}
        for row in range(len(data)):
            of_picture.setdefault(data[row].image, []).append(row)
        together = list(of_picture.values())
    drawn: set[int] = set()
    for place in np.random.default_rng(seed).permutation(len(together)).tolist():
        if len(drawn) >= count:
            break
        drawn.update(together[place])
    return Rows(data, [row for row in range(len(data)) if row not in drawn]), Rows(data, sorted(drawn))


def class_kind(data: Dataset, look: int = 1000) -> ClassKind:
    """Whether records have one class each or several, by the first ones."""
    if not data.labels:
        return "none"
    is_multi = any(len(data[row].labels) > 1 for row in range(min(look, len(data))))
    return "multi" if is_multi else "single"


@dataclass(frozen=True, eq=False)
class _Start:
    model: DualEncoder
    tokenizer: AnyTokenizer
    preprocess: Preprocess
    parents: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)


def _start_of_records(config: TrainConfig, data: Dataset, folder: Path, checkpoint: Checkpoint | None) -> _Start:
    """The model, continued from `checkpoint` or `init`, or new with own or imported towers."""
    parents: Mapping[str, str] = {}
    if config.init:
        checkpoint, parents = initial_checkpoint(config)
    if checkpoint is not None:
        if checkpoint.model.config.concepts:
            raise ConfigError(
                f"{config.init or 'the checkpoint'} has a concept head, and {data.name} has no concepts; "
                "expected data = 'emoji', or a model with concept_head = false"
            )
        has, wants = (checkpoint.labels, checkpoint.answers), (data.labels, data.answers)
        if checkpoint.model.fusion is not None and config.class_weight + config.answer_weight > 0 and has != wants:
            raise ConfigError(
                f"init = {config.init!r} has {len(has[0])} classes and {len(has[1])} answers; "
                f"expected the {len(wants[0])} and {len(wants[1])} of {data.name}; train without init, or without them"
            )
        if config.loss == "siglip" and checkpoint.model.logit_bias is None and config.contrastive_weight > 0:
            raise ConfigError(
                f"init = {config.init!r} has no logit_bias; expected one for loss = 'siglip'; set loss = 'infonce'"
            )
        return _Start(checkpoint.model, checkpoint.tokenizer, checkpoint.preprocess, parents)
    from dmedge.model.hf_import import ImportedTower, image_tower, text_tower

    towers, found, facts = config.model, dict[str, object](), dict[str, object]()
    torch.manual_seed(config.seed)
    image: ImportedTower | None = None
    text: ImportedTower | None = None
    preprocess = Preprocess(size=towers.image_size)
    tokenizer: AnyTokenizer
    if towers.image == "hf":
        image = image_tower(towers.image_from)
        assert image.preprocess is not None
        preprocess, facts["image_tower"] = image.preprocess, image.facts()
        found |= {"image_hf": image.hf, "image_width": image.width, "image_size": image.preprocess.size}
    if towers.text == "hf":
        text = text_tower(towers.text_from)
        assert text.tokenizer is not None
        tokenizer, facts["text_tower"] = _limited(text.tokenizer, towers.context_length), text.facts()
        found |= {"text_hf": text.hf, "text_width": text.width, "vocab_size": text.vocab_size}
        found["context_length"] = tokenizer.context_length
    else:
        tokenizer = own_tokenizer(_some_texts(data), config, folder / "tokenizer.model")
        found["vocab_size"] = tokenizer.vocab_size
    has_fusion = towers.fusion != "none"
    found |= {"classes": len(data.labels) if has_fusion else 0, "answers": len(data.answers) if has_fusion else 0}
    model = DualEncoder(model_config(config, **found))
    for tower, imported in ((model.image, image), (model.text, text)):
        if imported is not None:
            tower.load_state_dict(dict(imported.state_dict))
    return _Start(model, tokenizer, preprocess, facts=facts)


def _limited(tokenizer: HfTokenizer, context_length: int) -> HfTokenizer:
    """The tokenizer cut at fewer tokens, unless its encoder was trained on texts filled up to a length."""
    if tokenizer.rules.pads or tokenizer.context_length <= context_length:
        return tokenizer
    return HfTokenizer(tokenizer.files, context_length)


def _some_texts(data: Dataset) -> Iterator[str]:
    """Texts of as many records as a vocabulary needs."""
    rows = np.linspace(0, len(data) - 1, min(len(data), VOCABULARY_RECORDS)).astype(np.int64)
    with progress("read texts", total=len(rows)) as advance:
        for row in rows:
            yield from data[int(row)].texts
            advance()


def _record_evaluation(
    config: TrainConfig, start: _Start, data: Dataset | None, kind: ClassKind, answers: Sequence[str]
) -> Evaluate:
    """Retrieval where the embeddings are trained, classes and answers where the fusion is."""
    if data is None:
        return lambda model: {}
    rows = np.linspace(0, len(data) - 1, min(len(data), MOST_HELD_OUT)).astype(np.int64).tolist()
    kind = kind if config.class_weight > 0 else "none"
    answers = answers if config.answer_weight > 0 else ()
    gallery: EvalSet | None = None
    if config.contrastive_weight > 0:
        limit = config.eval_texts_per_language
        gallery = dataset_evalset(Rows(data, rows), config.dataset.max_megapixels)
        gallery = gallery.subset(max_queries_per_language=limit, seed=config.seed)

    def evaluate(model: DualEncoder) -> dict[str, float]:
        encoder = LiveEncoder(model, start.tokenizer, start.preprocess)
        found = {} if gallery is None else retrieval(encoder, gallery)
        if kind != "none" or answers:
            limit = config.dataset.max_megapixels
            found |= fusion_figures(encoder, data, rows, class_kind=kind, answers=answers, limit=limit)
        return found

    return evaluate
