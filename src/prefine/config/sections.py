"""The configuration: one strict model per stage. It knows components by name and imports none of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Strict,
    Tag,
    model_validator,
)

from prefine.config.components import Kind, bind, lookup
from prefine.schedules import Schedule
from prefine.secrets import refuse_secrets

PositiveInt = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]  # every reader of JSON keeps these exactly
Share = Annotated[float, Field(ge=0, le=1)]
Cost = Annotated[float, Field(gt=0)]  # in the unit of the user's prices
Decay = Annotated[float, Field(ge=0, lt=1)]
ModuleNames = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Strict(False), Field(min_length=1)
]


def _refuse_functions(value: Any) -> None:
    """Nothing, if a component is named: a run's configuration is written down."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_functions(item)
    elif callable(value):
        raise ValueError(
            f"{getattr(value, '__qualname__', value)!r} is a function; name it, such as {{name: "
            f"dpo}} or "
            "{name: my_module:my_loss}"
        )


def _number_or_schedule(value: Any) -> str:
    return "(schedule)" if isinstance(value, Mapping | Schedule) else "(number)"


def _not_negative(schedule: Schedule) -> Schedule:
    if min(schedule.ends) < 0:
        raise ValueError("start and end must be at least 0")
    return schedule


MovingWeight = Annotated[
    Annotated[float, Field(ge=0), Tag("(number)")]
    | Annotated[Schedule, AfterValidator(_not_negative), Tag("(schedule)")],
    Discriminator(_number_or_schedule),
]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys are errors, no NaN, and neither true nor "8" is a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Component(BaseModel):
    """A component by name; every other key is one of its options, checked when it is resolved."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _without_secrets(cls, values: Any) -> Any:
        refuse_secrets(values)
        _refuse_functions(values)
        return values

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `name`."""
        return dict(self.__pydantic_extra__ or {})

    def resolve(self, kind: Kind, *, where: str, given: tuple[str, ...] = ()) -> Any:
        """Import the component and check its options; `where` is the config path for messages."""
        return bind(kind, self.name, self.options, where=where, given=given)

    def lookup(self, kind: Kind, *, where: str) -> Any:
        """The component itself, its options unchecked."""
        return lookup(kind, self.name, where=where)


class Decoding(Section):
    """How completions are drawn. Temperature 0 is greedy."""

    temperature: Annotated[float, Field(ge=0)] = 0.9
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: PositiveInt = 512
    seed: Seed = 0


class SampleConfig(Decoding):
    """Stage `sample`: M completions for every prompt, by the policy or by `model`, such as a server that runs it."""

    model: Component | None = None

    completions_per_prompt: Annotated[int, Field(ge=2)] = 8
    shard_prompts: PositiveInt = 256
    max_cost: Cost | None = None
    max_failed_fraction: Share = 0.02


class RankConfig(Section):
    """Stage `rank`: a strategy asks a judge for duels, or for ratings.

    `scorer`, a judge that can rate, gives the ratings; None is the judge itself.
    """

    strategy: Component = Component(name="iterative")
    judge: Component
    scorer: Component | None = None
    seed: Seed = 0
    max_calls: PositiveInt | None = None
    max_cost: Cost | None = None
    max_failed_fraction: Share = 0.02


class PairConfig(Section):
    """Stage `pair`: a ranking becomes preference pairs.

    What a selector proposes is taken if it meets the options here, `pairs_per_prompt` of it (None:
    the selector's own number). `length_penalty` is per character, subtracted from the scores before
    anything is selected. `held_out_prompts` prompts, chosen by a hash of their id, go to
    `heldout_pairs/` and are not trained on. `labels: shuffled` is the control experiment: chosen
    and rejected change places by a fair coin.
    """

    selector: Component = Component(name="best_vs_random")
    min_gap: Annotated[float, Field(ge=0)] | None = None
    min_p_chosen: Annotated[float, Field(gt=0.5, le=1)] | None = None
    max_length_ratio: Annotated[float, Field(ge=1)] | None = None
    length_penalty: Annotated[float, Field(ge=0)] = 0.0
    drop_truncated: bool = False
    pairs_per_prompt: PositiveInt | None = None
    held_out_prompts: Annotated[int, Field(ge=0)] = 0
    labels: Literal["judged", "shuffled"] = "judged"
    seed: Seed = 0


class AdapterConfig(Section):
    """What is trained instead of the weights: matrices of low rank beside them (LoRA), which can be saved alone.

    `target_modules` are names of linear layers such as q_proj, or all of them but the output head.
    `save: merged` leaves a whole model.
    """

    name: Literal["lora"]
    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    target_modules: Literal["all-linear"] | ModuleNames = "all-linear"
    save: Literal["adapter", "merged"] = "adapter"


class TrackingConfig(Section):
    """Where the rows of a training are shown, beside the log; they decide nothing.

    `run_name` None is the name of the run folder.
    """

    trackers: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...], Strict(False)
    ] = ()
    project: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] = "prefine"
    run_name: str | None = None


class EarlyStopConfig(Section):
    """What ends a training early: alarms of likelihood over-optimisation, on at `patience` evaluations in a row.

    `keep` is how much of its moving average each evaluation keeps, the falls are shares of the
    height.
    """

    alarms: Annotated[
        tuple[Literal["collapse", "diffusion"], ...], Strict(False), Field(min_length=1)
    ] = (
        "collapse",
        "diffusion",
    )
    patience: PositiveInt = 2
    keep: Decay = 0.9
    entropy_fall: Share = 0.2
    mass_fall: Share = 0.05


class TrainConfig(Section):
    """Stage `train`. A step is `pairs_per_step` pairs, however many micro-batches of `micro_batch_tokens` it takes.

    With `sharing: auto` a prompt is computed once for all its completions wherever the model allows
    it. With `gradient_checkpointing` layers are computed again in the backward pass: more time,
    less memory. `reference_cache` is the folder of the reference's values; without it they are
    beside the run folder, where other runs find them.

    Without `adapter` all weights are trained. A hyper-parameter of the loss or the regularizer, and
    the latter's weight, may be a schedule: `{schedule: linear, start: 0.1, end: 0.01}`.

    Every `evaluate_every` steps the held-out pairs of section `pair` are evaluated.
    """

    loss: Component = Component(name="dpo")
    regularizer: Component | None = None
    regularizer_weight: MovingWeight = 0.1
    reference: Literal["initial"] | Component = "initial"
    reference_cache: Annotated[Path, Strict(False)] | None = None
    adapter: AdapterConfig | None = None
    pairs_per_step: PositiveInt = 64
    micro_batch_tokens: PositiveInt = 2048
    sharing: Literal["auto", "off"] = "auto"
    gradient_checkpointing: bool = False
    epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup_fraction: Share = 0.1
    decay_fraction: Share = 0.2
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_betas: Annotated[tuple[Decay, Decay], Strict(False)] = (0.9, 0.999)
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_prompt_tokens: PositiveInt = 1024
    max_completion_tokens: PositiveInt = 1024
    train_on_truncated: bool = False
    checkpoint_every: PositiveInt = 50
    keep_checkpoints: PositiveInt = 2
    evaluate_every: PositiveInt | None = None
    early_stop: EarlyStopConfig | None = None
    tracking: TrackingConfig = TrackingConfig()
    seed: Seed = 0

    @model_validator(mode="after")
    def _stops_on_evaluations(self) -> Self:
        if self.early_stop is not None and self.evaluate_every is None:
            raise ValueError(
                "early_stop needs evaluations to stop on; give train.evaluate_every, such as 20"
            )
        return self


class EvaluateConfig(Section):
    """Stage `evaluate`: the trained model against a baseline on prompts it has not seen.

    `prompts` None evaluates only what the held-out pairs allow (reward accuracy). `decoding` None
    is that of `sample`, `judge` None the training judge; `gold` adds a computable score by
    constraint.
    """

    model: Literal["trained"] | Component = "trained"
    baseline: Literal["initial"] | Component = "initial"
    prompts: Component | None = None
    decoding: Decoding | None = None
    judge: Component | None = None
    gold: Component | None = None
    bootstrap_samples: Annotated[int, Field(ge=2)] = 2000
    max_failed_fraction: Share = 0.02
    seed: Seed = 0


class ReportConfig(Section):
    """Stage `report`."""

    title: str = "prefine run"
    examples: Annotated[int, Field(ge=0)] = 10


def _named(path: Any) -> Any:
    if isinstance(path, str) and not path.strip():
        raise ValueError(
            "is empty, which would be the working directory; name a folder such as runs/mine"
        )
    return path


class RunConfig(Section):
    """A whole run. The road can be entered with `prompts`, with `completions` or with `pairs`."""

    run_dir: Annotated[Path, Strict(False), BeforeValidator(_named)]
    policy: Component
    prompts: Component | None = None
    completions: Component | None = None
    pairs: Component | None = None
    sample: SampleConfig | None = None
    rank: RankConfig | None = None
    pair: PairConfig = PairConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _entered_once(self) -> Self:
        entries = [
            name for name in ("prompts", "completions", "pairs") if getattr(self, name) is not None
        ]
        if len(entries) != 1:
            given = " and ".join(entries) or "none"
            raise ValueError(f"give exactly one of prompts, completions and pairs (got {given})")
        if self.pairs is None and self.rank is None:
            raise ValueError(
                "rank is missing: completions need a judge; add rank: {judge: {name: ...}}"
            )
        if self.prompts is not None and self.sample is None:
            raise ValueError(
                "sample is missing: prompts need completions; add sample: "
                "{completions_per_prompt: 8}"
            )
        return self

    def resolved(self) -> dict[str, JsonValue]:
        """The whole configuration, defaults filled in, as JSON values; `run_dir` is left out: a run may be moved."""
        return self.model_dump(mode="json", exclude={"run_dir"})


def components(config: RunConfig) -> Iterator[tuple[str, Kind, Component]]:
    """Every component that a configuration names: its path, its kind, itself."""
    yield "policy", "backend", config.policy
    if config.sample is not None and config.sample.model is not None:
        yield "sample.model", "backend", config.sample.model
    for entry in ("prompts", "completions", "pairs"):
        if (source := getattr(config, entry)) is not None:
            yield entry, "source", source
    if config.rank is not None:
        yield "rank.strategy", "strategy", config.rank.strategy
        yield from _judge("rank.judge", config.rank.judge)
        if config.rank.scorer is not None:
            yield from _judge("rank.scorer", config.rank.scorer)
    yield "pair.selector", "selector", config.pair.selector
    yield from _with_parts("train.loss", "loss", config.train.loss)
    if config.train.regularizer is not None:
        yield from _with_parts("train.regularizer", "regularizer", config.train.regularizer)
    if isinstance(config.train.reference, Component):
        yield "train.reference", "backend", config.train.reference
    for name in ("model", "baseline"):
        if isinstance(component := getattr(config.evaluate, name), Component):
            yield f"evaluate.{name}", "backend", component
    if config.evaluate.prompts is not None:
        yield "evaluate.prompts", "source", config.evaluate.prompts
    if config.evaluate.judge is not None:
        yield from _judge("evaluate.judge", config.evaluate.judge)
    if config.evaluate.gold is not None:
        yield "evaluate.gold", "gold", config.evaluate.gold


def _with_parts(
    where: str, kind: Kind, component: Component
) -> Iterator[tuple[str, Kind, Component]]:
    """A loss, and the losses within it."""
    yield where, kind, component
    for option, value in component.options.items():
        for index, part in enumerate(value) if isinstance(value, list | tuple) else [(None, value)]:
            if isinstance(part, Mapping) and isinstance(part.get("name"), str):
                path = f"{where}.{option}" if index is None else f"{where}.{option}.{index}"
                yield from _with_parts(path, "loss", Component.model_validate(dict(part)))


def _judge(where: str, judge: Component) -> Iterator[tuple[str, Kind, Component]]:
    """A judge, and the model that it asks."""
    yield where, "judge", judge
    model = judge.options.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("name"), str):
        yield f"{where}.model", "backend", Component.model_validate(dict(model))
