"""The search program for boards finds what Python finds, in every script, and on emulated arm64 as well."""

import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dmedge.artifact import SHIPPED, Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.data.emoji import load_pack
from dmedge.data.tokenizer import Tokenizer
from dmedge.devices.names import EMULATED
from dmedge.devices.wheels import host_machine, library_folder
from dmedge.errors import ArtifactError, DmedgeError
from dmedge.files import digest_file
from dmedge.flow.board_app import APP, FOLDER, build_board_app
from dmedge.flow.gallery import emoji_gallery
from dmedge.flow.index import CODES, DIMS, SCALES, IndexConfig, build_index
from dmedge.flow.index_vectors import Floats, Vectors, make_vectors
from dmedge.flow.open_index import open_index
from dmedge.runtime.encoder import Encoder
from tests.conftest import MakeArtifact
from tests.forged import forge
from tests.many_scripts import QUERIES as SCRIPTS
from tests.tiny_bundles import (
    CONFIG,
    int8_checkpoint,
    pte_bundle,
    pte_int8_bundle,
    tiny_checkpoint,
)

__all__ = ["int8_checkpoint", "pte_bundle", "pte_int8_bundle", "tiny_checkpoint"]  # fixtures

pytestmark = pytest.mark.slow

CASES = "conformance/cases.json"
PICTURES = 40
TOP = 7
QUERIES = {**SCRIPTS, "emoji": "🍎\u200d🌈"}
LINES = "\n".join(QUERIES.values())
ODD = [  # what a careless tokenizer reads otherwise, without line breaks
    *("a", "  two   spaces ", "tab\there", "\u3000wide\u00a0", "RED Straße İ ǅ", "cafe\u0301 A\u030a"),
    *("ﬁne ½ ① ｶﾞ ＡＰ", "zero\u200bwidth \ufeffmark", "\u200fتفاحة 3 red\u200e", "𝒜𝓹 𠮷野家 𐌰𐍀"),
    *("🏳\ufe0f\u200d🌈 🇯🇵🇺", "control \u0001\x7f\ufffd\U0010ffff", "\u2028line", "\u2581under\u2581"),
    *("x" * 500, "\u200b", "a\u0000b"),
]


@pytest.fixture(scope="module")
def index(pte_bundle: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    whole = emoji_gallery("twemoji")
    few = replace(whole, keys=whole.keys[:PICTURES], images=whole.images[:PICTURES], items=whole.items[:PICTURES])
    return build_index(pte_bundle, few, IndexConfig(min_recall=0), tmp_path_factory.mktemp("board") / "index")


@pytest.fixture(scope="module")
def embeddings(pte_bundle: Artifact) -> Floats:
    """Of `QUERIES`, by the Python package of ExecuTorch."""
    with Encoder(pte_bundle, show_progress=False) as encoder:
        return encoder.texts(list(QUERIES.values()))


@pytest.fixture(scope="module")
def archive(pte_bundle: Artifact, index: Artifact) -> Path:
    out = index.root.parent / "app.tar.gz"
    done = CliRunner().invoke(
        cli, ["app", "linux-arm64", f"{pte_bundle.root}", "--index", f"{index.root}", "--out", f"{out}"]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}\n"
    return out


@pytest.fixture(scope="module")
def app(archive: Path) -> Path:
    subprocess.run(["tar", "xf", archive, "-C", archive.parent], check=True)
    return archive.parent / FOLDER


@pytest.fixture(scope="module")
def here(app: Path) -> Path:
    """The program built on this machine from what the archive holds, as a developer does on a board."""
    wheel = library_folder("executorch", host_machine())
    subprocess.run(["make", "-s", "-C", app / "src", f"EXECUTORCH={wheel}"], check=True)
    return app / "src/search"


def run(
    *command: object, lines: str | bytes | None = None, cwd: Path | None = None, cpu: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program with lines on its standard input; the launcher of an app on the emulated processor `cpu`."""
    given = lines.encode() if isinstance(lines, str) else lines
    environment = os.environ | ({"DMEDGE_EMULATOR": f"qemu-aarch64-static -cpu {cpu}"} if cpu else {})
    done = subprocess.run([*map(str, command)], input=given, capture_output=True, check=False, cwd=cwd, env=environment)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def expected(index: Artifact, embeddings: Floats) -> list[dict[str, Any]]:
    """What `dmedge search` finds for `QUERIES`, as the program prints it."""
    opened = open_index(index)
    found = []
    for text, embedding in zip(QUERIES.values(), embeddings, strict=True):
        places, scores = opened.best(embedding, TOP)
        rows = [
            {"rank": rank, "index": int(place), "name": opened.gallery.items[place].name, "score": float(score)}
            for rank, (place, score) in enumerate(zip(places, scores, strict=True), 1)
        ]
        found.append({"query": text, "matches": rows})
    return found


def assert_found(stdout: str, want: list[dict[str, Any]]) -> None:
    rows = [json.loads(line) for line in stdout.splitlines()]
    assert [row["query"] for row in rows] == [row["query"] for row in want]
    for got, wanted in zip(rows, want, strict=True):
        for key in ("rank", "index", "name"):
            assert [match[key] for match in got["matches"]] == [match[key] for match in wanted["matches"]]
        mine, theirs = ([match["score"] for match in row["matches"]] for row in (got, wanted))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-6)


# On emulated boards


@pytest.mark.parametrize("device", EMULATED)
def test_a_board_finds_what_python_finds(device: str, app: Path, index: Artifact, embeddings: Floats) -> None:
    cpu = device.removeprefix("qemu:")
    done = run("./search", "index", "--json", "--top", TOP, lines=LINES, cwd=app, cpu=cpu)
    assert done.returncode == 0, done.stderr
    assert_found(done.stdout, expected(index, embeddings))


def test_int8_keeps_its_golden_texts_on_a_board(app: Path, pte_int8_bundle: Artifact) -> None:
    done = run("./search", "--check", "--bundle", pte_int8_bundle.root, cwd=app, cpu="cortex-a76")
    assert done.returncode == 0, done.stderr
    assert "encode_text: " in done.stdout
    texts = json.loads(pte_int8_bundle.file("conformance/cases.json").read_text("utf-8"))["texts"]
    assert f"token ids: {len(texts)} of {len(texts)} texts alike" in done.stdout


# Built and run here


@pytest.mark.parametrize("dim", [None, 5])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("least", [0, -1])
def test_every_kind_of_index_is_ranked_alike(
    least: int, dtype: str, dim: int | None, here: Path, app: Path, index: Artifact, embeddings: Floats, tmp_path: Path
) -> None:
    rows = np.random.default_rng(1).uniform(least, 1, (PICTURES, CONFIG.embed_dim)).astype(np.float32)
    vectors = make_vectors(rows, dim=dim, is_int8=dtype == "int8")
    assert vectors.selection == ("all" if dim is None else "leading" if least < 0 else "strongest")
    other = index_of(index, vectors, tmp_path / "index")
    done = run(here, other.root, "--json", "--top", TOP, lines=LINES, cwd=app)
    assert done.returncode == 0, done.stderr
    assert_found(done.stdout, expected(other, embeddings))


def index_of(index: Artifact, vectors: Vectors, out: Path) -> Artifact:
    """The index with other vectors."""
    shutil.copytree(index.root, out)
    files = {name: asdict(digest) for name, digest in index.manifest.files.items()}
    for name, array in ((CODES, vectors.codes), (SCALES, vectors.scales), (DIMS, vectors.dims)):
        files.pop(name, None)
        (out / name).unlink(missing_ok=True)
        if array is not None:
            np.save(out / name, np.ascontiguousarray(array))
            files[name] = asdict(digest_file(out / name))
    facts = {"dtype": "float32" if vectors.scales is None else "int8", "selection": vectors.selection}
    forge(out, files=files, summary={**index.manifest.summary, **facts})
    return load_artifact(out)


def test_golden_texts_are_replayed(here: Path, app: Path, pte_bundle: Artifact, tmp_path: Path) -> None:
    done = run(here, "--check", cwd=app)
    assert done.returncode == 0, done.stderr
    cases = json.loads(pte_bundle.file(CASES).read_text("utf-8"))
    limits = {"executorch": {"encode_text": 1e-30}}
    for changes, said in (
        ({"tolerances": limits}, "what it computes here is not what was exported"),
        ({"texts": ["another", *cases["texts"][1:]]}, 'token ids of "another" are not the golden ones'),
    ):
        copy = tmp_path / next(iter(changes))
        shutil.copytree(pte_bundle.root, copy)
        (copy / CASES).write_text(json.dumps(cases | changes), encoding="utf-8")
        files = {name: asdict(digest) for name, digest in pte_bundle.manifest.files.items()}
        forge(copy, files=files | {CASES: asdict(digest_file(copy / CASES))})
        done = run(here, "--check", "--bundle", copy)
        assert (done.returncode, said in done.stderr) == (3, True), done.stderr


def test_token_ids_are_those_of_sentencepiece(here: Path, make_artifact: MakeArtifact) -> None:
    pack = load_pack()
    names = {name for locale in pack.locales for name in pack.names(locale) if name is not None}
    texts = [*sorted(names), *ODD, *(chr(code) for code in range(1, 0x10000) if code != 10 and code >> 11 != 27)]
    model = SHIPPED / "emoji/tokenizer.model"
    tokenizer = Tokenizer(model, 1 << 20)
    bundle = make_artifact("bundle", kind="bundle", files={"tokenizer.model": model.read_bytes()})
    done = run(here, "--ids", "--bundle", bundle.root, lines="\n".join(texts))
    assert done.returncode == 0, done.stderr
    found = [[*map(int, line.split())] or [1] for line in done.stdout.split("\n")[:-1]]
    want = tokenizer.encode_all(texts)
    assert len(found) == len(want) > 170_000
    assert [text for text, mine, theirs in zip(texts, found, want, strict=True) if mine != theirs] == []


def test_bytes_that_are_no_text_are_read_as_dmedge_search_reads_them(here: Path, app: Path) -> None:
    broken = [
        b"caf\xe9",
        b"\xff\xfe",
        b"\xed\xa0\x80 x",
        b"\xf4\x90\x80\x80",
        b"\xc0\xaf",
        b"\xe2\x82",
        b"\xf0\x9f\x8dA",
    ]
    done = run(here, "index", "--json", "--top", "1", lines=b"\n".join(broken), cwd=app)
    found = [json.loads(line)["query"] for line in done.stdout.splitlines()]
    assert found == [text.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode() for text in broken]


def test_one_query_is_a_list_and_many_are_lines(here: Path, app: Path) -> None:
    one = run(here, "index", "red apple", "--top", "3", cwd=app)
    assert one.returncode == 0, one.stderr
    many = run(here, "index", "--top", "3", lines="red apple\n\nラーメン", cwd=app)
    assert many.returncode == 1
    assert "the query is empty" in many.stderr
    first, empty, last = many.stdout.splitlines()
    assert [part.split(" ", 1)[1] for part in first.split("\t")[1:]] == [
        row.strip().split("  ", 1)[1] for row in one.stdout.splitlines()
    ]
    assert (first.split("\t")[0], empty, last.split("\t")[0]) == ("red apple", "", "ラーメン")
    long = run(here, "index", "word " * 100, cwd=app)
    assert long.returncode == 0 and "tokens; the first 16 were used" in long.stderr


# What is refused


@pytest.mark.parametrize(
    "name",
    [
        *("bundle/manifest.json", "bundle/tokenizer.model", "bundle/{program}"),
        *("index/manifest.json", "index/items.json", "index/vectors.npy", "index/scales.npy"),
    ],
)
def test_a_changed_file_is_named_and_nothing_is_found(
    name: str, here: Path, app: Path, pte_bundle: Artifact, tmp_path: Path
) -> None:
    shutil.copytree(app / "bundle", tmp_path / "bundle")
    shutil.copytree(app / "index", tmp_path / "index")
    path = tmp_path / name.format(program=pte_bundle.manifest.programs[0].file)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    done = run(here, "index", "red apple", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.match(
        rf"error: {re.escape(str(path.relative_to(tmp_path)))}: .*(differs|was changed|not JSON)", done.stderr
    )
    path.unlink()
    done = run(here, "index", "red apple", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such file or directory" in done.stderr


def test_an_index_of_another_encoder_is_refused(here: Path, app: Path, pte_int8_bundle: Artifact) -> None:
    done = run(here, app / "index", "red", "--bundle", pte_int8_bundle.root)
    assert (done.returncode, done.stdout) == (1, "")
    assert "its scores would mean nothing" in done.stderr
    done = run(here, pte_int8_bundle.root, "red", cwd=app)
    assert done.returncode == 1
    assert "kind bundle, schema 1; expected kind index, schema 1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no INDEX"),
        (["index", "red", "apple"], "3 arguments; expected INDEX and QUERY; quote a phrase"),
        (["index", "red", "--top", "0"], "--top 0; expected 1 to 1000"),
        (["index", "red", "--top"], "--top needs a value"),
        (["index", "--nope"], "no option --nope"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_with_2(arguments: list[str], said: str, here: Path, app: Path) -> None:
    done = run(here, *arguments, cwd=app)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {said}" in done.stderr and "usage: search INDEX" in done.stderr


def test_what_cannot_be_packed_is_refused(
    make_artifact: MakeArtifact,
    pte_bundle: Artifact,
    index: Artifact,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "app.tar.gz"
    with pytest.raises(ArtifactError, match="without encode_text for ExecuTorch .* --target linux-arm64"):
        build_board_app(make_artifact("other", kind="bundle"), out)
    with pytest.raises(ArtifactError, match="exists already"):
        build_board_app(pte_bundle, archive, index=index)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DmedgeError, match=r"no aarch64-linux-gnu-g\+\+ .* apt-get install .*g\+\+-aarch64-linux-gnu"):
        build_board_app(pte_bundle, out, index=index)
    assert not [path for path in tmp_path.iterdir() if path.name != "other"]


# The archive


def test_the_same_parts_make_the_same_archive(
    archive: Path, pte_bundle: Artifact, index: Artifact, tmp_path: Path
) -> None:
    again = build_board_app(pte_bundle, tmp_path / "again.tar.gz", index=index)
    assert digest_file(again) == digest_file(archive)


def test_the_archive_is_whole(archive: Path, app: Path, pte_bundle: Artifact, index: Artifact) -> None:
    with tarfile.open(archive) as packed:
        entries = {entry.name.removeprefix(f"{FOLDER}/"): entry for entry in packed}
    assert {name for name, entry in entries.items() if entry.mode == 0o755} == {
        *("search", "lib/search", "lib/ld-linux-aarch64.so.1"),
    }
    assert {(entry.mtime, entry.uid, entry.uname) for entry in entries.values()} == {(0, 0, "")}
    assert {"README.md", "src/Makefile", "src/search.cpp", "LICENSES/executorch.txt", "LICENSES/libc6.txt"} <= set(
        entries
    )
    assert load_artifact(app / "bundle").digest == pte_bundle.digest
    assert load_artifact(app / "index").digest == index.digest
    program = (app / "lib/search").read_bytes()
    assert str(APP).encode() not in program and str(library_folder("executorch", "aarch64")).encode() not in program


def test_the_makefile_fetches_the_version_that_is_tested() -> None:
    text = (APP / "Makefile").read_text("utf-8")
    (version,) = re.findall(r"^VERSION \?= (.*)$", text, re.MULTILINE)
    assert (
        f"executorch=={version}" in (Path(__file__).parent.parent / "constraints.txt").read_text("utf-8").splitlines()
    )
