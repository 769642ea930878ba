"""Time of a loss with the budget: value and gradient of [4096] float32 pairs on one core.

    python benchmarks/losses.py [NAME…]

Prints a row per loss of pairs: the median over many calls, and ok or miss of the goal of 5 ms.
Losses that sort the pairs are named. The goal does not apply to losses that read [4096, 64] tokens.
It takes half a minute.
"""

import argparse
import platform
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from prefine.config.components import TABLES, bind, lookup
from prefine.losses.facts import needs_of, reads_of
from prefine.losses.protocol import LossFunction, PairLogps, TokenLogps
from prefine.losses.regularizers import budget

PAIRS, TOKENS, GOAL_MS, REPEATS = 4096, 64, 5.0, 200
SORTS = ("aot", "aot_unpaired", "beta_dpo")
READS_TOKENS = ("ld_dpo", "wpo", "bmc")
OPTIONS: dict[str, dict[str, Any]] = {
    "mixture": {
        "losses": [{"name": "dpo"}, {"name": "bco"}, {"name": "nll"}],
        "weights": [0.8, 0.2, 1.0],
    },
}


def pairs() -> PairLogps:
    """Random pairs with all that a loss may read."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, low: float, high: float) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    tokens = {
        side: draw(PAIRS, TOKENS, low=-3, high=-0.01) for side in ("a", "b", "c", "d", "e", "f")
    }
    marks = {
        side: (draw(PAIRS, TOKENS, low=0, high=1) < 0.3).float()
        for side in ("chosen_marked", "rejected_marked")
    }
    rows = TokenLogps(
        policy_chosen=tokens["a"],
        policy_rejected=tokens["b"],
        ref_chosen=tokens["c"],
        ref_rejected=tokens["d"],
        chosen_log_sum_p2=tokens["e"],
        rejected_log_sum_p2=tokens["f"],
        **marks,
    )
    ones = torch.ones(PAIRS)
    return PairLogps(
        policy_chosen=tokens["a"].sum(1),
        policy_rejected=tokens["b"].sum(1),
        ref_chosen=tokens["c"].sum(1),
        ref_rejected=tokens["d"].sum(1),
        initial_chosen=tokens["c"].sum(1),
        chosen_tokens=TOKENS * ones,
        rejected_tokens=TOKENS * ones,
        p_chosen=draw(PAIRS, low=0.51, high=1),
        weight=draw(PAIRS, low=0.5, high=2),
        pairs_in_step=PAIRS,
        chosen_tokens_in_step=PAIRS * TOKENS,
        score_gap=draw(PAIRS, low=0.1, high=4),
        mismatched_logratio=draw(PAIRS, low=-2, high=2),
        tokens=rows,
    )


def milliseconds(loss: LossFunction, values: PairLogps) -> float:
    """Median of value and gradient of loss + .1 budget."""
    times = []
    for _ in range(REPEATS):
        chosen = values.policy_chosen.clone().requires_grad_()
        rejected = values.policy_rejected.clone().requires_grad_()
        now = replace(values, policy_chosen=chosen, policy_rejected=rejected)
        if "tokens" in needs_of(loss):
            assert values.tokens is not None
            token = values.tokens.policy_chosen.clone().requires_grad_()
            now = replace(now, tokens=replace(values.tokens, policy_chosen=token))
        began = time.perf_counter()
        (loss(now) + 0.1 * budget(now, delta=1.0)).mean().backward()  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Print a row for every loss of pairs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="These instead of all")
    of_pairs = [
        name for name in TABLES["loss"] if reads_of(lookup("loss", name, where="loss")) == "pairs"
    ]
    names = parser.parse_args().names or of_pairs
    torch.set_num_threads(1)
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, 1 thread; median of "
        f"{REPEATS} calls"
    )
    values, missed = pairs(), 0
    for name in names:
        loss = bind("loss", name, OPTIONS.get(name, {}), where="loss")
        found = milliseconds(loss, values)
        goal = name not in READS_TOKENS
        missed += goal and found >= GOAL_MS
        mark = "    " if not goal else "ok  " if found < GOAL_MS else "miss"
        note = f"goal {GOAL_MS:g}" if goal else f"reads [{PAIRS}, {TOKENS}] tokens"
        print(
            f"{mark} {name + ' + budget':<24} {found:6.3f} ms, "
            f"{note}{', sorts' if name in SORTS else ''}"
        )
    print(f"{missed} rows missed")


if __name__ == "__main__":
    main()
