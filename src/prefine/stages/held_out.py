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
from prefine.run.tables import parts, read_part
from prefine.stages.references import references_of, with_their_tokens
from prefine.stages.training_inputs import configured_relation, read_items, trainable
from prefine.training.items import TokenizedItem
from prefine.training.reference.prepare import forward_of
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.labels import TokenizedAnswer
from prefine.training.relations.lists import TokenizedList
from prefine.training.relations.pairs import CHOSEN, REJECTED


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
    relation = configured_relation(config)
    kind = relation.name
    table = folder / f"heldout_{kind}"
    read = read_items(table, trained, config, [] if other_tokens is None else [other_tokens])
    records = {
        record.id: record
        for path in parts(table)
        for row in read_part(path)
        if (record := relation.record_of(row))
    }

    def logps(model: HasWeights, items: Sequence[TokenizedItem]) -> Array:
        loaded = load_model(model.path, dtype="float32", device=model.device)
        forward, _ = forward_of(loaded, items, settings)
        scored = score_completions(forward, items, should_stop=should_stop)
        return np.asarray(scored.numpy(force=True), dtype=np.float64)

    theirs = read.items if other_tokens is None else list(map(other_tokens.item, read.items))
    before, after = logps(first.model or policy, theirs), logps(trained, read.items)
    ends = np.cumsum([len(item.texts) for item in read.items])[:-1]
    margins: list[float] = []
    longer: list[float] = []
    ids: list[str] = []
    for item, logratios in zip(read.items, np.split(after - before, ends), strict=True):
        record = records[item.id]
        found = _margins(item, logratios.tolist())
        margins += found
        answers = relation.answers(record, item)
        longer += _margins(item, [len(one.completion.text) for one in answers])
        ids += [record.prompt.id] * len(found)
    samples, seed = config.evaluate.bootstrap_samples, config.evaluate.seed
    name = {"lists": "reward_ranking_accuracy", "labels": "label_accuracy"}.get(kind)
    metrics = [
        reward_accuracy(margins, ids, samples=samples, seed=seed, name=name or "reward_accuracy")
    ]
    if kind != "labels":
        metrics.append(
            reward_accuracy(longer, ids, samples=samples, seed=seed, name="longer_is_better")
        )
    elif len({item.desirable for item in read.items}) > 1:
        good = [item.desirable for item in read.items]
        metrics.append(reward_auc(after - before, good, ids))
    return Rewards(
        metrics,
        _pairs(read.items, records, after, before) if kind == "pairs" else None,
        np.split(after, ends) if kind == "lists" else (),
        read.dropped,
    )


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
