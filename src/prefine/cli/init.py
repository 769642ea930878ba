"""`prefine init`: a first configuration, from a user's files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from prefine.cli.ending import visible
from prefine.errors import ConfigError

if TYPE_CHECKING:
    from prefine.cli.draft import JudgeServer


def init(
    data: Annotated[
        str,
        Argument(metavar="DATA", help="Pairs, completions or prompts: a file, or hub:org/name."),
    ],
    policy: Annotated[
        str,
        Option(
            metavar="MODEL",
            help="What is trained: a model folder, a hub id, or playground (ships with prefine).",
        ),
    ],
    server: Annotated[
        str | None,
        Option(metavar="URL", help="A server with an OpenAI-compatible API, up to /v1: the judge."),
    ] = None,
    judge_model: Annotated[
        str | None,
        Option(metavar="NAME", help="The judge's name at the server, if it has several models."),
    ] = None,
    api_key_env: Annotated[
        str | None, Option(metavar="VARIABLE", help="The variable that holds the server's key.")
    ] = None,
    reward: Annotated[
        str | None,
        Option(metavar="MODEL", help="A reward model's folder or hub id, or your module:function."),
    ] = None,
    eval_prompts: Annotated[
        str | None, Option(metavar="FILE", help="Prompts for a win rate; not among those of DATA.")
    ] = None,
    out: Annotated[Path, Option(metavar="FILE", help="The configuration to write.")] = Path(
        "prefine.yaml"
    ),
) -> None:
    """Write a commented configuration for data that you have; it runs as it is.

    What the data are, how long they are and what the model needs is read from the files, a server
    is asked which models it has.
    """
    from prefine.cli.draft import FirstConfig, text_of
    from prefine.cli.draft_facts import data_facts, model_facts, reward_positions
    from prefine.config.yaml import load

    if out.exists():
        raise ConfigError(f"--out {out}: exists already; give another file, or move it away")
    if server is not None and reward is not None:
        raise ConfigError("--server and --reward: both name a judge; give one of them")
    facts = data_facts(data)
    if facts.entry == "pairs" and (server or reward):
        raise ConfigError(
            f"{data}: these are pairs, which need no judge; leave --server and --reward"
        )
    if facts.entry != "pairs" and not facts.graded and not (server or reward):
        raise ConfigError(
            f"{data}: these are {facts.entry}; somebody has to say which answers are better: give "
            "--server URL, --reward MODEL or --reward my_module:my_function"
        )
    draft = FirstConfig(
        run_dir=f"runs/{out.stem}",
        policy=policy,
        data=facts,
        model=model_facts(policy, facts.sample),
        server=None if server is None else _server(server, policy, judge_model, api_key_env),
        reward=reward,
        reward_positions=None if reward is None else reward_positions(reward),
        evaluation=eval_prompts,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text_of(draft), encoding="utf-8")
    load(out)
    more = "" if facts.whole else f" among the first {facts.count:,} rows"
    unit = "prompts with completions" if facts.entry == "completions" else facts.entry
    typer.echo(visible(f"{data}: {facts.count:,} {unit}{more}, layout {facts.layout}"))
    for note in facts.notes:
        typer.echo(visible(note))
    typer.echo(f"wrote {out}. Next:")
    typer.echo(f"  prefine run {out} --dry-run   # checks everything, spends nothing")
    typer.echo(f"  prefine run {out}")


def _server(
    url: str, policy: str, judge_model: str | None, api_key_env: str | None
) -> "JudgeServer":
    from prefine.cli.draft import JudgeServer
    from prefine.models.openai.backend import OpenAIModel
    from prefine.stages.servers import models_beside

    asked = OpenAIModel(model=judge_model or policy, base_url=url, api_key_env=api_key_env)
    asked.check_model()
    served = models_beside(asked)
    others = [name for name in served if name != policy] or served
    if judge_model is None and len(others) != 1:
        raise ConfigError(
            f"--server {url}: it has the models {', '.join(served) or '(none)'}; say which one "
            "judges with --judge-model NAME"
        )
    if judge_model is not None and judge_model not in served:
        raise ConfigError(
            f"--judge-model {judge_model}: the server has {', '.join(served) or 'no models'}"
        )
    return JudgeServer(url, judge_model or others[0], policy in served, api_key_env)
