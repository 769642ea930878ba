"""The estimated memory of training models of 1 B and 8 B on a GPU, from their shapes alone.

    python benchmarks/memory_estimates.py

No weights are made and no GPU is asked: this is the estimate of `prefine run --dry-run`
(`training/memory_estimate.py`), which `benchmarks/training_memory.py` compares with measured peaks
of small models on the CPU. On a GPU it was not measured.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from prefine.config.training import TrainConfig
from prefine.training.memory_estimate import training_memory

# Published weights are stored in half precision; frozen ones stay so.
SHAPE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256}
SHAPE |= {"dtype": "bfloat16"}
SHAPES: dict[str, dict[str, Any]] = {
    "1 B (Llama 3.2)": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "8 B (Llama 3.1)": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}
LORA: dict[str, Any] = {"adapter": {"name": "lora", "rank": 16}, "dtype": "bfloat16"}
SETTINGS: dict[str, dict[str, Any]] = {
    "all weights": {"dtype": "bfloat16"},
    "all weights, gradient_checkpointing": {"dtype": "bfloat16", "gradient_checkpointing": True},
    "LoRA": LORA,
    "LoRA, gradient_checkpointing": LORA | {"gradient_checkpointing": True},
    "LoRA, gradient_checkpointing, rows of 8,192": LORA
    | {"gradient_checkpointing": True, "micro_batch_tokens": 8192},
}


def main() -> None:
    """Print a row for each model and way of training."""
    print("Estimated memory of training with dtype: bfloat16 [GiB]; rows of 2,048 tokens")
    print("not measured on a GPU")
    parts = ("weights", "gradients", "optimizer", "activations", "head")
    print(f"{'':61}{'total':>7}  " + "".join(f"{part:>12}" for part in parts))
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(SHAPE | shape))
            for what, settings in SETTINGS.items():
                config = TrainConfig.model_validate(settings)
                needed = training_memory(folder, config, device="cuda")
                sizes = "".join(f"{getattr(needed, part) / 2**30:12.1f}" for part in parts)
                row = f"{name}, {what}"
                print(f"{row:61}{needed.total / 2**30:7.1f}  {sizes}", flush=True)


if __name__ == "__main__":
    main()
