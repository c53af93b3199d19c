"""The apps for phones: well-formed, written for a bundle, and alike dmedge in what needs no phone to run."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
from click.testing import CliRunner
from PIL import Image, ImageOps

import dmedge.apps
import dmedge.export.bundle as bundle_module
from dmedge.artifact import SHIPPED, Artifact, find_artifacts, load_artifact
from dmedge.cli.main import cli
from dmedge.data.emoji import load_pack
from dmedge.data.tokenizer import Tokenizer
from dmedge.data.transforms import RESAMPLES, Preprocess
from dmedge.devices.npm import NpmPackage, fetch_package
from dmedge.errors import ArtifactError
from dmedge.evidence.pack import SCORES, read_pack
from dmedge.export.config import ExportConfig
from dmedge.flow.gallery import folder_gallery
from dmedge.flow.index import IndexConfig, build_index
from dmedge.flow.open_index import open_index
from dmedge.flow.phone_app import PHONES, app_beside, golden_vectors, why_no_app, write_app
from dmedge.manifest import Manifest
from tests.conftest import MakeArtifact
from tests.forged import forge
from tests.nasty_texts import NASTY
from tests.test_web_loader import SHAPES
from tests.tiny_bundles import CONFIG, pte_bundle, tiny_checkpoint

__all__ = ["pte_bundle", "tiny_checkpoint"]  # fixtures

ROOT = Path(__file__).parent.parent
APPS = Path(dmedge.apps.__file__).parent
GRAMMARS: dict[str, Any] = {".kt": tree_sitter_kotlin, ".kts": tree_sitter_kotlin, ".swift": tree_sitter_swift}
SOURCES = [path for target in PHONES for path in sorted((APPS / target).rglob("*")) if path.suffix in GRAMMARS]
KOTLIN = NpmPackage(
    name="kotlin-compiler",
    version="2.4.20",
    integrity="sha512-IF5IVM7LpPhA/ntHQQpaVt1yxpaaQovtEVYLyqWMuaLr0XelLPPm7/sM6HLhtcRjjjoSsK7I7lP2kzYJkMy73w==",
    files=tuple(
        f"lib/{name}.jar"
        for name in (
            *("kotlin-compiler", "kotlin-stdlib", "kotlin-script-runtime", "kotlin-reflect"),
            *("kotlinx-coroutines-core-jvm", "annotations-13.0"),
        )
    ),
)


@pytest.fixture
def for_ios(pte_bundle: Artifact, tmp_path: Path) -> Artifact:
    """The bundle for android as if it had been exported for ios, whose ExecuTorch program is the same."""
    root = Path(shutil.copytree(pte_bundle.root, tmp_path / "ios"))
    forge(root, target="ios")
    return load_artifact(root, kind="bundle")


def errors_in(path: Path) -> list[str]:
    """What a grammar does not understand, with its line."""
    parser = tree_sitter.Parser(tree_sitter.Language(GRAMMARS[path.suffix].language()))
    found, nodes = [], [parser.parse(path.read_bytes()).root_node]
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if node.is_error or node.is_missing:
            found.append(f"{path}:{node.start_point[0] + 1}: {(node.text or b'').decode()[:40]!r}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(APPS).as_posix())
def test_source_is_of_its_language(path: Path) -> None:
    assert errors_in(path) == []


@pytest.mark.parametrize(
    "name, content", [("a.kt", "fun f( = 1"), ("a.kts", "plugins { id( }"), ("a.swift", "func f( -> { 1")]
)
def test_a_grammar_sees_an_error(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert errors_in(tmp_path / name)


def test_xml_is_well_formed_and_names_what_there_is() -> None:
    paths = sorted((APPS / "android").rglob("*.xml"))
    assert len(paths) == 3
    trees = {path.parent.name: ElementTree.parse(path).getroot() for path in paths}
    android = "{http://schemas.android.com/apk/res/android}name"
    code = APPS / "android/sample/src/main/kotlin/dmedge/sample"
    sources = "".join(path.read_text("utf-8") for path in code.glob("*.kt"))
    sample = ElementTree.parse(APPS / "android/sample/src/main/AndroidManifest.xml")
    for activity in sample.iter("activity"):
        assert (code / f"{activity.attrib[android][1:]}.kt").is_file()
    strings = {string.attrib["name"] for string in trees["values"].iter("string")}
    assert set(re.findall(r"R\.string\.(\w+)", sources)) == strings - {"name"}


def test_versions_are_those_that_bundles_are_made_with(pte_bundle: Artifact) -> None:
    pins = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), flags=re.MULTILINE))
    gradle = (APPS / "android/model/build.gradle.kts").read_text("utf-8")
    swift = (APPS / "ios/Package.swift").read_text("utf-8")
    named = {*re.findall(r"executorch-android:([\d.]+)\"", gradle), *re.findall(r"swiftpm-([\d.]+)\"", swift)}
    assert named == {pins["executorch"]}
    minimum: Any = pte_bundle.manifest.summary["minimum_versions"]
    assert pins["executorch"].startswith(f"{minimum['executorch']}.")
    plugin = re.search(r'kotlin.jvm"\) version "([\d.]+)"', (APPS / "android/build.gradle.kts").read_text("utf-8"))
    assert plugin is not None and plugin[1] == KOTLIN.version


def test_core_knows_nothing_of_a_phone() -> None:
    for path in (APPS / "android/core").rglob("*.kt"):
        assert not re.search(r"import (android|org\.pytorch)", path.read_text("utf-8")), path
    for path in (APPS / "ios/Sources/DmedgeCore").rglob("*.swift"):
        assert set(re.findall(r"^import (\w+)", path.read_text("utf-8"), re.MULTILINE)) <= {"Foundation", "CryptoKit"}


def test_apps_stay_small_and_say_what_was_not_built() -> None:
    for target, suffix, most in (("android", "*.kt", 900), ("ios", "*.swift", 800)):
        lines = [
            line.strip() for path in (APPS / target).rglob(suffix) for line in path.read_text("utf-8").splitlines()
        ]
        assert sum(1 for line in lines if line and not line.startswith(("//", "/*", "*"))) <= most
        head = (APPS / target / "README.md").read_text("utf-8")[:700]
        assert "have not been compiled" in head


def facts_in(path: Path) -> dict[str, str]:
    """Names, in upper case, and values of the generated source."""
    found = re.findall(
        r"(?:const val|val|static let) (\w+) = (?:listOf\(|\[)?(.*?)[)\]]?(?: +//.*)?$", path.read_text(), re.M
    )
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper(): value.replace('"', "") for name, value in found}


@pytest.mark.parametrize("target", PHONES)
def test_an_app_holds_sources_bundle_facts_and_vectors(
    target: str, pte_bundle: Artifact, for_ios: Artifact, tmp_path: Path
) -> None:
    bundle, phone = {"android": pte_bundle, "ios": for_ios}[target], PHONES[target]
    folder = write_app(bundle, tmp_path / "app")
    assert load_artifact(folder / phone.resources / "bundle", kind="bundle").digest == bundle.digest
    names = {path.relative_to(APPS / target).as_posix() for path in (APPS / target).rglob("*") if path.is_file()}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    own = {name for name in found if not name.startswith(f"{phone.resources}/bundle/")}
    assert own == names | {phone.facts, f"{phone.golden}/vectors.json"}
    assert all((folder / name).read_bytes() == (APPS / target / name).read_bytes() for name in names)
    assert errors_in(folder / phone.facts) == []
    assert facts_in(folder / phone.facts) == {
        "DIGEST": bundle.digest,
        "MODEL_FILE": "programs/model.pte",
        "PROGRAMS": ", ".join(program.name for program in bundle.manifest.programs),
        "IMAGE_SIZE": str(CONFIG.image_size),
        "CONTEXT_LENGTH": str(CONFIG.context_length),
        "EMBED_DIM": str(CONFIG.embed_dim),
        "MINIMUM_RUNTIME": "1.5",
    }
    assert json.loads((folder / phone.golden / "vectors.json").read_text()) == golden_vectors(bundle)


def test_vectors_are_the_conformance_pack(pte_bundle: Artifact) -> None:
    pack, vectors = read_pack(pte_bundle), golden_vectors(pte_bundle)
    assert vectors["bundle"] == pte_bundle.digest and vectors["arrays"].keys() == pack.golden.keys() - {SCORES}
    for key, row in vectors["arrays"].items():
        array = np.frombuffer(base64.b64decode(row["base64"]), row["dtype"]).reshape(row["shape"])
        np.testing.assert_array_equal(array, pack.golden[key])
        assert row["dtype"] in ("uint8", "int32", "float32")  # that the tests of the apps feed


def exporting(bundle: Artifact, calls: list[Path]) -> Callable[..., Artifact]:
    def export(parent: Artifact, config: ExportConfig, out: Path, **_: object) -> Artifact:
        calls.append(out)
        return load_artifact(shutil.copytree(bundle.root, out))

    return export


@pytest.mark.parametrize("options, has_app", [([], True), (["--no-app"], False)], ids=["app", "no-app"])
def test_export_writes_the_app_beside_the_bundle(
    options: list[str],
    has_app: bool,
    pte_bundle: Artifact,
    make_artifact: MakeArtifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(bundle_module, "export_bundle", exporting(pte_bundle, calls))
    out = tmp_path / "phone"
    command = ["export", str(make_artifact("c").root), "--target", "android", "--out", str(out), "--json", *options]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert app_beside(out).is_dir() == has_app and calls == [out]
    assert json.loads(done.stdout)[0]["app"] == (str(app_beside(out)) if has_app else None)
    assert set(find_artifacts(tmp_path)) == {tmp_path / "c", out}  # and no copy within the app


def test_an_app_that_stands_already_stops_an_export_before_its_work(
    pte_bundle: Artifact, make_artifact: MakeArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(bundle_module, "export_bundle", exporting(pte_bundle, calls))
    (tmp_path / "out/ios.app").mkdir(parents=True)
    targets = ["--target", "android", "--target", "ios"]
    done = CliRunner().invoke(cli, ["export", str(make_artifact("c").root), *targets, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1 and calls == []
    assert "ios.app: exists already; expected a new folder" in done.stderr


def test_the_commands_write_the_app_of_a_bundle(pte_bundle: Artifact, for_ios: Artifact, tmp_path: Path) -> None:
    for target, bundle in (("android", pte_bundle), ("ios", for_ios)):
        done = CliRunner().invoke(cli, ["app", target, str(bundle.root), "--out", str(tmp_path / f"{target} app")])
        assert done.exit_code == 0 and (tmp_path / f"{target} app" / PHONES[target].facts).is_file(), done.output
    done = CliRunner().invoke(cli, ["app", "ios", str(pte_bundle.root), "--out", str(tmp_path / "other")])
    assert done.exit_code == 2 and "is for android; expected a bundle for ios" in done.stderr


def test_bundles_that_an_app_cannot_run_are_refused(pte_bundle: Artifact, tmp_path: Path) -> None:
    manifest = pte_bundle.manifest
    assert why_no_app(manifest) is None
    other = tuple(replace(program, runtime="coreml") for program in manifest.programs)
    imported = {name: digest for name, digest in manifest.files.items() if name != "tokenizer.model"}
    wrong: list[tuple[Manifest, str]] = [
        (replace(manifest, target="web"), "a bundle for web; expected one for android or ios"),
        (replace(manifest, programs=other), "no program for executorch"),
        (replace(manifest, files=imported), "an imported one; the app reads tokenizer.model alone"),
    ]
    for changed, message in wrong:
        with pytest.raises(ArtifactError, match=message):
            write_app(Artifact(pte_bundle.root, changed), tmp_path / "app")
    assert not list(tmp_path.iterdir())


class Core:
    """The parts of the Android app that know nothing of Android, compiled, on the JVM of this machine."""

    def __init__(self, folder: Path) -> None:
        jars = [str(fetch_package(KOTLIN) / name) for name in KOTLIN.files]
        self.folder, self.classes = folder, f"{folder / 'classes'}:{jars[1]}"
        compiler = ["java", "-Xmx1g", "-XX:TieredStopAtLevel=1", "-cp", ":".join(jars)]
        compiler += ["org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib", "-no-reflect", "-jvm-target", "17"]
        compiler += ["-Werror", "-cp", jars[1], "-d", str(folder / "classes")]
        sources = [str(APPS / "android/core/src/main/kotlin"), str(ROOT / "tests/fixtures/PhoneCore.kt")]
        done = subprocess.run([*compiler, *sources], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def __call__(self, *jobs: dict[str, object]) -> list[str]:
        """A line for each answer."""
        request = self.folder / "request.json"
        request.write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
        command = ["java", "-cp", self.classes, "PhoneCoreKt", str(request)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    yield Core(tmp_path_factory.mktemp("kotlin"))


def texts_of_all_kinds(bundle: Artifact) -> list[str]:
    """Every name in every locale, the golden texts, and letters that trip a careless tokenizer, in seeded disorder."""
    pack = load_pack()
    names = sorted({name for locale in pack.locales for name in pack.names(locale) if name is not None})
    draws = np.random.default_rng(0)
    letters = list("".join(NASTY.values()))
    nasty = ["".join(draws.choice(letters, draws.integers(1, 13))) for _ in range(4000)]
    return [*names, *nasty, *read_pack(bundle).texts, "", " ", "a\ud83db", "\udf4e\ud83d", "red apple " * 200]


@pytest.mark.thorough
@pytest.mark.parametrize("model", ["shipped", "tiny"])
def test_kotlin_tokenizes_as_sentencepiece_does(model: str, core: Core, pte_bundle: Artifact) -> None:
    path = SHIPPED / "emoji/tokenizer.model" if model == "shipped" else pte_bundle.file("tokenizer.model")
    texts = texts_of_all_kinds(pte_bundle)
    tokenizer = Tokenizer(path, CONFIG.context_length)
    job = {"kind": "tokens", "model": str(path), "context_length": CONFIG.context_length, "texts": texts}
    found = [[*map(int, line.split())] for line in core(job)]
    assert len(texts) > 150_000 and len(found) == len(texts)
    differing = [text for text, ids, want in zip(texts, found, tokenizer.encode_all(texts), strict=True) if ids != want]
    assert differing == []


@pytest.mark.thorough
def test_kotlin_resizes_as_pillow_does(core: Core, rng: np.random.Generator) -> None:
    fits: list[dict[str, object]] = [
        {"fit": "pad-centre"},
        {"fit": "squash", "background": (10, 200, 77)},
        {"fit": "crop-centre", "shortest_edge": 48},
        {"fit": "crop-centre", "shortest_edge": 28},
    ]
    jobs, wanted = [], []
    for place, (width, height) in enumerate(SHAPES * 2):
        rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        if place < len(SHAPES):  # overshoots most, and is opaque
            rgba = np.where(rgba > 127, 255, 0).astype(np.uint8)
            rgba[..., 3] = 255
        orientation = place % 8 + 1
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = Image.fromarray(rgba)
        picture.info["exif"] = exif.tobytes()
        upright = ImageOps.exif_transpose(picture)
        for fit in fits:
            for resample in RESAMPLES:
                preprocess = Preprocess.from_json({**Preprocess(33).to_json(), **fit, "resample": resample})
                data = base64.b64encode(rgba.tobytes()).decode()
                size = {"width": width, "height": height, "orientation": orientation}
                jobs.append({"kind": "pixels", **size, "rgba": data, "config": preprocess.to_json()})
                wanted.append(base64.b64encode(preprocess(upright).tobytes()).decode())
    assert core(*jobs) == wanted


@pytest.mark.thorough
def test_kotlin_ranks_and_checks_as_dmedge_does(core: Core, pte_bundle: Artifact, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(40):
        Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"pictures/{number}.png")
    index = build_index(
        pte_bundle, folder_gallery(tmp_path / "pictures"), IndexConfig(min_recall=0), tmp_path / "index"
    )
    embedding = np.asarray(read_pack(pte_bundle).golden["encode_text/0/embedding"][0], np.float32)
    query = base64.b64encode(embedding.tobytes()).decode()
    search = {"kind": "search", "index": str(index.root), "query": query, "count": 10}
    places, scores = open_index(index).best(embedding, 10)
    found = [line.split(" ", 2) for line in core(search | {"bundle": pte_bundle.digest})]
    np.testing.assert_allclose([float(score) for _, score, _ in found], scores, rtol=1e-5)
    assert [int(row) for row, _, _ in found] == places.tolist()
    assert core(search | {"bundle": "0" * 64}) == [f"refused {OTHER_BUNDLE.format(pte_bundle.digest[:12])}"]
    assert core({"kind": "check", "root": str(pte_bundle.root), "artifact": "bundle"}) == [pte_bundle.digest]
    copy = Path(shutil.copytree(pte_bundle.root, tmp_path / "changed"))
    (copy / "labels.json").write_text('["changed"]')
    (answer,) = core({"kind": "check", "root": str(copy), "artifact": "bundle"})
    assert answer.startswith("refused labels.json: sha256 ")
    (copy / "manifest.json").write_text((copy / "manifest.json").read_text("utf-8").replace("label", "lapel"), "utf-8")
    assert "manifest.json was changed" in core({"kind": "check", "root": str(copy), "artifact": "bundle"})[0]


OTHER_BUNDLE = "the index was made by bundle {}; make it by this one"
