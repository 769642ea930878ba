"""The estimated memory of training beside the measured peak: two sizes, all weights and LoRA.

    python benchmarks/training_memory.py

Trains models of random weights for two steps (in the second one the optimizer has its moments) on
rows that `micro_batch_tokens` fill, each in a process of its own, on the CPU. What the process
takes without a model worth mentioning (the same training of a tiny one) is subtracted from its
peak. The goal is an estimate within 30 %.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

SIZES = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    "57M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8},
    "125M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12},
}
LORA: dict[str, Any] = {"adapter": {"name": "lora"}}
WITHIN = 0.30


def build(folder: Path, shape: dict[str, int], vocabulary: int) -> None:
    """Write a model of random weights with the playground's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(str(files("prefine.playground") / "model"))
    config = LlamaConfig(
        vocab_size=vocabulary or len(tokenizer),
        num_attention_heads=max(2, shape["hidden_size"] // 64),
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **shape,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(model: str, run_dir: str, settings: str) -> None:
    """Train, and print the peak of this process in bytes."""
    import prefine

    sentence = "write 2 sentences about the sea . the ship leaves the harbour . "
    pairs = [
        {
            "prompt": f"{n} {sentence * 60}",
            "chosen": f"{n} " + "the sea is wide . " * 70,
            "rejected": f"{n} " + "the tea is hot . " * 70,
        }
        for n in range(4)
    ]
    options = {"pairs_per_step": 2, "max_steps": 2, "max_completion_tokens": 400}
    prefine.train(model, pairs, output_dir=run_dir, settings=options | json.loads(settings))
    # Not `ru_maxrss`, which begins at what the parent process had.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) * 1024)


def peak(model: Path, settings: dict[str, Any]) -> int:
    """The peak memory of a training in a process of its own [bytes]."""
    with tempfile.TemporaryDirectory() as run_dir:
        done = subprocess.run(
            [sys.executable, __file__, str(model), run_dir, json.dumps(settings)],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"MALLOC_TRIM_THRESHOLD_": "0"},
        )
    return int(done.stdout.split()[-1])


def main() -> None:
    """Print a row for each size and way of training."""
    from prefine.config.training import TrainConfig
    from prefine.training.memory_estimate import training_memory

    print("Peak memory of training on the CPU, float32, rows of 2,048 tokens [MiB]", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for name, shape in SIZES.items():
            build(Path(place) / name, shape, 32_000 if name != "tiny" else 0)
        for settings, what in (({}, "all weights"), (LORA, "LoRA")):
            base = peak(Path(place) / "tiny", settings)
            for name in ("57M", "125M"):
                model = Path(place) / name
                measured = (peak(model, settings) - base) / 2**20
                config = TrainConfig.model_validate(settings)
                estimate = training_memory(str(model), config, device="cpu").total / 2**20
                mark = "ok  " if abs(estimate / measured - 1) <= WITHIN else "MISS"
                figures = f"{estimate / measured:.2f} ({estimate:,.0f} / {measured:,.0f})"
                print(f"{mark} {name}, {what}: estimate / measured {figures}", flush=True)


if __name__ == "__main__":
    train(*sys.argv[1:]) if len(sys.argv) > 1 else main()
