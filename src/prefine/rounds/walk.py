"""Walk the rounds: each is an ordinary run, and what has ended is left as it is."""

import shutil
import time
from importlib.metadata import version

from prefine.atomic import disk_errors
from prefine.calls.engine import CallEngine
from prefine.errors import DataError
from prefine.records import Counts, Manifest, Usage
from prefine.rounds.check import has_ended
from prefine.rounds.configs import RoundsPlan
from prefine.rounds.figures import RoundFigures, best_so_far, measure, read_figures
from prefine.rounds.moved import follow_move
from prefine.rounds.page import write_page
from prefine.rounds.stopping import stopped_by
from prefine.run.folder import RunFolder
from prefine.run.manifests import read_manifests
from prefine.stages import origins
from prefine.stages.pipeline import run_all
from prefine.stages.stage_run import Progress


def run_rounds(rounds: RoundsPlan, progress: Progress) -> None:
    """Run every round to its end, in order; the same call again goes on where it was.

    The folder of all rounds has their configuration, and a manifest with one entry for each round
    that has begun.

    Args:
        rounds: The rounds, which were checked.
        progress: Is told which round runs.

    Raises:
        Interrupted: The user asked to stop.
        DataError: The model that a round begins with, or has to be measured by, is gone.
        PrefineError: As the stages say.
    """
    with RunFolder(rounds.config.run_dir) as parent:
        parent.adopt_config(rounds.config.resolved())
        walked: list[RoundFigures] = []
        for number in rounds.numbers:
            if not has_ended(rounds, number) or read_figures(rounds, number) is None:
                progress.say(f"round {number} of {rounds.settings.count}")
                _run(rounds, number, parent, progress)
            _drop_models(rounds, number)
            figures = read_figures(rounds, number)
            assert figures is not None, "measured by now"
            walked.append(figures)
            write_page(rounds)
            if rounds.name(number + 1) in parent.manifests():
                continue  # A round that has begun is not taken back.
            if (why := stopped_by(walked, rounds.settings.stop)) is not None:
                progress.say(why)
                break


def _run(rounds: RoundsPlan, number: int, parent: RunFolder, progress: Progress) -> None:
    """Run a round as far as it has not ended, and measure it."""
    config, began = rounds.config_of(number), time.monotonic()
    _link(parent, rounds, number, engine=None)
    if has_ended(rounds, number):
        _check_model_there(rounds, number, f"round {number} is measured anew with it")
    else:
        if number > 1:
            _check_model_there(rounds, number - 1, f"round {number} begins with it")
        with RunFolder(config.run_dir) as folder:
            follow_move(config)
            run_all(config, folder, progress)
    engine = measure(rounds, number, parent, progress)
    _link(parent, rounds, number, engine=engine, seconds=time.monotonic() - began)


def _check_model_there(rounds: RoundsPlan, number: int, why: str) -> None:
    """Check that the model of a round that has ended is there.

    Raises:
        DataError: It is not.
    """
    if not (model := rounds.folder(number) / "model").is_dir():
        raise DataError(
            f"{model}: this model is gone (rounds.keep_models: {rounds.settings.keep_models}), and "
            f"{why}; restore it, take back what has changed, or use another --run-dir"
        )


def _drop_models(rounds: RoundsPlan, number: int) -> None:
    """Delete what is not to be kept of the rounds before one that has ended."""
    keep = {number}
    if rounds.settings.keep_models == "all":
        return
    if rounds.settings.keep_models == "best":
        keep.add(best_so_far(rounds, number))
    for earlier in range(1, number):
        if earlier not in keep:
            for name in ("model", "checkpoints"):
                folder = rounds.folder(earlier) / name
                if folder.is_dir():
                    with disk_errors(folder):
                        shutil.rmtree(folder)


def _link(
    parent: RunFolder,
    rounds: RoundsPlan,
    number: int,
    *,
    engine: CallEngine | None,
    seconds: float = 0.0,
) -> None:
    """Write the entry of a round in the manifest of all: what it took and made.

    Its calls are those of its comparison with other rounds; the others are in its own manifest.
    """
    name = rounds.name(number)
    earlier = parent.manifests().get(name)
    stages = read_manifests(rounds.folder(number))
    sample, train = stages.get("sample"), stages.get("train")
    usage, replayed = Usage(), 0
    if earlier is not None:
        usage, replayed = earlier.usage, earlier.replayed
    if engine is not None:
        usage, replayed = engine.usage, engine.replayed
    parent.write_manifest(
        Manifest(
            stage=name,
            complete=has_ended(rounds, number) and read_figures(rounds, number) is not None,
            config={"rounds": rounds.config.resolved()["rounds"]},
            output_hashes={} if train is None else dict(train.output_hashes),
            code_version=version("prefine"),
            commit=origins.commit(),
            versions=origins.all_versions(),
            command=origins.command(),
            began_at=origins.now() if earlier is None else earlier.began_at,
            counts=Counts(
                taken=0 if sample is None else sample.counts.taken,
                produced=0 if train is None else train.counts.produced,
            ),
            usage=usage,
            replayed=replayed,
            wall_time_s=round(seconds + (0.0 if earlier is None else earlier.wall_time_s), 3),
            round=number,
        )
    )
