"""The policy and the items that training reads, and their checks."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prefine import chat
from prefine.config.base import Component
from prefine.config.checking import suggest
from prefine.config.components import TABLES, Kind, lookup
from prefine.config.sections import RunConfig
from prefine.data.import_report import ImportReport, UselessRow
from prefine.errors import ConfigError, DataError
from prefine.losses.facts import needs_of, reads_of
from prefine.losses.protocol import Reads
from prefine.models.capabilities import backend_of
from prefine.models.hf.adapters import base_of, require_peft
from prefine.models.hf.checks import layer_names
from prefine.models.protocol import HasWeights
from prefine.records import PreferencePair
from prefine.run.tables import parts, read_part
from prefine.stages.references import reads_held_out
from prefine.training.adapter import lost_on_loading
from prefine.training.items import (
    OtherTokens,
    ReadsTexts,
    TextReader,
    TokenizedItem,
    TokenizedItems,
    make_items,
)
from prefine.training.relations.choose import configured_losses, relation_of
from prefine.training.relations.protocol import Relation
from prefine.training.relations.rewards import RewardItems
from prefine.training.reward_texts import ConversationReader
from prefine.training.token_check import check_tokens

_GIVE_HELD_OUT = (
    "give pair.held_out_prompts, such as 100, and run prefine pair again (in Python: train(…, "
    "held_out=…)), or "
)
_HOLD_OUT = f"{_GIVE_HELD_OUT}take train.evaluate_every out"
_WEIGH_BY_OTHERS = f"{_GIVE_HELD_OUT}take train.loss.weights: stated"


def trainable(component: Component, *, where: str) -> HasWeights:
    """The backend of a component, whose weights can be trained.

    Raises:
        ConfigError: It is a backend without weights.
    """
    return backend_of(component, HasWeights, where=where)


def check_adapter(config: RunConfig, policy: HasWeights) -> None:
    """Check before any work that the policy can carry the adapter that `train` asks for.

    Raises:
        ConfigError: A target module does not exist, nothing could be named as the base of the
            saved adapter, or PEFT would not read it back.
    """
    settings = config.train.adapter
    if settings is None:
        return
    require_peft("train.adapter")
    if settings.save == "adapter" and (base := base_of(policy.path)) is not None:
        raise ConfigError(
            f"train.adapter.save: the policy {policy.path} is itself an adapter (of {base}), so "
            "no folder holds the "
            "weights that a new adapter would belong to; use save: merged"
        )
    layers = layer_names(policy.path)
    if settings.target_modules == "all-linear":
        if not layers:
            raise ConfigError(
                f"train.adapter: {policy.path} has no linear layer that can carry an adapter; "
                "train all weights"
            )
    else:
        _check_targets(policy.path, settings.target_modules, layers)
    rewards = config.train.reward is not None
    if settings.save == "adapter" and (
        lost := lost_on_loading(policy.path, settings, rewards=rewards)
    ):
        raise ConfigError(
            f"train.adapter.save: PEFT does not read an adapter of {policy.path} back: "
            f"{len(lost)} layers, such as {lost[0]}, would lose what they learned; use save: merged"
        )


def _check_targets(path: str, targets: Iterable[str], layers: Collection[str]) -> None:
    for name in targets:
        if not any(layer == name or layer.endswith(f".{name}") for layer in layers):
            known = sorted({layer.rsplit(".", 1)[-1] for layer in layers})
            raise ConfigError(
                f"train.adapter.target_modules: {path} has no layer {name!r} that can "
                "carry an adapter (the output head cannot); "
                f"{suggest(name, known)}"
            )


def check_evaluation(config: RunConfig, held_out: int) -> None:
    """Check before any work that there will be held-out items, if they are to be evaluated.

    Raises:
        ConfigError: No prompt is held out.
    """
    kind = configured_relation(config).name
    if config.train.evaluate_every is not None and not held_out:
        raise ConfigError(f"train.evaluate_every: no {kind} are held out to evaluate; {_HOLD_OUT}")
    if reads_held_out(config) and not held_out:
        raise ConfigError(
            f"train.loss.weights: held_out weighs the references by held-out {kind}, and none are "
            f"held out; {_WEIGH_BY_OTHERS}"
        )


def check_loss(config: RunConfig) -> None:
    """Check before any work that loss and regularizer can read the items that will be there.

    Raises:
        ConfigError: They cannot, or one reads score gaps that the strategy does not give.
    """
    ((where, loss), *_) = configured_losses(config.train)
    makes, made_by = _items_made(config)
    configured_relation(config)
    _check_score_gaps(config)
    reads = reads_of(loss)
    if _fits(makes, reads):
        return
    what = {
        "pairs": "pairs of answers to one prompt",
        "joint": "pairs across prompts, which only joint losses compare",
        "lists": "lists, which only list losses read",
        "labels": "labelled answers, which only losses of labels read",
    }
    if reads == "rewards":
        raise ConfigError(
            f"{where} cannot be trained on what {made_by}: {makes}; a reward model reads pairs of "
            "answers to one prompt, or lists; choose another pair.selector (such as best_vs_random "
            "or lists), or start with pairs: or lists:"
        )
    losses = _named("loss", lambda other: _fits(makes, reads_of(other)))
    instead = f"another train.loss ({losses})"
    if config.items_entry is None:
        from prefine.pairing.protocol import selector_facts

        selectors = _named("selector", lambda other: _fits(selector_facts(other).makes, reads))
        instead += f", or another pair.selector ({selectors})"
    if reads == "labels":
        instead += ", or start with labels: {name: file, path: …}"
    raise ConfigError(
        f"train.loss.name: {config.train.loss.name!r} cannot be trained on what {made_by}: "
        f"{what[makes]}; choose {instead}. `prefine pair` alone makes them"
    )


def _items_made(config: RunConfig) -> tuple[Reads, str]:
    """The kind of the items that there will be, and what makes them, for messages."""
    if config.items_entry is not None:
        return config.items_entry[0], "the configuration starts with"
    # Here and not above: an import of items loads no selector.
    from prefine.pairing.protocol import selector_facts

    selector = config.pair.selector
    makes = selector_facts(selector.lookup("selector", where="pair.selector")).makes
    return makes, f"pair.selector {selector.name!r} makes"


def _fits(makes: str, reads: Reads) -> bool:
    """Return True if what a selector makes can be trained on by a loss that reads this."""
    if reads == "rewards":
        return makes in ("pairs", "lists")
    return makes == reads or (makes, reads) == ("pairs", "joint")


def _named(kind: Kind, fits: Callable[[Any], bool]) -> str:
    """The components of a table that fit."""
    names = [name for name in TABLES[kind] if fits(lookup(kind, name, where=kind))]
    return ", ".join(names) or "none of ours fits"


def _check_score_gaps(config: RunConfig) -> None:
    """Check that rankings will have the scores whose gap is read; given pairs are checked later."""
    readers = [
        name
        for name, function in configured_losses(config.train)
        if "score_gap" in needs_of(function)
    ]
    if config.bridge is not None and readers:
        raise ConfigError(
            f"{readers[0]} reads the score_gap of pairs, and a rewritten answer has no score; "
            "choose another train.loss, or take the section bridge out"
        )
    if config.rank is None or not readers:
        return
    from prefine.ranking.protocol import facts_of

    strategy = config.rank.strategy
    if "scores" not in facts_of(strategy.lookup("strategy", where="rank.strategy")).guarantees:
        able = [
            name
            for name in TABLES["strategy"]
            if "scores" in facts_of(lookup("strategy", name, where="rank.strategy")).guarantees
        ]
        raise ConfigError(
            f"{readers[0]} reads the score_gap of pairs, which needs scores, and strategy "
            f"{strategy.name!r} does not "
            f"guarantee them; choose rank.strategy {', '.join(able)}, or another train.loss"
        )


def configured_relation(config: RunConfig) -> Relation:
    """The relation that loss and regularizer read.

    Raises:
        ConfigError: They read different ones.
    """
    items = "pairs" if config.train.reward is None else _items_made(config)[0]
    return relation_of(configured_losses(config.train), items)


def read_items(
    table: Path, policy: HasWeights, config: RunConfig, others: Sequence[OtherTokens] = ()
) -> TokenizedItems:
    """Tokenize the items of a table for the policy, and for references with other tokenizers."""
    relation, reader = configured_relation(config), text_reader(policy, config, others)
    return make_items(_records(table, relation), relation, reader)


def read_held_out(
    config: RunConfig, policy: HasWeights, others: Sequence[OtherTokens] = ()
) -> TokenizedItems:
    """Tokenize the held-out items, as `read_items`; there may be none unless they are read.

    Raises:
        DataError: There is none, or none that can be read.
    """
    relation, every = configured_relation(config), config.train.evaluate_every
    table = config.run_dir / f"heldout_{relation.name}"
    if every is None and not reads_held_out(config) and not table.is_dir():
        return TokenizedItems()
    try:
        return read_items(table, policy, config, others)
    except DataError as error:
        where = "pair.held_out_prompts" if every is None else "train.evaluate_every"
        remedy = "hold none out with pair.held_out_prompts: 0" if every is None else _HOLD_OUT
        if every is None and reads_held_out(config):
            where, remedy = "train.loss.weights", _WEIGH_BY_OTHERS
        raise DataError(
            f"{where}: no held-out {relation.name.removesuffix('s')} can be evaluated: {error}; "
            f"{remedy}"
        ) from error


def readable_whole(
    pairs: Iterable[PreferencePair], config: RunConfig, report: ImportReport
) -> Iterator[PreferencePair]:
    """Yield the pairs that training would read unshortened; count the others as dropped.

    Raises:
        DataError: The report is strict and there is another.
    """
    reader = text_reader(trainable(config.policy, where="policy"), config)
    relation = configured_relation(config)
    for pair in pairs:
        where = pair.prompt.source
        reading = relation.read(pair, reader)
        shortened = reading.long_prompts + reading.long_completions
        if reading.item is not None and not shortened:
            yield pair
            continue
        why = reading.dropped or "training would shorten it to the token limit"
        remedy = "raise train.max_prompt_tokens or train.max_completion_tokens, or remove the row"
        report.kept -= 1
        report.drop(UselessRow(f"not read whole ({why})", f"{where}: {why}; {remedy}"), where)


def text_reader(
    policy: HasWeights, config: RunConfig, others: Sequence[OtherTokens] = ()
) -> ReadsTexts:
    """Return what tokenizes texts for the policy as section `train` says, and for others."""
    settings = config.train
    if settings.reward is not None:
        return ConversationReader(
            policy.tokenizer,
            # One fewer, as no conversation is longer than policies would be trained on.
            max_tokens=settings.max_prompt_tokens + settings.max_completion_tokens - 1,
            train_on_truncated=settings.train_on_truncated,
        )
    return TextReader(
        policy.tokenizer,
        stop_token_id=stop_token(policy),
        max_prompt_tokens=settings.max_prompt_tokens,
        max_completion_tokens=settings.max_completion_tokens,
        train_on_truncated=settings.train_on_truncated,
        others=others,
    )


def check_first_rows(
    table: Path, examples: Sequence[TokenizedItem], policy: HasWeights, relation: Relation
) -> list[str]:
    """Notes on the tokens of the first rows, see `token_check.check_tokens`.

    Conversations for a reward model are what its template writes, so there is nothing to compare.
    """
    if isinstance(relation, RewardItems):
        return []
    return check_tokens(
        _records(table, relation),
        examples,
        policy.tokenizer,
        relation=relation,
        stop_token_id=stop_token(policy),
    )


def _records(table: Path, relation: Relation) -> Iterator[Any]:
    return (relation.record_of(row) for path in parts(table) for row in read_part(path))


def stop_token(policy: HasWeights) -> int:
    """The token that ends an answer of the policy.

    Raises:
        ConfigError: Its chat template cannot write an answer, or no header before it.
    """
    chat.check_template(policy.tokenizer)
    return chat.stop_token_id(policy.tokenizer, policy.generation_config)
