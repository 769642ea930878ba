"""Seconds and memory of a list loss, beside the pairs of the same lists and without shared prompts.

    python benchmarks/list_throughput.py [--rounds 5]

Lists of 8 completions of 64 tokens to a prompt of 512, under the Llama of `throughput_data`. A step
trains on one list: `list_mle` on the list, DPO on its 28 pairs, or `list_mle` with every completion
behind its own copy of the prompt. Every measurement is a process of its own; those of a round
follow each other, and the ratio is that of a round. Prints medians over the rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from line import Line
from throughput_data import (
    BETA,
    LEARNING_RATE,
    LIST_COMPLETION,
    LIST_PROMPT,
    LIST_SIZE,
    MAX_GRAD_NORM,
    THREADS,
    make_model,
    peak_mb,
    random_lists,
)

STEPS = {4096: 6, 32000: 4}
"""Timed steps of a measurement, by vocabulary; one before them warms up."""
ROW_TOKENS = 1024
LEAST_SPEED, MOST_MEMORY = 0.95, 1.1
LEAST_SHARED = {4096: 3.0, 32000: 2.2}
KINDS = ("list", "pairs", "separate")


def measure(kind: str, vocab: int) -> dict[str, float]:
    """The seconds of a step, and the most memory held."""
    import torch

    from prefine.losses import dpo
    from prefine.losses.lists.list_mle import list_mle
    from prefine.training.forward.passes import Forward
    from prefine.training.objective.gradient import accumulate_gradients
    from prefine.training.objective.item_table import ItemTable
    from prefine.training.objective.objective import Objective
    from prefine.training.reference.scoring import score_completions
    from prefine.training.relations.choose import named_relation
    from prefine.training.relations.lists import TokenizedList
    from prefine.training.relations.pairs import TokenizedPair

    steps = STEPS[vocab] + 1
    halves = random_lists(steps * LIST_SIZE // 2, vocab=vocab)
    items: list[Any] = []
    for step in range(steps):
        some = halves[step * LIST_SIZE // 2 : (step + 1) * LIST_SIZE // 2]
        texts = [ids for pair in some for ids in (pair.chosen_ids, pair.rejected_ids)]
        prompt, places = some[0].prompt_ids, tuple(range(LIST_SIZE))
        if kind == "pairs":
            items += [
                TokenizedPair(f"{step} {a} {b}", prompt, texts[a], texts[b])
                for a, b in combinations(places, 2)
            ]
        else:
            ranks = tuple(range(1, LIST_SIZE + 1))
            items.append(
                TokenizedList(
                    f"list {step}", prompt, tuple(texts), ranks, scores=None, places=places
                )
            )
    model = make_model(vocab)
    model.eval()  # type: ignore[no-untyped-call]
    forward = Forward(model, shared=kind != "separate", tokens=ROW_TOKENS)
    relation = named_relation("pairs" if kind == "pairs" else "lists")
    table = ItemTable.of(relation, items, {"initial": score_completions(forward, items)})
    loss = dpo if kind == "pairs" else list_mle
    objective = Objective(partial(loss, beta=BETA))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True
    )
    each = len(items) // steps
    ends = []
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        batches = forward.cut(items, range(step * each, (step + 1) * each))
        accumulate_gradients(forward, batches, table, objective, examples=items, step=step + 1)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        ends.append(time.perf_counter())
    return {"seconds": (ends[-1] - ends[0]) / (steps - 1), "peak_mb": peak_mb()}


def child(kind: str, vocab: int) -> dict[str, float]:
    """What a process of its own measures."""
    threads = str(THREADS)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    words = [sys.executable, __file__, "--measure", kind, "--vocab", str(vocab)]
    printed = subprocess.run(
        words, env=environment, check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def main() -> None:
    """Measure all kinds in turn and print a line for each ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--vocab", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.vocab)))
        return
    load = Path("/proc/loadavg").read_text().split()[0]
    print(
        f"lists of {LIST_SIZE}, {LIST_PROMPT} + {LIST_COMPLETION} tokens, load {load}", flush=True
    )
    for vocab, least in LEAST_SHARED.items():
        rounds = [{kind: child(kind, vocab) for kind in KINDS} for _ in range(options.rounds)]
        for other, goal in (("pairs", LEAST_SPEED), ("separate", least)):
            ratios = [one[other]["seconds"] / one["list"]["seconds"] for one in rounds]
            shown = " ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
            what = "its 28 pairs" if other == "pairs" else "prompts that are not shared"
            print(
                Line(
                    f"V={vocab:,}: speed of a list over {what}",
                    f"{median(ratios):.2f}x (>= {goal}); rounds {shown}",
                    median(ratios) >= goal,
                ),
                flush=True,
            )
        memory = [one["list"]["peak_mb"] / one["pairs"]["peak_mb"] for one in rounds]
        print(
            Line(
                f"V={vocab:,}: peak memory of a list over its 28 pairs",
                f"{median(memory):.2f}x (<= {MOST_MEMORY})",
                median(memory) <= MOST_MEMORY,
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
