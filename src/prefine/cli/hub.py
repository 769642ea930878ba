"""The commands `push` and `pull`: runs on the Hugging Face hub."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from prefine.cli.ending import visible
from prefine.cli.options import AsJson, place_to_read

if TYPE_CHECKING:
    from prefine.hub.push import Prepared


def push(
    run: Annotated[str, Argument(metavar="RUN", help="A run folder or its URL.")],
    repo: Annotated[
        str,
        Option(metavar="OWNER/NAME", help="Of a model, and of a data set for the pairs."),
    ],
    what: Annotated[
        str, Option(metavar="WHAT", help="model, pairs, report; several with commas.")
    ] = "model,pairs,report",
    public: Annotated[
        bool, Option("--public", help="Make new repositories readable by everybody.")
    ] = False,
    license_: Annotated[
        str | None,
        Option("--license", metavar="ID", help="Of what is published, such as apache-2.0."),
    ] = None,
    base_model: Annotated[
        str | None,
        Option(metavar="OWNER/NAME", help="The base model on the hub, if the run has a folder."),
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check everything, print files and cards; send nothing.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Publish a run's model, pairs and report on the Hugging Face hub, private by default.

    The pairs (or lists, or labels) go to the data set of the same name. Keys, journals and paths of
    this machine are never published. The token is that of HF_TOKEN or of `hf auth login`, the hub
    that of HF_ENDPOINT. `--json` prints repositories, each with type, files and card, and
    rewritten, licences and urls.
    """
    from prefine.hub.client import check_repo_id
    from prefine.hub.contents import parse_what
    from prefine.hub.push import prepare
    from prefine.hub.push import push as send

    check_repo_id(repo, "--repo")
    if base_model is not None:
        check_repo_id(base_model, "--base-model")
    _check_licence(license_)
    folder = place_to_read(run, model=True)
    prepared = prepare(folder, parse_what(what), repo=repo, licence=license_, base_model=base_model)
    if not json_:
        _print(prepared, cards=dry_run)
    urls = [] if dry_run else send(prepared, repo, public=public)
    if json_:
        typer.echo(json.dumps(_values(prepared, urls), ensure_ascii=False))
    elif dry_run:
        typer.echo("nothing was sent (--dry-run)")
    for url in urls if not json_ else ():
        typer.echo(f"pushed to {url}")


def pull(
    repo: Annotated[str, Argument(metavar="OWNER/NAME", help="What `prefine push` was given.")],
    to: Annotated[
        Path | None, Option(metavar="FOLDER", help="Where to put it; the NAME if not given.")
    ] = None,
    revision: Annotated[str | None, Option(metavar="COMMIT", help="Or a branch or tag.")] = None,
    json_: AsJson = False,
) -> None:
    """Fetch a model and pairs that were pushed, checked byte for byte, and say how to go on.

    `--json` prints a list, each with type, folder, commit, files and the configuration's lines.
    """
    from prefine.hub.client import check_repo_id
    from prefine.hub.pull import pull as fetch

    check_repo_id(repo, "OWNER/NAME")
    found = fetch(repo, to or Path(repo.rpartition("/")[2]), revision=revision)
    if json_:
        rows = [{**vars(one), "folder": str(one.folder), "lines": list(one.lines)} for one in found]
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"{one.folder}: {one.files} files, as they were pushed (commit {one.commit})")
    typer.echo("to go on from it, a configuration says:")
    for line in [line for one in found for line in one.lines]:
        typer.echo(f"  {visible(line)}")


def _check_licence(licence: str | None) -> None:
    import re

    from prefine.errors import ConfigError

    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise ConfigError(
            f"--license {licence}: expected an identifier of the hub, such as apache-2.0, mit, "
            "cc-by-4.0, other or unknown"
        )


def _print(prepared: "Prepared", *, cards: bool) -> None:
    for one in prepared.repositories:
        total = sum(file.size for file in one.files)
        typer.echo(f"{one.type}: {len(one.files)} files, {total:,} bytes")
        for file in sorted(one.files, key=lambda file: file.name):
            typer.echo(f"  {file.size:>13,}  {visible(file.name)}")
    for line in prepared.rewritten:
        typer.echo(f"rewritten: {visible(line)}")
    for type_ in prepared.without_licence:
        typer.echo(f"licence of the {type_}: unknown; publishing asks for --license")
    for one, card in zip(prepared.repositories, prepared.cards(), strict=True):
        if cards:
            typer.echo(f"\n--- card of the {one.type} ---\n{visible(card)}")


def _values(prepared: "Prepared", urls: list[str]) -> dict[str, object]:
    return {
        "repositories": [
            {
                "type": one.type,
                "files": {file.name: file.size for file in one.files},
                "card": card,
            }
            for one, card in zip(prepared.repositories, prepared.cards(), strict=True)
        ],
        "rewritten": list(prepared.rewritten),
        "licences": vars(prepared.licences),
        "urls": urls,
    }
