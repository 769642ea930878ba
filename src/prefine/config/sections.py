"""The configuration: one strict model per stage, which names components without importing them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
    model_validator,
)

from prefine.config.base import (
    Backend,
    Bridger,
    Component,
    ItemSource,
    Judge,
    LabelSource,
    Section,
    Seed,
    Share,
    Source,
    WeighedSource,
)
from prefine.config.components import UNRANKED, Nested
from prefine.config.marks import FREE, LATER, TRANSPORT, MayGrow, Was
from prefine.config.rounds import LineageConfig, PartConfig, ReplayConfig, RoundsConfig
from prefine.config.storage import StorageConfig, as_url, is_url, local_folder
from prefine.config.training import TrainConfig
from prefine.reasoning import ReasoningInText


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
    replicas: Annotated[Any, TRANSPORT] = None
    tensor_parallel: Annotated[Any, TRANSPORT] = None
    tuning: Annotated[Any, TRANSPORT] = None
    executable: Annotated[Any, TRANSPORT] = None
    start_timeout_s: Annotated[Any, TRANSPORT] = None
    max_restarts: Annotated[Any, TRANSPORT] = None


class Decoding(Section):
    """Sampling settings. Temperature 0 is greedy.

    A server is not sent a `temperature`, `top_p` or `top_k` that is null, and uses its own.
    `top_k` keeps the likeliest tokens at each step, before `top_p` does (null: all). `reasoning` is
    what becomes of `<think>…</think>` at the beginning of a text: split off, it is kept as the
    message's reasoning and not judged.
    """

    temperature: NonNegativeFloat | None = 0.9
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    top_k: Annotated[PositiveInt | None, LATER] = None
    max_new_tokens: PositiveInt = 512
    seed: Seed = 0
    reasoning: Annotated[ReasoningInText, LATER] = "split"


class SampleConfig(Decoding):
    """Stage `sample`: several completions for every prompt.

    They come from `model`, such as a server that runs the policy; without it, from the policy.
    With `part`, only the prompts of that part are answered.
    """

    model: Backend | None = None
    part: Annotated[PartConfig | None, LATER] = None
    completions_per_prompt: Annotated[PositiveInt, MayGrow()] = 8
    shard_prompts: PositiveInt = 256
    max_cost: Annotated[PositiveFloat | None, FREE] = None
    max_failed_fraction: Annotated[Share, FREE] = 0.02


class AcrossConfig(Section):
    """Comparisons of answers to different prompts, for the selector `joint`.

    When all prompts are ranked, the judge is shown (prompt, answer) against (prompt, answer). The
    prompts of a part stand in a ring, in the order of a seeded hash, and each begins `per_prompt`
    comparisons, with the next ones in the ring, of the kinds of `meet` in turns. The loser is the
    worst, where the strategy knows it, or one that lost. `order: auto` asks a judge with a known
    preference for a slot in both orders, whose mean decides, and others once. With
    `max_comparisons`, those with the smallest hash are asked, so that a larger number asks the same
    ones and more.
    """

    meet: Annotated[
        tuple[Literal["best_vs_loser", "best_vs_best", "loser_vs_loser"], ...],
        Strict(False),
        Field(min_length=1),
    ] = ("best_vs_loser", "best_vs_best")
    per_prompt: PositiveInt = 2
    order: Literal["auto", "single", "both"] = "auto"
    max_comparisons: PositiveInt | None = None


class RankConfig(Section):
    """Stage `rank`: a strategy asks a judge to compare completions or to rate them.

    `scorer` is a judge that gives the ratings; without it, `judge` does. `across` asks the judge
    about answers to different prompts, too.
    """

    strategy: Annotated[Component, Nested("strategy")] = Component(name="iterative")
    judge: Annotated[Judge, MayGrow("max_new_tokens")]
    scorer: Judge | None = None
    across: Annotated[AcrossConfig | None, LATER] = None
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
    prompt's source is its column `source` or, without one, the file that it stands in. `replay` is
    for runs that are one of several rounds.
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
    replay: Annotated[ReplayConfig | None, LATER] = None
    seed: Seed = 0


class BridgeConfig(Section):
    """Stage `bridge`: rewritten rejected answers take the place of chosen ones.

    `model` is shown both answers and rewrites the rejected one with small changes towards the
    chosen one, by the request that `prompt` names: `instructions`, or `answers` for tasks with one
    right answer, where the model may reply None. The result becomes the chosen answer if the judge
    prefers it to the rejected one; otherwise the pair stays as it was. `judge` is by default that
    of section `rank`; null takes every rewriting without asking. `order: auto` asks a judge with a
    known preference for a slot in both orders, whose mean decides, and others once. `share` is the
    share of pairs that are rewritten, chosen by a hash of their ids, so that smaller shares lie
    within larger ones. A rewriting with more than `max_length_ratio` times the characters of the
    longer answer has failed (null: no limit), and so has one that repeats the rejected answer; more
    failures than `max_failed_fraction` end the stage. The held-out pairs are not rewritten.
    """

    model: Bridger
    judge: Annotated[Literal["rank"] | Judge | None, MayGrow("max_new_tokens")] = "rank"
    order: Literal["auto", "single", "both"] = "auto"
    prompt: Literal["instructions", "answers"] = "instructions"
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    temperature: NonNegativeFloat | None = 0.0
    max_new_tokens: Annotated[PositiveInt, MayGrow()] = 1024
    max_length_ratio: Annotated[float, Field(ge=1)] | None = 2.0
    seed: Seed = 0
    max_calls: Annotated[PositiveInt | None, FREE] = None
    max_cost: Annotated[PositiveFloat | None, FREE] = None
    max_failed_fraction: Annotated[Share, FREE] = 0.2


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
    bad, or that have a grade and are good `above` one), for losses that read them. Several of these
    may stand beside each other, each with a `weight`, by default 1: its share of the items of a
    step. With `rounds` it is several runs, one from the policy of the other; each of them says so
    in `lineage`. `executor` says where the shards of `sample`, `rank`, `pair` and `evaluate` are
    worked on: in this process, or by the workers of a Ray cluster. A `run_dir` may be a URL, such
    as s3://bucket/run; `storage` says how it is kept.
    """

    run_dir: Annotated[Path, Strict(False), BeforeValidator(_not_empty)]
    policy: Backend
    prompts: Annotated[Source | None, MayGrow("count", "limit")] = None
    completions: Annotated[Source | None, MayGrow("limit")] = None
    pairs: ItemSource | None = None
    lists: Annotated[ItemSource | None, LATER] = None
    labels: Annotated[Annotated[LabelSource, Nested("source")] | None, LATER] = None
    sample: SampleConfig | None = None
    rank: RankConfig | None = None
    pair: PairConfig = PairConfig()
    bridge: Annotated[BridgeConfig | None, LATER] = None
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    rounds: Annotated[RoundsConfig | None, LATER] = None
    lineage: Annotated[LineageConfig | None, LATER] = None
    executor: Annotated[Component, Nested("executor"), TRANSPORT] = Component(name="local")
    storage: StorageConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _works_here(cls, values: Any) -> Any:
        """Work on a run at a URL in a folder of this machine."""
        if not isinstance(values, Mapping):
            return values
        run_dir, storage = str(values.get("run_dir", "")), values.get("storage")
        if not is_url(run_dir):
            if isinstance(storage, Mapping) and "url" not in storage:
                raise ValueError("storage: is for a run_dir by URL, such as s3://bucket/run")
            return values
        if storage is not None and not isinstance(storage, Mapping):
            return values
        url = as_url(run_dir)
        local = (storage or {}).get("local") or local_folder(url)
        return {**values, "run_dir": local, "storage": {**(storage or {}), "url": url}}

    @model_validator(mode="after")
    def _has_one_entry(self) -> Self:
        items = self.items_entries
        begins = [name for name in ("prompts", "completions") if getattr(self, name) is not None]
        if len(begins) + bool(items) != 1:
            given = " and ".join([*begins, *items]) or "none"
            raise ValueError(
                "give exactly one of prompts, completions and pairs, or of lists and labels; only "
                f"pairs, lists and labels may stand beside each other (got {given})"
            )
        for name, source in items.items():
            if source.weight is not None and len(items) == 1:
                raise ValueError(
                    f"{name}.weight: is the share of {name} beside other items, and there are no "
                    "others; leave it out"
                )
        if not items and self.rank is None and not self.unranked:
            raise ValueError(
                "rank is missing: completions need a judge; add rank: {judge: {name: ...}}"
            )
        few = self.sample is not None and self.sample.completions_per_prompt < 2
        if few and not self.unranked:
            raise ValueError(
                "sample.completions_per_prompt: should be greater than or equal to 2, as the "
                "answers to a prompt are compared with one another (got 1)"
            )
        if self.prompts is not None and self.sample is None:
            raise ValueError(
                "sample is missing: prompts need completions; add sample: "
                "{completions_per_prompt: 8}"
            )
        return self

    @model_validator(mode="after")
    def _reward_model_writes_nothing(self) -> Self:
        if self.train.reward is None:
            return self
        for name in ("prompts", "gold"):
            if getattr(self.evaluate, name) is not None:
                raise ValueError(
                    f"evaluate.{name}: train.reward trains a reward model, which writes no "
                    "answers; take it out (the reward model is evaluated on held-out items, see "
                    "pair.held_out_prompts), or name the reward model as the judge of another run"
                )
        if self.evaluate.model != "trained":
            raise ValueError(
                "evaluate.model: train.reward evaluates the reward model that it trains; take it "
                "out"
            )
        return self

    @property
    def unranked(self) -> bool:
        """True if pairs are made without a ranking, so that stage `rank` is skipped."""
        return not self.items_entries and self.pair.selector.name in UNRANKED

    @property
    def items_entries(self) -> dict[ItemEntry, WeighedSource]:
        """The entries that have items of training already, and their sources."""
        found = ((name, getattr(self, name)) for name in ITEM_ENTRIES)
        return {name: source for name, source in found if source is not None}

    @property
    def item_weights(self) -> dict[str, float]:
        """The weight of each kind of items, where there are several; empty for one kind."""
        entries = self.items_entries
        if len(entries) < 2:
            return {}
        return {
            name: 1.0 if source.weight is None else source.weight
            for name, source in entries.items()
        }

    def resolved(self) -> dict[str, JsonValue]:
        """Return the configuration with its defaults as JSON values, without `run_dir` and storage.

        A run folder may be moved.
        """
        return self.model_dump(mode="json", exclude={"run_dir", "storage"})
