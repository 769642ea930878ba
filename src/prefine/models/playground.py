"""The embedded playground model, an `hf` model whose folder ships with the package."""

from importlib.resources import files
from pathlib import Path

from prefine.models.hf.backend import HfModel

NAME = "playground"
"""The backend of this model in a configuration."""


def playground() -> HfModel:
    """Return the embedded model."""
    return HfModel(path=str(playground_folder()), dtype="float32", label=NAME)


def playground_folder() -> Path:
    """Return the folder of the embedded model."""
    return Path(str(files("prefine.playground") / "model"))
