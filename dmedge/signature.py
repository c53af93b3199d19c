"""A signature that says who made a bundle: OpenSSF model signing with a key that never leaves its owner.

What is signed is manifest.json. Its digests cover every other file, and loading refuses files that it
does not name, so the signature covers the whole bundle, wherever it lies and whatever it is called.
The signature lies beside the manifest as manifest.sig, the one file that a manifest cannot name.
"""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from dmedge.artifact import Artifact
from dmedge.errors import ArtifactError, ConfigError, require
from dmedge.manifest import MANIFEST_NAME, SIGNATURE_NAME

Seal = Callable[[Path], None]


def seal_with(key: Path) -> Seal:
    """What signs a finished draft, for `Draft.finish`; the key is read now, before any work.

    Args:
        key: PEM file of a private elliptic-curve key, P-256, P-384 or P-521, without a password.

    Raises:
        ConfigError: it is no such key.
        DmedgeError: model-signing is not installed.
    """
    config = _configured("signing", "use_elliptic_key_signer", private_key=_key_file(key, "private"))

    def seal(folder: Path) -> None:
        config.sign(folder / MANIFEST_NAME, folder / SIGNATURE_NAME)

    return seal


def check_signature(artifact: Artifact, key: Path) -> None:
    """Check that the owner of `key` signed an artifact, whose digests have been checked already.

    Args:
        key: PEM file of the public key.

    Raises:
        ArtifactError: there is no signature, it is damaged, or it is not of that key or not of this artifact.
        ConfigError: `key` is no public key.
        DmedgeError: model-signing is not installed.
    """
    config = _configured("verifying", "use_elliptic_key_verifier", public_key=_key_file(key, "public"))
    signature = artifact.root / SIGNATURE_NAME
    if not signature.is_file():
        raise ArtifactError(
            f"{signature}: no such file, so nobody has signed this; expected a signature by the owner of {key}; "
            "export again with --sign, or leave out --key"
        )
    invalid = require("cryptography.exceptions", "sign").InvalidSignature
    try:
        with redirect_stdout(sys.stderr):  # it prints where it has something to say
            config.verify(artifact.root / MANIFEST_NAME, signature)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, invalid) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArtifactError(
            f"{signature}: does not fit {key} and {MANIFEST_NAME} ({reason}); "
            "expected a signature by the owner of that key; ask for the right key, or for the bundle as it was signed"
        ) from error


def _configured(module: str, method: str, **keys: Path) -> Any:
    """A configuration of model-signing that hashes one file and uses one key."""
    config = require(f"model_signing.{module}", "sign").Config()
    hashing = require("model_signing.hashing", "sign").Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    unsupported = require("cryptography.exceptions", "sign").UnsupportedAlgorithm
    ((kind, path),) = keys.items()
    try:
        return getattr(config.set_hashing_config(hashing), method)(**keys)
    except (ValueError, TypeError, AttributeError, unsupported) as error:
        raise ConfigError(
            f"{path}: no {kind.replace('_', ' ')} that can be used ({error}); expected PEM of an elliptic curve "
            "(P-256, P-384 or P-521) without a password; make one with openssl, see docs/artifacts.md"
        ) from error


def _key_file(path: Path, kind: str) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected a {kind} key in PEM; name another")
    return path
