"""A tiny configuration of every causal class of `transformers`, by shrinking its default one.

Sizes come from one table, applied to whatever a configuration and its parts have of it; of each
kind of layers one is kept. What a class needs beside that stands in `_SPECIAL`.
"""

from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 320
BOS, EOS, PAD = 257, 258, 256

_SIZES = {
    name: size
    for size, names in (
        (VOCABULARY, "vocab_size vocab_size_per_layer_input"),
        (
            32,
            "hidden_size d_model n_embd dim model_dim emb_dim embed_dim embedding_size "
            "word_embed_proj_dim projection_dim input_embedding_size output_embedding_size "
            "lru_width",
        ),
        (
            48,
            "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff n_inner dim_ff "
            "ffn_hidden_size dff intermediate_size_mlp ffn_intermediate_size d_inner mlp_dim "
            "shared_intermediate_size expert_ffn_hidden_size dense_intermediate_size",
        ),
        (
            24,
            "moe_intermediate_size shared_expert_intermediate_size "
            "shared_experts_intermediate_size",
        ),
        (
            2,
            "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth "
            "num_encoder_layers num_decoder_layers num_key_value_heads num_kv_heads "
            "num_experts_per_tok num_experts_per_token moe_k moe_topk moe_top_k top_k_experts "
            "linear_num_key_heads",
        ),
        (
            4,
            "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
            "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
            "linear_num_heads linear_num_value_heads num_experts num_local_experts "
            "n_routed_experts moe_num_experts mamba_n_heads mamba_num_heads",
        ),
        (
            8,
            "head_dim attention_head_size v_head_dim qk_nope_head_dim qk_rope_head_dim "
            "linear_head_dim global_head_dim kv_channels linear_key_head_dim "
            "linear_value_head_dim query_pre_attn_scalar rotary_dim hidden_size_per_layer_input "
            "laurel_rank state_size ssm_state_size mamba_d_state index_topk patch_size",
        ),
        (
            16,
            "q_lora_rank kv_lora_rank sliding_window attention_window_size attention_chunk_size "
            "chunk_size mamba_chunk_size mamba_d_head mamba_head_dim index_head_dim image_size",
        ),
        # So many that their positive parts are not all 0 for two tokens: a choice between equals
        # depends on the length of a row.
        (32, "index_n_heads"),
        (64, "mamba_d_ssm"),
        (
            1,
            "n_shared_experts num_shared_experts n_group topk_group num_expert_group "
            "first_k_dense_replace num_dense_layers n_groups mamba_n_groups mamba_ngroups",
        ),
        (
            512,
            "max_position_embeddings n_positions max_seq_len seq_length model_max_length "
            "max_source_positions max_target_positions",
        ),
        (0, "num_kv_shared_layers"),
        (BOS, "bos_token_id"),
        (EOS, "eos_token_id"),
        (PAD, "pad_token_id"),
    )
    for name in names.split()
}
_OPTIONAL = {
    "hidden_size_per_layer_input",
    "n_inner",
    "num_key_value_heads",
    "num_kv_heads",
    "q_lora_rank",
    "sliding_window",
    "vocab_size_per_layer_input",
}
_LAYER_KINDS = ("layer_types", "layers_block_type", "block_types", "mlp_layer_types")

_NO_HASHES = {"attn_layers": ["local"], "axial_pos_shape": [16, 32], "axial_pos_embds_dim": [8, 24]}
# Sections of half a head's width: time, height and width of an image.
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_SECTIONS = {"rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1]}}
_HALF_SECTIONS = {
    "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]}
}
_SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4}
            for kind in ("full_attention", "sliding_attention")
        }
    },
    "gemma4_text": {"global_head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "glm4v_moe_text": _HALF_SECTIONS,
    "glm4v_text": _SECTIONS,
    "glm_ocr_text": _SECTIONS,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 8},
    "mamba2": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "paddleocr_vl_text": _SECTIONS,
    "qwen2_5_omni_text": _SECTIONS,
    "qwen2_5_vl_text": _SECTIONS,
    "qwen2_vl_text": _SECTIONS,
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"num_hidden_layers": 3, "num_key_value_heads": 1},
    "reformer": _NO_HASHES,
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 3,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""What single configurations need, by model type."""


def shrunk(kind: type[PretrainedConfig]) -> PretrainedConfig:
    """A small configuration of a class."""
    default: Any = kind()
    stored = default.to_dict()
    known = {*stored, *vars(default), *kind.attribute_map}
    # A value for one layer may differ from that for another, and then it is no attribute.
    settings: dict[str, Any] = {
        name: size
        for name, size in _SIZES.items()
        if name in known and not (name in _OPTIONAL and stored.get(name) is None)
    }
    for name in known:
        if "drop" in name and isinstance(stored.get(name), float):
            settings[name] = 0.0
    for name in kind.sub_configs:
        if (part := getattr(default, name, None)) is not None:
            settings[name] = shrunk(type(part))
    for name in _LAYER_KINDS:
        kinds = stored.get(name)
        if kinds and not isinstance(getattr(kind, name, None), property):
            settings[name] = list(dict.fromkeys(kinds))
            settings["num_hidden_layers"] = len(settings[name])
    settings |= _SPECIAL.get(kind.model_type, {})
    if isinstance(settings.get("layer_types"), list):
        settings["num_hidden_layers"] = len(settings["layer_types"])
    if "mlp_layer_types" in settings and "layer_types" in settings:
        count = settings["num_hidden_layers"] = len(settings["layer_types"])
        settings["mlp_layer_types"] = (settings["mlp_layer_types"] * count)[:count]
    if "kv_lora_rank" in known:
        # Latent attention has a key for each head, and its width in two parts.
        settings["num_key_value_heads"] = settings["num_attention_heads"]
        settings.pop("head_dim", None)
    if "is_decoder" in known:
        settings["is_decoder"] = True
    return kind(**settings)


def tiny(model_type: str, class_name: str) -> PreTrainedModel:
    """A small random model in evaluation mode, with weights so large that attention matters."""
    config = shrunk(CONFIG_MAPPING[model_type])
    model_class = getattr(transformers, class_name)
    if not isinstance(config, model_class.config_class):
        config = config.get_text_config(decoder=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = model_class(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise.to(parameter.dtype))
    return model.eval()
