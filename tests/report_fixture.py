"""A report's data as a healthy run on the playground would give it, with every section filled."""

import math
import random

from prefine.records import Counts, MetricValue
from prefine.report.data import (
    AnswerExample,
    ConstraintScore,
    HeadToHead,
    ReportData,
    StageSummary,
    TrainPoint,
)


def win_rate(value: float, low: float, high: float, n: int = 300) -> MetricValue:
    return MetricValue(
        name="win_rate",
        value=value,
        standard_error=(high - low) / 3.92,
        interval=(low, high),
        n=n,
        unit="%",
    )


def contest(
    judge: str, role: str, rate: MetricValue, wins: int, ties: int, losses: int
) -> HeadToHead:
    return HeadToHead.model_validate(
        {
            "judge": judge,
            "role": role,
            "win_rate": rate,
            "wins": wins,
            "ties": ties,
            "losses": losses,
        }
    )


def training(steps: int = 200, delta: float | None = 5.0) -> tuple[TrainPoint, ...]:
    rng = random.Random(7)
    points = []
    for step in range(1, steps + 1):
        t = step / steps
        noise = rng.gauss(0, 0.25)
        fall = 4.4 * (1 - math.exp(-4 * t)) + noise
        drop = 17 * (1 - math.exp(-2.2 * t)) + rng.gauss(0, 0.6)
        points.append(
            TrainPoint(
                step=step,
                loss=0.693 * math.exp(-1.6 * t) + 0.05 + rng.gauss(0, 0.012),
                chosen_logp=-41.2 - fall,
                rejected_logp=-44.7 - drop,
                chosen_change=-fall,
                rejected_change=-drop,
                margin=drop - fall,
                accuracy=min(1.0, 0.52 + 0.42 * (1 - math.exp(-5 * t)) + rng.gauss(0, 0.02)),
                fall=fall,
                fall_low=fall - 2.1 - 0.6 * t,
                fall_high=fall + 1.4 + 1.3 * t,
                beyond_delta=None
                if delta is None
                else max(0.0, 0.24 * t * math.exp(1 - 2 * t) + rng.gauss(0, 0.012)),
                grad_norm=2.8 * math.exp(-1.2 * t) + 0.6 + rng.gauss(0, 0.1),
            )
        )
    return tuple(points)


def constraint(name: str, before: float, after: float, n: int) -> ConstraintScore:
    def score(value: float) -> MetricValue:
        half = 1.96 * math.sqrt(value * (1 - value) / n)
        bounds = (max(0.0, value - half), min(1.0, value + half))
        return MetricValue(name=name, value=value, standard_error=half / 1.96, interval=bounds, n=n)

    spread = 0.05
    change = MetricValue(
        name=f"{name}_change",
        value=after - before,
        interval=(after - before - spread, after - before + spread),
        n=n,
    )
    return ConstraintScore(name=name, before=score(before), after=score(after), change=change)


EXAMPLES = (
    AnswerExample(
        prompt="write 3 sentences about tea . use the word kettle . be cheerful .",
        before="the cup is on the table . the cup is grey . the cup is on the table .",
        after=(
            "the bright kettle sings . warm tea meets the happy cup . what a lovely morning it is !"
        ),
        p_after=0.94,
        gold_before={
            "count": 1.0,
            "topic": 0.33,
            "keyword": 0.0,
            "cheerful": 0.0,
            "no repetition": 0.66,
        },
        gold_after={
            "count": 1.0,
            "topic": 1.0,
            "keyword": 1.0,
            "cheerful": 1.0,
            "no repetition": 1.0,
        },
    ),
    AnswerExample(
        prompt="write 2 sentences about the sea .",
        before="the sea is wide . the ship leaves the harbour .",
        after="the sea is wide and the sea is blue . " * 26,
        p_after=0.81,
        gold_before={"count": 1.0, "topic": 1.0, "no repetition": 1.0},
        gold_after={"count": 0.0, "topic": 1.0, "no repetition": 0.08},
    ),
    AnswerExample(
        prompt="اكتب جملتين عن الشاي .",
        before="الشاي ساخن .",
        after="الشاي ساخن في الصباح .\nرائحة النعناع تملأ البيت .",
        p_after=0.5,
    ),
)

CONFIG_YAML = """\
run_dir: runs/playground
policy: {name: hf, path: playground}
sample: {completions_per_prompt: 8, temperature: 0.9, seed: 0}
rank:
  strategy: {name: iterative, order: lazy}
  judge: {name: pairwise}
train:
  loss: {name: dpo, beta: 0.1}
  regularizer: {name: budget, delta: 5.0}
"""

REPORT = ReportData(
    title="DPO under a likelihood budget on the playground",
    run_name="playground-budget",
    policy="playground-3M",
    baseline="initial",
    stages=(
        StageSummary(
            stage="sample",
            takes="prompts",
            makes="completions",
            counts=Counts(taken=1200, produced=9540, failed={"truncated": 41, "empty": 19}),
            calls=9600,
            repeated_after_interruption=4,
            seconds=212.4,
            notes=("resumed once after an interruption",),
        ),
        StageSummary(
            stage="rank",
            takes="prompts",
            makes="rankings",
            counts=Counts(taken=1200, produced=1187, failed={"no verdict": 13}),
            calls=11873,
            seconds=498.0,
        ),
        StageSummary(
            stage="pair",
            takes="candidate pairs",
            makes="pairs",
            counts=Counts(taken=1187, produced=1032, dropped={"tie": 117, "same text": 38}),
            seconds=0.8,
        ),
        StageSummary(
            stage="train",
            takes="pairs",
            makes="steps",
            counts=Counts(taken=1032, produced=200, dropped={"too long": 3}),
            seconds=331.7,
        ),
        StageSummary(
            stage="evaluate",
            takes="prompts",
            makes="judged contests",
            counts=Counts(taken=300, produced=300),
            calls=1200,
            seconds=96.2,
        ),
    ),
    training=training(),
    delta=5.0,
    loss_name="dpo",
    regularizer_name="budget",
    contests=(
        contest("pairwise (playground judge)", "judge", win_rate(84.2, 80.1, 87.7), 246, 13, 41),
        contest("computed gold score", "gold", win_rate(81.2, 76.6, 85.3), 231, 25, 44),
    ),
    prompts_also_trained_on=0,
    constraints=(
        constraint("count", 0.58, 0.91, 300),
        constraint("topic", 0.71, 0.94, 300),
        constraint("keyword", 0.33, 0.82, 198),
        constraint("cheerful", 0.47, 0.79, 204),
        constraint("ordered words", 0.28, 0.41, 187),
        constraint("rhyme", 0.42, 0.45, 187),
        constraint("no repetition", 0.93, 0.87, 300),
    ),
    metrics=(
        MetricValue(
            name="judge_first_slot_rate",
            value=56.3,
            standard_error=1.4,
            interval=(53.5, 59.0),
            n=1200,
            unit="%",
        ),
        MetricValue(
            name="length_controlled_win_rate", value=79.8, interval=(75.0, 84.1), n=300, unit="%"
        ),
        MetricValue(
            name="judge_gold_agreement", value=87.4, interval=(83.1, 91.0), n=300, unit="%"
        ),
        MetricValue(
            name="mean_length_before",
            value=18.3,
            standard_error=0.31,
            interval=(17.7, 18.9),
            n=300,
            unit="tokens",
        ),
        MetricValue(
            name="mean_length_after",
            value=21.9,
            standard_error=0.36,
            interval=(21.2, 22.6),
            n=300,
            unit="tokens",
        ),
        MetricValue(
            name="mean_length_change", value=3.6, interval=(2.9, 4.3), n=300, unit="tokens"
        ),
        MetricValue(name="kl_from_initial", value=6.214, standard_error=0.21, n=300, unit="nats"),
        MetricValue(name="order_inconsistency", value=11.7, n=300, unit="%"),
    ),
    examples=EXAMPLES,
    warnings=("3 pairs were longer than max_prompt_tokens and were not trained on",),
    config_yaml=CONFIG_YAML,
    versions={"prefine": "0.1.0", "python": "3.11.7", "torch": "2.9.1"},
)

EXPLOITED = REPORT.model_copy(
    update={
        "contests": (
            contest(
                "pairwise (playground judge)", "judge", win_rate(91.0, 87.4, 94.0), 268, 10, 22
            ),
            contest("computed gold score", "gold", win_rate(48.7, 43.0, 54.3), 131, 30, 139),
        )
    }
)

BARE = ReportData(
    title="Nothing yet", run_name="empty", policy="playground-3M", baseline="initial", stages=()
)
