"""Of a training that is one of several rounds: what it takes from those before it."""

from pathlib import Path

from prefine.config.rounds import round_name
from prefine.config.sections import RunConfig
from prefine.models.protocol import HasWeights
from prefine.stages.training_inputs import trainable


def first_policy(config: RunConfig) -> HasWeights:
    """The policy that the first of several rounds began with; of a run alone, its own."""
    if config.lineage is None:
        return trainable(config.policy, where="policy")
    return trainable(config.lineage.initial, where="lineage.initial")


def falls_count_from(config: RunConfig) -> HasWeights | None:
    """The policy from which falls and budgets count; None is that with which training begins."""
    since = None if config.lineage is None else config.lineage.budget_since
    return first_policy(config) if since == "initial" else None


def earlier_checkpoints(config: RunConfig) -> Path | None:
    """The checkpoints of the round before, if this one goes on with its optimizer."""
    lineage = config.lineage
    if lineage is None or lineage.optimizer == "reset" or lineage.round == 1:
        return None
    parent = (config.run_dir / lineage.parent_run).resolve()
    return parent / round_name(lineage.round - 1) / "checkpoints"
