"""Two processes, each with some of a step's micro-batches, end with the gradient that one alone
has.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from step_gradients import CASES, EXAMPLES, TOKENS, engine

from prefine.training.distributed import processes
from prefine.training.distributed.processes import add_up_gradients, deal, gather, own_items

Found = list[dict[str, list[list[float]]]]


@pytest.fixture(scope="module")
def both(two_processes: Path) -> Found:
    """What each process found."""
    return [
        json.loads((two_processes / f"gradients-{rank}.json").read_text(encoding="utf-8"))
        for rank in range(2)
    ]


@cache
def _in_one_cut(name: str) -> tuple[Any, torch.Tensor]:
    return engine(CASES[name], 1000)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cut", TOKENS)
def test_two_processes_have_the_gradient_of_one(both: Found, name: str, cut: int) -> None:
    alone, expected = _in_one_cut(name)
    for found in both:
        gradient, loss, pairs = found[f"{name}/{cut}"]
        apart = torch.tensor(gradient, dtype=torch.float64) - expected
        assert torch.linalg.norm(apart) <= 1e-12 * torch.linalg.norm(expected)
        assert loss == pytest.approx(alone.loss.tolist(), rel=1e-12, abs=1e-14)
        assert pairs == alone.items.tolist() == list(range(len(EXAMPLES)))


def test_one_process_gathers_nothing() -> None:
    rows = torch.arange(3.0)
    assert gather(rows) is rows
    parameter = torch.nn.Parameter(rows)
    add_up_gradients([parameter])
    assert parameter.grad is None
    assert own_items(EXAMPLES, [4, 2]) == [4, 2]
    assert processes.agree(True) and not processes.agree(False)
    assert processes.from_main("key") == "key"


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_tokens_are_dealt_evenly(count: int) -> None:
    tokens = [100, 7, 30, 30, 1, 60, 59, 13]
    dealt = deal(tokens, count)
    loads = [
        sum(size for size, rank in zip(tokens, dealt, strict=True) if rank == one)
        for one in range(count)
    ]
    assert sum(loads) == sum(tokens)
    assert max(loads) <= max(100, sum(tokens) / count + 30)
    assert min(loads) > 0
    assert deal(tokens, count) == dealt


def test_some_processes_get_nothing_when_there_is_little() -> None:
    assert deal([5], 3) == [0]
    assert deal([], 2) == []
