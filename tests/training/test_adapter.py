"""Training an adapter: the reference is the model without it, and nothing else than it moves or
is saved.
"""

from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch
from class_trial import try_class
from safetensors.torch import load_file
from tiny_classes import tiny as tiny_class
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from prefine.config.training import AdapterConfig
from prefine.errors import ConfigError, Interrupted
from prefine.losses.pairs.dpo import dpo
from prefine.models.hf.adapters import merge
from prefine.training.adapter import attach, lost_on_loading
from prefine.training.forward.passes import Forward
from prefine.training.loop import train
from prefine.training.reference.cache import weights_fingerprint
from prefine.training.reference.scoring import score_completions, score_tokens
from prefine.training.relations.pair_rows import StepRow

EXAMPLES = tiny.examples()
LORA = AdapterConfig(name="lora", rank=3, alpha=5)


def _train(folder: Path, model: Any, *, adapter: AdapterConfig = LORA, **options: Any) -> Any:
    config = tiny.config(adapter=adapter, **options.pop("settings", {}))
    return train(
        model,
        EXAMPLES,
        config,
        loss=dpo,
        regularizer=None,
        out_dir=folder,
        run_key="key",
        **options,
    )


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_an_adapter_changes_nothing_at_first_and_is_all_that_is_trained() -> None:
    model = tiny.model()
    before = score_completions(Forward(model), EXAMPLES)
    attach(model, LORA, seed=0)
    after = score_completions(Forward(model), EXAMPLES)
    assert torch.equal(before, after)
    assert {name.split(".")[-3] for name in _trained(model)} == {"lora_A", "lora_B"}
    shapes = {
        name: tuple(p.shape)
        for name, p in _trained(model).items()
        if "layers.0.self_attn.q_proj" in name
    }
    assert sorted(shapes.values()) == [(3, 16), (16, 3)]
    assert not any("lm_head" in name or "embed" in name for name in _trained(model))


def test_the_seed_decides_the_start() -> None:
    def start(seed: int) -> dict[str, torch.Tensor]:
        model = tiny.model()
        torch.rand(seed + 1)
        attach(model, LORA, seed=seed)
        return _trained(model)

    first, again, other = start(0), start(0), start(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_only_named_modules_get_matrices() -> None:
    model = tiny.model()
    attach(model, LORA.model_copy(update={"target_modules": ("q_proj", "v_proj")}), seed=0)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in _trained(model)} == {
        "q_proj",
        "v_proj",
    }


@pytest.mark.parametrize("kind", ["experts", "transposed"])
def test_merged_weights_are_the_adapted_model(kind: str, tmp_path: Path) -> None:
    """Experts are wrapped once for each of their weights; GPT-2's matrices lie the other way
    round.
    """
    torch.manual_seed(0)
    if kind == "experts":
        shape = {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
        config = MixtralConfig(vocab_size=40, num_key_value_heads=2, num_local_experts=2, **shape)
        model: Any = MixtralForCausalLM(config)
    else:
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32)
        )
    model.eval()
    names, ids = set(model.state_dict()), torch.arange(12)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        attach(model, LORA, seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        adapted = model(input_ids=ids).logits
        merge(model)
        assert not torch.allclose(adapted, before, atol=1e-3)
        assert torch.allclose(model(input_ids=ids).logits, adapted, atol=1e-5)
        assert set(model.state_dict()) == names
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path)
        assert torch.allclose(again(input_ids=ids).logits, adapted, atol=1e-5)


def test_the_output_head_cannot_carry_an_adapter() -> None:
    with pytest.raises(
        ConfigError, match=r"lm_head is the output head, which cannot carry an adapter"
    ):
        attach(
            tiny.model(), LORA.model_copy(update={"target_modules": ("q_proj", "lm_head")}), seed=0
        )


def test_the_gradient_is_that_of_the_merged_weights() -> None:
    """With W' = W + (alpha / r) B A: dL/dB = (alpha / r) dL/dW' A^T, dL/dA = (alpha / r) B^T
    dL/dW'.
    """
    model = tiny.model()
    attach(model, LORA, seed=0)
    layer = model.model.layers[1].mlp.up_proj
    matrices = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        matrices[1].normal_(generator=torch.Generator().manual_seed(1))
    scale = 5.0 / 3
    merged = tiny.model()
    with torch.no_grad():
        merged.model.layers[1].mlp.up_proj.weight += scale * matrices[1] @ matrices[0]
    ids = torch.arange(12)[None]
    for one in (model, merged):
        one(input_ids=ids).logits.log_softmax(-1)[..., 3].sum().backward()
    dense = merged.model.layers[1].mlp.up_proj.weight.grad
    assert torch.allclose(matrices[0].grad, scale * matrices[1].T @ dense, rtol=1e-9, atol=1e-12)
    assert torch.allclose(matrices[1].grad, scale * dense @ matrices[0].T, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder, model = tmp_path_factory.mktemp("adapter"), tiny.model(dtype=torch.float32)
    _train(folder, model)
    return folder, model


def test_the_weights_stay_and_the_adapter_learns(done: tuple[Path, Any]) -> None:
    start, base = tiny.weights(tiny.model(dtype=torch.float32)), done[1].state_dict()
    for name, weight in start.items():
        owner, _, last = name.rpartition(".")
        stored = base.get(name, base.get(f"{owner}.base_layer.{last}"))
        assert torch.equal(weight, stored), name
    rows = [StepRow.model_validate_json(line) for line in tiny.log(done[0]).splitlines()]
    assert rows[0].margin == pytest.approx(0, abs=1e-6)
    assert rows[0].loss == pytest.approx(0.6931472, abs=1e-6)
    assert rows[-1].margin > 0.5


def test_checkpoints_hold_the_adapter_alone(done: tuple[Path, Any]) -> None:
    for checkpoint in sorted((done[0] / "checkpoints").iterdir()):
        names = load_file(checkpoint / "model.safetensors").keys()
        assert names == _trained(done[1]).keys()
        assert len(load_file(checkpoint / "optimizer.safetensors")) == 3 * len(names)


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_training_resumes_to_the_same_bytes(
    done: tuple[Path, Any], tmp_path: Path, after: int
) -> None:
    rows: list[StepRow] = []
    with pytest.raises(Interrupted):
        _train(
            tmp_path,
            tiny.model(dtype=torch.float32),
            on_step=rows.append,
            should_stop=lambda: len(rows) >= after,
        )
    torch.rand(7)
    model = tiny.model(dtype=torch.float32)
    assert _train(tmp_path, model).resumed_from == after
    assert tiny.log(tmp_path) == tiny.log(done[0])
    assert (tmp_path / "train_final.json").read_bytes() == (
        done[0] / "train_final.json"
    ).read_bytes()
    for name, weight in _trained(done[1]).items():
        assert torch.equal(weight, _trained(model)[name]), name


def test_reference_values_are_those_of_the_weights_without_an_adapter(
    done: tuple[Path, Any],
) -> None:
    """So that another rank, or training all weights, reads the same file."""
    (stored,) = (done[0] / "reference").rglob("*.safetensors")
    plain = score_tokens(Forward(tiny.model(dtype=torch.float32), tokens=50), EXAMPLES)
    assert torch.equal(load_file(stored)["logps"], plain.values.logps)


def test_another_rank_reuses_the_reference(done: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "reference").symlink_to(done[0] / "reference")
    summary = _train(
        tmp_path,
        tiny.model(dtype=torch.float32),
        adapter=AdapterConfig(name="lora"),
        settings={"max_steps": 1},
    )
    assert summary.reference_reused


def test_frozen_weights_keep_their_bfloat16_and_the_adapter_is_float32(tmp_path: Path) -> None:
    model = tiny.model(dtype=torch.bfloat16)
    before = weights_fingerprint(model)
    rows: list[StepRow] = []
    _train(tmp_path, model, settings={"dtype": "bfloat16", "max_steps": 3}, on_step=rows.append)
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    # Other padding, other rounding; see what `check_start` allows.
    assert rows[0].margin == pytest.approx(0, abs=1e-2)
    assert abs(rows[-1].margin) > 0.05
    assert before == weights_fingerprint(tiny.model(dtype=torch.bfloat16))


def test_without_bfloat16_layers_stored_bfloat16_is_computed_in_float32(tmp_path: Path) -> None:
    model = tiny.model(dtype=torch.bfloat16)
    _train(tmp_path, model, settings={"max_steps": 1})
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_an_adapter_that_would_not_be_read_back_is_refused_and_may_be_merged(
    tmp_path: Path,
) -> None:
    """PEFT looks for other names than those that it saved for this class."""
    row = try_class("UnlimitedOcrForConditionalGeneration", "unlimited_ocr", tmp_path)
    assert (row.whole, row.lora, row.outcome) == ("yes", "mrg", "")
    assert row.difference <= row.bound


def test_the_layers_that_would_be_lost_are_named(tmp_path: Path) -> None:
    tiny_class("inkling2_text", "Inkling2ForCausalLM").save_pretrained(tmp_path)
    assert lost_on_loading(str(tmp_path), LORA) == [
        "model.layers.1.self_attn.k_sconv.weight_proj",
        "model.layers.1.self_attn.v_sconv.weight_proj",
    ]
    named = LORA.model_copy(update={"target_modules": ("q_proj", "gate_proj")})
    assert lost_on_loading(str(tmp_path), named) == []
