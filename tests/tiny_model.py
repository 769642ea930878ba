"""A Llama of a few thousand random weights with a tokenizer and a chat template, as an ordinary
model folder.
"""

from pathlib import Path

VOCABULARY = 300


def save_tiny_model(folder: Path) -> Path:
    """Write the folder; the same bytes every time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from prefine.playground.tokenizer import train_tokenizer

    texts = ["the kettle is bright .", "write about tea .", "a short answer"]
    tokenizer = train_tokenizer(texts, vocabulary_size=VOCABULARY, context_tokens=256)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    return folder
