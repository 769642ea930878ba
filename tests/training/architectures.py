"""Small random models of many architectures, built from their configurations.

Every one has a vocabulary of 96, a hidden size of 32, 256 positions, no dropout, a window of 8
tokens where it has one, and weights so much larger than at a usual start that it matters who
attends to whom.
"""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama

VOCABULARY = 96
POSITIONS = 256
WINDOW = 8


class Builder(Protocol):
    def __call__(self, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel: ...


def _build(
    config_class: str,
    settings: dict[str, Any],
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> PreTrainedModel:
    """The model in evaluation mode; the same weights for a seed in every dtype, up to rounding."""
    # A configuration keeps and changes what it is given, so each model gets its own copy of lists
    # and dicts.
    copied = {
        key: value.copy() if isinstance(value, list | dict) else value
        for key, value in settings.items()
    }
    config = getattr(transformers, config_class)(**copied)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((0.15 * noise).to(parameter.dtype))
    return cast(PreTrainedModel, model.to(dtype).eval())


def _builder(config_class: str, settings: dict[str, Any]) -> Builder:
    return cast(Builder, partial(_build, config_class, settings))


_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": POSITIONS,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
}
_SLIDING_AND_FULL = ["sliding_attention", "full_attention"]
_MIXTRAL: dict[str, Any] = {
    **_SHAPE,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "router_jitter_noise": 0.0,
    "sliding_window": WINDOW,
}
_QWEN3_MOE: dict[str, Any] = {
    **_SHAPE,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "head_dim": 8,
    "norm_topk_prob": True,
}
_MAMBA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 8,
}
_NO_TOKENS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

ATTENTION_ONLY: dict[str, Builder] = {
    "llama": _builder("LlamaConfig", _SHAPE),
    "llama_tied": _builder("LlamaConfig", {**_SHAPE, "tie_word_embeddings": True}),
    "llama_biases": _builder(
        "LlamaConfig", {**_SHAPE, "attention_bias": True, "mlp_bias": True, "head_dim": 12}
    ),
    "qwen2": _builder("Qwen2Config", _SHAPE),
    "qwen2_window": _builder(
        "Qwen2Config",
        {
            **_SHAPE,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": _SLIDING_AND_FULL[::-1],
        },
    ),
    "qwen3": _builder("Qwen3Config", {**_SHAPE, "head_dim": 8}),
    "mistral": _builder("MistralConfig", {**_SHAPE, "sliding_window": WINDOW}),
    "gemma2": _builder(
        "Gemma2Config",
        {
            **_SHAPE,
            "tie_word_embeddings": True,
            "head_dim": 8,
            "query_pre_attn_scalar": 6,
            "sliding_window": WINDOW,
            "layer_types": _SLIDING_AND_FULL,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": _builder(
        "Gemma3TextConfig",
        {
            **_SHAPE,
            "tie_word_embeddings": True,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "query_pre_attn_scalar": 6,
            "sliding_window": WINDOW,
            "layer_types": [*_SLIDING_AND_FULL, "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        },
    ),
    "phi3": _builder("Phi3Config", _SHAPE),
    "phi3_window": _builder("Phi3Config", {**_SHAPE, "sliding_window": WINDOW}),
    "olmo2": _builder("Olmo2Config", _SHAPE),
    "smollm3": _builder(
        "SmolLM3Config", {**_SHAPE, "num_hidden_layers": 3, "no_rope_layers": [1, 0, 1]}
    ),
    "smollm3_window": _builder(
        "SmolLM3Config",
        {
            **_SHAPE,
            "num_hidden_layers": 3,
            "no_rope_layers": [1, 0, 1],
            "use_sliding_window": True,
            "sliding_window": WINDOW,
        },
    ),
    "gpt2": _builder("GPT2Config", _GPT2),
    "gpt2_scaled": _builder("GPT2Config", {**_GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "granite": _builder(
        "GraniteConfig",
        {
            **_SHAPE,
            "attention_multiplier": 0.5,
            "embedding_multiplier": 3.0,
            "logits_scaling": 0.4,
            "residual_multiplier": 0.7,
        },
    ),
    "cohere": _builder(
        "CohereConfig",
        {**_SHAPE, "tie_word_embeddings": True, "logit_scale": 1.7, "use_qk_norm": True},
    ),
    "mixtral": _builder("MixtralConfig", _MIXTRAL),
    "mixtral_eager": _builder("MixtralConfig", {**_MIXTRAL, "experts_implementation": "eager"}),
    "qwen3_moe": _builder("Qwen3MoeConfig", _QWEN3_MOE),
    "qwen3_moe_eager": _builder(
        "Qwen3MoeConfig", {**_QWEN3_MOE, "experts_implementation": "eager"}
    ),
}
"""Models whose layers mix tokens by attention only: rows of shared prompts must equal separate
rows.
"""

FLOAT32_ONLY = frozenset({"mixtral", "qwen3_moe", "gpt_oss", "qwen3_next"})
"""Names, of any of the tables, that do not run in float64: torch's grouped matrix product has
no such kernel.
"""

_ROPE = {"rope_theta": 10_000.0}
ROW_DEPENDENT: dict[str, Builder] = {
    # All frequencies of a row change as soon as its largest position reaches the original length.
    "llama_dynamic": _builder(
        "LlamaConfig",
        {
            **_SHAPE,
            "max_position_embeddings": 32,
            "rope_parameters": {**_ROPE, "rope_type": "dynamic", "factor": 4.0},
        },
    ),
    "phi3_longrope": _builder(
        "Phi3Config",
        {
            **_SHAPE,
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                **_ROPE,
                "rope_type": "longrope",
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [1.5, 2.0, 4.0, 8.0],
                "original_max_position_embeddings": 32,
            },
        },
    ),
    # Distances come from a token's place in the row, not from its position.
    "bloom": _builder(
        "BloomConfig",
        {
            **_NO_TOKENS,
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "n_layer": 2,
            "n_head": 4,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
        },
    ),
    # The attention function gets one more input, a sink per head.
    "gpt_oss": _builder(
        "GptOssConfig",
        {
            **_SHAPE,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "sliding_window": WINDOW,
            "layer_types": _SLIDING_AND_FULL,
            "rope_parameters": {**_ROPE, "rope_type": "default"},
        },
    ),
    # Layers without rope scale queries by their place in the row; chunked ones attend inside blocks
    # of positions.
    "llama4": _builder(
        "Llama4TextConfig",
        {
            **_SHAPE,
            "intermediate_size_mlp": 48,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "moe_layers": [1],
            "attention_chunk_size": WINDOW,
            "layer_types": ["chunked_attention", "full_attention"],
            "no_rope_layers": [1, 0],
            "floor_scale": 4,
            "attn_scale": 0.3,
            "rope_parameters": {**_ROPE, "rope_type": "default"},
        },
    ),
}
"""Attention only, yet q, k, v, position ids and a window do not say it all; an engine must
refuse or know them.
"""

_HYBRID: dict[str, Any] = {
    **_SHAPE,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
MIXING_OTHERWISE: dict[str, Builder] = {
    "mamba": _builder("MambaConfig", {**_MAMBA, **_NO_TOKENS}),
    "mamba2": _builder(
        "Mamba2Config",
        {**_MAMBA, **_NO_TOKENS, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16},
    ),
    "lfm2": _builder(
        "Lfm2Config", {**_SHAPE, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
    ),
    "qwen3_next": _builder(
        "Qwen3NextConfig",
        {
            **_SHAPE,
            "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
        },
    ),
    "jamba": _builder(
        "JambaConfig",
        {
            **_SHAPE,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 1,
            "num_experts_per_tok": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "bamba": _builder("BambaConfig", {**_HYBRID, "attn_layer_indices": [1]}),
    "falcon_h1": _builder("FalconH1Config", {**_HYBRID, "mamba_d_ssm": 64, "head_dim": 8}),
    "recurrent_gemma": _builder(
        "RecurrentGemmaConfig",
        {
            **_SHAPE,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "num_hidden_layers": 3,
            "lru_width": 32,
            "attention_window_size": WINDOW,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
    ),
}
"""Models with a recurrence or a convolution over the row: siblings in one row would see each
other.
"""


def _norm_as_is(norm: nn.Module, hidden_states: Tensor) -> Tensor:
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    return norm.weight * (hidden_states * torch.rsqrt(variance + norm.variance_epsilon))


@torch.no_grad()
def _rotary_as_is(rotary: nn.Module, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    angles = position_ids[..., None].to(x.dtype) * rotary.inv_freq.to(x.dtype)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling


def _eager_attention_as_is(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    assert dropout == 0.0
    groups = module.num_key_value_groups
    scores = query @ key.repeat_interleave(groups, dim=1).transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1)
    return (weights @ value.repeat_interleave(groups, dim=1)).transpose(1, 2).contiguous(), weights


@contextmanager
def without_float32_casts(model: PreTrainedModel) -> Iterator[None]:
    """Compute all of a Llama in its own dtype, so that two ways through it agree to 1e-12.

    Norms and rotary angles are replaced on this model, the softmax of eager attention on every
    Llama meanwhile.
    """
    if (
        not isinstance(model, transformers.LlamaForCausalLM)
        or model.model.rotary_emb.rope_type != "default"
    ):
        raise TypeError("only a Llama with the default rope")
    replacements: dict[type[nn.Module], Callable[..., Any]] = {
        modeling_llama.LlamaRMSNorm: _norm_as_is,
        modeling_llama.LlamaRotaryEmbedding: _rotary_as_is,
    }
    patched = [module for module in model.modules() if type(module) in replacements]
    stock_attention = modeling_llama.eager_attention_forward
    for module in patched:
        module.forward = types.MethodType(replacements[type(module)], module)
    modeling_llama.eager_attention_forward = _eager_attention_as_is
    try:
        yield
    finally:
        modeling_llama.eager_attention_forward = stock_attention
        for module in patched:
            del module.forward
