"""Run the trials of a sweep: what an earlier one has paid for is not paid for again."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import yaml

from prefine.atomic import write_text
from prefine.config.sections import RunConfig
from prefine.errors import BackendError, ConfigError, Interrupted, PrefineError
from prefine.run.config_changes import STAGE_SECTIONS, fingerprinted
from prefine.run.folder import RunFolder
from prefine.stages.check import Inputs, check
from prefine.stages.pipeline import run_all
from prefine.stages.stage_run import Progress
from prefine.stages.template_date import with_first_day
from prefine.sweep.trials import Sweep, Trial

_JOURNAL = "journal"
_OF_STEPS = (
    "regularizer_weight",
    "pairs_per_step",
    "epochs",
    "max_steps",
    "learning_rate",
    "schedule",
    "warmup_fraction",
    "decay_fraction",
    "weight_decay",
    "adam_betas",
    "max_grad_norm",
)
"""Settings of section `train` that say how steps are made."""


def check_all(sweep: Sweep) -> list[str]:
    """Check every trial before the first begins; return the notes on their inputs, each once.

    Raises:
        PrefineError: As `check`, with the trial's name.
    """
    notes: dict[str, None] = {}
    read: dict[str, Inputs] = {}
    for trial in sweep.trials:
        inputs = _input_settings(trial.config)
        try:
            read[inputs] = check(trial.config, read=read.get(inputs))
        except PrefineError as error:
            raise type(error)(f"{trial.name}: {error}") from error
        notes |= dict.fromkeys(read[inputs].notes)
    return list(notes)


def _input_settings(config: RunConfig) -> str:
    """The configuration without settings that no row of its inputs is read or checked by.

    Trials that differ in these alone read the same rows, which may be many.
    """
    resolved: Any = config.resolved()
    for section in (value for value in resolved.values() if isinstance(value, dict)):
        # A component has a name; the seed of a source says which rows it has.
        if "name" not in section:
            section.pop("seed", None)
    for name in _OF_STEPS:
        del resolved["train"][name]
    return json.dumps(resolved, sort_keys=True)


def run_trials(
    sweep: Sweep, progress: Progress, *, environments: Sequence[Mapping[str, str]] = ()
) -> None:
    """Run every trial to its end, in order; those that have ended are left as they are.

    A trial begins with the journal of the finished one that asked the most of the same questions,
    so that nothing is sampled or judged twice; the initial policy's log-probabilities are shared by
    the folder. With several environments the first trial runs alone, so that the others find its
    journal.

    Args:
        sweep: The trials.
        progress: Is told which trial runs; the output of processes of their own is in files.
        environments: As many trials run at a time, each in a process of its own with one of these
            environments, such as one that shows it a single GPU. With fewer than two, all trials
            run in this process.

    Raises:
        Interrupted: The user asked to stop.
        BackendError: A trial in a process of its own has failed; the others have ended.
        PrefineError: A trial failed in this process.
    """
    sweep.folder.mkdir(parents=True, exist_ok=True)
    done: list[Trial] = []
    alone = len(sweep.trials) if len(environments) < 2 else 1
    for number, trial in enumerate(sweep.trials[:alone], start=1):
        progress.say(f"trial {number} of {len(sweep.trials)}: {trial.name}")
        _copy_journal(trial, done)
        with RunFolder(trial.config.run_dir) as folder:
            run_all(with_first_day(trial.config), folder, progress)
        done.append(trial)
    if rest := sweep.trials[alone:]:
        _run_beside(sweep.folder, rest, done, progress, environments)


def _run_beside(
    folder: Path,
    trials: Sequence[Trial],
    done: Sequence[Trial],
    progress: Progress,
    environments: Sequence[Mapping[str, str]],
) -> None:
    """Run trials in processes of their own, each with an environment of its own."""
    failed: list[str] = []
    free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for environment in environments:
        free.put(environment)

    def work(trial: Trial) -> None:
        if progress.stopping or failed:
            return
        environment, began = free.get(), time.monotonic()
        try:
            _copy_journal(trial, done)
            code, log = _in_a_process(folder, trial, environment, progress)
        finally:
            free.put(environment)
        if code and not progress.stopping:
            failed.append(f"{trial.name} ended with exit code {code}; see {log}")
        elif not code:
            progress.say(f"{trial.name}: {time.monotonic() - began:.0f} s")

    with ThreadPoolExecutor(len(environments)) as pool:
        list(pool.map(work, trials))
    if progress.stopping:
        raise Interrupted("stopped; the same command goes on with the trials that are left")
    if failed:
        raise BackendError("; ".join(failed))


def _in_a_process(
    folder: Path, trial: Trial, environment: Mapping[str, str], progress: Progress
) -> tuple[int, Path]:
    """Run `prefine run` on a trial; return its exit code and the file of its output."""
    config, log = folder / f"{trial.name}.yaml", folder / f"{trial.name}.log"
    values: dict[str, Any] = {"run_dir": str(trial.config.run_dir), **trial.config.resolved()}
    write_text(config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    command = [sys.executable, "-m", "prefine", "run", str(config)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        while process.poll() is None:
            if progress.stopping:
                process.terminate()
                process.wait()
            time.sleep(0.1)
    return process.returncode, log


def _copy_journal(trial: Trial, done: Sequence[Trial]) -> None:
    """Give a trial that has not begun the journal of the one that asked most of the same."""
    target = trial.config.run_dir / _JOURNAL
    able = [other for other in done if (other.config.run_dir / _JOURNAL).is_dir()]
    if target.exists() or not able:
        return
    donor = max(able, key=lambda other: _shared_stages(trial.config, other.config))
    if (trial.config.run_dir / "manifest.json").exists():
        raise ConfigError(f"{trial.config.run_dir}: has a manifest and no journal; move it away")
    trial.config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Closed by its run, so that its files are whole; a copy that a kill cut short is made anew.
    partial = target.with_name(f"{_JOURNAL}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(donor.config.run_dir / _JOURNAL, partial)
    partial.rename(target)


def _shared_stages(one: RunConfig, other: RunConfig) -> int:
    """The number of stages from the first that two configurations have the same settings for."""
    mine, theirs = (fingerprinted(config.resolved()) for config in (one, other))
    count = 0
    for sections in STAGE_SECTIONS.values():
        if any(mine.get(name) != theirs.get(name) for name in sections):
            break
        count += 1
    return count
