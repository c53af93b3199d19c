"""dmedge: multilingual image-text models from training to a phone, with evidence at every step."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dmedge")
except PackageNotFoundError:  # a clone on the import path that was never installed
    __version__ = "0+uninstalled"
