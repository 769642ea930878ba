"""What every loss and regularizer reads, and how it declares what it needs.

A loss is `(PairLogps, *, hyper_parameters) -> Tensor [B]`: unreduced, one value per pair. The
engine averages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor

from prefine.config.components import Nested

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
]
LossKind = Literal["local", "coupled"]
Reads = Literal["pairs", "joint", "lists"]
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
    "regularizer",
    "other",
]
LossFunction = Callable[..., Tensor]
Loss = Annotated[LossFunction, Nested("loss")]
"""A hyper-parameter that is itself a loss: `{name: …, …}` in a configuration."""
F = TypeVar("F", bound=LossFunction)

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
}


@dataclass(frozen=True)
class TokenLogps:
    """Per-token values of B pairs, right-padded with 0 to the longest of each side, nats.

    `*_log_sum_p2` is the logarithm of the sum of squared probabilities over the vocabulary at the
    token's position, in training without a gradient; `*_marked` is 1 for tokens that only this side
    has (`token_marks.difference_marks`), else 0. None where not provided.
    """

    policy_chosen: Float[Tensor, "B Tw"]
    policy_rejected: Float[Tensor, "B Tl"]
    ref_chosen: Float[Tensor, "B Tw"]
    ref_rejected: Float[Tensor, "B Tl"]
    chosen_log_sum_p2: Float[Tensor, "B Tw"] | None = None
    rejected_log_sum_p2: Float[Tensor, "B Tl"] | None = None
    chosen_marked: Float[Tensor, "B Tw"] | None = None
    rejected_marked: Float[Tensor, "B Tl"] | None = None

    def rows(self, index: slice | Tensor) -> "TokenLogps":
        """The same for some of the pairs."""
        return replace(
            self, **{name: value[index] for name, value in vars(self).items() if value is not None}
        )


@dataclass(frozen=True)
class PromptLogps:
    """Summed log-probabilities of both sides' prompts but for their first tokens, nats; every tensor is [B].

    The two sides' values are equal unless the pair is joint, an answer to one prompt against an
    answer to another.
    """

    policy_chosen: Float[Tensor, " B"]
    policy_rejected: Float[Tensor, " B"]
    ref_chosen: Float[Tensor, " B"]
    ref_rejected: Float[Tensor, " B"]

    def rows(self, index: slice | Tensor) -> "PromptLogps":
        """The same for some of the pairs."""
        return replace(self, **{name: value[index] for name, value in vars(self).items()})


@dataclass(frozen=True)
class PairLogps:
    """Summed completion log-probabilities of B pairs, in nats, and what goes with them; every tensor is [B].

    `initial_chosen` is the chosen completion's value under the policy at step 0. It equals
    `ref_chosen` unless another model was named as reference. Token counts include the end-of-turn
    token and exclude the prompt. `pairs_in_step` and `chosen_tokens_in_step` are the totals of the
    whole optimizer step, each pair counted by its weight, so that a loss that averages over tokens
    does not depend on the micro-batches. `score_gap` is NaN where a pair states none;
    `mismatched_logratio` is the mean log-ratio of another pair's two completions under this pair's
    prompt.
    """

    policy_chosen: Float[Tensor, " B"]
    policy_rejected: Float[Tensor, " B"]
    ref_chosen: Float[Tensor, " B"]
    ref_rejected: Float[Tensor, " B"]
    initial_chosen: Float[Tensor, " B"]
    chosen_tokens: Float[Tensor, " B"]
    rejected_tokens: Float[Tensor, " B"]
    p_chosen: Float[Tensor, " B"]
    weight: Float[Tensor, " B"]
    pairs_in_step: float
    chosen_tokens_in_step: float
    score_gap: Float[Tensor, " B"] | None = None
    mismatched_logratio: Float[Tensor, " B"] | None = None
    tokens: TokenLogps | None = None
    prompts: PromptLogps | None = None

    @property
    def chosen_logratio(self) -> Float[Tensor, " B"]:
        """Log policy - log reference of the chosen completions [B], nats."""
        return self.policy_chosen - self.ref_chosen

    @property
    def rejected_logratio(self) -> Float[Tensor, " B"]:
        """Log policy - log reference of the rejected completions [B], nats."""
        return self.policy_rejected - self.ref_rejected

    @property
    def margin(self) -> Float[Tensor, " B"]:
        """Difference of the two log-ratios [B], nats."""
        return self.chosen_logratio - self.rejected_logratio

    @property
    def mean_chosen_logp(self) -> Float[Tensor, " B"]:
        """Policy log-probability per token of the chosen completions [B], nats."""
        return self.policy_chosen / self.chosen_tokens

    @property
    def mean_rejected_logp(self) -> Float[Tensor, " B"]:
        """Policy log-probability per token of the rejected completions [B], nats."""
        return self.policy_rejected / self.rejected_tokens

    @property
    def token_margin(self) -> Float[Tensor, " B"]:
        """Difference of the two log-ratios per token, each averaged over its own completion [B], nats."""
        return (
            self.chosen_logratio / self.chosen_tokens
            - self.rejected_logratio / self.rejected_tokens
        )

    def rows(self, index: slice | Tensor) -> "PairLogps":
        """The same for some of the pairs."""
        some: dict[str, Any] = {
            name: value[index] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        tokens = None if self.tokens is None else self.tokens.rows(index)
        prompts = None if self.prompts is None else self.prompts.rows(index)
        return replace(self, **some, tokens=tokens, prompts=prompts)

    def require_tokens(self) -> TokenLogps:
        """The per-token values.

        Raises:
            ValueError: They were not provided.
        """
        return provided(self.tokens, "tokens")

    def require_prompts(self) -> PromptLogps:
        """The values of the prompts.

        Raises:
            ValueError: They were not provided.
        """
        return provided(self.prompts, "prompt")


T = TypeVar("T")


def provided(value: T | None, need: Need) -> T:
    """The value.

    Raises:
        ValueError: It is None: whoever made the `PairLogps` left out what the loss declares to
            need.
    """
    if value is None:
        raise ValueError(
            f"the loss needs {NEED_WORDS[need]} ({need!r}), which these PairLogps do not hold"
        )
    return value


class Controller(Protocol):
    """Moves hyper-parameters by what a step saw; the only state of an objective, kept in the checkpoint."""

    gives: ClassVar[tuple[str, ...]]

    def update(self, logps: PairLogps, options: Mapping[str, Any]) -> dict[str, float]:
        """The hyper-parameters `gives` for this step, from the detached values of all its pairs.

        Args:
            logps: The whole step, before its update.
            options: The loss's other hyper-parameters at this step.
        """
        ...

    def state_dict(self) -> dict[str, float]:
        """What `load_state_dict` of another one needs to go on from here."""
        ...

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        ...


def declare(
    *,
    family: Family = "other",
    kind: LossKind = "local",
    needs: frozenset[Need] = frozenset(),
    reads: Reads = "pairs",
    per_pair: bool = True,
    controller: type[Controller] | None = None,
    check: Callable[..., None] | None = None,
) -> Callable[[F], F]:
    """State a loss's facts where it is written.

    Args:
        family: Under which heading it is documented.
        kind: "local" when a pair's value depends on that pair alone (and on the totals of the
            step), else "coupled": the engine then evaluates it once per step on all pairs.
        needs: Which values of `PairLogps` it reads beyond the policy's.
        reads: "pairs" compares two answers to one prompt; "joint" also answers to two prompts;
            "lists" whole rankings.
        per_pair: Whether value i belongs to pair i, so that it can be weighted; false for losses
            that sort.
        controller: What moves some of its hyper-parameters; those are then no options of a
            configuration.
        check: Called with all options when they are configured; a ValueError refuses their
            combination.

    Raises:
        ValueError: It is local and yet needs the whole step: for a controller, or for answers to
            other prompts; or it needs something that there is not.
    """
    if unknown := sorted(needs - NEED_WORDS.keys()):
        raise ValueError(f"needs: {', '.join(unknown)} is none of {', '.join(NEED_WORDS)}")
    if kind == "local" and (controller is not None or "mismatched" in needs):
        raise ValueError(
            "a loss with a controller, or one that needs 'mismatched', reads the whole step: "
            "kind='coupled'"
        )

    def attach(function: F) -> F:
        facts = {
            **{
                "family": family,
                "kind": kind,
                "needs": needs,
                "reads": reads,
                "per_pair": per_pair,
            },
            **{
                "controller": controller,
                "controlled": () if controller is None else controller.gives,
            },
            "check_options": check,
        }
        for name, fact in facts.items():
            setattr(function, name, fact)
        return function

    return attach
