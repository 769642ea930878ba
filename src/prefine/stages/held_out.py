"""The accuracy of the trained model's implicit reward on pairs of held-out prompts."""

from collections.abc import Callable
from typing import Any, NamedTuple

from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.metrics.rewards.accuracy import longer_is_better, reward_accuracy
from prefine.models.capabilities import provided
from prefine.models.hf.loading import load_model
from prefine.models.protocol import HasWeights, Model
from prefine.records import MetricValue
from prefine.run.folder import RunFolder
from prefine.run.rows import pair_of
from prefine.run.tables import parts, read_part
from prefine.stages.training_inputs import read_items, trainable
from prefine.training.reference.prepare import forward_of
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.pairs import CHOSEN, REJECTED


class Rewards(NamedTuple):
    """The metrics, and how many held-out pairs could not be scored, by reason."""

    metrics: list[MetricValue]
    dropped: dict[str, int]


def reward_metrics(
    config: RunConfig, folder: RunFolder, model: Model, *, should_stop: Callable[[], bool]
) -> Rewards:
    """Reward accuracy on held-out pairs, and that of preferring the longer answer.

    Accuracy is the share of pairs with a positive margin.
    The margin is the difference of log-ratios to the reference, whatever score the loss optimised.
    Uncertainty is that over prompts.

    Raises:
        ConfigError: The model has no weights to score pairs with.
        Interrupted: `should_stop` became true.
    """
    trained = provided(model, HasWeights)
    if trained is None:
        raise ConfigError(
            f"evaluate.model: {model.label!r} has no weights to score the held-out pairs with; "
            "use {name: hf, path: FOLDER}, or set pair.held_out_prompts: 0"
        )
    settings = config.train
    reference = trainable(config.policy, where="policy")
    if settings.reference != "initial":
        reference = trainable(settings.reference, where="train.reference")
    table = folder / "heldout_pairs"
    read = read_items(table, trained, config)
    pairs = {
        pair.id: pair for path in parts(table) for row in read_part(path) if (pair := pair_of(row))
    }
    kept = [pairs[item.id] for item in read.items]

    def logps(model: HasWeights) -> Any:
        loaded = load_model(model.path, dtype="float32", device=model.device)
        forward, _ = forward_of(loaded, read.items, settings)
        return score_completions(forward, read.items, should_stop=should_stop)

    before = logps(reference)
    logratios = logps(trained) - before
    margin = logratios[CHOSEN] - logratios[REJECTED]
    ids = [pair.prompt.id for pair in kept]
    samples, seed = config.evaluate.bootstrap_samples, config.evaluate.seed
    metrics = [
        reward_accuracy(margin.tolist(), ids, samples=samples, seed=seed),
        longer_is_better(
            [len(pair.chosen.text) for pair in kept],
            [len(pair.rejected.text) for pair in kept],
            ids,
            samples=samples,
            seed=seed,
        ),
    ]
    return Rewards(metrics, read.dropped)
