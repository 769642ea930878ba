"""The bridged pairs of a run folder, as training finds them."""

import json

from prefine.config.sections import RunConfig
from prefine.errors import ConfigError, DataError
from prefine.run.config_changes import config_diff, fingerprinted
from prefine.run.folder import RunFolder
from prefine.run.tables import table_hash

BRIDGED_PAIRS = "bridged_pairs"
"""The table of the pairs after stage `bridge`, those that stayed as they were among them."""


def items_table(config: RunConfig, kind: str) -> str:
    """The table that is trained on: of pairs, with a section `bridge`, the bridged ones."""
    return BRIDGED_PAIRS if kind == "pairs" and config.bridge is not None else kind


def check_bridged(config: RunConfig, folder: RunFolder) -> None:
    """Check that the bridged pairs of a folder are complete, and made of today's pairs.

    Raises:
        ConfigError: They were made with other settings.
        DataError: They are missing, or the pairs have changed since.
    """
    made = folder.manifests().get("bridge")
    table = folder / BRIDGED_PAIRS
    if made is None or not made.complete:
        raise DataError(
            f"{table}: stage bridge has not ended, so pairs are missing; run `prefine "
            "bridge CONFIG` first"
        )
    if made.input_hashes.get("pairs") != table_hash(folder / "pairs"):
        raise DataError(
            f"{table}: the pairs have changed since stage bridge rewrote them; run `prefine bridge "
            "CONFIG` first"
        )
    now = fingerprinted({"bridge": config.resolved()["bridge"]})
    if changes := config_diff(fingerprinted(made.config), now):
        said = "; ".join(
            f"{name}: {json.dumps(old, ensure_ascii=False)}, now "
            f"{json.dumps(new, ensure_ascii=False)}"
            for name, (old, new) in changes.items()
        )
        raise ConfigError(
            f"{table}: stage bridge was run with {said}; run `prefine bridge CONFIG` first"
        )
