"""The dry run: how much would be sampled, judged and trained, and the most it would cost."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from prefine.config.base import Component
from prefine.config.named import components
from prefine.config.sections import RunConfig
from prefine.data.import_report import ImportReport
from prefine.judges import prompts
from prefine.judging.choose import make_judge
from prefine.models.openai.usage import TokenPrices
from prefine.records import Completion, Prompt
from prefine.stages.check import check, prompts_of
from prefine.stages.inputs import prompts_to_answer, read_completions, read_pairs
from prefine.stages.pair_options import held_out_of_run
from prefine.stages.pipeline import stages_of
from prefine.stages.planned_amount import PlannedAmount
from prefine.stages.rank import Asks, most_asks
from prefine.stages.rank_across import across_of
from prefine.stages.ranker import strategy_facts
from prefine.stages.selection import BoundSelector
from prefine.stages.servers import ask_servers
from prefine.training.step_sources.share_counts import kept_below, planned_steps

CHARACTERS_PER_TOKEN = 4
"""The usual rule for English; other languages take more tokens."""
_FRAME = 1500  # tags and instructions around the texts in a judge's prompt [characters]


class DryRunPlan(NamedTuple):
    """A dry run: how much of what, and what is known of it.

    `stages` are those that would run, `imports` the functions of the user's that it would import,
    `notes` what is set aside of the inputs and what servers say, `unchecked` what only a run shows.
    """

    stages: tuple[str, ...]
    amounts: tuple[PlannedAmount, ...]
    imports: tuple[str, ...]
    notes: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """The amounts as people read them."""
        return tuple((amount.what, amount.text) for amount in self.amounts)

    @property
    def values(self) -> dict[str, int | float | None]:
        """The amounts as programs read them; a unit stands in brackets behind the name."""
        return {
            f"{amount.what} [{amount.unit}]" if amount.unit else amount.what: amount.value
            for amount in self.amounts
        }


def plan(config: RunConfig, *, strict: bool = False, offline: bool = False) -> DryRunPlan:
    """Count from the inputs what the run would do; nothing is sampled, judged or trained.

    Args:
        config: The configuration.
        strict: Refuse the first row that would be set aside.
        offline: Send nothing; otherwise each server is asked once which models it has.

    Raises:
        PrefineError: As `check`.
        BackendError: A server is not there, or refuses the key.
    """
    counts, notes, servers = check(config, strict=strict)
    if not offline:
        notes += ask_servers(servers)
    amounts = [PlannedAmount(name, count) for name, count in counts.items()]
    rows = counts.get("prompts", counts.get("completions", 0))
    if config.prompts is not None and config.sample is not None:
        completions = rows * config.sample.completions_per_prompt
        tokens = completions * config.sample.max_new_tokens
        amounts.append(PlannedAmount("completions to sample", completions))
        amounts.append(PlannedAmount("tokens to sample, at most", tokens))
        if _in_batches(config.sample.model):
            amounts.append(PlannedAmount("rounds of sampling, each in batches of a day at most", 1))
    if config.rank is not None and not (config.items_entries or config.unranked):
        asks = _most_asks(config, rows)
        if asks.duels or not asks.ratings:
            amounts.append(PlannedAmount("judge calls, at most", asks.duels))
        if asks.ratings:
            amounts.append(PlannedAmount("ratings, at most", asks.ratings))
        amounts += _costs(config, asks)
        amounts += _across(config, rows)
        if _in_batches(_judge_model(config.rank.judge)):
            facts = strategy_facts(config.rank.strategy)
            most = _most_completions(config)
            rounds = facts.rounds(most, **config.rank.strategy.options) if most > 1 else 0
            amounts.append(
                PlannedAmount("rounds of judging, each in batches of a day at most", rounds)
            )
    elif config.unranked:
        amounts += _costs(config, Asks(0, 0))
    limit = BoundSelector(config.pair, None).limit
    held_out = held_out_of_run(prompts_of(counts), config)
    items: dict[str, int] = {kind: counts[kind] for kind in config.items_entries}
    if not items and limit is not None:
        items = {"pairs": limit * (rows - held_out)}
    if config.bridge is not None:
        amounts += _bridging(config, items.get("pairs"))
    if config.evaluate.prompts is not None:
        answers = 2 * counts["evaluation prompts"]
        amounts.append(PlannedAmount("evaluation answers to sample", answers))
        if config.evaluate.judge is not None or config.rank is not None:
            amounts.append(PlannedAmount("evaluation judge calls", answers))
    if items:
        if "pairs" in items:
            items["pairs"] = kept_below(items["pairs"], config.train.ches_below)
        per_epoch = planned_steps(items, config.item_weights, config.train.pairs_per_step)
        steps = per_epoch * config.train.epochs
        steps = min(steps, config.train.max_steps or steps)
        amounts.append(PlannedAmount("training steps, at most", steps))
    # Here and not above: planning what is asked of a server must not load torch.
    from prefine.stages.training_plan import planned_memory

    memory, short = planned_memory(config)
    amounts.append(memory)
    if short is not None:
        notes = (*notes, short)
    stages = stages_of(config)
    if not (config.evaluate.prompts or config.evaluate.metrics or held_out):
        stages = tuple(stage for stage in stages if stage != "evaluate")
        notes = (
            *notes,
            "nothing will be evaluated: give evaluate.prompts, or pair.held_out_prompts: 100",
        )
    return DryRunPlan(
        stages,
        tuple(amounts),
        user_code(config),
        notes,
        _unchecked(config, bool(servers), offline=offline),
    )


def _across(config: RunConfig, rows: int) -> list[PlannedAmount]:
    """The calls about answers to different prompts."""
    assert config.rank is not None, "checked by the caller"
    across = across_of(config, make_judge(config.rank.judge, where="rank.judge"))
    if across is None:
        return []
    return [PlannedAmount("judge calls across prompts, at most", across.most_calls(rows))]


def _bridging(config: RunConfig, pairs: int | None) -> list[PlannedAmount]:
    """The calls of stage `bridge` and their cost; which pairs are in a share is seen later."""
    # Here and not above: few runs have it.
    from prefine.stages.bridge_options import (
        configured_judge,
        judge_component,
        judgments_each,
        section_of,
    )

    settings, judge = section_of(config), judge_component(config)
    about = "at most" if settings.share == 1 else "about"
    asked = judged = None
    if pairs is not None:
        asked = math.ceil(pairs * settings.share)
        judged = asked * judgments_each(configured_judge(config), settings)
    amounts = [
        PlannedAmount(f"answers to rewrite, {about}", asked),
        PlannedAmount(f"judge calls on them, {about}", judged),
    ]
    rewriting, judging = _prices(settings.model), _prices(judge and _judge_model(judge[0]))
    if asked is None or judged is None or (rewriting is None and judging is None):
        return amounts
    count, prompt_tokens, answer_tokens, answers = _sizes(_groups(config))
    longest = answer_tokens / max(answers, 1)
    if config.prompts is not None and config.sample is not None:
        longest = config.sample.max_new_tokens
    read = _frame() + prompt_tokens / max(count, 1) + 2 * longest
    if rewriting is not None:
        cost = asked * (rewriting.prompt * read + rewriting.completion * longest)
        amounts.append(PlannedAmount("cost of rewriting, about", cost / 1e6))
    if judging is not None:
        cost = judged * (judging.prompt * read + judging.completion)
        amounts.append(PlannedAmount("cost of judging that in one token, about", cost / 1e6))
    return amounts


def _unchecked(config: RunConfig, asks_servers: bool, *, offline: bool) -> tuple[str, ...]:
    """Name what only a run can tell, and what this dry run was told to leave out."""
    lines = ["weight files: they are read when a stage loads its model"]
    if asks_servers and offline:
        lines.append("servers: whether they answer and take the key (--offline)")
    if asks_servers:
        lines.append("servers: whether the key is paid for, and whether prompts fit the model")
    if config.rank is not None and not (config.items_entries or config.unranked):
        lines.append("judge: whether answers fit into its prompt, and its verdicts can be read")
    if config.prompts is not None:
        lines.append("answers to be sampled: their length, and whether pairs come of them")
    if user_code(config):
        lines.append("your own code: whether it works on every row")
    lines.append("memory of sampling and judging, space on the disk, time")
    return tuple(lines)


def user_code(config: RunConfig) -> tuple[str, ...]:
    """Return the functions and classes of the user's that a configuration imports, each once."""
    names = (component.name for _, _, component in components(config))
    return tuple(dict.fromkeys(name for name in names if ":" in name))


def _most_asks(config: RunConfig, rows: int) -> Asks:
    """The most duels and ratings of all prompts."""
    assert config.rank is not None, "checked by the caller"
    strategy = config.rank.strategy
    if config.prompts is not None and config.sample is not None:
        duels, ratings = most_asks(strategy, config.sample.completions_per_prompt)
        return Asks(rows * duels, rows * ratings)
    asks = [most_asks(strategy, len(found)) for _, found in _groups(config)]
    return Asks(sum(one.duels for one in asks), sum(one.ratings for one in asks))


def _groups(config: RunConfig) -> Iterator[tuple[Prompt, list[Completion]]]:
    """Prompts with the completions that exist; without any where they are still to be sampled."""
    if config.pairs is not None:
        pairs = read_pairs(config.pairs)
        return ((pair.prompt, [pair.chosen, pair.rejected]) for pair in pairs)
    if config.completions is not None:
        return read_completions(config.completions)
    return ((prompt, []) for prompt in prompts_to_answer(config, ImportReport()))


def _costs(config: RunConfig, asks: Asks) -> list[PlannedAmount]:
    """Upper estimates from the lengths of texts, at the user's prices; none without prices."""
    sampling = judging = rating = None
    if config.sample is not None:
        sampling = _prices(config.sample.model)
    if config.rank is not None and asks.duels:
        judging = _prices(_judge_model(config.rank.judge))
    if config.rank is not None and asks.ratings:
        rating = _prices(_judge_model(config.rank.scorer or config.rank.judge))
    if sampling is None and judging is None and rating is None:
        return []
    count, prompt_tokens, answer_tokens, answers = _sizes(_groups(config))
    amounts = []
    if config.sample is not None and config.prompts is not None:
        answers = count * config.sample.completions_per_prompt
        answer_tokens = float(answers * config.sample.max_new_tokens)
        if sampling is not None:
            cost = sampling.prompt * prompt_tokens + sampling.completion * answer_tokens
            amounts.append(PlannedAmount("cost of sampling, about, at most", cost / 1e6))
    if not count or not answers:
        return amounts
    frame = _frame()
    for what, prices, calls, answers_shown in (
        ("judging", judging, asks.duels, 2),
        ("rating", rating, asks.ratings, 1),
    ):
        if prices is not None:
            per_call = frame + prompt_tokens / count + answers_shown * answer_tokens / answers
            cost = calls * (prices.prompt * per_call + prices.completion)
            what = f"cost of {what} in one token, about, at most"
            amounts.append(PlannedAmount(what, cost / 1e6))
    return amounts


def _frame() -> float:
    """The tokens around the texts in a judge's prompt, about; a request to rewrite is as long."""
    return (len(prompts.prompt_text("rubric")) + _FRAME) / CHARACTERS_PER_TOKEN


def _sizes(
    groups: Iterable[tuple[Prompt, list[Completion]]],
) -> tuple[int, float, float, int]:
    """The number of prompts, the tokens of prompts and of answers, and the number of answers."""
    count = prompt_characters = answer_characters = answers = 0
    for prompt, completions in groups:
        count += 1
        prompt_characters += sum(len(message.content) for message in prompt.messages)
        answer_characters += sum(len(completion.text) for completion in completions)
        answers += len(completions)
    return (
        count,
        prompt_characters / CHARACTERS_PER_TOKEN,
        answer_characters / CHARACTERS_PER_TOKEN,
        answers,
    )


def _most_completions(config: RunConfig) -> int:
    """The most completions of a prompt."""
    if config.prompts is not None and config.sample is not None:
        return config.sample.completions_per_prompt
    return max((len(found) for _, found in _groups(config)), default=0)


def _judge_model(judge: Component) -> Component | None:
    """The model that a judge asks, if it asks one."""
    model = judge.options.get("model")
    return Component.model_validate(dict(model)) if isinstance(model, Mapping) else None


def _in_batches(model: Component | None) -> bool:
    return model is not None and model.options.get("calls") == "batch"


def _prices(model: Component | None) -> TokenPrices | None:
    """The prices of a model, as it is asked."""
    found = None if model is None else model.options.get("prices")
    if not isinstance(found, Mapping):
        return None
    prices = TokenPrices.model_validate(found)
    return prices.in_batches if _in_batches(model) else prices
