"""A tiny Llama, built and not trained, that judges: greedy decoding writes "A" or "B".

How it comes to its verdict is of no interest, only that it depends on what it is shown. Its head is
untied, and two dimensions of the residual stream are written by embeddings alone: one says that the
token is an A or a B, and only the stop token's row of the head reads it; the other says that it is
none, and only the rows of A and B read it, which differ by a random direction. A prompt ends with
the template's newline, so the first token is A or B with nearly all of the probability, and the
second is the stop token.
"""

from pathlib import Path

HIDDEN = 32
STOP_DIMENSION, ANSWER_DIMENSION = 0, 1
POSITIONS = 8192
SHARPNESS, OPINION = 8.0, 0.5


def save_tiny_judge(folder: Path, *, seed: int = 3) -> Path:
    """Write an ordinary model folder; the same bytes every time for a seed."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from chat_tokenizers import chatml

    tokenizer = chatml(
        eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=POSITIONS
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=64,
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
    a, b, stop = (tokenizer.convert_tokens_to_ids(token) for token in ("A", "B", "<|im_end|>"))
    layer = model.model.layers[0]
    with torch.no_grad():
        embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
        reserved = [STOP_DIMENSION, ANSWER_DIMENSION]
        embeddings[:, STOP_DIMENSION], embeddings[:, ANSWER_DIMENSION] = 0, 5
        embeddings[[a, b], STOP_DIMENSION], embeddings[[a, b], ANSWER_DIMENSION] = 50, 0
        layer.self_attn.o_proj.weight[reserved] = 0
        layer.mlp.down_proj.weight[reserved] = 0
        # Attention that picks single bytes out, or every long prompt would look like the average
        # prompt.
        layer.self_attn.q_proj.weight *= SHARPNESS
        direction = torch.randn(HIDDEN) * OPINION
        direction[reserved] = 0
        head.zero_()
        head[a], head[b] = direction, -direction
        head[[a, b], ANSWER_DIMENSION] = 20
        head[stop, STOP_DIMENSION] = 20
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    return folder
