"""The section `train`, and the sections within it."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Strict,
    Tag,
    model_validator,
)

from prefine.config.base import Backend, Component, Decay, ModuleNames, Section, Seed, Share
from prefine.config.checking import or_schedule
from prefine.config.components import Kind, Nested
from prefine.config.marks import FREE, LATER
from prefine.config.references import StatedReference, stated_references
from prefine.schedules import Schedule


class AdapterConfig(Section):
    """LoRA: train matrices of low rank instead of the weights.

    `target_modules` names linear layers such as q_proj, or all of them except the output head.
    `save: adapter` saves the adapter alone, `save: merged` a whole model.
    """

    name: Literal["lora"]
    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    target_modules: Literal["all-linear"] | ModuleNames = "all-linear"
    save: Literal["adapter", "merged"] = "adapter"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        return {"name": values} if isinstance(values, str) else values


class TrackingConfig(Section):
    """Experiment trackers that get the rows of the training log; they change no result.

    Without `run_name`, the name of the run folder is used.
    """

    trackers: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...], Strict(False)
    ] = ()
    project: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] = "prefine"
    run_name: str | None = None


class EarlyStopConfig(Section):
    """Early stopping when alarms of likelihood over-optimization are on.

    They must be on at `patience` evaluations in a row. `keep` is the momentum of the moving
    averages; `entropy_fall` and `mass_fall` are relative to the highest value so far.
    """

    alarms: Annotated[
        tuple[Literal["collapse", "diffusion", "turn"], ...], Strict(False), Field(min_length=1)
    ] = (
        "collapse",
        "diffusion",
    )
    patience: PositiveInt = 2
    keep: Decay = 0.9
    entropy_fall: Share = 0.2
    mass_fall: Share = 0.05


class LossesByKind(Section):
    """The loss of each kind of items, where a training has several."""

    pairs: Annotated[Component | None, Nested("loss")] = None
    lists: Annotated[Component | None, Nested("loss")] = None
    labels: Annotated[Component | None, Nested("loss")] = None

    @property
    def given(self) -> dict[str, Component]:
        """The kinds that have a loss."""
        return {kind: loss for kind, loss in self if loss is not None}


def _is_by_kind(value: Any) -> str:
    by_kind = isinstance(value, LossesByKind) or (
        isinstance(value, Mapping) and "name" not in value
    )
    return "(by kind)" if by_kind else "(one)"


References = Annotated[tuple[Literal["initial"] | Backend, ...], Strict(False)]


class RewardConfig(Section):
    """Train a reward model instead of a policy: the scores of a linear layer on the last token.

    It begins with the policy's weights and a new layer; `loss` compares the rewards of pairs or
    lists. The judge `reward` reads the trained folder.
    """

    loss: Annotated[Component, Nested("reward_loss")] = Component(name="bradley_terry")


class TrainConfig(Section):
    """Stage `train`. A step has `pairs_per_step` items, in micro-batches of `micro_batch_tokens`.

    Items are what the loss reads: pairs, lists or labelled answers; `step_source` gives each step
    its items, by default all of the run folder in a new order every epoch. Where several kinds are
    trained on together, each has its loss: `loss: {pairs: dpo, lists: list_mle, labels: kto}`.

    With `sharing: auto` a prompt is computed once for all its completions if the model allows it.
    With `gradient_checkpointing` layers are computed again in the backward pass: more time, less
    memory. `reference_cache` is the folder that keeps the reference's log-probabilities; without it
    they are kept next to the run folder, where other runs find them.

    Without `adapter` all weights are trained. A hyper-parameter of the loss or the regularizer, and
    `regularizer_weight`, may be a schedule: `{schedule: linear, start: 0.1, end: 0.01}`.

    With `regularizer_weight: auto`, a controller sets the weight of the regularizer `budget` so
    that answers that training has not seen keep it; it then has more options beside `delta`.

    `reference` is the model that losses compare the policy with, or a list of them for a loss that
    reads several: each may state its `weight`, and the others share what is left of 1.

    Every `evaluate_every` steps the held-out items of section `pair` are evaluated.

    With `ches_below: 0.05`, only the twentieth of the pairs is trained on whose answers are least
    alike to the policy: those with the lowest normalised CHES (arXiv:2410.08847).

    With `reward` a reward model is trained, by a loss of its own, and `loss` is not used.
    """

    loss: Annotated[
        Annotated[LossesByKind, Tag("(by kind)")] | Annotated[Component, Tag("(one)")],
        Discriminator(_is_by_kind),
        Nested("loss"),
    ] = Component(name="dpo")
    reward: Annotated[RewardConfig | None, LATER] = None
    regularizer: Annotated[Component | None, Nested("regularizer")] = None
    regularizer_weight: Annotated[
        float | Schedule | Literal["auto"], or_schedule(NonNegativeFloat, word="auto")
    ] = 0.1
    reference: Literal["initial"] | Backend | References = "initial"
    reference_cache: Annotated[Annotated[Path, Strict(False)] | None, FREE] = None
    adapter: AdapterConfig | None = None
    step_source: Annotated[Component, Nested("step_source"), LATER] = Component(name="shuffled")
    pairs_per_step: PositiveInt = 64
    micro_batch_tokens: PositiveInt = 2048
    sharing: Literal["auto", "off"] = "auto"
    gradient_checkpointing: bool = False
    epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None
    learning_rate: PositiveFloat = 1e-6
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup_fraction: Share = 0.1
    decay_fraction: Share = 0.2
    weight_decay: NonNegativeFloat = 0.0
    adam_betas: Annotated[tuple[Decay, Decay], Strict(False)] = (0.9, 0.999)
    max_grad_norm: PositiveFloat | None = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_prompt_tokens: PositiveInt = 1024
    max_completion_tokens: PositiveInt = 1024
    train_on_truncated: bool = False
    checkpoint_every: PositiveInt = 50
    keep_checkpoints: PositiveInt = 2
    evaluate_every: PositiveInt | None = None
    early_stop: EarlyStopConfig | None = None
    ches_below: Annotated[
        Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None, LATER
    ] = None
    tracking: Annotated[TrackingConfig, FREE] = TrackingConfig()
    seed: Seed = 0

    @model_validator(mode="after")
    def _early_stop_has_evaluations(self) -> Self:
        if self.early_stop is not None and self.evaluate_every is None:
            raise ValueError("early_stop needs evaluations; set train.evaluate_every, such as 20")
        return self

    @model_validator(mode="after")
    def _automatic_weight_has_a_regularizer(self) -> Self:
        if self.regularizer_weight != "auto":
            return self
        if self.regularizer is None:
            raise ValueError(
                "regularizer_weight: auto sets the weight of a budget; give regularizer: "
                "{name: budget, delta: 3.0}, or leave regularizer_weight out"
            )
        if self.regularizer.name != "budget":
            raise ValueError(
                "regularizer_weight: auto is for the regularizer budget (got "
                f"{self.regularizer.name!r}); give a number for it"
            )
        return self

    @model_validator(mode="after")
    def _climbing_delta_has_a_weight_of_its_own(self) -> Self:
        if self.regularizer is None or self.regularizer.options.get("delta") != "auto":
            return self
        if self.regularizer_weight != "auto":
            raise ValueError(
                "regularizer.delta: auto needs regularizer_weight: auto, which holds each delta "
                "that it tries; set that, or give delta a number"
            )
        if self.early_stop is not None:
            raise ValueError(
                "early_stop does not go together with regularizer.delta: auto, which keeps the "
                "best weights of the whole training; take one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _ches_is_that_of_a_policy_alone(self) -> Self:
        if self.ches_below is None:
            return self
        if self.reference != "initial":
            raise ValueError(
                "ches_below reads the policy before any reference may be loaded; leave "
                "train.reference out, or ches_below"
            )
        if self.reward is not None or self.step_source.name != "shuffled":
            other = "reward" if self.reward is not None else "step_source"
            raise ValueError(
                f"ches_below leaves out pairs of a policy's training and does not go together "
                f"with {other}; take one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _reward_model_is_no_policy(self) -> Self:
        if self.reward is None:
            return self
        policies = {
            "loss": self.loss != Component(name="dpo"),
            "regularizer": self.regularizer is not None,
            "reference": self.reference != "initial",
            "early_stop": self.early_stop is not None,
        }
        if given := [name for name, is_set in policies.items() if is_set]:
            loss = " (its loss is train.reward.loss)" if "loss" in given else ""
            raise ValueError(
                f"reward trains a reward model, which has no {' and no '.join(given)} of "
                f"a policy{loss}; take {' and '.join(given)} out, or reward"
            )
        return self

    @property
    def minimised(self) -> Component | LossesByKind:
        """The loss that is trained with: that of the policy, or of the reward model."""
        return self.loss if self.reward is None else self.reward.loss

    @property
    def loss_kind(self) -> Kind:
        """The table of the loss: that of policies, or of reward models."""
        return "loss" if self.reward is None else "reward_loss"

    @model_validator(mode="after")
    def _references_go_together(self) -> Self:
        _ = self.references  # computed once, and checked by that
        return self

    @cached_property
    def references(self) -> tuple[StatedReference, ...]:
        """The references with their weights, the first one first."""
        return stated_references(self.reference)

    @property
    def losses(self) -> dict[str, Component]:
        """The losses by their config paths: one, or one for each kind of items."""
        if self.reward is not None:
            return {"train.reward.loss": self.reward.loss}
        if isinstance(self.loss, Component):
            return {"train.loss": self.loss}
        return {f"train.loss.{kind}": loss for kind, loss in self.loss.given.items()}

    def loss_of(self, kind: str) -> tuple[str, Component | None]:
        """The config path of the loss of a kind of items, and the loss if there is one."""
        if isinstance(self.minimised, Component):
            ((where, loss),) = self.losses.items()
            return where, loss
        return f"train.loss.{kind}", self.minimised.given.get(kind)

    @property
    def loss_name(self) -> str:
        """The name of the loss, or those of all kinds."""
        return " + ".join(loss.name for loss in self.losses.values())

    @property
    def regularizer_kind(self) -> Kind:
        """The table of the regularizer: its weight is fixed, or set during training."""
        return "automatic" if self.regularizer_weight == "auto" else "regularizer"

    @property
    def fixed_regularizer(self) -> Component | None:
        """The regularizer whose weight the configuration says."""
        return None if self.regularizer_weight == "auto" else self.regularizer
