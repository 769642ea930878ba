"""From preference pairs to a trained model; the same code that the stage calls."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prefine.api.components import Model, model_component, validated
from prefine.api.reading import pairs_of
from prefine.config.sections import Component, RunConfig, TrainConfig
from prefine.records import PreferencePair
from prefine.run.config_changes import with_begun_defaults
from prefine.run.folder import RunFolder
from prefine.run.manifests import begun_config
from prefine.stages.inputs import readable_by_loss, with_loss_inputs
from prefine.stages.pair import held_out as held_out_prompts
from prefine.stages.pair import write_pairs
from prefine.stages.pair_options import holds_out_for_budget
from prefine.stages.stage_run import Progress, Silent
from prefine.stages.template_date import with_first_day

if TYPE_CHECKING:
    from prefine.training.relations.pair_rows import EvaluationRow, FinalFigures, StepRow


class Trained(NamedTuple):
    """A trained model: its folder for transformers, a row per step, and the figures at the end.

    `evaluations` has a row for each time that held-out pairs were evaluated.
    """

    path: Path
    steps: "tuple[StepRow, ...]"
    final: "FinalFigures"
    evaluations: "tuple[EvaluationRow, ...]" = ()


def train(
    policy: Model,
    pairs: Iterable[PreferencePair | Mapping[str, Any]],
    *,
    output_dir: str | Path,
    settings: TrainConfig | Mapping[str, Any] | None = None,
    held_out: "Iterable[PreferencePair | Mapping[str, Any]] | Literal['auto']" = "auto",
    progress: Progress | None = None,
) -> Trained:
    """Train a model on preference pairs.

    Called again with the same arguments, it resumes, or returns what is there.

    Args:
        policy: A hub id or folder, or a backend with weights as in YAML.
        pairs: From `make_pairs` or `read_pairs`, or rows of a known layout such as a
            `datasets.Dataset`.
        output_dir: Becomes a run folder: pairs, log, checkpoints, and the model in `model/`.
        settings: The section `train` of a configuration: loss, regularizer, adapter, learning_rate,
            ….
        held_out: Pairs of other prompts, as `pairs`, on which the fall of chosen answers and the
            accuracy are measured before and after training, and every `evaluate_every` steps.
            "auto" takes the pairs of 5 % of the prompts out of `pairs`, at least 32 and at most
            256 prompts; of fewer than 320 prompts, none. With `regularizer_weight: auto`, 10 % and
            128 to 512 prompts, never more than 20 %.
        progress: Receives how far it is.

    Raises:
        ConfigError: A setting is wrong, or the folder holds the run of another configuration.
        DataError: No pair can be trained on, or one is of answers to two prompts and the loss is
            not joint, or its prompt is held out.
        BackendError: An experiment tracker does not start.
        NumericsError: A loss or gradient is not finite.
        Interrupted: The user asked to stop; a checkpoint was saved.
    """
    from prefine.stages import train as stage

    config = RunConfig(
        run_dir=Path(output_dir),
        policy=model_component(policy, where="policy"),
        pairs=Component(name="given"),
        train=validated(TrainConfig, settings or {}, where="settings"),
    )
    config = with_first_day(with_begun_defaults(config, begun_config(config.run_dir)))

    def read(some: Iterable[PreferencePair | Mapping[str, Any]]) -> Iterator[PreferencePair]:
        return with_loss_inputs(readable_by_loss(pairs_of(some), config.train), config.train)

    with RunFolder(config.run_dir) as folder:
        folder.adopt_config(config.resolved())
        if held_out == "auto":
            found = list(read(pairs))
            apart = held_out_prompts(
                (pair.prompt.id for pair in found),
                config.pair,
                for_budget=holds_out_for_budget(config),
            )
            write_pairs(
                folder,
                (pair for pair in found if pair.prompt.id not in apart),
                (pair for pair in found if pair.prompt.id in apart),
            )
        else:
            write_pairs(folder, read(pairs), read(held_out))
        stage.run(config, folder, progress or Silent())
        return _trained(folder.path)


def _trained(folder: Path) -> Trained:
    from prefine.training.evaluation import EVALUATION_LOG_NAME
    from prefine.training.loop import FINAL_NAME, LOG_NAME
    from prefine.training.relations.pair_rows import EvaluationRow, FinalFigures, StepRow

    final = json.loads((folder / FINAL_NAME).read_text(encoding="utf-8"))["final"]
    return Trained(
        folder / "model",
        tuple(map(StepRow.model_validate_json, _lines(folder / LOG_NAME))),
        FinalFigures.model_validate(final),
        tuple(map(EvaluationRow.model_validate_json, _lines(folder / EVALUATION_LOG_NAME))),
    )


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines() if file.exists() else []
