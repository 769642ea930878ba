"""The signature of a loss: the values it is given, and how it declares what it needs.

A loss is `(logps, *, hyper_parameters) -> Tensor [B]`: unreduced, one value per item. Training
averages them. `logps` are the `PairLogps`, `ListLogps` or `PointLogps` of B items.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor, ones_like
from torch import bool as bool_dtype

from prefine.config.components import Nested

if TYPE_CHECKING:
    from prefine.losses.other_references import OtherReferences

Need = Literal[
    "reference",
    "initial",
    "p_chosen",
    "score_gap",
    "mismatched",
    "tokens",
    "vocabulary",
    "differences",
    "prompt",
    "references",
    "head_norms",
]
LossKind = Literal["local", "coupled"]
Reads = Literal["any", "pairs", "joint", "lists", "labels", "rewards"]
Family = Literal[
    "logistic",
    "reference-free",
    "regression",
    "hinge",
    "anchored",
    "guarded",
    "divergence",
    "batch",
    "composite",
    "lists",
    "labels",
    "regularizer",
    "other",
]
PerPair = Float[Tensor, " B"]
"""One value for each of B pairs."""
PerItem = Float[Tensor, " B"]
"""One value for each of B items of any kind."""
PerCompletion = Float[Tensor, "B K"]
"""One value for each completion of B lists."""
LossFunction = Callable[..., Tensor]
Loss = Annotated[LossFunction, Nested("loss")]
"""A hyper-parameter that is itself a loss: `{name: …, …}` in a configuration."""
F = TypeVar("F", bound=LossFunction)
T = TypeVar("T")

NEED_WORDS: dict[Need, str] = {
    "reference": "log-probabilities under the reference",
    "initial": "log-probabilities under the policy at step 0",
    "p_chosen": "the stated probability that chosen is better",
    "score_gap": "the judge's score gap of every pair",
    "mismatched": "log-ratios of answers to other prompts",
    "tokens": "the log-probability of every token",
    "vocabulary": "statistics over the vocabulary at every token",
    "differences": "the tokens in which two answers differ",
    "prompt": "log-probabilities of the prompts",
    "references": "log-probabilities under further references",
    "head_norms": "how far the output head moves chosen and rejected answers",
}

READS_WORDS: dict[Reads, str] = {
    "any": "what others read beside it, or what there is: the best of a list, a good answer",
    "pairs": "a chosen and a rejected answer to one prompt",
    "joint": "a chosen and a rejected answer, perhaps to two prompts",
    "lists": "several answers to one prompt, best first",
    "labels": "single answers, each of them good or bad",
    "rewards": "the rewards of answers to one prompt, best first",
}


def _missing() -> Any:
    """Return what stands for a value that was not given, until `__post_init__`."""


@dataclass(frozen=True)
class TokenLogps:
    """Per-token log-probabilities of B pairs in nats, right-padded with 0 to the longest answer.

    `*_log_sum_p2` is the log of the sum of squared probabilities over the vocabulary at each
    position; it has no gradient in training. `*_marked` is 1 for tokens that only this side has
    (`token_diff.difference_marks`), else 0. These are None unless the loss needs them.
    `initial_chosen` are the values under the policy at step 0; left out, they are the reference's.
    """

    policy_chosen: Float[Tensor, "B Tw"]
    policy_rejected: Float[Tensor, "B Tl"]
    ref_chosen: Float[Tensor, "B Tw"]
    ref_rejected: Float[Tensor, "B Tl"]
    chosen_log_sum_p2: Float[Tensor, "B Tw"] | None = None
    rejected_log_sum_p2: Float[Tensor, "B Tl"] | None = None
    chosen_marked: Float[Tensor, "B Tw"] | None = None
    rejected_marked: Float[Tensor, "B Tl"] | None = None
    initial_chosen: Float[Tensor, "B Tw"] = field(default_factory=_missing)

    def __post_init__(self) -> None:
        if self.initial_chosen is None:
            vars(self)["initial_chosen"] = self.ref_chosen


@dataclass(frozen=True)
class PromptLogps:
    """Summed log-probabilities of the prompts of B pairs, without their first tokens, in nats.

    Both sides have the same values unless the pair is joint: answers to two different prompts. The
    last three are counts of these tokens, the third a total of the step by weight; losses that
    average over tokens read them.
    """

    policy_chosen: PerPair
    policy_rejected: PerPair
    ref_chosen: PerPair
    ref_rejected: PerPair
    chosen_tokens: PerPair | None = None
    rejected_tokens: PerPair | None = None
    chosen_tokens_in_step: float | None = None


_MAY_BE_MISSING = (
    *("ref_chosen", "ref_rejected", "initial_chosen"),
    *("chosen_tokens", "rejected_tokens", "chosen_tokens_in_step"),
)


@dataclass(frozen=True, repr=False)
class PairLogps:
    """Summed completion log-probabilities of B pairs in nats, with the pairs' other inputs.

    `initial_chosen` is the chosen completion's value under the policy at step 0. It equals
    `ref_chosen` unless another model was named as reference. Token counts include the end-of-turn
    token and exclude the prompt. `pairs_in_step` and `chosen_tokens_in_step` are totals of the
    whole optimizer step, in which each pair counts by its weight: a loss that averages over tokens
    divides by them and so does not depend on the micro-batches. `score_gap` is NaN for a pair that
    has none. `mismatched_logratio` is the mean log-ratio of another pair's two completions under
    this pair's prompt. `head_norms` are of the whole step, and in training alone: the norm of the
    gradient in the output head's weight of the chosen answers' mean log-probability, and of that of
    the rejected ones, both up to the same factor.

    In a loop of your own, give what your loss reads: plain DPO needs the first four. Without
    `initial_chosen` it is `ref_chosen`; without totals a step is these pairs; `p_chosen` and
    `weight` are 1. What is missing otherwise raises ValueError when a loss reads it.
    """

    policy_chosen: PerPair
    policy_rejected: PerPair
    ref_chosen: PerPair = field(default_factory=_missing)
    ref_rejected: PerPair = field(default_factory=_missing)
    initial_chosen: PerPair = field(default_factory=_missing)
    chosen_tokens: PerPair = field(default_factory=_missing)
    rejected_tokens: PerPair = field(default_factory=_missing)
    p_chosen: PerPair = field(default_factory=_missing)
    weight: PerPair = field(default_factory=_missing)
    pairs_in_step: float = field(default_factory=_missing)
    chosen_tokens_in_step: float = field(default_factory=_missing)
    score_gap: PerPair | None = None
    mismatched_logratio: PerPair | None = None
    tokens: TokenLogps | None = None
    prompts: PromptLogps | None = None
    other_references: "OtherReferences | None" = None
    head_norms: Float[Tensor, " 2"] | None = None

    def __post_init__(self) -> None:
        given = vars(self)
        for name in ("p_chosen", "weight"):
            if given[name] is None:
                given[name] = ones_like(self.policy_chosen)
        if given["initial_chosen"] is None:
            given["initial_chosen"] = given["ref_chosen"]
        if given["pairs_in_step"] is None:
            given["pairs_in_step"] = float(self.weight.sum())
        if given["chosen_tokens_in_step"] is None and given["chosen_tokens"] is not None:
            given["chosen_tokens_in_step"] = float((self.weight * self.chosen_tokens).sum())
        for name in _MAY_BE_MISSING:
            if given[name] is None:
                del given[name]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say what is missing."""
            # No AttributeError, which a property would turn into one of its own name.
            if name in _MAY_BE_MISSING:
                raise ValueError(f"these PairLogps have no {name}; give PairLogps({name}=…)")
            raise AttributeError(f"PairLogps have no {name}")

    def __repr__(self) -> str:
        return f"PairLogps({self.policy_chosen.numel()} pairs)"

    @property
    def chosen_logratio(self) -> PerPair:
        """Log policy - log reference of the chosen completions [B], nats."""
        return self.policy_chosen - self.ref_chosen

    @property
    def rejected_logratio(self) -> PerPair:
        """Log policy - log reference of the rejected completions [B], nats."""
        return self.policy_rejected - self.ref_rejected

    @property
    def margin(self) -> PerPair:
        """Difference of the two log-ratios [B], nats."""
        return self.chosen_logratio - self.rejected_logratio

    @property
    def mean_chosen_logp(self) -> PerPair:
        """Policy log-probability per token of the chosen completions [B], nats."""
        return self.policy_chosen / self.chosen_tokens

    @property
    def mean_rejected_logp(self) -> PerPair:
        """Policy log-probability per token of the rejected completions [B], nats."""
        return self.policy_rejected / self.rejected_tokens

    @property
    def token_margin(self) -> PerPair:
        """Difference of the two log-ratios, each averaged over its own tokens [B], nats."""
        return (
            self.chosen_logratio / self.chosen_tokens
            - self.rejected_logratio / self.rejected_tokens
        )

    def of_chosen(self, values: PerPair, up_to_rank: int = 1) -> PerPair:
        """Values of the chosen answers, by item: those of the pairs themselves."""
        return values

    def over_mean_length(self, values: PerPair) -> PerPair:
        """Values of the chosen answers over the mean length of the step's chosen answers."""
        return values * self.pairs_in_step / self.chosen_tokens_in_step

    @property
    def has_chosen(self) -> Bool[Tensor, " B"]:
        """True for each item with a chosen answer: all pairs."""
        return ones_like(self.weight, dtype=bool_dtype)

    def finite(self) -> Bool[Tensor, " B"]:
        """True for each pair all of whose log-probabilities are finite."""
        # A margin is finite only if all four of its values are.
        return self.margin.isfinite()

    def require_tokens(self) -> TokenLogps:
        """Return the per-token values; raise ValueError if they were not provided."""
        return require(self.tokens, "tokens")

    def require_prompts(self) -> PromptLogps:
        """Return the values of the prompts; raise ValueError if they were not provided."""
        return require(self.prompts, "prompt")

    def require_references(self) -> "OtherReferences":
        """Return the values under further references; raise ValueError without them."""
        return require(self.other_references, "references")

    def changed(self, **values: Any) -> "PairLogps":
        """Return a copy with other values in some fields; a field that is None stays None."""
        return PairLogps(**{**vars(self), **values})


@dataclass(frozen=True)
class ListLogps:
    """Summed log-probabilities [B, K] of B lists of up to K completions, best first, in nats.

    A shorter list ends where `present` is False; all other values are 0 there. `rank` is 1 for the
    best, and equal for completions that are equally good; `score` is NaN where none is stated. The
    rest is as in `PairLogps`; `lists_in_step` and `chosen_tokens_in_step`, of the best answers, are
    totals of the whole step, by weight.

    To regularizers all answers are chosen; `of_chosen` takes the best.
    """

    policy: PerCompletion
    ref: PerCompletion
    initial: PerCompletion
    tokens: PerCompletion
    rank: PerCompletion
    score: PerCompletion
    present: Bool[Tensor, "B K"]
    weight: PerItem
    lists_in_step: float
    chosen_tokens_in_step: float = nan

    @property
    def logratio(self) -> PerCompletion:
        """Log policy - log reference of each completion, nats."""
        return self.policy - self.ref

    @property
    def policy_chosen(self) -> PerCompletion:
        """Policy log-probability of each completion, nats."""
        return self.policy

    @property
    def initial_chosen(self) -> PerCompletion:
        """Log-probability of each completion under the policy at step 0, nats."""
        return self.initial

    @property
    def chosen_tokens(self) -> PerCompletion:
        """Tokens of each completion; 1 behind a list's end, where they divide."""
        return self.tokens.clamp(min=1)

    def of_chosen(self, values: PerCompletion, up_to_rank: int = 1) -> PerItem:
        """The mean [B] of the values over each list's answers of rank 1 to `up_to_rank`."""
        chosen = self.present & (self.rank <= up_to_rank)
        return values.masked_fill(~chosen, 0).sum(1) / chosen.sum(1)

    def over_mean_length(self, values: PerCompletion) -> PerCompletion:
        """Values of the completions over the mean length of the step's best answers."""
        return values * self.lists_in_step / self.chosen_tokens_in_step

    @property
    def has_chosen(self) -> Bool[Tensor, " B"]:
        """True for each item with a chosen answer: all lists."""
        return ones_like(self.weight, dtype=bool_dtype)

    def finite(self) -> Bool[Tensor, " B"]:
        """True for each list all of whose log-probabilities are finite."""
        return self.logratio.isfinite().all(1)


@dataclass(frozen=True)
class PointLogps:
    """Summed log-probabilities of B single answers in nats, each labelled good or bad.

    `desirable` is 1 for good answers and 0 for bad ones. The rest is as in `PairLogps`;
    `answers_in_step` is a total of the whole step, by weight, and so are, of good answers alone,
    `chosen_in_step` and `chosen_tokens_in_step`. `mismatched_logratio` is that of the answer to
    another prompt under this answer's prompt. To regularizers good answers are the chosen ones.
    """

    policy: PerItem
    ref: PerItem
    initial: PerItem
    tokens: PerItem
    desirable: PerItem
    weight: PerItem
    answers_in_step: float
    chosen_in_step: float = nan
    chosen_tokens_in_step: float = nan
    mismatched_logratio: PerItem | None = None

    @property
    def logratio(self) -> PerItem:
        """Log policy - log reference of each answer, nats."""
        return self.policy - self.ref

    @property
    def policy_chosen(self) -> PerItem:
        """Policy log-probability of each answer, nats."""
        return self.policy

    @property
    def initial_chosen(self) -> PerItem:
        """Log-probability of each answer under the policy at step 0, nats."""
        return self.initial

    @property
    def chosen_tokens(self) -> PerItem:
        """Tokens of each answer."""
        return self.tokens

    def of_chosen(self, values: PerItem, up_to_rank: int = 1) -> PerItem:
        """The values of good answers; 0 for bad ones."""
        return values.masked_fill(~self.has_chosen, 0)

    def over_mean_length(self, values: PerItem) -> PerItem:
        """Values of the answers over the mean length of the step's good answers."""
        return values * self.chosen_in_step / self.chosen_tokens_in_step

    @property
    def has_chosen(self) -> Bool[Tensor, " B"]:
        """True for each good answer."""
        return self.desirable == 1

    def finite(self) -> Bool[Tensor, " B"]:
        """True for each answer whose log-probabilities are finite."""
        return self.logratio.isfinite()


LossInputs = PairLogps | ListLogps | PointLogps
"""The input of a loss, by what it reads. Regularizers read what all three have: the values of
chosen answers, `of_chosen` and `over_mean_length`."""


def require(value: T | None, need: Need) -> T:
    """Return an optional input of a loss.

    Raises:
        ValueError: It is None: the caller left a value out that the loss needs.
    """
    if value is None:
        raise ValueError(f"the loss needs {NEED_WORDS[need]} ({need!r}), which were not given")
    return value


class Controller(Protocol):
    """Sets hyper-parameters from the values of each step; the checkpoint keeps its attributes."""

    gives: ClassVar[tuple[str, ...]]

    def update(self, logps: Any, options: Mapping[str, Any]) -> dict[str, float]:
        """Return the hyper-parameters `gives` for this step.

        Args:
            logps: All items of the step before its update, detached.
            options: The loss's other hyper-parameters at this step.
        """
        ...

    def state_dict(self) -> dict[str, float]:
        """Return the state that `load_state_dict` of a new controller continues from."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a saved state."""
        vars(self).update(state)


def declare(
    *,
    family: Family = "other",
    kind: LossKind = "local",
    needs: AbstractSet[Need] = frozenset(),
    may_need: tuple[str, ...] = (),
    reads: Reads = "pairs",
    per_pair: bool = True,
    controller: type[Controller] | None = None,
    check: Callable[..., None] | None = None,
    needs_if: Mapping[str, AbstractSet[Need]] | None = None,
) -> Callable[[F], F]:
    """Declare the properties of a loss as attributes of its function.

    Args:
        family: The heading under which it is documented.
        kind: "local" if an item's value depends on that item alone (and on the totals of the step),
            else "coupled": it is then evaluated once per step, on all its items.
        needs: The values that it reads beyond the policy's. Lists and labels have those of the
            reference and of the initial policy, labels also "mismatched".
        may_need: Options that take a number or the name of a need: what the loss then computes
            itself, from that value.
        reads: The items that it is given: "pairs" compares two answers to one prompt; "joint" also
            answers to two prompts; "lists" reads answers in an order; "labels" single
            answers that are good or bad; "rewards" the rewards of a reward model; "any" what the
            losses beside or within it read, or else the items that there are.
        per_pair: True if value i belongs to item i and can be weighted; false for losses that sort.
        controller: The class that sets some of its hyper-parameters during training; those are then
            no options of a configuration.
        check: Called with the options of a configuration; raises ValueError if they do not go
            together.
        needs_if: What it needs besides where an option is set and not 0, by the option's name.

    Raises:
        ValueError: A need is unknown, or items of this kind do not have it, or a local loss needs
            the whole step: it has a controller or reads answers to other prompts.
    """
    if unknown := sorted(needs - NEED_WORDS.keys()):
        raise ValueError(f"needs: {', '.join(unknown)} is none of {', '.join(NEED_WORDS)}")
    there = {"reference", "initial"} | ({"mismatched"} if reads == "labels" else set())
    if reads in ("any", "lists", "labels") and (lacking := sorted(needs - there)):
        raise ValueError(f"needs: {', '.join(lacking)} is there for losses of pairs, not {reads}")
    if kind == "local" and (controller is not None or "mismatched" in needs):
        raise ValueError(
            "a loss with a controller, or one that needs 'mismatched', reads the whole step: "
            "kind='coupled'"
        )

    def attach(function: F) -> F:
        vars(function).update(
            family=family,
            kind=kind,
            needs=frozenset(needs),
            may_need=may_need,
            reads=reads,
            per_pair=per_pair,
            controller=controller,
            controlled=() if controller is None else controller.gives,
            check_options=check,
            needs_if=dict(needs_if or {}),
        )
        return function

    return attach
