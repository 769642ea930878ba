"""Training of the embedded model on demonstrations, and measurement of its samples."""

import random
from collections.abc import Callable, Iterator
from itertools import chain, count, islice
from math import cos, pi
from statistics import fmean, stdev
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prefine.playground.tokenizer import END, PAD, ChatTokenizer
from prefine.playground.world import (
    FLAW_RATES,
    Split,
    demonstrate,
    draw_prompts,
    draw_task,
    gold,
    gold_parts,
    render,
    split_of,
)

CausalLM = Any
"""A `LlamaForCausalLM`, whose annotations do not allow its documented calls."""

IGNORED = -100
"""The label of tokens without loss in Hugging Face models."""

MAX_NEW_TOKENS = 64


def conversation(prompt: str) -> list[dict[str, str]]:
    """Return the prompt as a conversation of one user turn."""
    return [{"role": "user", "content": prompt}]


def demonstrations(rng: random.Random, *, lessons: int = 0) -> Iterator[tuple[str, str]]:
    """Yield endless pairs (prompt, imperfect answer) of the train split, after easier lessons.

    From flawed answers alone, a small model needs many times the steps to learn that words of the
    prompt should come back. So the lessons begin with perfect answers, half of which only name the
    words that the prompt wants; over the last third of the lessons these become rarer and the flaw
    rates rise to `FLAW_RATES`.

    Args:
        rng: Source of all choices.
        lessons: Number of easier pairs at the start.
    """
    for index in count():
        task = draw_task(rng)
        while split_of(render(task)) != "train":
            task = draw_task(rng)
        maturity = min(1.0, max(0.0, 3 * index / lessons - 2)) if lessons else 1.0
        if rng.random() < 0.5 * (1 - maturity):
            last = [task.last] if task.last else []
            yield render(task), " ".join([*task.required, *(task.before or ()), *last, "."])
        else:
            rates = {part: maturity * rate for part, rate in FLAW_RATES.items()}
            yield render(task), demonstrate(task, rng, flaw_rates=rates)


def new_model(tokenizer: ChatTokenizer, *, context_tokens: int) -> CausalLM:
    """Return a Llama of about 1.1 million parameters with random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    return LlamaForCausalLM(config)


def train(
    model: CausalLM,
    tokenizer: ChatTokenizer,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    rng: random.Random,
    on_step: Callable[[int, float], None],
) -> None:
    """Train the model in place on fresh demonstrations; only answers and end tokens have loss.

    The learning rate warms up over a twentieth of the steps and falls to a tenth along a cosine.
    `on_step` is called with each step and its mean loss in nats per token.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.55 + 0.45 * cos(pi * step / steps))
    )
    model.train()
    stream = demonstrations(rng, lessons=steps * batch_size * 6 // 10)
    batches = _batches(tokenizer, batch_size, stream, rng)
    for step, (ids, labels) in enumerate(islice(batches, steps)):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        on_step(step, loss.item())
    model.eval()


def measure(
    model: CausalLM,
    tokenizer: ChatTokenizer,
    *,
    split: Split,
    prompts: int,
    samples: int,
    seed: int,
) -> dict[str, float]:
    """Return figures of samples at temperature 1 and greedy answers, for prompts of one split."""
    questions = draw_prompts(prompts, split=split, seed=seed)
    torch.manual_seed(seed)
    sampled = generate(model, tokenizer, questions, samples=samples, temperature=1.0)
    greedy = generate(model, tokenizer, questions, samples=1, temperature=0.0)
    golds = [
        [gold(prompt, text) for text, _ in texts]
        for prompt, texts in zip(questions, sampled, strict=True)
    ]
    greedy_parts = [
        gold_parts(prompt, text) for prompt, ((text, _),) in zip(questions, greedy, strict=True)
    ]
    tokens = [length for texts in sampled for _, length in texts]
    return {
        "gold_of_samples": round(fmean(chain.from_iterable(golds)), 4),
        "gold_sd_within_prompt": round(fmean(stdev(values) for values in golds), 4),
        "tokens_per_sample": round(fmean(tokens), 2),
        "finished_share": round(fmean(length < MAX_NEW_TOKENS for length in tokens), 4),
        "distinct_share": round(fmean(len(set(texts)) / samples for texts in sampled), 4),
        "gold_of_greedy": round(fmean(fmean(parts.values()) for parts in greedy_parts), 4),
        "greedy_form": round(fmean(parts["form"] for parts in greedy_parts), 4),
    }


@torch.inference_mode()
def generate(
    model: CausalLM,
    tokenizer: ChatTokenizer,
    prompts: list[str],
    *,
    samples: int,
    temperature: float,
    batch_prompts: int = 64,
) -> list[list[tuple[str, int]]]:
    """Return `samples` answers per prompt with their token counts; temperature 0 is greedy."""
    decoding: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        decoding = {
            "do_sample": True,
            "temperature": temperature,
            "top_k": 0,
            "num_return_sequences": samples,
        }
    answers: list[list[tuple[str, int]]] = []
    for start in range(0, len(prompts), batch_prompts):
        conversations = [conversation(prompt) for prompt in prompts[start : start + batch_prompts]]
        inputs = tokenizer.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            padding=True,
        )
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **decoding)
        output = output[:, inputs["input_ids"].shape[1] :]
        lengths = (output != tokenizer.pad_token_id).sum(dim=1).tolist()
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        pairs = list(zip(texts, lengths, strict=True))
        answers.extend(pairs[i : i + samples] for i in range(0, len(pairs), samples))
    return answers


def _batches(
    tokenizer: ChatTokenizer, batch_size: int, stream: Iterator[tuple[str, str]], rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield endless batches of token ids and labels [batch_size, T], padded on the right."""
    while True:
        # 16 batches are sorted by length together: else a third of the positions would be padding.
        pool = [_encode(tokenizer, *pair) for pair in islice(stream, batch_size * 16)]
        pool.sort(key=lambda row: len(row[0]))
        batches = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            longest = len(batch[-1][0])
            # Padding comes last, so causal attention never reads it and no mask is needed.
            ids = [row + [tokenizer.pad_token_id] * (longest - len(row)) for row, _ in batch]
            labels = [row + [IGNORED] * (longest - len(row)) for _, row in batch]
            yield torch.tensor(ids), torch.tensor(labels)


def _encode(tokenizer: ChatTokenizer, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    prompt_text = f"<|user|>{prompt}{END}<|assistant|>"
    prefix = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
    suffix = tokenizer(answer + END, add_special_tokens=False)["input_ids"]
    return prefix + suffix, [IGNORED] * len(prefix) + suffix
