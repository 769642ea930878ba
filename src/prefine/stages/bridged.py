"""The bridged pairs of a run folder, as training finds them."""

import json
from pathlib import Path

from prefine.config.sections import RunConfig
from prefine.errors import ConfigError, DataError
from prefine.records import content_hash
from prefine.report.data import BridgeExample
from prefine.run.config_changes import config_diff, fingerprinted
from prefine.run.folder import RunFolder
from prefine.run.item_rows import pair_of
from prefine.run.tables import column, existing_parts, read_part, table_hash

_IDS = ("prefine_prompt_id", "prefine_chosen_id", "prefine_rejected_id")
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


def bridge_examples(run_dir: Path, count: int) -> tuple[BridgeExample, ...]:
    """Return `count` bridged pairs, those whose ids have the smallest hashes: none is picked.

    Only the rows shown are read whole.
    """
    # Here and not above: few runs have a section `bridge`.
    from prefine.bridging.outcome import BRIDGED

    found: list[tuple[str, Path, int]] = []
    for part in existing_parts(run_dir / BRIDGED_PAIRS):
        ids = zip(*(column(part, name) for name in _IDS), strict=True)
        outcomes = column(part, "prefine_bridge")
        found += [
            (content_hash("bridge example", *of_pair), part, row)
            for row, (of_pair, outcome) in enumerate(zip(ids, outcomes, strict=True))
            if outcome == BRIDGED
        ]
    pairs = [pair_of(read_part(part)[row]) for _, part, row in sorted(found)[:count]]
    return tuple(
        BridgeExample(
            prompt=pair.prompt.text,
            rejected=pair.rejected.text,
            bridged=pair.chosen.text,
            p_chosen=pair.p_chosen,
            original="" if pair.bridged_from is None else pair.bridged_from.text,
        )
        for pair in pairs
    )
