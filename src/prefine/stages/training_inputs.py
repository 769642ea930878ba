"""The policy and the items that training reads, and their checks."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prefine import chat
from prefine.config.base import Component
from prefine.config.checking import suggest
from prefine.config.sections import RunConfig
from prefine.data.import_report import ImportReport, UselessRow
from prefine.errors import ConfigError, DataError
from prefine.losses.protocol import Reads
from prefine.models.capabilities import backend_of, provided
from prefine.models.hf.adapters import base_of, require_peft
from prefine.models.hf.checks import layer_names
from prefine.models.protocol import HasWeights, Launches
from prefine.records import PreferencePair
from prefine.run.tables import parts, read_part
from prefine.stages.bridged import items_table
from prefine.stages.references import reads_held_out
from prefine.training.adapter import lost_on_loading
from prefine.training.items import (
    OtherTokens,
    ReadsTexts,
    TextReader,
    TokenizedItem,
    TokenizedItems,
    joined,
    make_items,
    readable_items,
)
from prefine.training.relations.choose import configured_losses, relation_of
from prefine.training.relations.pairs import Pairs
from prefine.training.relations.protocol import ItemKind, Relation
from prefine.training.token_check import check_tokens

HELD_OUT = "heldout_"
"""Before the name of a kind: the table of its held-out items."""
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
    if settings.save == "adapter" and config.evaluate.prompts is not None:
        launching = provided(policy, Launches)
        if launching is not None and not launching.takes_adapters:
            raise ConfigError(
                "train.adapter.save: adapter, and the engine of policy serves no adapters, so the "
                "trained model could not be evaluated; use save: merged"
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


def check_trackers(config: RunConfig) -> None:
    """Raise ConfigError unless the packages of all configured trackers are installed."""
    if names := config.train.tracking.trackers:
        # Here and not above: few trainings have one.
        from prefine.training.logging.trackers import check_installed

        check_installed(names)


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
    relation = configured_relation(config)
    kind = relation.name
    if held_out and isinstance(relation, Pairs) and relation.alone:
        raise ConfigError(
            f"pair.held_out_prompts: {held_out} prompts would be held out, and their answers have "
            "nothing to be compared with, as training makes the rejected answers; set it to 0, or "
            "start with pairs: their rejected answers are not trained on and are compared with"
        )
    if config.train.evaluate_every is not None and not held_out:
        raise ConfigError(f"train.evaluate_every: no {kind} are held out to evaluate; {_HOLD_OUT}")
    if reads_held_out(config) and not held_out:
        raise ConfigError(
            f"train.loss.weights: held_out weighs the references by held-out {kind}, and none are "
            f"held out; {_WEIGH_BY_OTHERS}"
        )


def items_made(config: RunConfig) -> tuple[Reads, str]:
    """The kind of the items that there will be, and what makes them, for messages.

    Of several kinds, the first one.
    """
    if config.items_entries:
        return next(iter(config.items_entries)), "the configuration starts with"
    # Here and not above: an import of items loads no selector.
    from prefine.pairing.protocol import selector_facts

    selector = config.pair.selector
    makes = selector_facts(selector.lookup("selector", where="pair.selector")).makes
    return makes, f"pair.selector {selector.name!r} makes"


def takes_answers(config: RunConfig) -> bool:
    """Return True if the step source makes pairs of answers that it is given alone."""
    source = config.train.step_source.lookup("step_source", where="train.step_source")
    return bool(getattr(source, "takes_answers", False))


def configured_relation(config: RunConfig) -> Relation:
    """The items that loss and regularizer read: of one kind, or of several.

    Where training makes pairs of the labelled answers that the run starts with, its records are
    these.

    Raises:
        ConfigError: They read different ones.
    """
    if [*config.items_entries] == ["labels"] and takes_answers(config):
        return Pairs(alone=True)
    items, _ = items_made(config)
    return relation_of(configured_losses(config.train), items)


def kind_of_table(table: Path, config: RunConfig) -> ItemKind:
    """The kind of items in a table, which may be that of held-out or of bridged ones."""
    kinds = configured_relation(config).kinds
    named = {kind.name: kind for kind in kinds}
    named |= {items_table(config, kind.name): kind for kind in kinds}
    return named[table.name.removeprefix(HELD_OUT)]


def read_items(
    table: Path, policy: HasWeights, config: RunConfig, others: Sequence[OtherTokens] = ()
) -> TokenizedItems:
    """Tokenize the items of a table for the policy, and for references with other tokenizers."""
    kind = kind_of_table(table, config)
    return make_items(records(table, kind), kind, text_reader(policy, config, others))


def read_all_items(
    config: RunConfig, policy: HasWeights, others: Sequence[OtherTokens] = ()
) -> TokenizedItems:
    """Tokenize all items of a training as `read_items`, one kind after the other."""
    tables = [items_table(config, kind.name) for kind in configured_relation(config).kinds]
    return joined(read_items(config.run_dir / table, policy, config, others) for table in tables)


def read_held_out(
    config: RunConfig, policy: HasWeights, others: Sequence[OtherTokens] = ()
) -> TokenizedItems:
    """Tokenize the held-out items, as `read_items`; there may be none unless they are read.

    Of several kinds, one may have none: prompts are held out, whatever items they have.

    Raises:
        DataError: There is none, or none that can be read.
    """
    relation, every = configured_relation(config), config.train.evaluate_every
    tables = held_out_tables(config)
    read = every is not None or reads_held_out(config)
    if not read and not any(table.is_dir() for table in tables):
        return TokenizedItems()
    try:
        if len(tables) == 1:
            return read_items(tables[0], policy, config, others)
        reader = text_reader(policy, config, others)
        found = joined(
            readable_items(records(table, kind), kind, reader)
            for table, kind in zip(tables, relation.kinds, strict=True)
            if table.is_dir()
        )
        if not found.items:
            raise DataError("no item is left")
        if reads_held_out(config) and all(item.word != "pair" for item in found.items):
            raise DataError("no pair is left, by which references are weighed")
        return found
    except DataError as error:
        where = "pair.held_out_prompts" if every is None else "train.evaluate_every"
        remedy = "hold none out with pair.held_out_prompts: 0" if every is None else _HOLD_OUT
        if every is None and reads_held_out(config):
            where, remedy = "train.loss.weights", _WEIGH_BY_OTHERS
        raise DataError(
            f"{where}: no held-out {relation.name.removesuffix('s')} can be evaluated: {error}; "
            f"{remedy}"
        ) from error


def held_out_tables(config: RunConfig) -> list[Path]:
    """The tables of held-out items, one for each kind."""
    kinds = configured_relation(config).kinds
    return [config.run_dir / f"{HELD_OUT}{kind.name}" for kind in kinds]


def readable_whole(
    pairs: Iterable[PreferencePair], config: RunConfig, report: ImportReport
) -> Iterator[PreferencePair]:
    """Yield the pairs that training would read unshortened; count the others as dropped.

    Raises:
        DataError: The report is strict and there is another.
    """
    reader = text_reader(trainable(config.policy, where="policy"), config)
    (kind,) = (kind for kind in configured_relation(config).kinds if kind.name == "pairs")
    for pair in pairs:
        where = pair.prompt.source
        reading = kind.read(pair, reader)
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
        # Here and not above: few trainings are of reward models.
        from prefine.training.reward_texts import ConversationReader

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
    config: RunConfig, examples: Sequence[TokenizedItem], policy: HasWeights
) -> list[str]:
    """Notes on the tokens of the first rows of each kind, see `token_check.check_tokens`.

    Conversations for a reward model are what its template writes, so there is nothing to compare.
    """
    if config.train.reward is not None:
        return []
    return [
        note
        for kind in configured_relation(config).kinds
        for note in check_tokens(
            records(config.run_dir / items_table(config, kind.name), kind),
            [item for item in examples if isinstance(item, kind.item)],
            policy.tokenizer,
            kind=kind,
            stop_token_id=stop_token(policy),
        )
    ]


def records(table: Path, kind: ItemKind) -> Iterator[Any]:
    """The records of a table."""
    return (kind.record_of(row) for path in parts(table) for row in read_part(path))


def stop_token(policy: HasWeights) -> int:
    """The token that ends an answer of the policy.

    Raises:
        ConfigError: Its chat template cannot write an answer, or no header before it.
    """
    chat.check_template(policy.tokenizer)
    return chat.stop_token_id(policy.tokenizer, policy.generation_config)
