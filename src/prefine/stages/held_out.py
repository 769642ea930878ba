"""The accuracy of the trained model's implicit reward on items of held-out prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.metrics.protocol import HeldOutPairs
from prefine.metrics.rewards.accuracy import reward_accuracy
from prefine.metrics.rewards.auc import reward_auc
from prefine.metrics.statistics.values import Array
from prefine.models.capabilities import provided
from prefine.models.hf.loading import load_model
from prefine.models.protocol import HasWeights, Model
from prefine.records import MetricValue, PreferencePair
from prefine.run.folder import RunFolder
from prefine.stages.references import references_of, with_their_tokens
from prefine.stages.training_inputs import (
    HELD_OUT,
    configured_relation,
    read_held_out,
    records,
    trainable,
)
from prefine.training.items import TokenizedItem
from prefine.training.reference.prepare import forward_of
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.labels import TokenizedAnswer
from prefine.training.relations.lists import TokenizedList
from prefine.training.relations.pairs import CHOSEN, REJECTED
from prefine.training.relations.protocol import ItemKind


class Rewards(NamedTuple):
    """The metrics, the values behind them, and how many held-out items were not scored and why.

    `pairs` are None and `lists` empty where the items are others.
    """

    metrics: list[MetricValue]
    pairs: HeldOutPairs | None
    lists: Sequence[Array]
    dropped: dict[str, int]


def reward_metrics(
    config: RunConfig, folder: RunFolder, model: Model, *, should_stop: Callable[[], bool]
) -> Rewards:
    """Reward accuracy on held-out items, and that of preferring the longer answer.

    Accuracy is the share of pairs, or of comparisons within lists, with a positive margin, or of
    labelled answers whose log-ratio has the sign of the label; of these there is the AUC, too.
    The margin is the difference of log-ratios to the reference, whatever score the loss optimised.
    Uncertainty is that over prompts.

    Raises:
        ConfigError: The model has no weights to score items with.
        Interrupted: `should_stop` became true.
    """
    trained = provided(model, HasWeights)
    if trained is None:
        raise ConfigError(
            f"evaluate.model: {model.label!r} has no weights to score the held-out items with; "
            "use {name: hf, path: FOLDER}, or set pair.held_out_prompts: 0"
        )
    settings, policy = config.train, trainable(config.policy, where="policy")
    (first,) = with_their_tokens(config, policy, references_of(config)[:1])
    other_tokens = first.other_tokens
    read = read_held_out(config, trained, [] if other_tokens is None else [other_tokens])

    def logps(model: HasWeights, items: Sequence[TokenizedItem]) -> Array:
        loaded = load_model(model.path, dtype="float32", device=model.device)
        forward, _ = forward_of(loaded, items, settings)
        scored = score_completions(forward, items, should_stop=should_stop)
        return np.asarray(scored.numpy(force=True), dtype=np.float64)

    theirs = read.items if other_tokens is None else list(map(other_tokens.item, read.items))
    before, after = logps(first.model or policy, theirs), logps(trained, read.items)
    metrics: list[MetricValue] = []
    pairs: HeldOutPairs | None = None
    lists: Sequence[Array] = ()
    start = 0
    # The items stand one kind after the other.
    for kind in configured_relation(config).kinds:
        items = [item for item in read.items if isinstance(item, kind.item)]
        end = start + sum(len(item.texts) for item in items)
        if items:
            own = _OfKind(kind, items, before[start:end], after[start:end])
            found = {one.id: one for one in records(folder / f"{HELD_OUT}{kind.name}", kind)}
            metrics += _accuracies(own, found, config)
            if kind.name == "pairs":
                pairs = _pairs(items, found, own.after, own.before)
            if kind.name == "lists":
                lists = np.split(own.after, own.ends)
        start = end
    return Rewards(metrics, pairs, lists, read.dropped)


class _OfKind(NamedTuple):
    """The held-out items of a kind with their completions' log-probabilities by both models."""

    kind: ItemKind
    items: Sequence[Any]
    before: Array
    after: Array

    @property
    def ends(self) -> Array:
        """The ends of the completions of each item but the last."""
        return np.cumsum([len(item.texts) for item in self.items])[:-1]


def _accuracies(
    held_out: _OfKind, records: Mapping[str, Any], config: RunConfig
) -> list[MetricValue]:
    """Accuracy of the implicit reward, and that of preferring the longer answer."""
    kind = held_out.kind
    margins: list[float] = []
    longer: list[float] = []
    ids: list[str] = []
    logratios_of = np.split(held_out.after - held_out.before, held_out.ends)
    for item, logratios in zip(held_out.items, logratios_of, strict=True):
        record = records[item.id]
        found = _margins(item, logratios.tolist())
        margins += found
        answers = kind.answers(record, item)
        longer += _margins(item, [len(one.completion.text) for one in answers])
        ids += [record.prompt.id] * len(found)
    samples, seed = config.evaluate.bootstrap_samples, config.evaluate.seed
    name = {"lists": "reward_ranking_accuracy", "labels": "label_accuracy"}.get(kind.name)
    metrics = [
        reward_accuracy(margins, ids, samples=samples, seed=seed, name=name or "reward_accuracy")
    ]
    if kind.name != "labels":
        metrics.append(
            reward_accuracy(longer, ids, samples=samples, seed=seed, name="longer_is_better")
        )
    elif len({item.desirable for item in held_out.items}) > 1:
        good = [item.desirable for item in held_out.items]
        metrics.append(reward_auc(held_out.after - held_out.before, good, ids))
    return metrics


def _pairs(
    items: Sequence[Any], records: Mapping[str, PreferencePair], policy: Array, reference: Array
) -> HeldOutPairs:
    kept = [records[item.id] for item in items]
    tokens = np.array([len(text.scored) for item in items for text in item.texts], dtype=np.float64)
    return HeldOutPairs(
        prompt_ids=[pair.prompt.id for pair in kept],
        chosen=policy[CHOSEN],
        rejected=policy[REJECTED],
        ref_chosen=reference[CHOSEN],
        ref_rejected=reference[REJECTED],
        chosen_tokens=tokens[CHOSEN],
        rejected_tokens=tokens[REJECTED],
        p_chosen=np.array([pair.p_chosen for pair in kept], dtype=np.float64),
    )


def _margins(item: Any, values: Sequence[float]) -> list[float]:
    """The differences of an item's values that should be positive, by what the item says."""
    if isinstance(item, TokenizedAnswer):
        return list(values) if item.desirable else [-value for value in values]
    ranks = item.ranks if isinstance(item, TokenizedList) else (1, 2)
    places = range(len(values))
    return [values[i] - values[j] for i in places for j in places if ranks[i] < ranks[j]]
