"""Train the embedded model from a seed.

    python -m prefine.playground.build [--seed 0] [--out DIR] [--steps N]

All demonstrations are of the train split of the playground's world. The output is an ordinary
Hugging Face model folder plus `build.json`, which says how it was made and what was measured. The
same seed, machine and versions give the same bytes.
"""

import argparse
import json
import platform
import random
import sys
import time
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from prefine.playground.pretraining import demonstrations, measure, new_model, train
from prefine.playground.tokenizer import train_tokenizer

VOCABULARY_SIZE = 1024
CONTEXT_TOKENS = 4096
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
STEPS = 4000

MODEL_DIR = Path(__file__).parent / "model"


def build(
    out: Path, *, seed: int = 0, steps: int = STEPS, measured_prompts: int = 200
) -> dict[str, Any]:
    """Train tokenizer and model, write the folder, and return the content of `build.json`.

    Args:
        out: Folder to write, created if needed.
        seed: Seed of the demonstrations, the initial weights and the measurement.
        steps: Optimizer steps of `BATCH_SIZE` demonstrations.
        measured_prompts: Number of test prompts for the measurement of samples.
    """
    rng = random.Random(f"playground build {seed}")
    texts = list(chain.from_iterable(islice(demonstrations(rng), 20_000)))
    tokenizer = train_tokenizer(
        texts, vocabulary_size=VOCABULARY_SIZE, context_tokens=CONTEXT_TOKENS
    )
    torch.manual_seed(seed)
    model = new_model(tokenizer, context_tokens=CONTEXT_TOKENS)
    losses: list[float] = []
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 50 == 0:
            sys.stderr.write(
                f"step {step} of {steps}: {loss:.4f} nats per token, "
                f"{time.monotonic() - started:.0f} s\n"
            )

    train(
        model,
        tokenizer,
        steps=steps,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        rng=rng,
        on_step=report,
    )
    # The rounded weights are shipped, so they are measured.
    model = model.to(torch.bfloat16)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)
    summary = {
        "command": f"python -m prefine.playground.build --seed {seed} --steps {steps}",
        "seed": seed,
        "steps": steps,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "final_loss_nats_per_token": round(fmean(losses[-100:]), 4),
        "measured_on_test_prompts": measure(
            model.float(), tokenizer, split="test", prompts=measured_prompts, samples=4, seed=seed
        ),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "tokenizers")},
        },
    }
    (out / "build.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def main(arguments: list[str] | None = None) -> None:
    """Build with the options of the command line."""
    parser = argparse.ArgumentParser(
        description="Train the playground's embedded model from a seed."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    # With more threads, floating-point sums and so the weights would depend on the number of cores.
    torch.set_num_threads(1)
    summary = build(options.out, seed=options.seed, steps=options.steps)
    sys.stdout.write(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
