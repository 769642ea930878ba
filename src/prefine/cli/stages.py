"""The commands of single stages."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from prefine.cli.options import (
    AsJson,
    ConfigPath,
    Overrides,
    RunDir,
    Strict,
    kept_at_its_url,
    load_config,
)
from prefine.cli.processes import launched, refuse_others, refuse_several, train_together
from prefine.cli.run import print_manifests

if TYPE_CHECKING:
    from prefine.config.sections import RunConfig

_READS_ROWS = ("sample", "pair", "evaluate")


def _stage_command(stage: str, text: str) -> Callable[..., None]:
    """Return the command of a stage; `text` is its help."""

    def command(
        config: ConfigPath, set_: Overrides = None, run_dir: RunDir = None, json_: AsJson = False
    ) -> None:
        _run_one(stage, config, set_, run_dir, json_)

    def strict_command(
        config: ConfigPath,
        set_: Overrides = None,
        run_dir: RunDir = None,
        strict: Strict = False,
        json_: AsJson = False,
    ) -> None:
        _run_one(stage, config, set_, run_dir, json_, strict=strict)

    made = strict_command if stage in _READS_ROWS else command
    made.__doc__ = text
    return made


sample = _stage_command("sample", "Sample completions, or import existing ones.")
rank = _stage_command("rank", "Rank each prompt's completions by the judge.")
pair = _stage_command("pair", "Select preference pairs from the rankings; asks no judge.")
bridge = _stage_command(
    "bridge", "Rewrite rejected answers towards the chosen ones; asks a model and a judge."
)
train = _stage_command("train", "Train the policy on the pairs.")
evaluate = _stage_command("evaluate", "Compare the trained model with its baseline.")
report = _stage_command("report", "Write report.html from what the run folder holds.")


def _run_one(
    stage: str,
    config: str,
    overrides: list[str] | None,
    run_dir: str | None,
    as_json: bool,
    *,
    strict: bool = False,
) -> None:
    from prefine.api.progress import ShownProgress
    from prefine.run.config_changes import STAGE_SECTIONS
    from prefine.run.folder import RunFolder
    from prefine.stages.check import check
    from prefine.stages.pipeline import refuse_rounds, run_stage
    from prefine.stages.template_date import with_first_day

    def lead(loaded: "RunConfig") -> None:
        refuse_rounds(loaded)
        if stage == "report" and loaded.storage is not None:
            _report_at_its_url(loaded, as_json)
            return
        if strict:
            check(loaded, strict=True, through=stage)
        with kept_at_its_url(loaded), RunFolder(loaded.run_dir) as folder:
            folder.adopt_config(loaded.resolved())
            with ShownProgress() as progress:
                manifest = run_stage(stage, loaded, folder, progress)
        print_manifests([manifest], as_json)

    def load() -> "RunConfig":
        loaded = load_config(config, overrides, run_dir)
        # Other stages need no model, and finding out takes a second.
        return with_first_day(loaded) if "policy" in STAGE_SECTIONS[stage] else loaded

    if stage == "train":
        refuse_others()
    if stage == "train" and launched():
        train_together(load, lead)
    else:
        refuse_several(f"prefine {stage}")
        lead(load())


def _report_at_its_url(config: "RunConfig", as_json: bool) -> None:
    """Write the report of a run at a URL from a copy, and put the page there; another may work."""
    from prefine.api.progress import ShownProgress
    from prefine.run.fetch import fetched
    from prefine.run.folder import RunFolder
    from prefine.run.remote import Remote
    from prefine.stages.pipeline import run_stage

    storage = config.storage
    assert storage is not None and storage.url is not None
    copy = config.model_copy(
        update={"run_dir": fetched(storage.url, options=storage.options), "storage": None}
    )
    with RunFolder(copy.run_dir) as folder, ShownProgress() as progress:
        manifest = run_stage("report", copy, folder, progress)
    page = copy.run_dir / "report.html"
    Remote(storage.url, storage.options).upload(page, page.name)
    print_manifests([manifest], as_json)
