"""What must hold exactly, on verdicts from recorded grades, or within a time."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from line import Line
from prefine.api.simulating import contestant_of, default_strategies
from prefine.config.components import lookup
from prefine.pairing.selectors.rejection_sampling import accept
from prefine.ranking.fitting.bradley_terry import bradley_terry
from prefine.ranking.protocol import facts_of
from prefine.ranking.strategies.iterative import iterative
from prefine.simulator import Contestant, JudgeModel, Worlds, play, play_one
from ranking_cell import cell
from ranking_table import HARD, SOFT

MANY = 100_000
GRADES = {"alpaca_eval_pool": "preference", "arena_bench_pool": "score"}
SHUFFLES = 5


def lazy_is_both(processes: int) -> Iterator[Line]:
    """The same champion in every world: qualities never tie, so equal regret means the same."""
    for verdicts, judge in (("hard", HARD), ("soft", SOFT)):
        orders = [{"name": "iterative", "order": order} for order in ("lazy", "both")]
        lazy, both = cell(8, orders, processes, judge=judge, worlds=MANY).played
        same = int((lazy.regret == both.regret).sum())
        calls = f"{lazy.calls.mean():.2f} calls instead of {both.calls.mean():g}"
        yield Line(
            f"lazy = both, {verdicts} verdicts, M=8",
            f"{same:,} of {MANY:,} worlds, {calls}",
            same == MANY,
        )


def scan_formula(processes: int) -> Iterator[Line]:
    """A scan by independent verdicts that are right with probability q, against its closed form."""
    del processes
    for m, q in ((5, 0.9), (8, 0.75), (16, 0.6)):
        rng = np.random.default_rng(m)
        quality = rng.standard_normal((MANY, m))
        right = rng.random((MANY, m, m)) < q
        better = quality[:, :, None] > quality[:, None, :]
        worlds = Worlds(quality, (better == right).astype(np.float64), quality)
        (played,) = play([Contestant("scan", (), _scan_in_one_order)], worlds)
        found, exact = float((played.regret == 0).mean()), _scan(m, q)
        error = math.sqrt(exact * (1 - exact) / MANY)
        figure = f"{found:.5f} ± {error:.5f}, formula {exact:.5f}"
        yield Line(f"scan, verdicts right with {q}, M={m}", figure, abs(found - exact) <= 3 * error)


def _scan_in_one_order(num_completions: int) -> Any:
    return iterative(num_completions, order="single")


def _scan(m: int, q: float) -> float:
    """(1/M) (q^(M-1) + sum over k = 2 … M of q^(M-k+1)): the best one, k-th, wins all the rest."""
    return (q ** (m - 1) + sum(q ** (m - k + 1) for k in range(2, m + 1))) / m


def rejection_sampling(processes: int) -> Iterator[Line]:
    """Statistical rejection sampling on eight rewards 0, .5, … 3.5, three accepted."""
    del processes
    rewards, rng, runs = [0.5 * i for i in range(8)], np.random.default_rng(0), 20_000
    sharp = [sorted(accept(rewards, k=3, beta=1e-9, rng=rng).indices) for _ in range(100)]
    yield Line(
        "RSO, beta -> 0: the top 3",
        f"{sum(s == [5, 6, 7] for s in sharp)} of 100",
        sharp == [[5, 6, 7]] * 100,
    )
    drawn = [accept(rewards, k=3, beta=0.5, rng=rng) for _ in range(runs)]
    means = np.array([np.mean([rewards[i] for i in one.indices]) for one in drawn])
    shares = np.array([one.first_pass_acceptance for one in drawn])
    mean, share = float(means.mean()), float(shares.mean())
    error = float(shares.std()) / math.sqrt(runs)
    yield Line(
        "RSO, beta .5: mean reward", f"{mean:.4f}, published 2.86 ± .02", abs(mean - 2.86) <= 0.02
    )
    yield Line(
        "RSO, beta .5: first-pass acceptance",
        f"{share:.5f} ± {error:.5f}, exact .19768",
        abs(share - 0.19768) <= 3 * error,
    )
    twins = [sorted(accept([1.0, 1.0, 1.0], k=5, beta=0.5, rng=rng).indices) for _ in range(100)]
    yield Line(
        "RSO, k above the number of (equal) candidates",
        "each of them once",
        twins == [[0, 1, 2]] * 100,
    )


def real_verdicts(processes: int) -> Iterator[Line]:
    """Every strategy that guarantees a best one, on recorded grades: the higher wins, or a tie."""
    del processes
    folder = os.environ.get("PREFINE_TEST_DATA")
    if not folder:
        yield Line("verdicts from recorded grades", "not run: PREFINE_TEST_DATA is not set", False)
        return
    for pool, field in GRADES.items():
        lines = (Path(folder) / pool / "pool.jsonl").read_text(encoding="utf-8").split("\n")
        prompts = [
            [float(c[field]) for c in json.loads(line)["completions"]] for line in lines if line
        ]
        for component in default_strategies(len(prompts[0])):
            if (
                "best"
                not in facts_of(lookup("strategy", component.name, where="benchmark")).guarantees
            ):
                continue
            contestant = contestant_of(component, JudgeModel(first_slot_bias=0.0), len(prompts[0]))
            top = sum(
                _finds_top(contestant, grades, seed)
                for grades in prompts
                for seed in range(SHUFFLES)
            )
            asked = len(prompts) * SHUFFLES
            name = " ".join(
                [contestant.name, *(f"{key}={value}" for key, value in contestant.options)]
            )
            yield Line(
                f"grades of {pool}: {name}",
                f"a top grade for {top} of {asked} shuffled prompts",
                top == asked,
            )


def _finds_top(contestant: Contestant, grades: list[float], seed: int) -> bool:
    shuffled = np.random.default_rng(seed).permutation(grades)
    table = (np.sign(shuffled[:, None] - shuffled[None, :]) + 1) / 2
    outcome, *_ = play_one(contestant.make(len(grades)), table.tolist(), shuffled.tolist())
    return outcome.champion is not None and shuffled[outcome.champion] == max(grades)


def speed_of_the_fit(processes: int) -> Iterator[Line]:
    """Bradley-Terry with standard errors on 10,000 prompts of 30 duels, in processor time."""
    del processes
    rng, n, duels, m = np.random.default_rng(0), 10_000, 30, 16
    first = rng.integers(0, m, (n, duels))
    second = (first + rng.integers(1, m, (n, duels))) % m
    p_first = rng.integers(0, 2, (n, duels)).astype(np.float64)
    began = time.process_time()
    bradley_terry(first, second, p_first, completions=m)
    seconds = time.process_time() - began
    yield Line(
        "Bradley-Terry, 10,000 prompts x 30 duels, M=16",
        f"{seconds:.2f} s of one core, limit 2",
        seconds <= 2,
    )


def speed_of_simulate(processes: int) -> Iterator[Line]:
    """The command itself, its start included."""
    del processes
    for arguments in (
        [],
        [
            "--completions",
            "16",
            "--accuracy",
            "0.75",
            "--first-slot-bias",
            "0.5",
            "--worlds",
            "4000",
        ],
    ):
        command = [sys.executable, "-m", "prefine", "simulate", *arguments, "--json"]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.monotonic() - began
        yield Line(
            f"simulate {' '.join(arguments[:2])}".strip(),
            f"{seconds:.1f} s, limit 60",
            seconds <= 60,
        )
