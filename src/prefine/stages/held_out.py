"""The accuracy of the trained model's implicit reward on pairs of held-out prompts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.metrics.protocol import HeldOutPairs
from prefine.metrics.rewards.accuracy import longer_is_better, reward_accuracy
from prefine.metrics.statistics.values import Array
from prefine.models.capabilities import provided
from prefine.models.hf.loading import load_model
from prefine.models.protocol import HasWeights, Model
from prefine.records import MetricValue
from prefine.run.folder import RunFolder
from prefine.run.rows import pair_of
from prefine.run.tables import parts, read_part
from prefine.stages.training_inputs import read_examples, trainable
from prefine.training.forward.token_values import SideLogps
from prefine.training.objective.pair_table import PairTable
from prefine.training.reference.prepare import forward_of
from prefine.training.reference.scoring import score_sides


class Rewards(NamedTuple):
    """The metrics, the values behind them, and how many held-out pairs were not scored and why."""

    metrics: list[MetricValue]
    pairs: HeldOutPairs
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
    examples, dropped, _ = read_examples(table, trained, config)
    pairs = {
        pair.id: pair for path in parts(table) for row in read_part(path) if (pair := pair_of(row))
    }
    kept = [pairs[example.id] for example in examples]

    def sides(model: HasWeights) -> SideLogps:
        loaded = load_model(model.path, dtype="float32", device=model.device)
        forward, _ = forward_of(loaded, examples, settings)
        return score_sides(forward, examples, should_stop=should_stop)

    values = sides(reference)
    table_of_sides = PairTable.of(examples, initial=values, reference=values)
    logps = table_of_sides.join(sides(trained), table_of_sides.totals())
    ids = [pair.prompt.id for pair in kept]
    samples, seed = config.evaluate.bootstrap_samples, config.evaluate.seed
    metrics = [
        reward_accuracy(logps.margin.tolist(), ids, samples=samples, seed=seed),
        longer_is_better(
            [len(pair.chosen.text) for pair in kept],
            [len(pair.rejected.text) for pair in kept],
            ids,
            samples=samples,
            seed=seed,
        ),
    ]
    scored = HeldOutPairs(
        prompt_ids=ids,
        chosen=_array(logps.policy_chosen),
        rejected=_array(logps.policy_rejected),
        ref_chosen=_array(logps.ref_chosen),
        ref_rejected=_array(logps.ref_rejected),
        chosen_tokens=_array(logps.chosen_tokens),
        rejected_tokens=_array(logps.rejected_tokens),
        p_chosen=np.array([pair.p_chosen for pair in kept], dtype=np.float64),
    )
    return Rewards(metrics, scored, dropped)


def _array(values: Any) -> Array:
    return np.asarray(values.numpy(force=True), dtype=np.float64)
