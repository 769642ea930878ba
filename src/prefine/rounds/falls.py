"""The fall of the initial policy's own chosen answers, under the model of each round."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from prefine.config.sections import RunConfig
from prefine.metrics.statistics.intervals import mean_value
from prefine.metrics.statistics.values import Array
from prefine.models.hf.loading import load_model
from prefine.records import MetricValue
from prefine.run.tables import existing_parts
from prefine.stages.training_inputs import configured_relation, read_items, trainable
from prefine.training.items import PlainItem
from prefine.training.reference.prepare import forward_of
from prefine.training.reference.scoring import score_completions

MOST = 256
"""Answers that are scored, at most; those held out come first, where there are some."""


def fall_of_first_answers(
    first: RunConfig, model: Path, *, should_stop: Callable[[], bool]
) -> MetricValue | None:
    """Initial minus a model's log-probability of the answers that were chosen in round 1 [nats].

    Those were drawn from the initial policy, and they are the same in every round. Of held-out
    prompts where round 1 has some, else of those that it was trained on.

    Args:
        first: The configuration of round 1.
        model: The folder of the model.
        should_stop: Ends the scoring.

    Returns: The mean over answers; None where the loss reads labelled answers.

    Raises:
        Interrupted: `should_stop` became true.
    """
    relation = configured_relation(first)
    if relation.name == "labels":
        return None
    policy = trainable(first.policy, where="policy")
    tables = (first.run_dir / f"{prefix}{relation.name}" for prefix in ("heldout_", ""))
    table = next(one for one in tables if existing_parts(one))
    # The first text of a pair is the chosen one, that of a list the best.
    items = [
        PlainItem(item.id, item.texts[:1])
        for item in islice(read_items(table, policy, first).items, MOST)
    ]

    def logps(path: str) -> Array:
        loaded = load_model(path, dtype="float32", device=policy.device)
        forward, _ = forward_of(loaded, items, first.train)
        scored = score_completions(forward, items, should_stop=should_stop)
        return np.asarray(scored.numpy(force=True), dtype=np.float64)

    settings = first.evaluate
    return mean_value(
        "fall_of_first_answers",
        logps(policy.path) - logps(str(model)),
        samples=settings.bootstrap_samples,
        seed=settings.seed,
        unit="nats",
    )
