"""A tiny random model and random pairs for the tests of training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prefine.config.training import TrainConfig
from prefine.training.relations.labels import TokenizedAnswer
from prefine.training.relations.lists import TokenizedList
from prefine.training.relations.pairs import TokenizedPair

VOCABULARY = 40


def model(
    *, seed: int = 0, dtype: torch.dtype = torch.float64, intermediate: int = 24
) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 16,
        "intermediate_size": intermediate,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **shape)
    made = LlamaForCausalLM(config)
    # The model's own norms compute in float32 inside, which would hide errors below 1e-7.
    for layer in made.model.layers:
        layer.input_layernorm = torch.nn.RMSNorm(16, eps=1e-6)
        layer.post_attention_layernorm = torch.nn.RMSNorm(16, eps=1e-6)
    made.model.norm = torch.nn.RMSNorm(16, eps=1e-6)
    made.to(dtype).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            # Larger than the usual start, so that pairs differ and gradients are not all alike.
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def examples(count: int = 7, *, seed: int = 0) -> list[TokenizedPair]:
    rng = np.random.default_rng(seed)

    def ids() -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(0, VOCABULARY, rng.integers(1, 9)))

    return [
        TokenizedPair(
            f"pair-{index}",
            ids(),
            (*ids(), 1),
            (*ids(), 2, 1),
            weight=float(rng.uniform(0.5, 3)),
            p_chosen=0.6 + 0.05 * (index % 8),
            score_gap=0.3 * index - 0.2,
        )
        for index in range(count)
    ]


def lists(count: int = 7, *, seed: int = 0) -> list[TokenizedList]:
    """Lists of two to four completions; two share a prompt and a completion, one has a tie."""
    rng = np.random.default_rng(seed)

    def ids() -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(0, VOCABULARY, rng.integers(1, 9)))

    made = []
    for index in range(count):
        size = 2 + index % 3
        completions = [(*ids(), index % 7, rank, 1) for rank in range(size)]
        ranks = list(range(1, size + 1))
        if index % 4 == 2 and size > 2:
            ranks[-1] = ranks[-2]
        prompt = ids()
        if index % 3 == 1:
            prompt = made[-1].prompt_ids
            completions[0] = made[-1].completions[1]
        made.append(
            TokenizedList(
                f"list-{index}",
                prompt,
                tuple(completions),
                tuple(ranks),
                scores=None,
                places=tuple(range(size)),
                weight=float(rng.uniform(0.5, 3)),
            )
        )
    return made


def answers(count: int = 7, *, seed: int = 0) -> list[TokenizedAnswer]:
    """Labelled answers, some to the same prompt."""
    made = [
        TokenizedAnswer(
            f"{pair.id}-{desirable}", text.prompt, text.completion, desirable, weight=pair.weight
        )
        for pair in examples(-(-count // 2), seed=seed)
        for text, desirable in zip(pair.texts, (True, False), strict=True)
    ]
    return made[:count]


def config(**settings: Any) -> TrainConfig:
    values = {
        "pairs_per_step": 3,
        "micro_batch_tokens": 50,
        "epochs": 3,
        "learning_rate": 1e-2,
        "checkpoint_every": 2,
        "seed": 5,
    }
    return TrainConfig(**{**values, **settings})


def weights(of: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in of.named_parameters()}


def log(folder: Path) -> bytes:
    return (folder / "train_log.jsonl").read_bytes()
