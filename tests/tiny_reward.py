"""A tiny reward model, as an ordinary model folder."""

from pathlib import Path


def save_reward_model(
    folder: Path, *, labels: int = 1, pad: str = "<|im_end|>", positions: int = 128
) -> Path:
    """A tiny random classifier; padding is the end of a turn, as in many published reward
    models.
    """
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from chat_tokenizers import chatml

    tokenizer = chatml(eos_token="<|im_end|>", pad_token=pad)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
