"""Out of memory: smaller rows, said so, to the bit the same when resumed; and an end where
nothing helps.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from prefine.errors import BackendError, LimitError
from prefine.losses import dpo, kto_pair
from prefine.training.batches.packing import PackedBatch
from prefine.training.distributed import processes
from prefine.training.forward.passes import Forward
from prefine.training.logging.figures import TrainSummary
from prefine.training.loop import train
from prefine.training.memory import OutOfMemory, synchronized_oom

EXAMPLES = tiny.examples()
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
CPU = RuntimeError(
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
)
LARGEST = 40


def _short_of_memory(
    monkeypatch: pytest.MonkeyPatch, method: str, room: int, error: Exception = CPU
) -> list[int]:
    """Let passes over rows of more than `room` positions fail; the positions of all that were
    tried.
    """
    tried: list[int] = []
    original: Callable[..., Any] = getattr(Forward, method)

    def limited(self: Forward, rows: PackedBatch, *args: Any, **options: Any) -> Any:
        tried.append(rows.positions)
        if rows.positions > room:
            raise error
        return original(self, rows, *args, **options)

    monkeypatch.setattr(Forward, method, limited)
    return tried


def _train(folder: Path, *, loss: Any = dpo, **options: Any) -> tuple[TrainSummary, torch.Tensor]:
    model = tiny.model()
    settings = tiny.config(micro_batch_tokens=100, **options.pop("settings", {}))
    summary = train(
        model,
        EXAMPLES,
        settings,
        loss=loss,
        regularizer=None,
        out_dir=folder,
        run_key="k",
        **options,
    )
    return summary, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("error", [CUDA, CPU, MemoryError()], ids=["cuda", "cpu", "python"])
def test_a_step_goes_on_in_smaller_rows_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected = _train(tmp_path / "roomy")[1]
    tried = _short_of_memory(monkeypatch, "push", LARGEST, error)
    summary, found = _train(tmp_path / "short")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    (note,) = (note for note in summary.notes if "memory was short" in note)
    assert "not 100 (train.micro_batch_tokens)" in note
    # The limit stays: rows are found too large at the first step only.
    assert [n for n, positions in enumerate(tried) if positions > LARGEST] == [0]


@pytest.mark.parametrize("loss", [dpo, kto_pair], ids=["local", "coupled"])
def test_the_pass_of_the_reference_and_the_last_one_go_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: Any
) -> None:
    # Without the check of the first rows, which is no pass of training.
    settings = {"sharing": "off"}
    expected = _train(tmp_path / "roomy", loss=loss, settings=settings)[0]
    _short_of_memory(monkeypatch, "values", LARGEST)
    found, _ = _train(tmp_path / "short", loss=loss, settings=settings)
    assert found.final.margin == pytest.approx(expected.final.margin, rel=1e-9)


def test_a_resumed_training_cuts_its_rows_as_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die_at(step: int) -> Callable[[Any], None]:
        def on_step(row: Any) -> None:
            if row.step == step:
                raise Killed

        return on_step

    _short_of_memory(monkeypatch, "push", LARGEST)
    whole = _train(tmp_path / "whole")[1]
    for step in (1, 5):
        with pytest.raises(Killed):
            _train(tmp_path / "cut", on_step=die_at(step))
    assert torch.equal(_train(tmp_path / "cut")[1], whole)
    assert tiny.log(tmp_path / "cut") == tiny.log(tmp_path / "whole")


def test_a_pair_without_room_is_named_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _short_of_memory(monkeypatch, "push", 3)
    with pytest.raises(
        LimitError,
        match=r"no memory for pair pair-\d alone, \d+ tokens .*gradient_checkpointing: true",
    ):
        _train(tmp_path)


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes"), synchronized_oom():
        raise RuntimeError("shapes cannot be multiplied")
    with pytest.raises(OutOfMemory, match="DefaultCPUAllocator"), synchronized_oom():
        raise CPU


def test_in_step_a_process_without_room_ends_silently_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "_disconnected", False)
    with (
        pytest.raises(LimitError, match=r"DefaultCPUAllocator.*train\.micro_batch_tokens"),
        synchronized_oom(in_step=True),
    ):
        raise CPU
    assert processes._disconnected
    with (
        pytest.raises(BackendError, match="has ended without a word"),
        synchronized_oom(in_step=True),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), synchronized_oom(in_step=True):
        raise RuntimeError("shapes cannot be multiplied")
