"""A tiny Llama, built and not trained, that writes phrases of a list in random order.

Every phrase is a token of its own beside the 256 bytes, so any text can be read and what is written
is text. One dimension of the residual stream is constant, and only the rows of the phrases and of
the stop token read it; the other dimensions make a phrase more or less likely after what came
before, which is what training can change.
"""

from collections.abc import Sequence
from pathlib import Path

HIDDEN = 16
CONSTANT = 0
POSITIONS = 4096


def save_phrase_model(folder: Path, phrases: Sequence[str], *, seed: int = 0) -> Path:
    """Write an ordinary model folder; the same bytes every time for a seed."""
    import torch
    from tokenizers import AddedToken
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from chat_tokenizers import chatml

    tokenizer = chatml(
        eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=POSITIONS
    )
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    layer = model.model.layers[0]
    written = tokenizer.convert_tokens_to_ids([*phrases, "<|im_end|>"])
    with torch.no_grad():
        model.model.embed_tokens.weight[:, CONSTANT] = 5
        layer.self_attn.o_proj.weight[CONSTANT] = 0
        layer.mlp.down_proj.weight[CONSTANT] = 0
        rows = torch.randn(len(written), HIDDEN) * 0.3
        rows[:, CONSTANT] = 8
        model.lm_head.weight.zero_()
        model.lm_head.weight[written] = rows
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    return folder
