"""The configuration: one strict model per stage, which names components without importing them."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
    model_validator,
)
from pydantic.fields import FieldInfo

from prefine.config.checking import or_schedule
from prefine.config.components import Kind, Nested, bind, in_full, lookup
from prefine.config.marks import FREE, LATER, TRANSPORT, MayGrow, Was
from prefine.reasoning import ReasoningInText
from prefine.schedules import Schedule
from prefine.secrets import refuse_secrets

M = TypeVar("M")
T = TypeVar("T")
Seed = Annotated[int, Field(ge=0, lt=2**53)]  # JSON readers keep integers below 2**53 exact
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
ModuleNames = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Strict(False), Field(min_length=1)
]


def _refuse_functions(value: Any) -> None:
    """Raise ValueError for a function: the configuration of a run is saved as names."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_functions(item)
    elif callable(value):
        raise ValueError(
            f"{getattr(value, '__qualname__', value)!r} is a function; name it, such as "
            "{name: dpo} or {name: my_module:my_loss}"
        )


class Section(BaseModel):
    """Base of all sections: frozen and strict; unknown keys are errors, "8" is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _components_in_full(cls, values: Any) -> Any:
        """Write every component as a mapping; one without a name is the default one."""
        if not isinstance(values, Mapping):
            return values
        full = dict(values)
        for name in full.keys() & cls.model_fields.keys():
            field = cls.model_fields[name]
            for mark in marks_of(field, Nested):
                full[name] = _in_full(full[name], mark.kind, field)
        return full


class Component(BaseModel):
    """A component by name; all other keys are its options, checked when it is resolved.

    It is resolved once: the stages of a run get from it what the check of the run has made.
    """

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
        """All keys except `name`."""
        return dict(self.__pydantic_extra__ or {})

    def resolve(self, kind: Kind, *, where: str, given: tuple[str, ...] = ()) -> Any:
        """Import the component and fill in its options; `where` is its config path for messages."""
        return self.once(
            (kind, given), lambda: bind(kind, self.name, self.options, where=where, given=given)
        )

    def lookup(self, kind: Kind, *, where: str) -> Any:
        """Import the component without checking its options."""
        return self.once(kind, lambda: lookup(kind, self.name, where=where))

    def once(self, what: Hashable, make: Callable[[], T]) -> T:
        """Return what was made of this component under the name `what`; make it the first time."""
        if what not in self._made:
            self._made[what] = make()
        found: T = self._made[what]
        return found

    @cached_property
    def _made(self) -> dict[Hashable, Any]:
        return {}


def _in_full(value: Any, kind: Kind, field: FieldInfo) -> Any:
    if isinstance(value, str) and (words := _literals(field.annotation)):
        # Where a word of ours may stand, another word is rather that one mistyped than a model.
        is_model = "/" in value or in_full(kind, value)["name"] == value or Path(value).is_dir()
        if value in words or not is_model:
            return value
    if isinstance(value, list | tuple):
        return tuple(in_full(kind, one) for one in value)
    full = in_full(kind, value)
    if isinstance(full, Mapping) and "name" not in full and isinstance(field.default, Component):
        return {"name": field.default.name, **full}
    return full


def _literals(annotation: Any) -> tuple[Any, ...]:
    """Return the words that a field allows beside a component, such as "initial"."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return parts
    return tuple(word for part in parts for word in _literals(part))


Backend = Annotated[Component, Nested("backend")]
Judge = Annotated[Component, Nested("judge")]
Source = Annotated[Component, Nested("source")]


class Connection(Section):
    """The options by which a component reaches a server; its own signature checks them.

    They have these names in every component, yours included.
    """

    base_url: Annotated[Any, TRANSPORT] = None
    api_key_env: Annotated[Any, TRANSPORT] = None
    calls: Annotated[Any, TRANSPORT] = None
    concurrency: Annotated[Any, TRANSPORT] = None
    timeout_s: Annotated[Any, TRANSPORT] = None
    max_retries: Annotated[Any, TRANSPORT] = None
    patience_s: Annotated[Any, TRANSPORT] = None
    requests_per_minute: Annotated[Any, TRANSPORT] = None
    tokens_per_minute: Annotated[Any, TRANSPORT] = None
    headers_env: Annotated[Any, TRANSPORT] = None
    prices: Annotated[Any, TRANSPORT] = None


class Decoding(Section):
    """Sampling settings. Temperature 0 is greedy.

    A server is not sent a `temperature` or `top_p` that is null, and uses its own. `reasoning` is
    what becomes of `<think>…</think>` at the beginning of a text: split off, it is kept as the
    message's reasoning and not judged.
    """

    temperature: NonNegativeFloat | None = 0.9
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    max_new_tokens: PositiveInt = 512
    seed: Seed = 0
    reasoning: Annotated[ReasoningInText, LATER] = "split"


class SampleConfig(Decoding):
    """Stage `sample`: several completions for every prompt.

    They come from `model`, such as a server that runs the policy; without it, from the policy.
    """

    model: Backend | None = None
    completions_per_prompt: Annotated[int, Field(ge=2), MayGrow()] = 8
    shard_prompts: PositiveInt = 256
    max_cost: Annotated[PositiveFloat | None, FREE] = None
    max_failed_fraction: Annotated[Share, FREE] = 0.02


class RankConfig(Section):
    """Stage `rank`: a strategy asks a judge to compare completions or to rate them.

    `scorer` is a judge that gives the ratings; without it, `judge` does.
    """

    strategy: Annotated[Component, Nested("strategy")] = Component(name="iterative")
    judge: Annotated[Judge, MayGrow("max_new_tokens")]
    scorer: Judge | None = None
    seed: Seed = 0
    max_calls: Annotated[PositiveInt | None, FREE] = None
    max_cost: Annotated[PositiveFloat | None, FREE] = None
    max_failed_fraction: Annotated[Share, FREE] = 0.02


class PairConfig(Section):
    """Stage `pair`: make preference pairs from rankings.

    The selector's pairs are filtered by the options here; at most `pairs_per_prompt` are kept
    (None: the selector's own number). `length_penalty` is subtracted from the scores, per
    character, before anything is selected. `held_out_prompts` prompts, chosen by a hash of their
    id, go to `heldout_pairs/` and are not trained on; what training does to their answers is
    measured. `auto` holds out 5 % of the prompts that have pairs, at least 32 and at most 256; of
    fewer than 320 prompts, none. `labels: shuffled` is a control experiment:
    chosen and rejected are swapped at random.

    Of the others, `fraction` takes this share of the prompts of every source, chosen by a hash, so
    that smaller shares lie within larger ones; `only_sources` takes prompts of these sources. A
    prompt's source is its column `source` or, without one, the file that it stands in.
    """

    selector: Annotated[Component, Nested("selector")] = Component(name="best_vs_random")
    min_gap: NonNegativeFloat | None = None
    min_p_chosen: Annotated[float, Field(gt=0.5, le=1)] | None = None
    max_length_ratio: Annotated[float, Field(ge=1)] | None = None
    length_penalty: NonNegativeFloat = 0.0
    drop_truncated: bool = False
    pairs_per_prompt: PositiveInt | None = None
    held_out_prompts: Annotated[NonNegativeInt | Literal["auto"], Was(0)] = "auto"
    labels: Literal["judged", "shuffled"] = "judged"
    fraction: Annotated[float, Field(gt=0, le=1), LATER] = 1.0
    only_sources: Annotated[
        Annotated[tuple[str, ...], Strict(False), Field(min_length=1)] | None, LATER
    ] = None
    seed: Seed = 0


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


class TrainConfig(Section):
    """Stage `train`. A step has `pairs_per_step` items, in micro-batches of `micro_batch_tokens`.

    Items are what the loss reads: pairs, lists or labelled answers; `step_source` gives each step
    its items, by default all of the run folder in a new order every epoch.

    With `sharing: auto` a prompt is computed once for all its completions if the model allows it.
    With `gradient_checkpointing` layers are computed again in the backward pass: more time, less
    memory. `reference_cache` is the folder that keeps the reference's log-probabilities; without it
    they are kept next to the run folder, where other runs find them.

    Without `adapter` all weights are trained. A hyper-parameter of the loss or the regularizer, and
    `regularizer_weight`, may be a schedule: `{schedule: linear, start: 0.1, end: 0.01}`.

    With `regularizer_weight: auto`, a controller sets the weight of the regularizer `budget` so
    that answers that training has not seen keep it; it then has more options beside `delta`.

    Every `evaluate_every` steps the held-out items of section `pair` are evaluated.
    """

    loss: Annotated[Component, Nested("loss")] = Component(name="dpo")
    regularizer: Annotated[Component | None, Nested("regularizer")] = None
    regularizer_weight: Annotated[
        float | Schedule | Literal["auto"], or_schedule(NonNegativeFloat, auto=True)
    ] = 0.1
    reference: Literal["initial"] | Backend = "initial"
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

    @property
    def regularizer_kind(self) -> Kind:
        """The table of the regularizer: its weight is fixed, or set during training."""
        return "automatic" if self.regularizer_weight == "auto" else "regularizer"

    @property
    def fixed_regularizer(self) -> Component | None:
        """The regularizer whose weight the configuration says."""
        return None if self.regularizer_weight == "auto" else self.regularizer


class EvaluateConfig(Section):
    """Stage `evaluate`: compare the trained model with a baseline on prompts it has not seen.

    Without `prompts` only the held-out pairs are evaluated (reward accuracy). Without `decoding`
    the settings of `sample` are used, without `judge` the judge of `rank`. `gold` adds a score that
    is computed without a model, `metrics` figures of what the run has; more can be added later.
    """

    model: Literal["trained"] | Backend = "trained"
    baseline: Literal["initial"] | Backend = "initial"
    prompts: Source | None = None
    decoding: Decoding | None = None
    judge: Annotated[Judge | None, MayGrow("max_new_tokens")] = None
    gold: Annotated[Component | None, Nested("gold")] = None
    metrics: Annotated[
        tuple[Component, ...], Strict(False), Nested("metric"), LATER, MayGrow()
    ] = ()
    bootstrap_samples: Annotated[int, Field(ge=2)] = 2000
    max_failed_fraction: Annotated[Share, FREE] = 0.02
    seed: Seed = 0


class ReportConfig(Section):
    """Stage `report`."""

    title: Annotated[str, FREE] = "prefine run"
    examples: Annotated[NonNegativeInt, FREE] = 10


ItemEntry = Literal["pairs", "lists", "labels"]
ITEM_ENTRIES: tuple[ItemEntry, ...] = get_args(ItemEntry)


def _not_empty(path: Any) -> Any:
    if isinstance(path, str) and not path.strip():
        raise ValueError(
            "is empty, which would be the working directory; name a folder such as runs/mine"
        )
    return path


class RunConfig(Section):
    """A whole run, which starts from `prompts` or `completions`, or from items of training.

    Those are `pairs`, `lists` (answers with scores or ranks) or `labels` (answers that are good or
    bad), for losses that read them.
    """

    run_dir: Annotated[Path, Strict(False), BeforeValidator(_not_empty)]
    policy: Backend
    prompts: Annotated[Source | None, MayGrow("count", "limit")] = None
    completions: Annotated[Source | None, MayGrow("limit")] = None
    pairs: Source | None = None
    lists: Annotated[Source | None, LATER] = None
    labels: Annotated[Source | None, LATER] = None
    sample: SampleConfig | None = None
    rank: RankConfig | None = None
    pair: PairConfig = PairConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _has_one_entry(self) -> Self:
        names = ("prompts", "completions", *ITEM_ENTRIES)
        entries = [name for name in names if getattr(self, name) is not None]
        if len(entries) != 1:
            given = " and ".join(entries) or "none"
            raise ValueError(
                f"give exactly one of prompts, completions and pairs, or of lists and labels (got "
                f"{given})"
            )
        if self.items_entry is None and self.rank is None:
            raise ValueError(
                "rank is missing: completions need a judge; add rank: {judge: {name: ...}}"
            )
        if self.prompts is not None and self.sample is None:
            raise ValueError(
                "sample is missing: prompts need completions; add sample: "
                "{completions_per_prompt: 8}"
            )
        return self

    @property
    def items_entry(self) -> tuple[ItemEntry, Component] | None:
        """The entry that has items of training already, and its source; None for the others."""
        found = ((name, getattr(self, name)) for name in ITEM_ENTRIES)
        return next(((name, source) for name, source in found if source is not None), None)

    def resolved(self) -> dict[str, JsonValue]:
        """Return the configuration with its defaults as JSON values, without `run_dir`.

        A run folder may be moved.
        """
        return self.model_dump(mode="json", exclude={"run_dir"})


def marks_of(field: FieldInfo, kind: type[M]) -> list[M]:
    """Return the marks of one kind in a field's annotation, those of its alternatives included."""
    return [mark for mark in _metadata(field.annotation, field.metadata) if isinstance(mark, kind)]


def _metadata(annotation: Any, found: Iterable[Any] = ()) -> Iterator[Any]:
    yield from found
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _metadata(part)
