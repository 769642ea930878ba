"""Check before any work that losses can read the items that will be there."""

from collections.abc import Callable
from typing import Any

from prefine.config.base import Component
from prefine.config.checking import listed
from prefine.config.components import TABLES, Kind, lookup
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.losses.facts import needs_of, reads_of
from prefine.losses.protocol import Reads
from prefine.stages.lineage import falls_count_from
from prefine.stages.training_inputs import configured_relation, items_made, takes_answers
from prefine.training.relations.choose import configured_losses
from prefine.training.step_sources.share_counts import check_shares

_WHAT = {
    "pairs": "pairs of answers to one prompt",
    "joint": "pairs across prompts, which only joint losses compare",
    "lists": "lists, which only list losses read",
    "labels": "labelled answers, which only losses of labels read",
}


def check_loss(config: RunConfig) -> None:
    """Check that loss and regularizer can read the items that will be there.

    Raises:
        ConfigError: They cannot, or one reads score gaps that the strategy does not give; or a
            training on several kinds of items lacks a loss of one.
    """
    kinds = list(config.items_entries)
    if config.train.reward is not None and len(kinds) > 1:
        raise ConfigError(
            f"train.reward: a reward model is trained on items of one kind (got {listed(kinds)}); "
            "start with pairs: or lists: alone"
        )
    if len(kinds) > 1 or not isinstance(config.train.minimised, Component):
        _check_losses_by_kind(config, kinds)
        configured_relation(config)
    else:
        _check_one_loss(config, config.train.minimised)
    if config.train.ches_below is not None:
        _check_ches(config)


def _check_one_loss(config: RunConfig, component: Component) -> None:
    ((where, loss), *_) = configured_losses(config.train)
    makes, made_by = items_made(config)
    configured_relation(config)
    _check_score_gaps(config)
    reads = reads_of(loss, "any")
    if takes_answers(config):
        if reads not in ("any", "pairs"):
            source = config.train.step_source.name
            raise ConfigError(
                f"train.step_source.name: {source!r} makes pairs of answers to one prompt, which "
                f"{where} does not read; choose another train.loss "
                f"({_named('loss', lambda other: reads_of(other) == 'pairs')}), or another source"
            )
        if makes in ("pairs", "labels"):
            return
    elif _fits(makes, reads):
        return
    if reads == "rewards":
        raise ConfigError(
            f"{where} cannot be trained on what {made_by}: {makes}; a reward model reads pairs of "
            "answers to one prompt, or lists; choose another pair.selector (such as best_vs_random "
            "or lists), or start with pairs: or lists:"
        )
    instead = f"another train.loss ({_losses_of(makes)})"
    if not config.items_entries:
        from prefine.pairing.protocol import selector_facts

        selectors = _named("selector", lambda other: _fits(selector_facts(other).makes, reads))
        instead += f", or another pair.selector ({selectors})"
    if reads == "labels":
        instead += ", or start with labels: {name: file, path: …}"
    raise ConfigError(
        f"train.loss.name: {component.name!r} cannot be trained on what {made_by}: "
        f"{_WHAT[makes]}; choose {instead}. `prefine pair` alone makes them"
    )


def _check_losses_by_kind(config: RunConfig, kinds: list[Any]) -> None:
    train = config.train
    if isinstance(train.loss, Component):
        example = ", ".join(f"{kind}: {_losses_of(kind).split(', ')[0]}" for kind in kinds)
        raise ConfigError(
            f"train.loss: {listed(kinds)} are trained on together, and each kind needs its "
            f"own loss (got {train.loss.name!r}); write loss: {{{example}}}"
        )
    given = train.loss.given
    if len(kinds) < 2:
        starts = f"starts with {kinds[0]} alone" if kinds else "makes one kind of items itself"
        raise ConfigError(
            f"train.loss: names a loss for {listed(given) or 'no kind of items'}, and this "
            f"configuration {starts}; name one loss, such as loss: dpo, or start with several of "
            "pairs, lists and labels"
        )
    for kind in kinds:
        if kind not in given:
            raise ConfigError(
                f"train.loss.{kind}: missing; the configuration has {kind}: choose one of "
                f"{_losses_of(kind)}"
            )
    for kind, component in given.items():
        if kind not in kinds:
            raise ConfigError(
                f"train.loss.{kind}: the configuration has no {kind}; leave it out, or give "
                f"{kind}: {{name: file, path: …}}"
            )
        reads = reads_of(component.resolve("loss", where=f"train.loss.{kind}"), "any")
        if not _fits(kind, reads):
            raise ConfigError(
                f"train.loss.{kind}.name: {component.name!r} reads {reads}; choose one that reads "
                f"{kind}: {_losses_of(kind)}"
            )
    if train.step_source.name != "shuffled" or train.step_source.options:
        raise ConfigError(
            f"train.step_source: {train.step_source.name!r} chooses the items of a step, and so do "
            f"the weights of {', '.join(kinds)}; leave it out"
        )
    if train.regularizer is not None and train.regularizer.options.get("delta") == "auto":
        raise ConfigError(
            "train.regularizer.delta: auto compares the rewards of pairs, and the training is on "
            f"{listed(kinds)}; give a number"
        )
    check_shares(config.item_weights, train.pairs_per_step)


def _losses_of(makes: str) -> str:
    """The losses that read what a selector makes, or an entry has; those of any items last."""
    reads = {name: reads_of(lookup("loss", name, where="loss"), "any") for name in TABLES["loss"]}
    fitting = [name for name, one in reads.items() if _fits(makes, one)]
    return ", ".join(sorted(fitting, key=lambda name: reads[name] == "any"))


def _fits(makes: str, reads: Reads) -> bool:
    """Return True if what a selector makes can be trained on by a loss that reads this."""
    if reads == "any":
        return makes != "joint"
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
    if config.unranked and readers:
        raise ConfigError(
            f"{readers[0]} reads the score_gap of pairs, and pair.selector "
            f"{config.pair.selector.name!r} reads no ranking that could have scores; choose "
            "another train.loss"
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


def _check_ches(config: RunConfig) -> None:
    makes, _ = items_made(config)
    kinds: set[str] = {reads_of(loss, makes) for _, loss in configured_losses(config.train)}
    if len(config.items_entries) > 1:
        kinds = set(config.items_entries)
    if kinds != {"pairs"} and kinds != {"joint"}:
        raise ConfigError(
            "train.ches_below: only pairs have a chosen and a rejected answer that can be alike, "
            f"and this training reads {listed(sorted(kinds))}; take train.ches_below out, or train "
            "on pairs alone"
        )
    if falls_count_from(config) is not None:
        raise ConfigError(
            "train.ches_below: reads the policy before the one that falls count from may be "
            "loaded; set rounds.budget_since: round, or take train.ches_below out"
        )
