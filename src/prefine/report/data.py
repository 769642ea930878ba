"""The data of the report, which stages fill from the run folder; nothing of how it is drawn."""

import math
from typing import Literal

from pydantic import Field

from prefine.config.checking import listed
from prefine.records import SCHEMA_VERSION, Counts, Finite, MetricValue, Record

OUTCOMES = "evaluation/outcomes.jsonl"
"""The file of the run folder in which stage `evaluate` writes one `AnswerExample` a line."""


class StageSummary(Record):
    """One stage of the pipeline: what it took and made, and what that cost.

    `calls_are` names what was asked for: calls of a model, or verdicts that were computed or read;
    `drops_are` says what became of those that `counts` has as dropped.
    """

    stage: str
    takes: str
    makes: str
    counts: Counts
    calls: int = 0
    calls_are: str = "calls"
    drops_are: str = "dropped"
    repeated_after_interruption: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class TrainPoint(Record):
    """One optimizer step. Log-probabilities in nats per answer, means over the step's pairs.

    `fall` is initial minus policy log-probability of the chosen answers (positive: less likely than
    before); `fall_low`, `fall_high` are its 10 % and 90 % quantiles over the step's pairs.
    """

    step: int
    loss: Finite
    chosen_logp: Finite
    rejected_logp: Finite
    chosen_change: Finite
    rejected_change: Finite
    margin: Finite
    accuracy: Finite
    fall: Finite
    fall_low: Finite
    fall_high: Finite
    beyond_delta: Finite | None = None
    grad_norm: Finite


class TrainEnd(Record):
    """All training pairs after the last update; units as in `TrainPoint`, errors over prompts.

    `stopped_by` is the alarm that ended training early.
    """

    stopped_by: str | None = None
    chosen_change: Finite
    chosen_change_se: Finite | None = None
    rejected_change: Finite
    rejected_change_se: Finite | None = None
    margin: Finite | None = None
    accuracy: Finite | None = None
    fall: Finite
    fall_se: Finite | None = None
    beyond_delta: Finite | None = None


class EvaluationPoint(Record):
    """Held-out pairs after `step` updates; units as in `TrainPoint`, standard errors over prompts.

    `fall` is in nats per answer, or per token where the budget is.

    `top_mass` is the probability of the likeliest tokens of the chosen answers,
    `top_entropy_renormalised` their entropy among themselves, in nats; pictures and tables have it
    in bits. `collapse`, `diffusion` and `turn` are the alarms that were on, if known.
    """

    step: int
    pairs: int
    loss: Finite
    loss_se: Finite | None = None
    margin: Finite
    margin_se: Finite | None = None
    accuracy: Finite
    accuracy_se: Finite | None = None
    chosen_change: Finite
    rejected_change: Finite
    fall: Finite
    fall_se: Finite | None = None
    beyond_delta: Finite | None = None
    top_mass: Finite
    top_mass_se: Finite | None = None
    top_entropy_renormalised: Finite
    top_entropy_renormalised_se: Finite | None = None
    collapse: bool | None = None
    diffusion: bool | None = None
    turn: bool | None = None

    @property
    def top_entropy_bits(self) -> float:
        """The entropy of the likeliest tokens among themselves, in bits."""
        return self.top_entropy_renormalised / math.log(2)

    @property
    def top_entropy_bits_se(self) -> float | None:
        """Its standard error."""
        error = self.top_entropy_renormalised_se
        return None if error is None else error / math.log(2)


class BudgetPoint(Record):
    """A measurement of the controller that sets the weight of a budget, and the weight from there.

    `fall` is that of its probe, in the budget's unit. The last one has the fall of the items that
    neither training nor the controller has seen, `untouched` many.
    """

    step: int
    fall: Finite
    regularizer_weight: Finite
    at_largest: bool
    infeasible: bool
    untouched_fall: Finite | None = None
    untouched_fall_se: Finite | None = None
    untouched: int = 0


class ItemPoint(Record):
    """A step of a training on lists or labelled answers, or an evaluation of held-out ones.

    `figures` are the columns of its row in the log, as far as they have values.
    """

    step: int
    figures: dict[str, Finite]


class HeadToHead(Record):
    """Trained against baseline according to one judge: win rate in %, ties half."""

    judge: str
    role: Literal["judge", "gold"]
    win_rate: MetricValue
    wins: int
    ties: int
    losses: int


class ConstraintScore(Record):
    """Mean gold score [0, 1] of one constraint, before and after, over the prompts that have it.

    `change` is the mean of after minus before on the same prompts; None in runs of earlier
    versions.
    """

    name: str
    before: MetricValue
    after: MetricValue
    change: MetricValue | None = None


BudgetPer = Literal["sequence", "token"]


def fall_unit(per: BudgetPer) -> str:
    """Return the unit of a fall of log-probabilities, per answer or per token."""
    return "nats per token" if per == "token" else "nats"


class AnswerExample(Record):
    """One prompt with both answers.

    `p_after` is the judge's P(after is better), averaged over both orders; `why`, which is
    not stored, is the rule by which the report shows it.
    """

    prompt: str
    before: str
    after: str
    prompt_id: str = ""
    p_after: float | None = None
    gold_before: dict[str, float] | None = None
    gold_after: dict[str, float] | None = None
    why: str = Field("", exclude=True)


class PairExample(Record):
    """One training pair; `gap` is by how much chosen was scored higher, `why` the rule it is by.

    `p_chosen` is the judge's P(chosen is better).
    """

    prompt: str
    chosen: str
    rejected: str
    p_chosen: float | None = None
    gap: float | None = None
    why: str = ""


class LabelExample(Record):
    """One labelled answer that was trained on."""

    prompt: str
    answer: str
    desirable: bool


class ListedAnswer(Record):
    """One answer of a list: its place (0 is the best), and its score or rank as it is stored."""

    place: int
    text: str
    score: float | None = None
    rank: int | None = None


class ListExample(Record):
    """Answers of one training list: the best, the worst and some between; `size` counts all.

    `gap` is the best score minus the worst, `why` the rule that the list was taken by.
    """

    prompt: str
    answers: tuple[ListedAnswer, ...]
    size: int
    gap: float | None = None
    why: str = ""


class BridgeExample(Record):
    """One bridged pair: the rejected answer, its rewriting, and what was chosen before.

    `p_chosen` is the judge's P(the rewriting is better than the rejected answer).
    """

    prompt: str
    rejected: str
    bridged: str
    original: str = ""
    p_chosen: float | None = None


class StageOrigin(Record):
    """The origin of a stage's results; None is what an earlier version did not store."""

    stage: str
    began_at: str | None = None
    command: tuple[str, ...] | None = None
    code_version: str = ""
    commit: str | None = None
    seed: int | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    outputs: dict[str, str] = Field(default_factory=dict)
    judge_prompt: str | None = None


class Evaluation(Record):
    """The results of stage `evaluate`; the content of `metrics.json`."""

    schema_version: int = SCHEMA_VERSION
    policy: str
    baseline: str
    contests: tuple[HeadToHead, ...] = ()
    constraints: tuple[ConstraintScore, ...] = ()
    metrics: tuple[MetricValue, ...] = ()


class ReportData(Record):
    """Everything on the page.

    `unfinished` is the first stage that has begun and not ended, `stopped_by` the message that it
    stopped with.
    `prompts_also_trained_on` counts the contests' prompts that training has seen; None when that is
    not known. `items` are the kind that was trained on, "items" if there were several `kinds`;
    `training`, `trained` and `evaluations` are
    of pairs, the points of other items are in `item_training` and `item_evaluations`.
    With `reward_model` they are those of a reward model, whatever its items.
    `budget_points` are there if a controller set the weight; `delta_of` is the figure of the falls
    that it held, "mean" or such as "0.9 quantile". `pair_examples` are there where no `examples`
    are.
    """

    title: str
    run_name: str
    policy: str
    baseline: str
    stages: tuple[StageSummary, ...]
    unfinished: str | None = None
    stopped_by: str | None = None
    training: tuple[TrainPoint, ...] = ()
    trained: TrainEnd | None = None
    evaluations: tuple[EvaluationPoint, ...] = ()
    items: Literal["pairs", "lists", "labels", "items"] = "pairs"
    kinds: tuple[str, ...] = ()
    item_training: tuple[ItemPoint, ...] = ()
    item_evaluations: tuple[ItemPoint, ...] = ()
    delta: float | None = None
    delta_per: BudgetPer = "sequence"
    delta_of: str = "mean"
    budget_points: tuple[BudgetPoint, ...] = ()
    loss_name: str = ""
    reward_model: bool = False
    regularizer_name: str | None = None
    contests: tuple[HeadToHead, ...] = ()
    prompts_also_trained_on: int | None = None
    constraints: tuple[ConstraintScore, ...] = ()
    metrics: tuple[MetricValue, ...] = ()
    examples: tuple[AnswerExample, ...] = ()
    pair_examples: tuple[PairExample, ...] = ()
    list_examples: tuple[ListExample, ...] = ()
    label_examples: tuple[LabelExample, ...] = ()
    bridge_examples: tuple[BridgeExample, ...] = ()
    warnings: tuple[str, ...] = ()
    origins: tuple[StageOrigin, ...] = ()
    config_yaml: str = ""
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def item_words(self) -> str:
        """The kinds that were trained on, such as "pairs, lists and labels"."""
        return listed(self.kinds) or self.items

    @property
    def delta_per_answer(self) -> float | None:
        """The budget in nats per answer; None without one, or where it is per token."""
        return self.delta if self.delta_per == "sequence" else None
