"""The embedded playground model as a backend: an ordinary `hf` model whose folder ships with the package."""

from importlib.resources import files
from pathlib import Path

from prefine.models.hf.backend import HfModel


def playground() -> HfModel:
    """The embedded model."""
    return HfModel(path=str(playground_folder()), dtype="float32", label="playground")


def playground_folder() -> Path:
    """Where the embedded model lies."""
    return Path(str(files("prefine.playground") / "model"))
