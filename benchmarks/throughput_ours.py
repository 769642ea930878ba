"""A child of `train_throughput.py`: prefine's training engine. Its last line is JSON.

    python benchmarks/throughput_ours.py '{"vocab": 4096, "drawn_pairs": 12, …}'  # see `Work`

Efficiency is ideal time over measured time. The ideal is what a step cannot do without (`needed`)
at the rate of matrix products of the same shapes, measured in this process right before and right
after the training.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import harmonic_mean
from typing import TYPE_CHECKING, NamedTuple

import torch

from prefine.training.relations.pairs import TokenizedPair
from throughput_data import (
    BETA,
    HIDDEN,
    INTERMEDIATE,
    LAYERS,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Outcome,
    Work,
    answer,
    counts,
    examples_for,
    make_model,
    peak_mb,
    scored_tokens,
    step_seconds,
    unique_tokens,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROW_TOKENS, HEAD_TOKENS = 1024, 512
PROBE_SECONDS = 0.1


class Passes(NamedTuple):
    """What the engine did: one reference pass over all pairs, then one epoch.

    `ends` are `time.perf_counter()` at the end of every optimizer step, those that warm up
    included. `positions` are the tokens that went through the model in the epoch, `row_fill` the
    share of the rows' room that they filled.
    """

    reference_seconds: float
    ends: list[float]
    positions: int
    row_fill: float


def train_once(model: "PreTrainedModel", examples: Sequence[TokenizedPair], work: Work) -> Passes:
    """The one place that knows the engine: the same functions that `prefine train` calls.

    DPO with `BETA`, AdamW (fused, `LEARNING_RATE`, constant, no weight decay), gradients clipped at
    `MAX_GRAD_NORM` as on TRL's side; steps are `work.pairs_per_step` consecutive examples,
    `work.steps` of them, unshuffled.
    """
    from prefine.losses import dpo
    from prefine.training.forward.passes import Forward
    from prefine.training.objective.gradient import accumulate_gradients
    from prefine.training.objective.item_table import ItemTable
    from prefine.training.objective.objective import Objective
    from prefine.training.reference.scoring import score_completions
    from prefine.training.relations.choose import named_relation

    model.eval()  # type: ignore[no-untyped-call]
    forward = Forward(model, shared=work.sharing == "auto", tokens=ROW_TOKENS)
    began = time.perf_counter()
    initial = score_completions(forward, examples)
    reference_seconds = time.perf_counter() - began
    table = ItemTable.of(named_relation("pairs"), examples, {"initial": initial})
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True
    )
    objective = Objective(partial(dpo, beta=BETA))
    ends: list[float] = []
    positions = room = 0
    for step in range(work.steps):
        pairs = range(step * work.pairs_per_step, (step + 1) * work.pairs_per_step)
        optimizer.zero_grad(set_to_none=True)
        batches = forward.cut(examples, pairs)
        accumulate_gradients(forward, batches, table, objective, examples=examples, step=step + 1)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        ends.append(time.perf_counter())
        if step >= work.warm_steps:
            positions += sum(rows.positions for rows in batches)
            room += sum(max(ROW_TOKENS, rows.positions) for rows in batches)
    return Passes(reference_seconds, ends, positions, positions / room)


class Needed(NamedTuple):
    """FLOPs that a training step cannot do without, by what they are spent on."""

    layers: float
    head: float
    attention: float


def needed(examples: Sequence[TokenizedPair], *, vocab: int, pairs_per_step: int) -> Needed:
    """FLOPs of forward and backward over all steps, a prompt counted once per step and no padding.

    A matrix product is 2 FLOPs per weight and token forward and 4 backward; a (query, key) pair of
    attention 4·hidden forward and 8·hidden backward per layer.
    """
    read = counts(examples, pairs_per_step)
    weights = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE)
    return Needed(
        layers=6.0 * weights * read.inputs,
        head=6.0 * HIDDEN * vocab * read.scored,
        attention=12.0 * HIDDEN * LAYERS * read.seen,
    )


class Product(NamedTuple):
    """A kind of matrix product: name, how often a step makes it, its FLOPs, and one call."""

    kind: str
    weight: int
    flops: float
    call: Callable[[], object]


def products(vocab: int) -> Iterator[Product]:
    """Forward, input and weight gradient for every shape of weight, into reused memory."""
    shapes = [
        ("layers", 4, ROW_TOKENS, HIDDEN, HIDDEN),
        ("layers", 2, ROW_TOKENS, HIDDEN, INTERMEDIATE),
        ("layers", 1, ROW_TOKENS, INTERMEDIATE, HIDDEN),
        ("head", 1, HEAD_TOKENS, HIDDEN, vocab),
    ]
    for kind, weight, tokens, wide_in, wide_out in shapes:
        x, y, w = (
            torch.randn(tokens, wide_in),
            torch.randn(tokens, wide_out),
            torch.randn(wide_out, wide_in),
        )
        flops = 2.0 * tokens * wide_in * wide_out
        out_y, out_x, out_w = torch.empty_like(y), torch.empty_like(x), torch.empty_like(w)
        yield Product(kind, weight, flops, partial(torch.mm, x, w.t(), out=out_y))
        yield Product(kind, weight, flops, partial(torch.mm, y, w, out=out_x))
        yield Product(kind, weight, flops, partial(torch.mm, y.t(), x, out=out_w))


def rates(vocab: int) -> dict[str, float]:
    """FLOP/s of each kind: its FLOPs in a step over their time at each shape's own rate."""
    flops: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for product in products(vocab):
        product.call()
        calls, began, passed = 0, time.perf_counter(), 0.0
        while passed < PROBE_SECONDS:
            product.call()
            calls, passed = calls + 1, time.perf_counter() - began
        share = product.weight * product.flops
        flops[product.kind] = flops.get(product.kind, 0.0) + share
        seconds[product.kind] = seconds.get(product.kind, 0.0) + share * passed / (
            calls * product.flops
        )
    return {kind: flops[kind] / seconds[kind] for kind in flops}


def run(work: Work) -> Outcome:
    """Probe, train, probe again."""
    examples = examples_for(work)
    model = make_model(work.vocab)
    # Lists are compared with each other, not with an ideal.
    probed = work.data == "pairs"
    before = rates(work.vocab) if probed else {}
    passes = train_once(model, examples, work)
    peak = peak_mb()
    after = rates(work.vocab) if probed else {}
    rate = {kind: harmonic_mean([before[kind], after[kind]]) for kind in before}

    seconds = step_seconds(passes.ends, work)
    timed = examples[work.warm_steps * work.pairs_per_step :]
    efficiency = None
    if probed:
        flops = needed(timed, vocab=work.vocab, pairs_per_step=work.pairs_per_step)
        ideal = (flops.layers + flops.attention) / rate["layers"] + flops.head / rate["head"]
        efficiency = ideal / math.fsum(seconds)
    tokens = unique_tokens(timed, work.pairs_per_step)
    # The short pairs that warm up are scored, too; their share goes by tokens.
    reference = passes.reference_seconds * tokens / unique_tokens(examples, work.pairs_per_step)
    return Outcome(
        pairs_per_step=work.pairs_per_step,
        step_seconds=seconds,
        peak_mb=peak,
        pairs=len(timed),
        unique_tokens=tokens,
        scored_tokens=scored_tokens(timed),
        positions=passes.positions,
        reference_seconds=reference,
        row_fill=passes.row_fill,
        efficiency=efficiency,
        rates={kind: value / 1e9 for kind, value in rate.items()},
    )


if __name__ == "__main__":
    answer(run)
