"""The folder of a trained model: its weights or adapter, its tokenizer and its card."""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from prefine.config.sections import RunConfig
from prefine.config.training import TrainConfig
from prefine.models import playground
from prefine.models.hf.adapters import merge, save_adapter
from prefine.models.hf.loading import copy_processor
from prefine.models.protocol import HasWeights
from prefine.report.outcome import budget_sentence, judge_budget
from prefine.run.folder import RunFolder
from prefine.stages.budget import budget_of
from prefine.stages.origins import versions
from prefine.stages.training_inputs import configured_relation
from prefine.training.logging.figures import BUDGET_LOG_NAME, EVALUATION_LOG_NAME, TrainSummary
from prefine.training.logging.model_card import model_card, write_card


def card_of(
    config: RunConfig,
    folder: RunFolder,
    summary: TrainSummary,
    *,
    base: str,
    train: Mapping[str, JsonValue],
    dropped: Mapping[str, int],
) -> str:
    """Return the model card of a training.

    Args:
        config: Of the run.
        folder: Its folder, for the logs of evaluation and budget.
        summary: What training came to.
        base: Folder or hub id of the model that all training began with.
        train: The settings that concern the model.
        dropped: The items that were not trained on, by reason.
    """
    settings = config.train
    evaluated = _last_row(folder, EVALUATION_LOG_NAME)
    # Neither the run's folder nor that of this package: the same training writes the same bytes
    # anywhere.
    named = playground.NAME if base == str(playground.playground_folder()) else base
    return model_card(
        name=f"{Path(named).name}-{settings.loss_name}",
        base_model=named,
        base_on_hub=named == base and not Path(base).exists(),
        adapter=_saves_adapter(settings),
        train=train,
        summary=summary,
        dropped=dropped,
        versions={"prefine": version("prefine"), **versions()},
        datasets=_hub_datasets(config),
        held_out=evaluated,
        budget=_verdict_on_budget(config, folder, evaluated),
    )


def save_model(
    model: Any, policy: HasWeights, settings: TrainConfig, path: Path, *, card: str
) -> None:
    """Write a Hugging Face folder of a model or an adapter: all of it or nothing."""
    temporary = path.with_name(".model.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if _saves_adapter(settings):
        save_adapter(model, temporary, base=policy.path)
    else:
        if settings.adapter is not None:
            merge(model)
        model.save_pretrained(temporary)
    policy.tokenizer.save_pretrained(temporary)
    copy_processor(policy.path, temporary)
    # In place of the empty form of a card that libraries leave.
    write_card(temporary, card, previous=path)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


def _saves_adapter(settings: TrainConfig) -> bool:
    """Return True if the adapter is saved, False if whole weights are."""
    return settings.adapter is not None and settings.adapter.save == "adapter"


def _last_row(folder: RunFolder, name: str) -> dict[str, Any] | None:
    """The last row of a log; from the file, as another process may have written it."""
    file = folder / name
    lines = file.read_bytes().splitlines() if file.is_file() else []
    found: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return found


def _verdict_on_budget(
    config: RunConfig, folder: RunFolder, evaluated: Mapping[str, Any] | None
) -> str:
    budget = budget_of(config)
    if budget is not None and config.train.regularizer_weight == "auto":
        end = _last_row(folder, BUDGET_LOG_NAME) or {}
        found = judge_budget(
            budget.delta,
            budget.unit,
            end["untouched_fall"],
            end["untouched_fall_se"],
            count=end["untouched"],
            of=budget.of,
            items=configured_relation(config).name,
            untouched=True,
        )
        return budget_sentence(found)
    if evaluated is None or budget is None:
        return ""
    rows = evaluated.get("kinds", {configured_relation(config).name: evaluated})
    sentences = [
        budget_sentence(
            judge_budget(
                budget.delta,
                budget.unit,
                row[budget.fall],
                row[f"{budget.fall}_se"],
                count=row[kind],
                items=kind,
            )
        )
        for kind, row in rows.items()
        # There is none where no answer is good.
        if row.get(budget.fall) is not None
    ]
    return " ".join(sentences)


def _hub_datasets(config: RunConfig) -> tuple[str, ...]:
    """The hub id of the items' data set, if they came from there."""
    paths = [
        str(source.options.get("path", ""))
        for source in config.items_entries.values()
        if source.name == "hub"
    ]
    return tuple(path for path in paths if not Path(path).exists())
