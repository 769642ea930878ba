"""Completions per second in process, beside `transformers.generate` and an earlier checkout.

    python benchmarks/sampling.py [--before CHECKOUT] [--rounds 5] [--prompts 64] [--threads 1]

Everything runs in turn, each round once, in a process of its own; the ratios are medians over the
rounds. The ideal is the model's own forward pass over the same prompts, read once, and completions,
all tokens at a time. With one thread, seconds are of the processor, which other programs on the
machine change less than those of a clock; with more they are of the clock, as threads that wait use
the processor, too. What is found out once about a model, by trials before its first batches, is not
in the seconds of the completions and has a row of its own.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from line import Line
from prefine.calls.protocol import Call
from prefine.config.sections import Decoding
from prefine.models.playground import playground
from prefine.models.protocol import SampleRequest
from prefine.playground.world import draw_prompts
from prefine.records import Completion, Message, Prompt

DECODING = Decoding(temperature=1.0, max_new_tokens=80)
SAMPLES = 8
GOAL = 2.0


def drawn(policy: Any, prompts: list[Prompt]) -> list[Completion]:
    """The completions of all prompts, as stage `sample` draws them."""
    calls = [
        Call(
            hashlib.sha256(f"{prompt.id}/{index}".encode()).hexdigest(),
            SampleRequest(prompt, index),
        )
        for prompt in prompts
        for index in range(SAMPLES)
    ]
    found = [
        one for batch in policy.sample(calls, calls, DECODING) for one in batch.answer().values()
    ]
    assert all(isinstance(one, Completion) for one in found)
    return [one for one in found if isinstance(one, Completion)]


def generate(policy: Any, prompts: list[Prompt]) -> int:
    """Draw as many completions by `transformers`, 64 prompts at a time; returns the tokens."""
    tokens = 0
    stop, pad = policy._sampler._stop_ids, policy._sampler._pad_id
    for start in range(0, len(prompts), 64):
        ids = [policy.prompt_ids(prompt) for prompt in prompts[start : start + 64]]
        width = max(map(len, ids))
        rows = torch.tensor([[pad] * (width - len(one)) + one for one in ids])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids])
        for _ in range(SAMPLES // 2):
            out = policy.model.generate(
                input_ids=rows,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                num_return_sequences=2,
                max_new_tokens=DECODING.max_new_tokens,
                eos_token_id=sorted(stop),
                pad_token_id=pad,
            )[:, width:]
            ended = torch.isin(out, torch.tensor(sorted(stop))).to(torch.int8)
            tokens += int((ended.cumsum(1) - ended == 0).sum())
    return tokens


@torch.inference_mode()
def ideal(policy: Any, prompts: list[Prompt], completions: list[Completion]) -> None:
    """One forward pass over prompts, and one over completions, as rows without padding."""
    for texts in (
        [policy.prompt_ids(prompt) for prompt in prompts],
        [list(one.token_ids or ()) for one in completions],
    ):
        for start in range(0, len(texts), 128):
            row = [token for text in texts[start : start + 128] for token in text]
            for at in range(0, len(row), 128):
                policy.model(input_ids=torch.tensor([row[at : at + 128]]), use_cache=False)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a function, of the processor with one thread, and what it returns."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    found = work()
    return clock() - began, found


def one_round(count: int, threads: int) -> dict[str, Any]:
    """All measurements once, in this process."""
    torch.set_num_threads(threads)
    policy = playground()
    texts = draw_prompts(count, seed=3, split="train")
    prompts = [Prompt.make((Message(role="user", content=text),)) for text in texts]
    policy.model.eval()
    first, _ = seconds(lambda: drawn(policy, prompts))
    ours, completions = seconds(lambda: drawn(policy, prompts))
    theirs, their_tokens = seconds(lambda: generate(policy, prompts))
    best, _ = seconds(lambda: ideal(policy, prompts, completions))
    tokens = sum(len(one.token_ids or ()) for one in completions)
    digest = hashlib.sha256(
        repr([(one.prompt_id, one.token_ids) for one in completions]).encode()
    ).hexdigest()
    return {
        "once": first - ours,
        "ours": ours,
        "tokens": tokens,
        "completions": len(completions),
        "generate": theirs,
        "generate_tokens": their_tokens,
        "ideal": best,
        "digest": digest,
        "logps": [one.sampled_logp for one in completions],
    }


def elsewhere(checkout: Path, count: int, threads: int) -> dict[str, Any]:
    """A round by the code of a checkout, in a process of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(checkout / "src"),
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, __file__, "--round", "--prompts", str(count)]
    command += ["--threads", str(threads)]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--round", action="store_true", help="one round, printed as JSON")
    options = parser.parse_args()
    if options.round:
        print(json.dumps(one_round(options.prompts, options.threads)))
        return
    here = Path(__file__).resolve().parents[1]
    now, before = [], []
    for _ in range(options.rounds):
        now.append(elsewhere(here, options.prompts, options.threads))
        if options.before is not None:
            before.append(elsewhere(options.before, options.prompts, options.threads))
    median = statistics.median
    speed = median(one["completions"] / one["ours"] for one in now)
    tokens = median(one["tokens"] / one["ours"] for one in now)
    print(Line("in process", f"{speed:.0f} completions/s, {tokens:,.0f} tokens/s"))
    once = median(one["once"] for one in now)
    print(Line("what is found out once about a model", f"{once:.2f} s"))
    share = median(one["ideal"] / one["ours"] for one in now)
    print(Line("share of the ideal, the model's own forward", f"{share:.2f}"))
    ratios = [
        (one["tokens"] / one["ours"]) / (one["generate_tokens"] / one["generate"]) for one in now
    ]
    print(Line("tokens/s over transformers.generate", f"{median(ratios):.2f}"))
    if before:
        ratios = [old["ours"] / new["ours"] for old, new in zip(before, now, strict=True)]
        said = (
            f"{median(ratios):.2f} (>= {GOAL}); rounds {' '.join(f'{one:.2f}' for one in ratios)}"
        )
        print(Line("completions/s over the earlier version", said, median(ratios) >= GOAL))
        same = {one["digest"] for one in (*now, *before)}
        print(Line("tokens of all completions", "the same" if len(same) == 1 else "others"))
        if len(same) == 1:
            apart = max(
                abs(new - old)
                for one, other in zip(now, before, strict=True)
                for new, old in zip(one["logps"], other["logps"], strict=True)
            )
            print(Line("log-probabilities, largest difference", f"{apart:.1e} nats"))


if __name__ == "__main__":
    main()
