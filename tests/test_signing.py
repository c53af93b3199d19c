"""A signature fits one bundle and one key, travels with the bundle, and is checked after the digests."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dmedge.artifact import Artifact, Draft, download_bytes, load_artifact, new_artifact
from dmedge.cli import export as export_command
from dmedge.cli.main import cli
from dmedge.errors import ArtifactError, ConfigError
from dmedge.export import bundle as bundle_module
from dmedge.manifest import SIGNATURE_NAME, is_safe_name
from dmedge.signature import Seal, check_signature, seal_with
from tests.conftest import MakeArtifact

pytest.importorskip("model_signing")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def write_keys(folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """A private and a public key in PEM."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, "mine")


def write(draft: Draft, seal: Seal | None, content: bytes = b"labels") -> Artifact:
    (draft.path / "labels.json").write_bytes(content)
    return draft.finish(kind="bundle", stage="export", config={}, tools={}, target="android", seal=seal)


@pytest.fixture
def signed(keys: tuple[Path, Path], tmp_path: Path) -> Artifact:
    with new_artifact(tmp_path / "bundle") as draft:
        return write(draft, seal_with(keys[0]))


def conform(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["conform", *map(str, arguments)])


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_signature_fits_its_bundle_and_its_key(curve: ec.EllipticCurve, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "key", curve)
    with new_artifact(tmp_path / "bundle") as draft:
        bundle = write(draft, seal_with(private))
    check_signature(load_artifact(bundle.root), public)
    moved = load_artifact(shutil.move(bundle.root, tmp_path / "elsewhere"))
    check_signature(moved, public)


def test_a_signature_changes_no_digest(signed: Artifact, tmp_path: Path) -> None:
    with new_artifact(tmp_path / "plain") as draft:
        plain = write(draft, None)
    assert plain.digest == signed.digest
    assert download_bytes(signed) > download_bytes(plain)


def test_another_key_is_refused(signed: Artifact, tmp_path: Path) -> None:
    _, other = write_keys(tmp_path, "other")
    with pytest.raises(ArtifactError, match=r"manifest.sig: does not fit .*other.pub and manifest.json .*Key mismatch"):
        check_signature(signed, other)


def test_a_forged_key_hint_does_not_help(signed: Artifact, tmp_path: Path) -> None:
    """The hint in the file is not trusted: the signature itself is checked."""
    _, other = write_keys(tmp_path, "other")
    path = signed.root / SIGNATURE_NAME
    table = json.loads(path.read_text("utf-8"))
    table["verificationMaterial"]["publicKey"].pop("hint")
    path.write_text(json.dumps(table), "utf-8")
    with pytest.raises(ArtifactError, match=r"does not fit .*InvalidSignature"):
        check_signature(signed, other)


def test_the_signature_of_another_bundle_is_refused(signed: Artifact, keys: tuple[Path, Path], tmp_path: Path) -> None:
    with new_artifact(tmp_path / "other") as draft:
        other = write(draft, seal_with(keys[0]), b"other labels")
    shutil.copyfile(signed.root / SIGNATURE_NAME, other.root / SIGNATURE_NAME)
    with pytest.raises(ArtifactError, match=r"does not fit .*Hash mismatch"):
        check_signature(load_artifact(other.root), keys[1])


def test_a_changed_file_is_found_before_the_signature_is_looked_at(signed: Artifact, keys: tuple[Path, Path]) -> None:
    (signed.root / "labels.json").write_bytes(b"lebals")
    done = conform(signed.root, "--key", keys[1])
    assert done.exit_code == 1
    assert "labels.json: sha256" in done.stderr


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"verificationMaterial": {}}', b'{"mediaType": 3}'], ids=range(6)
)
def test_a_damaged_signature_is_refused(content: bytes, signed: Artifact, keys: tuple[Path, Path]) -> None:
    (signed.root / SIGNATURE_NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match="manifest.sig: does not fit"):
        check_signature(load_artifact(signed.root), keys[1])


def test_every_changed_byte_of_the_payload_is_refused(signed: Artifact, keys: tuple[Path, Path]) -> None:
    path = signed.root / SIGNATURE_NAME
    whole = path.read_bytes()
    start = whole.index(b'"payload": "') if b'"payload": "' in whole else whole.index(b'"payload":"')
    for position in range(start + 12, start + 1000, 53):
        changed = bytes([whole[position] ^ 1])
        path.write_bytes(whole[:position] + changed + whole[position + 1 :])
        with pytest.raises(ArtifactError, match="does not fit"):
            check_signature(signed, keys[1])


def test_a_missing_signature_is_an_error_where_one_is_expected(
    make_artifact: MakeArtifact, keys: tuple[Path, Path]
) -> None:
    bundle = make_artifact("plain", kind="bundle")
    done = conform(bundle.root, "--key", keys[1])
    assert done.exit_code == 1
    assert "manifest.sig: no such file, so nobody has signed this" in done.stderr


def test_a_signature_is_allowed_in_bundles_only_and_by_no_manifest(
    make_artifact: MakeArtifact, signed: Artifact
) -> None:
    checkpoint = make_artifact("checkpoint")
    shutil.copyfile(signed.root / SIGNATURE_NAME, checkpoint.root / SIGNATURE_NAME)
    with pytest.raises(ArtifactError, match="manifest.sig: not named in the manifest"):
        load_artifact(checkpoint.root)
    assert not is_safe_name(SIGNATURE_NAME)


def test_a_linked_signature_is_refused(signed: Artifact, tmp_path: Path) -> None:
    (signed.root / SIGNATURE_NAME).rename(tmp_path / "elsewhere.sig")
    (signed.root / SIGNATURE_NAME).symlink_to(tmp_path / "elsewhere.sig")
    with pytest.raises(ArtifactError, match="manifest.sig: a link"):
        load_artifact(signed.root)


def _rsa(path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _encrypted(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(b"word")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))


def _other_curve(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256K1())
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.mark.parametrize(
    "make",
    [_rsa, _encrypted, _other_curve, lambda path: path.write_bytes(b"no key")],
    ids=["rsa", "password", "curve", "text"],
)
def test_a_key_that_cannot_sign_is_refused_before_any_work(make: object, tmp_path: Path) -> None:
    path = tmp_path / "bad.key"
    assert callable(make)
    make(path)
    with pytest.raises(ConfigError, match=r"bad.key: no private key that can be used .*without a password"):
        seal_with(path)
    with pytest.raises(ConfigError, match="nowhere: no such file; expected a private key"):
        seal_with(tmp_path / "nowhere")


def test_a_private_key_is_no_public_one(signed: Artifact, keys: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="mine.key: no public key that can be used"):
        check_signature(signed, keys[0])


def test_signing_that_fails_leaves_nothing(keys: tuple[Path, Path], tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise ArtifactError("the key is gone")

    (tmp_path / "runs").mkdir()
    with pytest.raises(ArtifactError, match="the key is gone"), new_artifact(tmp_path / "runs/out") as draft:
        write(draft, fail)
    assert not list((tmp_path / "runs").iterdir())


def test_the_tool_of_model_signing_agrees(signed: Artifact, keys: tuple[Path, Path]) -> None:
    """Whoever has only the key and OpenSSF's tool can check a bundle."""
    tool = Path(sys.executable).with_name("model_signing")
    command = [str(tool), "verify", "key", "manifest.json", "--signature", SIGNATURE_NAME]
    command += ["--public_key", str(keys[1])]
    done = subprocess.run(command, cwd=signed.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout


def test_the_command_signs_every_bundle(
    keys: tuple[Path, Path], make_artifact: MakeArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(parent: Artifact, config: object, out: Path, *, seal: Seal | None, budget: object) -> Artifact:
        with new_artifact(out) as draft:
            return write(draft, seal)

    monkeypatch.setattr(bundle_module, "export_bundle", export)
    monkeypatch.setattr(export_command, "print_result", lambda bundle: None)
    command = ["export", str(make_artifact("c").root), "--target", "android", "--target", "linux-x86_64"]
    done = CliRunner().invoke(cli, [*command, "--sign", str(keys[0]), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    for target in ("android", "linux-x86_64"):
        check_signature(load_artifact(tmp_path / "out" / target), keys[1])
    done = CliRunner().invoke(cli, [*command, "--sign", str(tmp_path / "none"), "--out", str(tmp_path / "again")])
    assert (done.exit_code, "none: no such file" in done.stderr) == (1, True)
    assert not (tmp_path / "again").exists()
