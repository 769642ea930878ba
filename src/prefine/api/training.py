"""From preference pairs to a trained model; the same code that the stage calls."""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from prefine.api.arguments import explained
from prefine.api.components import Model, model_component, validated
from prefine.api.frames import Records
from prefine.api.progress import followed
from prefine.api.reading import PairsLike, pairs_of
from prefine.config.base import WeighedSource
from prefine.config.given import is_given
from prefine.config.named import components
from prefine.config.sections import RunConfig
from prefine.config.training import TrainConfig
from prefine.errors import DataError
from prefine.records import PreferencePair
from prefine.run.fetch import fetch_beginnings
from prefine.run.folder import RunFolder
from prefine.run.manifests import with_defaults_of_its_folder
from prefine.run.mirror import mirrored
from prefine.stages.inputs import readable_by_loss, with_loss_inputs
from prefine.stages.pair import held_out as held_out_prompts
from prefine.stages.pair import write_pairs
from prefine.stages.pipeline import run_stage
from prefine.stages.stage_run import Progress
from prefine.stages.template_date import with_first_day

if TYPE_CHECKING:
    from prefine.training.relations.pair_rows import EvaluationRow, FinalFigures, StepRow


class Trained(NamedTuple):
    """A trained model: its folder for transformers, a row per step, and the figures at the end.

    `evaluations` has a row for each time that held-out pairs were evaluated. The rows of a reward
    model are its own (`training.relations.reward_rows`).
    """

    path: Path
    steps: "Records[StepRow]"
    final: "FinalFigures"
    evaluations: "Records[EvaluationRow]"

    def __repr__(self) -> str:
        return (
            f"Trained(path={str(self.path)!r}, {len(self.steps):,} steps, "
            f"{len(self.evaluations)} evaluations: {self.final.headline})"
        )


@explained
def train(
    policy: Model,
    pairs: PairsLike,
    *,
    output_dir: str | Path,
    settings: TrainConfig | Mapping[str, Any] | None = None,
    held_out: "PairsLike | Literal['auto']" = "auto",
    progress: Progress | bool = True,
) -> Trained:
    """Train a model on preference pairs.

    Called again with the same arguments, it resumes, or returns what is there.

    Args:
        policy: A hub id or folder, or a backend with weights as in YAML.
        pairs: From `make_pairs`, or what `read_pairs` reads: a path, a DataFrame, a
            `datasets.Dataset`, a list of dicts.
        output_dir: Becomes a run folder: pairs, log, checkpoints, and the model in `model/`. Or the
            URL of one.
        settings: The section `train` of a configuration: loss, regularizer, adapter, learning_rate,
            …. A loss is a name, a mapping or a function of yours.
        held_out: Pairs of other prompts, as `pairs`, on which the fall of chosen answers and the
            accuracy are measured before and after training, and every `evaluate_every` steps.
            "auto" takes the pairs of 5 % of the prompts out of `pairs`, at least 32 and at most
            256 prompts; of fewer than 320 prompts, none. With `regularizer_weight: auto`, 10 % and
            128 to 512 prompts, never more than 20 %.
        progress: False shows no progress; an object receives it instead.

    Raises:
        ConfigError: A setting is wrong, or the folder holds the run of another configuration.
        DataError: No pair can be trained on, or one is of answers to two prompts and the loss is
            not joint, or its prompt is held out.
        BackendError: An experiment tracker does not start.
        NumericsError: A loss or gradient is not finite.
        Interrupted: The user asked to stop; a checkpoint was saved.
    """
    config = RunConfig(
        run_dir=Path(output_dir),
        policy=model_component(policy, where="policy"),
        pairs=WeighedSource(name="given"),
        train=validated(TrainConfig, settings or {}, where="settings"),
    )
    if config.storage is not None:
        fetch_beginnings(config.run_dir, config.storage)
    config = with_first_day(with_defaults_of_its_folder(config))

    for name in _given(config):
        warnings.warn(
            f"{name} is no function that can be imported: only a call that gives it again can "
            "resume this run. In a module of its own every process finds it",
            stacklevel=3,
        )

    def read(some: PairsLike) -> Iterator[PreferencePair]:
        return with_loss_inputs(readable_by_loss(pairs_of(some), config.train), config.train)

    def say(text: str) -> None:
        warnings.warn(text, stacklevel=4)

    with mirrored(config.run_dir, config.storage, say), RunFolder(config.run_dir) as folder:
        folder.adopt_config(config.resolved())
        if held_out == "auto":
            found = list(read(pairs))
            if not found:
                raise DataError("pairs: there are none to train on")
            apart = held_out_prompts((pair.prompt.id for pair in found), config)
            write_pairs(
                folder,
                (pair for pair in found if pair.prompt.id not in apart),
                (pair for pair in found if pair.prompt.id in apart),
            )
        else:
            write_pairs(folder, read(pairs), read(held_out))
        with followed(progress) as shown:
            run_stage("train", config, folder, shown)
        return _trained(config)


def _given(config: RunConfig) -> list[str]:
    """Return the functions of a configuration that only this process knows."""
    named = ((path, component.name) for path, _, component in components(config))
    return [f"{path} {name!r}" for path, name in named if is_given(name)]


def _trained(config: RunConfig) -> Trained:
    from prefine.stages.training_inputs import configured_relation
    from prefine.training.logging.figures import EVALUATION_LOG_NAME, FINAL_NAME, LOG_NAME

    folder, relation = config.run_dir, configured_relation(config)
    final = json.loads((folder / FINAL_NAME).read_text(encoding="utf-8"))["final"]
    steps, evaluations = (
        cast("type[StepRow]", relation.step_row),
        cast("type[EvaluationRow]", relation.evaluation_row),
    )
    return Trained(
        folder / "model",
        Records(map(steps.model_validate_json, _lines(folder / LOG_NAME))),
        cast("FinalFigures", relation.final_row.model_validate(final)),
        Records(map(evaluations.model_validate_json, _lines(folder / EVALUATION_LOG_NAME))),
    )


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines() if file.exists() else []
