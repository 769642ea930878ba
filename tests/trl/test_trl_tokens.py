"""The first scored ids of families of templates and tokenizers beside TRL's, on the same rows."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
# Behind the tests' own modules, of which some have the same names.
sys.path.append(BENCHMARKS)
tokens: Any = importlib.import_module("tokens")
sys.path.remove(BENCHMARKS)


@pytest.mark.parametrize("family", tokens.FAMILIES)
def test_ids_are_those_of_trl_or_differ_as_stated(family: str) -> None:
    found = list(tokens.lines([family], count=6))
    assert all(line.ok for line in found), "\n".join(map(str, found))


def test_eight_families_are_compared() -> None:
    names = (
        "SentencePiece",
        "Tekken",
        "ChatML",
        "Llama 3",
        "Gemma",
        "Qwen 3",
        "Zephyr",
        "DeepSeek",
    )
    assert all(any(name in family for family in tokens.FAMILIES) for name in names)
    # Only where the text of an answer cannot have what the template puts before it do first ids
    # differ.
    assert {name for name, one in tokens.FAMILIES.items() if one.before or one.ours} == {
        "Qwen 3",
        "DeepSeek R1",
    }
