"""Every error that dmedge raises on purpose, and the import that explains itself.

A message states what was found, what was expected and what to do, in that order.
"""

from importlib import import_module
from types import ModuleType
from typing import ClassVar


class DmedgeError(Exception):
    """Anything that the user can mend; the command line prints it on one line."""

    exit_code: ClassVar[int] = 1


class ConfigError(DmedgeError):
    """A recipe, an option or a setting is unknown, missing or out of range."""


class ArtifactError(DmedgeError):
    """An artifact is missing, damaged, of the wrong kind, or in the way."""


class DataError(DmedgeError):
    """A data set, an image or a text cannot be used."""


class ExportError(DmedgeError):
    """A program could not be written, or differs from what was to be written."""


class RuntimeFailure(DmedgeError):
    """A runtime died, hung or reported an error while it loaded or ran a program."""


class ProgramError(DmedgeError):
    """A program does not take what its artifact makes of pictures and texts, or returned what it must not.

    That is another shape or type than its manifest promises, a number that is not finite, or an embedding that is not
    of unit length.
    """

    def __init__(self, message: str, artifact: str) -> None:
        """Tell what was found.

        Args:
            message: what was found, what was expected, and what to do.
            artifact: digest of the one whose program it is.
        """
        super().__init__(message)
        self.artifact = artifact


class VerifyError(DmedgeError):
    """An artifact was measured and did not keep its budgets."""

    exit_code = 3


def require(module: str, extra: str) -> ModuleType:
    """Import an optional runtime.

    Args:
        module: dotted name, e.g. "executorch.runtime".
        extra: the extra of this package that brings it, e.g. "executorch".

    Raises:
        DmedgeError: the module does not import; the message names the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DmedgeError(
            f"cannot import {module} ({error}), which this step needs; run pip install 'dmedge[{extra}]'"
        ) from error
