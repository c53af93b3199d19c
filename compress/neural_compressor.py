"""neural-compressor, imported only where it is needed: its torch part takes seconds."""

import tempfile
from pathlib import Path
from typing import Any

from dmedge.errors import require

NAME = "neural_compressor"
EXTRA = "compress"


def require_neural_compressor(part: str) -> Any:
    """A part of neural-compressor such as "torch.quantization".

    Its import makes a folder for work that dmedge asks nothing of: among the system's temporary files, in place of
    the directory that the user is in.

    Raises:
        DmedgeError: neural-compressor is not installed.
    """
    common = require(f"{NAME}.common", EXTRA)
    common.set_workspace(str(Path(tempfile.gettempdir()) / "dmedge-neural-compressor"))
    return require(f"{NAME}.{part}", EXTRA)
