"""The command line: the only place that prints, exits and reads the environment."""

import atexit
import gc
import json
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefine.cli.ending import complain, guarded, leave_threads, visible
from prefine.cli.groups import STAGE, AlongTheRoad, StageUnlessNamed
from prefine.cli.openmp import choose_waiting
from prefine.cli.processes import launched, leave, refuse_several, train_together
from prefine.errors import Interrupted

if TYPE_CHECKING:
    from prefine.config.sections import RunConfig
    from prefine.records import Manifest
    from prefine.run.folder import RunFolder

app = typer.Typer(
    name="prefine",
    cls=AlongTheRoad,
    help="Preference optimization, end to end: sample, rank, pair, train, evaluate, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")
app.add_typer(config_app, name="config")

evaluate_app = typer.Typer(cls=StageUnlessNamed, subcommand_metavar="CONFIG | annotations FILE...")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML configuration.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, e.g. train.loss.beta=0.05."
    ),
]
RunDir = Annotated[
    str | None, typer.Option("--run-dir", metavar="DIR", help="Where the run lives.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse rows that are empty, repeated, ties or too long, instead of counting.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything and print the plan; do nothing.")
]


def main() -> None:
    """Entry point of the `prefine` command."""
    choose_waiting(os.environ)
    # More than 2 of the 9 seconds of a tiny training were Python's collector, which looks for
    # cycles again and again among the modules that are loaded, and once more among all of them at
    # the end.
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)
    # What libraries will change in their next version is for us to act on, not for who runs the
    # command.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\.")
    # A user's `my_module:my_function` is looked for where the command is run, as `python -m` does,
    # after all else.
    sys.path.append(os.getcwd())
    code = guarded(lambda: app(standalone_mode=False))
    leave(code)
    if code == Interrupted.exit_code:
        leave_threads(code)
    sys.exit(code)


def _load(path: Path, overrides: list[str] | None, run_dir: str | None) -> "RunConfig":
    from prefine.config.yaml import load

    return load(path, overrides=overrides or (), run_dir=run_dir)


@app.command()
def run(
    config: ConfigPath,
    set_: Overrides = None,
    run_dir: RunDir = None,
    dry_run: DryRun = False,
    strict: Strict = False,
    json_: AsJson = False,
) -> None:
    """Walk the whole road, from whatever the configuration starts with to the report.

    Run the same command again to resume: a call whose answer was journaled is never repeated.
    """
    loaded = _load(config, set_, run_dir)
    if dry_run:
        _print_plan(loaded, strict)
        return
    _walk(loaded, json_, strict=strict)


@app.command()
def demo(
    run_dir: Annotated[
        str, typer.Option("--run-dir", metavar="DIR", help="Where the run lives.")
    ] = "runs/demo",
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Make the embedded playground model measurably better, on this machine, without any download.

    A few minutes on two CPU cores. `--json` prints win_rate, interval, chosen_fall, delta, seconds
    and report.
    """
    from importlib.resources import files

    _walk(
        _load(Path(str(files("prefine.playground") / "demo.yaml")), set_, run_dir), json_, demo=True
    )


def _stage_command(stage: str, text: str) -> None:
    def command(
        config: ConfigPath, set_: Overrides = None, run_dir: RunDir = None, json_: AsJson = False
    ) -> None:
        _run_stage(stage, config, set_, run_dir, json_)

    def reading_command(
        config: ConfigPath,
        set_: Overrides = None,
        run_dir: RunDir = None,
        strict: Strict = False,
        json_: AsJson = False,
    ) -> None:
        _run_stage(stage, config, set_, run_dir, json_, strict=strict)

    chosen = reading_command if stage in _READING else command
    chosen.__doc__ = text
    if stage == "evaluate":
        evaluate_app.command(name=STAGE, hidden=True)(chosen)
        more = (
            "Or print the metrics of public annotation files. `prefine evaluate stage -h` has "
            "the stage's options."
        )
        app.add_typer(
            evaluate_app,
            name=stage,
            help=f"{text} {more}",
            short_help=f"{text} Or measure public files.",
        )
    else:
        app.command(name=stage)(chosen)


def _run_stage(
    stage: str,
    config: Path,
    set_: list[str] | None,
    run_dir: str | None,
    json_: bool,
    *,
    strict: bool = False,
) -> None:
    from prefine.cli.progress import RichProgress
    from prefine.stages.check import check
    from prefine.stages.pipeline import run_stage

    def walk(loaded: "RunConfig") -> None:
        if strict:
            check(loaded, strict=True, through=stage)
        with _folder(loaded) as folder, RichProgress() as progress:
            manifest = run_stage(stage, loaded, folder, progress)
        _print_manifests([manifest], json_)

    def load() -> "RunConfig":
        return _load(config, set_, run_dir)

    if stage == "train" and launched():
        train_together(load, walk)
        return
    refuse_several(f"prefine {stage}")
    walk(load())


# The stages that read users' rows.
_READING = ("sample", "pair", "evaluate")


for _stage, _text in (
    ("sample", "Sample completions, or import existing ones."),
    ("rank", "Rank each prompt's completions by the judge."),
    ("pair", "Select preference pairs from the rankings; asks no judge."),
    ("train", "Train the policy on the pairs."),
    ("evaluate", "Compare the trained model with its baseline."),
    ("report", "Write report.html from what the run folder holds."),
):
    _stage_command(_stage, _text)


@evaluate_app.command("annotations")
def evaluate_annotations(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Files, or folders of parts.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind", metavar="NAME", help="What the files are, instead of by themselves."
        ),
    ] = None,
    outputs: Annotated[
        Path | None,
        typer.Option(
            "--outputs", metavar="FILE", help="AlpacaEval: the model's model_outputs.json."
        ),
    ] = None,
    baseline_outputs: Annotated[
        Path | None,
        typer.Option("--baseline-outputs", metavar="FILE", help="AlpacaEval: the baseline's."),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibration",
            metavar="FOLDER",
            help="AlpacaEval: of length control; or two files, two times.",
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Print the metrics of public files: AlpacaEval, Arena-Hard, LLMBar, RewardBench, or judgments of ours.

    The kind is recognised from the first row. `--json` prints {"files": [...]}, each with file,
    kind and parts, a part of each model or judge with its metrics and notes.
    """
    from prefine.cli.annotations import as_json, as_text, figures

    found = figures(
        files,
        kind=kind,
        outputs=outputs,
        baseline_outputs=baseline_outputs,
        calibration=calibration or (),
    )
    if json_:
        typer.echo(as_json(found))
    else:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
        typer.echo(visible(as_text(found, columns=columns)))


@app.command(name="import")
def import_(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Files, patterns or folders; or one hub:org/name."),
    ],
    entry: Annotated[
        str, typer.Option("--as", metavar="ENTRY", help="prompts, completions or pairs.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The JSON Lines file to write.")
    ],
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout", metavar="NAME", help="How the rows are laid out, instead of by itself."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="OURS=THEIRS", help="A column that is called otherwise."),
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option("--questions", metavar="FILE", help="The questions of Arena-Hard answers."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", help="Of the files, when the ending does not say it."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Which split of a hub data set.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="NAME", help="Which configuration of it.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="COMMIT", help="Which commit or tag of it.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", metavar="DIR", help="Which folder of it.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Take the first prompts or pairs.")
    ] = None,
    strict: Strict = False,
) -> None:
    """Convert data of any known layout to JSON Lines in our own columns."""
    from prefine.cli.importing import convert

    options = {
        **{
            "layout": layout,
            "columns": columns,
            "questions": questions,
            "format": format_,
            "limit": limit,
        },
        **{"split": split, "config": config, "revision": revision, "data_dir": data_dir},
    }
    for line in convert(inputs, entry, out, options, strict=strict):
        typer.echo(visible(line))


@app.command()
def simulate(
    completions: Annotated[
        int, typer.Option("--completions", metavar="M", help="Completions per prompt.")
    ] = 8,
    accuracy: Annotated[
        float,
        typer.Option(
            help="How often the judge is right about two random completions, without its bias."
        ),
    ] = 0.75,
    first_slot_bias: Annotated[
        float, typer.Option(help="What the first slot adds, in sd of the noise.")
    ] = 0.5,
    order_noise: Annotated[
        float, typer.Option(help="Share of the noise that another order draws anew.")
    ] = 0.5,
    verdicts: Annotated[
        str, typer.Option(metavar="hard|soft", help="One of the two, or a probability.")
    ] = "hard",
    price: Annotated[float, typer.Option(help="Of a call that compares.")] = 1.0,
    rating_price: Annotated[
        float | None,
        typer.Option(help="Of a call that rates one completion; the same if not given."),
    ] = None,
    worlds: Annotated[
        int, typer.Option(help="Simulated prompts, the same for every strategy.")
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Of the simulated prompts.")] = 0,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,…]", help="Compare these (repeat it) instead of all of them."
        ),
    ] = None,
    max_calls: Annotated[
        float | None, typer.Option(help="Recommend within so many calls per prompt.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Recommend within such a cost per prompt.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a plot of cost against regret."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Choose a ranking strategy before paying for it: what each takes and finds, with a judge like yours.

    `--json` prints {"strategies": [...]}, each with strategy, order, calls, regret, p_best, gap (of
    the selector with the widest pairs; all of them in gaps), standard_errors, frontier and
    recommended.
    """
    from prefine.cli.simulate import as_json, as_text, run, write_plot

    options = {
        **{"completions": completions, "accuracy": accuracy, "first_slot_bias": first_slot_bias},
        **{
            "order_noise": order_noise,
            "verdicts": verdicts,
            "price": price,
            "rating_price": rating_price,
        },
        **{
            "worlds": worlds,
            "seed": seed,
            "strategy": strategy,
            "max_calls": max_calls,
            "max_cost": max_cost,
        },
        "html": html,
    }
    simulation = run(options)
    if json_:
        typer.echo(as_json(simulation))
    else:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
        typer.echo(visible(as_text(simulation, options, columns=columns)))
    if html is not None:
        write_plot(simulation, options, html)
        if not json_:
            typer.echo(f"\nplot: {html}")


@app.command()
def losses(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One of them, or module:function of your own."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """List the losses and regularizers, or print all about one: formula, options, what it does to each answer."""
    from prefine.cli.losses import as_json, as_list, as_text, read

    cards = read(name)
    if json_:
        typer.echo(as_json(cards, one=name is not None))
        return
    # What another program reads has a row for each, however long.
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo(visible(as_list(cards, columns) if name is None else as_text(cards[0], columns)))


@config_app.command("check")
def config_check(
    config: ConfigPath, set_: Overrides = None, run_dir: RunDir = None, strict: Strict = False
) -> None:
    """Check a configuration: every key, every component and its options, every input that is on disk."""
    from prefine.stages.check import check

    for note in check(_load(config, set_, run_dir), strict=strict).notes:
        typer.echo(visible(note))
    typer.echo("ok")


@config_app.command("show")
def config_show(config: ConfigPath, set_: Overrides = None, run_dir: RunDir = None) -> None:
    """Print the whole configuration, defaults filled in."""
    import yaml

    loaded = _load(config, set_, run_dir)
    values = {"run_dir": str(loaded.run_dir), **loaded.resolved()}
    typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a configuration, for editors."""
    from prefine.config.sections import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=1))


def _version(value: bool) -> None:
    if value:
        from prefine import __version__

        typer.echo(f"prefine {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def _folder(config: "RunConfig") -> "RunFolder":
    from prefine.run.folder import RunFolder

    folder = RunFolder(config.run_dir)
    try:
        folder.adopt_config(config.resolved())
    except BaseException:
        folder.__exit__()
        raise
    return folder


def _walk(config: "RunConfig", as_json: bool, *, strict: bool = False, demo: bool = False) -> None:
    from prefine.cli.progress import RichProgress
    from prefine.stages.check import check
    from prefine.stages.pipeline import run_stage, stages_of

    refuse_several("prefine demo" if demo else "prefine run")
    began = time.monotonic()
    for note in check(config, strict=strict).notes:
        complain(note)
    with _folder(config) as folder:
        with RichProgress() as progress:
            manifests = [run_stage(stage, config, folder, progress) for stage in stages_of(config)]
        seconds = max(time.monotonic() - began, sum(manifest.wall_time_s for manifest in manifests))
        _print_result(config, folder, manifests, seconds, as_json, demo=demo)


def _print_plan(config: "RunConfig", strict: bool) -> None:
    from prefine.stages.pipeline import stages_of
    from prefine.stages.plan import plan

    made = plan(config, strict=strict)
    width = max(len(name) for name, _ in made.lines)
    typer.echo(f"stages: {' → '.join(stages_of(config))}")
    typer.echo(f"folder: {config.run_dir}")
    for name, amount in made.lines:
        typer.echo(f"{name:<{width}}  {amount:>12}")
    for note in made.notes:
        typer.echo(visible(note))
    for name in made.imports:
        typer.echo(f"imports your code: {name}")


def _print_manifests(manifests: "list[Manifest]", as_json: bool) -> None:
    if as_json:
        typer.echo(
            json.dumps(
                [manifest.model_dump(mode="json") for manifest in manifests], ensure_ascii=False
            )
        )
        return
    for manifest in manifests:
        asides = [
            f"{count:,} {why.replace('_', ' ')}"
            for why, count in (manifest.counts.failed | manifest.counts.dropped).items()
        ]
        if manifest.usage.cost:
            asides.append(f"{manifest.usage.calls:,} calls, cost {manifest.usage.cost:.4g}")
        typer.echo(
            f"{manifest.stage:<9} {manifest.counts.taken:>7,} → {manifest.counts.produced:>7,}"
            f"  {manifest.wall_time_s:7.1f} s"
            + (f"  ({visible(', '.join(asides))})" if asides else "")
        )
        # What was set aside has been said before the run.
        for note in (note for note in manifest.notes if not note.startswith("set aside")):
            typer.echo(f"          {visible(note)}")


def _print_result(
    config: "RunConfig",
    folder: "RunFolder",
    manifests: "list[Manifest]",
    seconds: float,
    as_json: bool,
    *,
    demo: bool,
) -> None:
    from prefine.stages.pipeline import lines_of, result_of

    result = result_of(config, folder, seconds)
    if as_json:
        keys = (
            {"win_rate", "interval", "chosen_fall", "delta", "seconds", "report"} if demo else None
        )
        typer.echo(json.dumps(result.model_dump(mode="json", include=keys), ensure_ascii=False))
        return
    _print_manifests(manifests, False)
    typer.echo("")
    for line in lines_of(result):
        typer.echo(line)
    typer.echo(f"\nreport: {result.report}")
