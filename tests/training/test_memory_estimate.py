"""The memory of training, estimated without weights: exact where it can be counted by hand, and
what the dry run says where there is too little.
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from command import prefine
from prefine.config.base import Component
from prefine.config.training import AdapterConfig, TrainConfig
from prefine.errors import ConfigError
from prefine.models.hf.loading import check_device
from prefine.training.memory import free_bytes
from prefine.training.memory_estimate import training_memory
from run_place import CONFIG, OK, PAIRS, Place
from tiny_reward import save_reward_model

ROW = 256


def test_weights_gradients_and_moments_are_those_of_the_parameters(tiny_model_folder: Path) -> None:
    path = str(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(path)
    size = 4 * sum(one.numel() for one in model.parameters())
    found = training_memory(path, TrainConfig(micro_batch_tokens=ROW), device="cpu")
    assert found[:4] == (size, size, 2 * size, 0)
    assert found.head == 4 * 300 * ROW
    with_reference = training_memory(path, TrainConfig(), device="cpu", reference=path)
    assert with_reference.reference == size
    for options, copies in (({}, 2), ({"reference": "ema"}, 2), ({"reference": "fixed"}, 1)):
        source = Component(name="self_play", **options)
        playing = training_memory(path, TrainConfig(step_source=source), device="cpu")
        assert playing.followers == copies * size, options
        assert playing.total == training_memory(path, TrainConfig(), device="cpu").total + (
            copies * size
        )
    # Rank 4 for q, k, v and o from 16 to 16, gate and up from 16 to 32, down from 32 to 16.
    adapter = 4 * (4 * (16 + 16) + 2 * (16 + 32) + (32 + 16))
    lora = TrainConfig(adapter=AdapterConfig(name="lora", rank=4), micro_batch_tokens=ROW)
    found = training_memory(path, lora, device="cpu")
    assert found[:3] == (size + 4 * adapter, 4 * adapter, 8 * adapter)


def test_activations_are_what_a_row_leaves_behind(tiny_model_folder: Path) -> None:
    """Beside what attention keeps, the sum of what autograd itself saves on a real row."""
    path = str(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    saved: dict[int, int] = {}
    held = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    ids = torch.zeros(1, ROW, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.model(input_ids=ids, use_cache=False)
    for parameter in model.parameters():
        saved.pop(parameter.untyped_storage()._cdata, None)
    # Eager attention keeps the whole square of probabilities of both heads, and some of it twice.
    square = 4 * 2 * ROW * ROW
    found = training_memory(path, TrainConfig(micro_batch_tokens=ROW), device="cpu").activations
    assert sum(saved.values()) - 4 * square < found < sum(saved.values())


def test_checkpointing_and_shorter_rows_take_less(tiny_model_folder: Path) -> None:
    def activations(**settings: object) -> int:
        config = TrainConfig(micro_batch_tokens=ROW).model_copy(update=settings)
        return training_memory(str(tiny_model_folder), config, device="cpu").activations

    assert activations(micro_batch_tokens=128) < 0.6 * activations()
    assert activations(dtype="bfloat16") == activations() // 2


def test_the_dry_run_says_what_to_change_where_memory_is_short(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.change(PAIRS)
    found = prefine("run", "run.yaml", "--dry-run")
    assert found.code == OK, found.err
    assert "memory of training on cpu, about" in found.out and "free:" not in found.out
    free = free_bytes("cpu")
    assert free is not None and free > 2**20
    tokens = 2**26
    found = prefine("run", "run.yaml", "--dry-run", "--set", f"train.micro_batch_tokens={tokens}")
    assert found.code == OK, found.err
    assert "GiB free: set train.gradient_checkpointing: true and train.micro_batch_tokens: 512" in (
        found.out
    )


@pytest.mark.parametrize("device", ["cuda:9", "gpu", "npu"])
def test_a_device_that_is_not_there_is_refused_by_the_dry_run(place: Place, device: str) -> None:
    place.change(PAIRS)
    found = prefine("run", "run.yaml", "--dry-run", "--set", f"policy.device={device}")
    assert found.code == CONFIG
    assert repr(device) in found.err and "there is cpu" in found.err


def test_devices_that_are_there() -> None:
    for device in ("auto", "cpu"):
        check_device(device)
    with pytest.raises(ConfigError, match="not on this machine"):
        check_device("cuda:99")


def test_a_reward_judge_must_be_a_classifier_with_one_output(place: Place) -> None:
    judge = {"name": "reward", "path": "model"}
    place.change({"rank.judge": judge, "rank.strategy": {"name": "pointwise"}})
    found = prefine("run", "run.yaml", "--dry-run")
    assert found.code == CONFIG
    assert "LlamaForCausalLM is no reward model" in found.err
    save_reward_model(place.root / "two", labels=2)
    found = prefine("run", "run.yaml", "--dry-run", "--set", "rank.judge.path=two")
    assert found.code == CONFIG
    assert "a reward model has one output, this has 2 labels" in found.err
