"""The loader of a web bundle gives the ids of imported tokenizers, and export refuses those that it cannot read."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

import dmedge.export
from dmedge.artifact import SHIPPED
from dmedge.data.emoji import load_pack
from dmedge.data.hf_tokenizer import RULES, HfTokenizer, TokenizerRules, rules_json
from dmedge.devices.browser import BrowserPage
from dmedge.devices.loopback import LoopbackServer
from dmedge.errors import ExportError
from dmedge.export.charsmap import read_charsmap
from dmedge.export.web_tokenizer import CHARACTERS, KNOWN, characters_json, check_web_tokenizer
from dmedge.model.hf_source import Source
from dmedge.model.hf_text import read_tokenizer
from tests import tiny_hf, trained_tokenizers
from tests.nasty_texts import NASTY, nasty_texts

LOADER = Path(dmedge.export.__file__).parent / "web"
CONTEXT = 160
ODD = (
    *("<|endoftext|>", "a <|endoftext|>b", "[CLS] a[SEP]", "<eos>a<pad>", "</s>", "<unk> <mask> x", "a  <mask>  b"),
    *("it's we'll I'VE don't", "Ⅷ ½ ٣ 12,345.67", "x" * 120, "\ud83d", "a\ud83db\udf4e", "\ufeffa\ufeff \x85b"),
    *("👩‍👧 👍🏽🏳️‍🌈", "ＡＢ ｶﾞ", "\u0344e\u0301\u0323", "a\u0000b", "zz<extra>zzz", "[X] [X][X]apple  RED[XY]  apple\n"),
)
TOKENIZE = """async ([kind, names, request, contextLength]) => {
  const { openImported } = await import("/loader/imported.mjs");
  const read = async (name) => (await fetch(`/vocabularies/${kind}/${name}`)).arrayBuffer();
  const tokenizer = await openImported((name) => names.includes(name), read, contextLength);
  return JSON.stringify(JSON.parse(request).map((text) => tokenizer.row(text)));
}"""
LEFT = {"truncation_side": "left", "padding_side": "left", "model_input_names": ["input_ids", "attention_mask"]}


def xlmr_tokenizer() -> Any:
    """With the rules of normalisation that such models have."""
    return transformers.XLMRobertaTokenizer(vocab=list(unigram_pieces()), _spm_precompiled_charsmap=charsmap())


@cache
def unigram_pieces() -> tuple[tuple[str, float], ...]:
    trained = json.loads(trained_tokenizers.xlmr_tokenizer().backend_tokenizer.to_str())
    return tuple((piece, score) for piece, score in trained["model"]["vocab"])


@cache
def charsmap() -> bytes:
    return read_charsmap((SHIPPED / "emoji/tokenizer.model").read_bytes())


def roberta_tokenizer() -> Any:
    model = json.loads(tiny_hf.modernbert_tokenizer().backend_tokenizer.to_str())["model"]
    vocab = model["vocab"] | {piece: 300 + n for n, piece in enumerate(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))}
    merges = [(left, right) for left, right in model["merges"]]
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges, add_prefix_space=True)


def odd_tokenizer() -> Any:
    """What no model above has: bytes of a unigram vocabulary, every way to split, tokens that swallow spaces."""
    pieces = [("<unk>", 0.0), *((piece, -9.0) for piece in trained_tokenizers.BYTES), *unigram_pieces()[4:-1]]
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(charsmap()),
            normalizers.Strip(),
            normalizers.Prepend("_"),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{N}x-z]+|\."), "contiguous", invert=True),
            pre_tokenizers.Split(Regex(r"\s+(?!\S)"), "merged_with_next"),
            pre_tokenizers.Split("e", "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
        ]
    )
    ends = processors.TemplateProcessing(single="<a> <b> $A <b>", special_tokens=[("<a>", 7), ("<b>", 9)])
    made.post_processor = processors.Sequence([processors.ByteLevel(), ends])
    made.add_tokens(
        [AddedToken("apple", normalized=True, rstrip=True), AddedToken("RED", normalized=False, lstrip=True)]
    )
    made.add_special_tokens([AddedToken("[X]", lstrip=True, rstrip=True), "[XY]", "[X][X]"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<unk>")


MAKERS: Mapping[str, tuple[str, Callable[[Path], Any], Mapping[str, Any]]] = {  # -> model_type, tokenizer, its changes
    "clip": ("clip_text_model", lambda _: trained_tokenizers.clip_tokenizer(), {}),
    "siglip": ("siglip_text_model", trained_tokenizers.siglip_tokenizer, {}),
    "siglip-left": ("siglip_text_model", tiny_hf.siglip_tokenizer, {**LEFT, "do_lower_case": False}),
    "siglip2": ("siglip_text_model", lambda _: trained_tokenizers.gemma_tokenizer(), {}),
    "siglip2-left": ("siglip_text_model", lambda _: trained_tokenizers.gemma_tokenizer(), LEFT),
    "bert": ("bert", lambda _: trained_tokenizers.bert_tokenizer(), {}),
    "xlm-roberta": ("xlm-roberta", lambda _: xlmr_tokenizer(), {}),
    "roberta": ("roberta", lambda _: roberta_tokenizer(), {"truncation_side": "left"}),
    "modernbert": ("modernbert", lambda _: tiny_hf.modernbert_tokenizer(), {}),
    "odd": ("bert", lambda _: odd_tokenizer(), {}),
}
IN_PART = ("siglip-left", "siglip2-left", "roberta", "modernbert")  # made of parts that others have too
Files = Mapping[str, bytes]


@cache
def texts() -> tuple[str, ...]:
    """Names in every language, every assigned character of two planes, and what trips tokenizers."""
    pack = load_pack()
    names = sorted({name for locale in pack.locales for name in pack.names(locale) if name is not None})
    codes = (*range(0x20000), *range(0x20000, 0x30000, 97))  # beyond are ideographs alone
    every = [chr(code) for code in codes if unicodedata.category(chr(code)) not in ("Cs", "Co", "Cn")]
    assert len(every) > 70_000
    mixed = ["B".join(every[start : start + 30]) for start in range(0, len(every), 30)]
    nasty = [text for kind in (*NASTY, "all") for text in nasty_texts(kind, 80)]
    return (*names[::300], *mixed, *nasty, *tiny_hf.TEXTS, *ODD, "red apple " * 200)


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Files]:
    """The files of an imported tokenizer, as its checkpoint has them."""
    base = tmp_path_factory.mktemp("vocabularies")

    @cache
    def make(kind: str) -> Files:
        model_type, maker, changes = MAKERS[kind]
        folder = base / kind
        folder.mkdir()
        maker(folder).save_pretrained(folder)
        settings = folder / "tokenizer_config.json"
        table = json.loads(settings.read_text(encoding="utf-8")) | {"model_max_length": 9999} | dict(changes)
        settings.write_text(json.dumps(table), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
        return read_tokenizer(Source(folder, kind, None, {}, None, model_type), model_type, 9999).files

    return make


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text('<!doctype html><meta charset="utf-8">', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(site: Path) -> Iterator[BrowserPage]:
    server = LoopbackServer({"/": site, "/loader/": LOADER})
    browser = BrowserPage(f"{server.url}/index.html")
    yield browser
    browser.close()
    server.close()


def assert_same_rows(page: BrowserPage, site: Path, kind: str, files: Files, context: int, *some: str) -> None:
    """Ids and mask of every text are those of Python."""
    folder = site / "vocabularies" / kind
    if not folder.exists():
        folder.mkdir(parents=True)
        for name, content in web_files(files).items():
            (folder / name).write_bytes(content)
    request = [kind, sorted(web_files(files)), json.dumps(some), context]
    found = json.loads(page.ask(TOKENIZE, request, timeout_s=300))
    tokenizer = HfTokenizer(files, context)
    assert len(found) == len(some)
    for text, row, (ids, mask) in zip(some, found, tokenizer.singles(some), strict=True):
        assert (row["ids"], row["mask"]) == (ids[0].tolist(), mask[0].tolist()), ascii(text)


@cache
def _classes(content: bytes) -> bytes | None:
    return characters_json({"tokenizer.json": content})


def web_files(files: Files) -> dict[str, bytes]:
    """What a bundle for browsers has of a tokenizer."""
    check_web_tokenizer(files, Path("runs/tiny"))
    classes = _classes(files["tokenizer.json"]) if "tokenizer.json" in files else None
    return dict(files) | ({} if classes is None else {CHARACTERS: classes})


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_ids_and_mask_are_those_of_python(
    kind: str, page: BrowserPage, site: Path, vocabularies: Callable[[str], Files]
) -> None:
    files = vocabularies(kind)
    assert_same_rows(page, site, kind, files, CONTEXT, *texts()[:: 9 if kind in IN_PART else 1])
    assert_same_rows(page, site, kind, files, 6, *tiny_hf.TEXTS, *ODD)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", "xlm-roberta"])
def test_a_very_long_text_has_the_same_ids(
    kind: str, page: BrowserPage, site: Path, vocabularies: Callable[[str], Files]
) -> None:
    long = [" ".join(texts()[:300]), "\u00e9".join(texts()[:300])]
    assert_same_rows(page, site, kind, vocabularies(kind), 9000, *long)


def test_the_loader_has_the_components_that_export_lets_through() -> None:
    sources = [(LOADER / name).read_text(encoding="utf-8") for name in ("tokenizer_json.mjs", "tokenizer_models.mjs")]
    for table, component in {
        "NORMALIZERS": "normalizer",
        "PRE_TOKENIZERS": "pre_tokenizer",
        "MODELS": "model",
        "PROCESSORS": "post_processor",
    }.items():
        [body] = re.findall(rf"^(?:export )?const {table} = \{{.*?^\}};", "\n".join(sources), re.MULTILINE | re.DOTALL)
        assert set(re.findall(r"^  (\w+): \(", body, re.MULTILINE)) == set(KNOWN[component])


def changed(files: Files, change: Callable[[dict[str, Any]], object]) -> Files:
    """The same with another tokenizer.json."""
    table = json.loads(files["tokenizer.json"])
    change(table)
    return {**files, "tokenizer.json": json.dumps(table).encode()}


def regex(pattern: str) -> Callable[[dict[str, Any]], object]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return lambda table: table.update(pre_tokenizer=step)


REFUSED: Mapping[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "NFKC": (lambda t: t.update(normalizer={"type": "NFKC"}), "normalizer NFKC, which"),
    "in a sequence": (
        lambda t: t["normalizer"]["normalizers"].append({"type": "StripAccents"}),
        "normalizer StripAccents, which",
    ),
    "digits": (lambda t: t["pre_tokenizer"]["pretokenizers"].append({"type": "Digits"}), "pre_tokenizer Digits, which"),
    "words": (lambda t: t.update(model={"type": "WordLevel", "vocab": {}}), "model WordLevel, which"),
    "new setting": (lambda t: t["model"].update(fast=True), "model BPE with fast, which"),
    "dropout": (lambda t: t["model"].update(dropout=0.1), "model BPE with dropout, which"),
    "prefix": (lambda t: t["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix, which"),
    "single word": (lambda t: t["added_tokens"][0].update(single_word=True), "added token .* with single_word, which"),
    "two ends": (
        lambda t: t.update(post_processor={"type": "Sequence", "processors": [t["post_processor"]] * 2}),
        "post_processor Sequence with several that add tokens, which",
    ),
    "first word": (
        lambda t: t.update(
            pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
        ),
        "pre_tokenizer Metaspace with prepend_scheme first, which",
    ),
    "case": (regex("(?i:'s|'t)"), r"pattern \(\?i:'s\|'t\), which"),
    "class": (regex(r"\p{Lu}+"), r"pattern \\p\{Lu\}\+, which"),
    "digits of a pattern": (regex(r"\d"), r"pattern \\d, which"),
    "start": (regex("^a"), "pattern \\^a, which"),
    "possessive": (regex("a++"), "pattern a\\+\\+, which"),
    "intersection": (regex("[a&&b]"), "pattern .*, which"),
    "nested": (regex("[a[bc]]"), "pattern .*, which"),
    "nothing": (regex("b*"), "pattern b\\*, which"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_loader_does_not_read_is_named(name: str) -> None:
    change, message = REFUSED[name]
    content = tiny_hf.clip_tokenizer().backend_tokenizer.to_str().encode()
    files = {RULES: rules_json(TokenizerRules(kind="tokenizers", pad_id=0)), "tokenizer.json": content}
    check_web_tokenizer(files, Path("runs/tiny"))
    with pytest.raises(ExportError, match=f"runs/tiny/tokenizer.json: .*{message} the loader for browsers"):
        check_web_tokenizer(changed(files, change), Path("runs/tiny"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "bpe"}, "model_type 2"),
        ({"treat_whitespace_as_suffix": True, "hard_vocab_limit": False}, "treat_whitespace_as_suffix 1"),
    ],
    ids=["bpe", "suffix"],
)
def test_other_sentencepiece_models_are_refused(settings: dict[str, Any], message: str) -> None:
    model, _ = trained_tokenizers._train([tiny_hf.TEXTS[0], tiny_hf.TEXTS[-1]], 30, **settings)
    rules = rules_json(TokenizerRules(kind="sentencepiece", pad_id=0))
    with pytest.raises(ExportError, match=f"runs/tiny/spiece.model: {message}, which the loader for browsers"):
        check_web_tokenizer({RULES: rules, "spiece.model": model}, Path("runs/tiny"))
