"""What people's verdicts are good for: win rates with a judge's help, queues, kills.

    python benchmarks/annotation.py [coverage worthless queues real kills]

coverage    95 % intervals of the prediction-powered win rate over 2,000 simulated evaluations
worthless   judges that know nothing, say the same always, or the opposite: labels they are worth
queues      intervals when comparisons come from the real queues, where the judge is wrong mostly
            on what it is unsure of
real        PandaLM's test set, if PREFINE_TEST_DATA names the data: three people and a judge
kills       `prefine annotate` in a pseudo-terminal, killed 20 times with -9 at random moments
Prints `ok` or MISS beside what has a goal, and exits with 1 if there is a MISS.
"""

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from annotator import Answers, annotate_until_killed, make_run, verdict_rows
from line import Line
from prefine.annotate.questions import Question
from prefine.annotate.queues import Order, Queue
from prefine.metrics import PredictionPowered, prediction_powered, score_interval

Array = npt.NDArray[np.float64]
Judge = Callable[[np.random.Generator, Array], Array]

REPEATS = 2_000
GOAL = 93.0
TIES = 0.15
KILLS = 20
SIZES = ((20, 100), (20, 1_000), (50, 450), (80, 5_000), (200, 400))
"""Labels, and comparisons without one."""
RATES = (0.5, 0.7, 0.9)
"""Won, of the comparisons that are no ties."""
FEW = 4.0
"""Fewer losses than this to be expected among the labels: printed, nothing asked for."""


def good(rng: np.random.Generator, y: Array) -> Array:
    """Soft, nearly always right."""
    return np.clip(0.05 + 0.9 * y + rng.normal(0, 0.1, y.size), 0, 1)


def biased(rng: np.random.Generator, y: Array) -> Array:
    """Soft, sees much, and prefers the new answer."""
    return np.clip(0.35 + 0.5 * y + rng.normal(0, 0.25, y.size), 0, 1)


def hard(rng: np.random.Generator, y: Array) -> Array:
    """0 or 1 in each of two orders, each right in 75 of 100, a coin on ties; their mean."""
    right = np.where(y == 0.5, rng.integers(0, 2, y.size), y)
    orders = [np.where(rng.random(y.size) < 0.75, right, 1 - right) for _ in range(2)]
    return (orders[0] + orders[1]) / 2


def coin(rng: np.random.Generator, y: Array) -> Array:
    """Know nothing."""
    return rng.random(y.size)


def constant(rng: np.random.Generator, y: Array) -> Array:
    """Always say the same."""
    return np.full(y.size, 0.7)


def opposite(rng: np.random.Generator, y: Array) -> Array:
    """Prefer the worse answer."""
    return 1 - good(rng, y)


def labels(rng: np.random.Generator, size: int, rate: float) -> Array:
    """Verdicts of people."""
    won = (rng.random(size) < rate).astype(np.float64)
    return np.where(rng.random(size) < TIES, 0.5, won)


def simulated(judge: Judge, rate: float, n: int, more: int) -> list[PredictionPowered]:
    """The figures of many evaluations of a size."""
    rng = np.random.default_rng([n, more, round(100 * rate)])
    found = []
    for _ in range(REPEATS):
        y = labels(rng, n + more, rate)
        f = judge(rng, y)
        found.append(prediction_powered(y[:n], f[:n], f[n:]))
    return found


def covered(found: list[PredictionPowered], truth: float) -> float:
    """How many of 100 intervals have the truth in them."""
    intervals = [one.estimate.interval or (0.0, 0.0) for one in found]
    return 100 * float(np.mean([low <= truth <= high for low, high in intervals]))


def width(intervals: list[tuple[float, float]]) -> float:
    """The mean half-width."""
    return float(np.mean([high - low for low, high in intervals])) / 2


def coverage() -> Iterator[Line]:
    """Coverage, and how much narrower the interval is than that of the labels alone."""
    for judge in (good, biased, hard, coin):
        for rate in RATES:
            truth = 100 * (TIES / 2 + (1 - TIES) * rate)
            for n, more in SIZES:
                found = simulated(judge, rate, n, more)
                share = covered(found, truth)
                ours = width([one.estimate.interval or (0, 0) for one in found])
                alone = width([one.labels_only.interval or (0, 0) for one in found])
                worth = float(np.median([one.worth for one in found]))
                enough = n * (1 - TIES) * (1 - rate) >= FEW
                yield Line(
                    f"judge {judge.__name__}, {truth:.0f} %, {n} labels of {n + more:,}",
                    f"covers {share:.1f} %, ± {ours:.1f} points (labels alone ± {alone:.1f}), "
                    f"worth {worth:.0f} labels",
                    share >= GOAL if enough else None,
                )


def worthless() -> Iterator[Line]:
    """Judges that do not help must be said not to."""
    for judge in (coin, constant, opposite):
        for n, more in SIZES[:4]:
            found = simulated(judge, 0.6, n, more)
            worth = [one.worth for one in found]
            nothing = 100 * float(np.mean([one.adds_nothing for one in found]))
            yield Line(
                f"judge {judge.__name__}, {n} labels of {n + more:,}",
                f"worth {np.median(worth):.0f} labels (mean {np.mean(worth):.1f}), "
                f'"adds nothing" in {nothing:.1f} of 100',
                round(float(np.median(worth))) == 0 and nothing >= 95,
            )


def queues() -> Iterator[Line]:
    """People are asked 60 of 200 comparisons by each queue; the truth is that of all prompts."""
    rng = np.random.default_rng(7)
    ways: dict[str, tuple[Queue, ...]] = {
        "random": ("random",),
        "mixed": ("mixed",),
        "uncertain, then random": ("uncertain", "random"),
    }
    hits: dict[str, list[bool]] = {name: [] for name in ways}
    naive: list[bool] = []
    # Where the judge is unsure the new answer mostly loses.
    p = rng.beta(0.6, 0.6, 100_000)
    truth = float(np.mean(_wins(p)))
    for repeat in range(REPEATS):
        p_one = rng.beta(0.6, 0.6, 200)
        y = (rng.random(200) < _wins(p_one)).astype(np.float64)
        questions = [
            Question(f"{number:03}", "", "", "", float(value), 0.0, False)
            for number, value in enumerate(p_one)
        ]
        order = Order(questions, seed=repeat)
        for name, parts in ways.items():
            asked, sampled = _asked(order, parts, 60)
            hits[name].append(_covers(y, p_one, sampled, truth))
            if name == "uncertain, then random":
                low, high = score_interval(y[asked])
                naive.append(low <= truth <= high)
    for name, hit in hits.items():
        share = 100 * float(np.mean(hit))
        yield Line(f"queue {name}", f"covers {share:.1f} %", share >= GOAL)
    yield Line(
        "all labels, as if they were a random sample", f"covers {100 * np.mean(naive):.1f} %"
    )


def _wins(p: Array) -> Array:
    return np.where(np.abs(p - 0.5) < 0.3, 0.25, np.where(p > 0.5, 0.85, 0.35))


def _asked(order: Order, parts: tuple[Queue, ...], count: int) -> tuple[list[int], list[int]]:
    """Comparisons asked by queues one after the other, and those in the random sample."""
    judged: dict[str, None] = {}
    sampled: dict[str, None] = {}
    last = None
    for queue in parts:
        for _ in range(count // len(parts)):
            pick = order.next(queue, judged, sampled, last)
            assert pick.question is not None
            sampled.update(dict.fromkeys(one.id for one in pick.carried))
            judged[pick.question.id] = None
            if pick.queue == "random":
                sampled[pick.question.id] = None
            last = pick.queue
    return [int(id_) for id_ in judged], [int(id_) for id_ in sampled]


def _covers(y: Array, f: Array, sampled: list[int], truth: float) -> bool:
    others = sorted(set(range(y.size)) - set(sampled))
    found = prediction_powered(y[sampled], f[sampled], f[others])
    low, high = found.estimate.interval or (0.0, 0.0)
    return low <= 100 * truth <= high


def real() -> Iterator[Line]:
    """Three people's verdicts on real answers, and a judge's; some of them are labels."""
    data = os.environ.get("PREFINE_TEST_DATA")
    path = Path(data or ".") / "pandalm" / "testset.jsonl"
    if data is None or not path.is_file():
        yield Line("PandaLM", "left out: PREFINE_TEST_DATA does not name the data")
        return
    p = {"1": 1.0, "2": 0.0, "0": 0.5, "Tie": 0.5}
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    y = np.array([np.mean([p[str(row[f"annotator{k}"])] for k in (1, 2, 3)]) for row in rows])
    f = np.array([p.get(str(row["gpt35_result"]), np.nan) for row in rows])
    known = ~np.isnan(f)
    y, f = y[known], f[known]
    truth = 100 * float(y.mean())
    rng = np.random.default_rng(3)
    for name, judge in (
        ("GPT-3.5", lambda: f),
        ("GPT-3.5 shuffled", lambda: rng.permutation(f)),
        ("an annotator", lambda: np.array([p[str(row["annotator1"])] for row in rows])[known]),
    ):
        found = []
        for _ in range(REPEATS):
            order, said = rng.permutation(y.size), judge()
            chosen, others = order[:80], order[80:]
            found.append(prediction_powered(y[chosen], said[chosen], said[others]))
        share = covered(found, truth)
        ours = width([one.estimate.interval or (0, 0) for one in found])
        alone = width([one.labels_only.interval or (0, 0) for one in found])
        yield Line(
            f"PandaLM, {name}, 80 labels of {y.size}",
            f"covers {share:.1f} %, ± {ours:.1f} points (labels alone ± {alone:.1f}), worth "
            f"{np.median([one.worth for one in found]):.0f} labels, judge alone off by "
            f"{abs(found[0].judge_only.value - truth):.1f} points",
            share >= GOAL,
        )


def kills() -> Iterator[Line]:
    """No verdict behind which another question was shown may be lost, nor any asked again."""
    rng = random.Random(5)
    with tempfile.TemporaryDirectory() as folder:
        answers = [Answers(f"old {n}", f"new {n}", (0.5, 0.5)) for n in range(2_000)]
        run = make_run(Path(folder) / "run", answers)
        path = run / "annotations" / "anna.jsonl"
        followed: set[str] = set()
        again = 0
        for _ in range(KILLS):
            before = {row["prompt_id"] for row in verdict_rows(path)}
            killed = annotate_until_killed(
                run, "--annotator", "anna", "--queue", "mixed", after_s=rng.uniform(0, 2)
            )
            again += len(before & set(killed.shown))
            followed |= set(killed.followed)
        asked = [row["prompt_id"] for row in verdict_rows(path) if not row["carried"]]
    lost = len(followed - set(asked))
    twice = len(asked) - len(set(asked))
    yield Line(
        f"{KILLS} kills, {len(asked):,} verdicts",
        f"{lost} lost, {again + twice} asked twice",
        lost == again + twice == 0 and len(asked) > KILLS,
    )


PARTS = {one.__name__: one for one in (coverage, worthless, queues, real, kills)}


def main(names: list[str]) -> int:
    """Print the lines of the named parts, or of all."""
    missed = False
    for name in names or PARTS:
        print(f"\n{name}", flush=True)
        for line in PARTS[name]():
            print(line, flush=True)
            missed |= line.ok is False
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
