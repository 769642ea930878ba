"""`prefine mock-server`: a chat server for rehearsals, with latencies, faults and limits."""

import asyncio
from typing import Annotated

import typer
from typer import Option

from prefine.errors import ConfigError
from prefine.models.mock_server.profiles import PROFILES


def mock_server(
    port: Annotated[int, Option(help="On 127.0.0.1.")] = 8000,
    profile: Annotated[
        str,
        Option(
            metavar="NAME",
            help=f"The provider that it refuses and answers as: {', '.join(PROFILES)}.",
        ),
    ] = "plain",
    latency: Annotated[float, Option(help="Median time of an answer, in seconds.")] = 0.0,
    spread: Annotated[float, Option(help="Sigma of the logarithm of that time.")] = 0.0,
    fault: Annotated[
        str | None, Option(metavar="NAME", help="A status such as 503, or a name such as reset.")
    ] = None,
    fault_share: Annotated[float, Option(help="Share of requests with the fault.")] = 1.0,
    fault_by: Annotated[
        str, Option(metavar="HOW", help="content: the same requests every time; chance: any.")
    ] = "content",
    outage: Annotated[
        str | None,
        Option(metavar="FROM:TO", help="Seconds between which all requests have the fault."),
    ] = None,
    limit: Annotated[
        float | None, Option(help="Requests per second; the others get a 429.")
    ] = None,
    retry_after: Annotated[
        str, Option(metavar="KIND", help="none, seconds, date, ms or words, in a 429.")
    ] = "seconds",
    seed: Annotated[int, Option(help="Of the times.")] = 0,
    list_: Annotated[bool, Option("--list", help="List profiles and faults, and end.")] = False,
) -> None:
    """Serve a chat model that answers from a script, for rehearsals without a key.

    Its URL is http://127.0.0.1:PORT/v1; `GET /stats` counts requests and statuses.
    """
    from pydantic import TypeAdapter, ValidationError

    from prefine.models.mock_server.batches import BATCH_FAULTS
    from prefine.models.mock_server.faults import FAULTS
    from prefine.models.mock_server.server import MockServer

    if list_:
        names = ", ".join((*FAULTS, *BATCH_FAULTS))
        typer.echo(f"profiles: {', '.join(PROFILES)}\nfaults: a status, {names}")
        return
    options = {
        "profile": profile,
        "latency_s": latency,
        "spread": spread,
        "fault": fault,
        "fault_share": fault_share,
        "fault_by": fault_by,
        "outage": outage.split(":") if outage else None,
        "limit": limit,
        "retry_after": retry_after,
        "seed": seed,
    }
    try:
        server = TypeAdapter(MockServer).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(
            f"--{name}: {options.get(str(first['loc'][0]))!r}: {first['msg']}"
        ) from None
    typer.echo(f"http://127.0.0.1:{port}/v1 (profile {profile}); Ctrl-C ends it", err=True)
    try:
        asyncio.run(server.serve(port))
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror or error}; choose another") from error
