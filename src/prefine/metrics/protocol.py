"""Metrics that a configuration can name: functions of what a run has.

A metric declares what it needs, takes `Evidence` and keyword-only options, and returns figures. It
asks no model: what costs time or money is in the evidence, gathered for the metrics that need it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from prefine.errors import ConfigError
from prefine.metrics.statistics.values import Array
from prefine.records import Completion, Judgment, MetricValue, Prompt

# The names of the fields of `Evidence`.
Need = Literal[
    "completions",
    "judgments",
    "answers",
    "verdicts",
    "gold",
    "training_prompts",
    "held_out_pairs",
    "held_out_lists",
    "evaluation_log",
]


class AnswerPair(NamedTuple):
    """An evaluation prompt with the answers of the baseline and of the model."""

    prompt: Prompt
    before: Completion
    after: Completion


class HeldOutPairs(NamedTuple):
    """Log-probabilities of held-out pairs under the model and the reference, summed, in nats.

    Attributes:
        prompt_ids: Prompt of each pair [B].
        chosen: Of the chosen completions, by the model [B].
        rejected: Of the rejected ones [B].
        ref_chosen: Of the chosen ones, by the reference [B].
        ref_rejected: Of the rejected ones [B].
        chosen_tokens: Numbers of tokens [B].
        rejected_tokens: Numbers of tokens [B].
        p_chosen: The judge's P(chosen is better) [B]; NaN where the pair states none.
    """

    prompt_ids: Sequence[str]
    chosen: Array
    rejected: Array
    ref_chosen: Array
    ref_rejected: Array
    chosen_tokens: Array
    rejected_tokens: Array
    p_chosen: Array


@dataclass(frozen=True)
class Evidence:
    """The data of a run; a part that no metric of the run needs is empty.

    Attributes:
        completions: Each prompt with the completions that were ranked.
        judgments: The comparisons of the ranking.
        answers: The evaluation prompts with both answers.
        verdicts: The evaluation's judgments, of both orders.
        gold: The gold score of the model's answer minus that of the baseline's, by prompt id.
        training_prompts: The prompts that were trained on.
        held_out_pairs: Log-probabilities of the held-out pairs.
        held_out_lists: The model's log-probabilities of each held-out list, best answer first.
        evaluation_log: The rows of `eval_log.jsonl`.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
    """

    completions: Sequence[tuple[Prompt, Sequence[Completion]]] = ()
    judgments: Sequence[Judgment] = ()
    answers: Sequence[AnswerPair] = ()
    verdicts: Sequence[Judgment] = ()
    gold: Mapping[str, float] = field(default_factory=dict)
    training_prompts: Sequence[Prompt] = ()
    held_out_pairs: HeldOutPairs | None = None
    held_out_lists: Sequence[Array] = ()
    evaluation_log: Sequence[Mapping[str, Any]] = ()
    samples: int = 2000
    seed: int = 0

    @property
    def bootstrap(self) -> dict[str, Any]:
        """The keyword arguments of every metric with an interval."""
        return {"samples": self.samples, "seed": self.seed}

    @property
    def pairs(self) -> HeldOutPairs:
        """The held-out pairs of a metric that needs them."""
        assert self.held_out_pairs is not None, "gathered for a metric that needs them"
        return self.held_out_pairs


class Metric(Protocol):
    """A declared metric, its options filled in."""

    def __call__(self, evidence: Evidence) -> Iterable[MetricValue]:
        """Return the figures.

        Args:
            evidence: Has everything that the metric needs, none of it empty.

        Raises:
            ValueError: They do not exist on this evidence, as where nothing was judged twice.
        """
        ...


F = TypeVar("F", bound=Callable[..., Iterable[MetricValue]])


def metric(*needs: Need) -> Callable[[F], F]:
    """Declare a function as a metric that needs these parts of the evidence."""

    def attach(function: F) -> F:
        function.needs = frozenset(needs)  # type: ignore[attr-defined]
        return function

    return attach


def needs_of(function: Callable[..., object], *, where: str) -> frozenset[Need]:
    """Return what a metric has declared.

    Args:
        function: The metric.
        where: Its config path, for the message.

    Raises:
        ConfigError: It declares nothing.
    """
    needs: frozenset[Need] | None = getattr(function, "needs", None)
    if needs is None:
        raise ConfigError(
            f"{where}: {function} does not say what it needs; decorate it with "
            "prefine.metrics.protocol.metric"
        )
    return needs
