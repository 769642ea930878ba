"""Every causal class of the installed `transformers`, trained and loaded; by `make torture`."""

import math
import shutil
import time
import warnings
from pathlib import Path

import pytest
import transformers
from class_trial import Result, line, try_class
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

NOT_TRAINED: dict[str, str] = {
    "CpmAntForCausalLM": "looks ahead: all of a row is context that sees all of it",
    "DiffusionGemmaForBlockDiffusion": "writes blocks of tokens at once",
    "PaliGemmaForConditionalGeneration": "looks ahead: all of a text without answer is a prefix",
    "ProphetNetForCausalLM": "log-probabilities change with the length of a row",
    "XLMWithLMHeadModel": "looks ahead, unless causal: true is in config.json",
    "ReformerModelWithLMHead": "computes gradients in training mode only, where dropout is on",
    "XLNetLMHeadModel": "looks ahead, unless it is given a mask of permutations",
}
"""Classes that plain `transformers` can compute on token ids and that are refused, with why."""


def _classes(names: dict[str, str], without: set[str]) -> dict[str, str]:
    """A model type for each class; one whose own configuration is the class's, if there is one."""
    found: dict[str, str] = {}
    for kind, name in names.items():
        if name not in without and (name not in found or kind.endswith("_text")):
            found[name] = kind
    return found


CAUSAL = _classes(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, set())
WRAPPERS = _classes(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES, set(CAUSAL))


def _table(classes: dict[str, str], place: Path) -> list[Result]:
    rows = []
    print(
        f"\n{'class':45} {'all':4} {'LoRA':4} {'loss':>8} {'difference':>10} {'bound':>8}  outcome"
    )
    for name, kind in classes.items():
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                row = try_class(name, kind, place)
        except Exception as error:  # noqa: BLE001 (a traceback is a result here)
            row = Result(name, "", "", math.nan, math.nan, math.nan, f"TRACEBACK: {line(error)}")
        shutil.rmtree(place, ignore_errors=True)
        rows.append(row)
        differs = "" if row.difference <= row.bound else "DIFFERS"
        outcome = row.outcome.replace(f"{place}/", "") or differs
        print(
            f"{row.name:45} {row.whole or '-':4} {row.lora or '-':4} {row.loss:8.4f} "
            f"{row.difference:10.1e} {row.bound:8.1e}  {outcome[:200]}  "
            f"[{time.monotonic() - start:.1f} s]",
            flush=True,
        )
    return rows


@pytest.mark.torture
@pytest.mark.parametrize("classes", [CAUSAL, WRAPPERS], ids=["causal", "wrappers"])
def test_every_class_is_trained_or_refused_with_a_reason(
    classes: dict[str, str], tmp_path: Path
) -> None:
    transformers.logging.set_verbosity_error()
    rows = _table(classes, tmp_path / "place")
    built = [row for row in rows if not row.outcome.startswith("not built")]
    trained = [row for row in built if not row.outcome]
    refused = {row.name for row in built if row.outcome.startswith("refused")}
    print(f"{len(trained)} of {len(built)} buildable classes trained, of {len(rows)} in all")
    assert not [row for row in rows if row.outcome.startswith("TRACEBACK")]
    assert not [row.name for row in trained if not row.difference <= row.bound]
    assert refused <= set(NOT_TRAINED)
    assert len(trained) >= 0.9 * len(built)
