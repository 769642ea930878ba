"""Commands besides the pipeline: import, simulate, losses."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from prefine.cli.ending import terminal_columns, visible
from prefine.cli.options import AsJson, Strict
from prefine.errors import ConfigError


def import_data(
    inputs: Annotated[
        list[str],
        Argument(metavar="INPUT...", help="Files, patterns or folders; or one hub:org/name."),
    ],
    entry: Annotated[str, Option("--as", metavar="ENTRY", help="prompts, completions or pairs.")],
    out: Annotated[Path, Option(metavar="FILE", help="The JSON Lines file to write.")],
    layout: Annotated[
        str | None,
        Option(metavar="NAME", help="How the rows are laid out, instead of by itself."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        Option(metavar="OURS=THEIRS", help="A column that is called otherwise."),
    ] = None,
    questions: Annotated[
        str | None,
        Option(metavar="FILE", help="The questions of Arena-Hard answers."),
    ] = None,
    format_: Annotated[
        str | None,
        Option("--format", metavar="NAME", help="Of the files, when the ending does not say it."),
    ] = None,
    split: Annotated[
        str | None, Option(metavar="NAME", help="Which split of a hub data set.")
    ] = None,
    config: Annotated[str | None, Option(metavar="NAME", help="Which configuration of it.")] = None,
    revision: Annotated[
        str | None, Option(metavar="COMMIT", help="Which commit or tag of it.")
    ] = None,
    data_dir: Annotated[str | None, Option(metavar="DIR", help="Which folder of it.")] = None,
    limit: Annotated[
        int | None, Option(metavar="N", help="Take the first prompts or pairs.")
    ] = None,
    strict: Strict = False,
) -> None:
    """Convert data of any known layout to JSON Lines in our own columns."""
    options = dict(locals(), format=format_)
    from prefine.cli.importing import convert

    for name in ("inputs", "entry", "out", "strict", "format_"):
        del options[name]
    for line in convert(inputs, entry, out, options, strict=strict):
        typer.echo(visible(line))


def simulate(
    completions: Annotated[
        list[int] | None,
        Option(metavar="M", help="Completions per prompt, 8 if not given; repeat it to choose M."),
    ] = None,
    accuracy: Annotated[
        float,
        Option(help="How often the judge is right about two random completions, without its bias."),
    ] = 0.75,
    first_slot_bias: Annotated[
        float, Option(help="What the first slot adds, in sd of the noise.")
    ] = 0.5,
    order_noise: Annotated[
        float, Option(help="Share of the noise that another order draws anew.")
    ] = 0.5,
    verdicts: Annotated[
        str, Option(metavar="hard|soft", help="One of the two, or a probability.")
    ] = "hard",
    price: Annotated[float, Option(help="Of a call that compares.")] = 1.0,
    rating_price: Annotated[
        float | None,
        Option(help="Of a call that rates one completion; the same if not given."),
    ] = None,
    answer_price: Annotated[
        float, Option(help="Of sampling one answer, where several M are compared.")
    ] = 0.0,
    worlds: Annotated[int, Option(help="Simulated prompts, the same for every strategy.")] = 2000,
    seed: Annotated[int, Option(help="Of the simulated prompts.")] = 0,
    strategy: Annotated[
        list[str] | None,
        Option(
            metavar="NAME[:KEY=VALUE,…]", help="Compare these (repeat it) instead of all of them."
        ),
    ] = None,
    max_calls: Annotated[
        float | None, Option(help="Recommend within so many calls per prompt.")
    ] = None,
    max_cost: Annotated[
        float | None, Option(help="Recommend within such a cost per prompt.")
    ] = None,
    html: Annotated[
        Path | None,
        Option(metavar="FILE", help="Write a plot of cost against regret."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Compare ranking strategies on simulated prompts: calls, cost and quality of each.

    `--json` prints {"strategies": [...]}, each with strategy, order, calls, winner, regret, p_best,
    gap (of the selector with the widest pairs; all of them in gaps), standard_errors, frontier and
    recommended; for several M {"completions": [...]}, each with completions and strategies.
    """
    options = dict(locals())
    from prefine.cli import simulate_sizes
    from prefine.cli.simulate import as_json, as_text, run, write_plot

    columns = terminal_columns() or 100
    numbers = sorted(set(completions or [8]))
    if len(numbers) > 1:
        if html is not None:
            raise ConfigError("--html: the plot is of one number of completions; give one")
        simulations = {m: run({**options, "completions": m}) for m in numbers}
        if json_:
            typer.echo(simulate_sizes.as_json(simulations))
        else:
            typer.echo(visible(simulate_sizes.as_text(simulations, options, columns=columns)))
        return
    options["completions"] = numbers[0]
    simulation = run(options)
    if json_:
        typer.echo(as_json(simulation))
    else:
        typer.echo(visible(as_text(simulation, options, columns=columns)))
    if html is not None:
        write_plot(simulation, options, html)
        if not json_:
            typer.echo(f"\nplot: {html}")


def losses(
    name: Annotated[
        str | None,
        Argument(metavar="[NAME]", help="One of them, or module:function of your own."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """List losses and regularizers, or print all about one: formula, options, gradients."""
    try:
        from prefine.cli.losses import as_json, as_list, as_text
        from prefine.losses.cards.catalogue import card, cards
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"losses need the package {error.name!r}; install prefine[train]"
        ) from error
    found = cards() if name is None else [card(name)]
    if json_:
        typer.echo(as_json(found, one=name is not None))
        return
    # What another program reads has a row for each, however long.
    columns = terminal_columns()
    typer.echo(visible(as_list(found, columns) if name is None else as_text(found[0], columns)))
