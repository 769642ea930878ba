"""The pages of the viewer and their addresses."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import resources
from typing import Any
from urllib.parse import parse_qs

import duckdb
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from prefine.errors import PrefineError
from prefine.report import text
from prefine.report.text import visible
from prefine.view import pages
from prefine.view.guard import Access, Guard
from prefine.view.notes import LONGEST
from prefine.view.viewer import Viewer

Page = Callable[[Viewer, Request], dict[str, Any]]

_STATIC = {
    **{
        name: ("prefine.view", f"static/{name}")
        for name in ("view.css", "view.js", "charts.css", "charts.js", "parts.css")
    },
    **{
        name: ("prefine.report", f"templates/{name}")
        for name in ("marks.css", "texts.css", "report.css", "compare.css")
    },
}
"""The files that pages may name; nothing of an address becomes a path."""
_MEDIA = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_MOST_FORM_BYTES = 8 * LONGEST


def make_app(viewer: Viewer, access: Access) -> ASGIApp:
    """Return the guarded app that shows a viewer's runs."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("prefine.view"), PackageLoader("prefine.report", "templates")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.globals["text"] = text

    def page(template: str, values: Page) -> Callable[[Request], Response]:
        # Compiled now, and not while somebody waits for a page.
        environment.get_template(template)

        def answer(request: Request) -> Response:
            return _render(environment, template, values(viewer, request))

        return answer

    shown = {
        "/": page("runs.html.j2", pages.runs),
        "/compare": page("compare.html", pages.compare),
        "/run/{key}": page("run.html.j2", pages.run),
        "/run/{key}/prompts": page("prompts.html.j2", pages.prompts),
        "/run/{key}/prompt/{round:int}/{id}": page("prompt.html.j2", pages.prompt),
    }
    routes = [Route(path, answer, methods=["GET"]) for path, answer in shown.items()]
    routes += [
        Route("/run/{key}/notes.jsonl", partial(_notes, viewer), methods=["GET"]),
        Route("/run/{key}/note", partial(_take_note, viewer), methods=["POST"]),
        Route("/static/{name}", _static, methods=["GET"]),
    ]
    problem = partial(_problem, environment)
    app = Starlette(
        routes=routes,
        exception_handlers={
            PrefineError: problem,
            HTTPException: problem,
            duckdb.Error: problem,
            OSError: problem,
        },
    )
    return Guard(app, access)


def _render(
    environment: Environment,
    template: str,
    values: dict[str, Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    page = environment.get_template(template).render(values)
    return HTMLResponse(page, status_code=status, headers=headers)


def _problem(environment: Environment, request: Request, error: Exception) -> Response:
    """A page that says what is wrong."""
    del request
    status, title, said = 500, "This cannot be shown", str(error)
    headers = None
    if isinstance(error, HTTPException):
        status, said, headers = error.status_code, error.detail, error.headers
        title = "There is nothing here yet" if status == 503 else "There is nothing here"
    elif isinstance(error, PrefineError):
        status = 400
    else:
        said = (
            f"The files of the run are not as they were a moment ago, or cannot be read: {said}. "
            "If the run is being written, load the page again"
        )
    values = {
        "crumbs": [("Runs", "/"), (title, "")],
        "working": False,
        "title": title,
        "said": said,
    }
    return _render(environment, "problem.html.j2", values, status, headers)


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _STATIC:
        raise HTTPException(404, "no such file")
    package, path = _STATIC[name]
    content = resources.files(package).joinpath(path).read_bytes()
    return Response(content, media_type=_MEDIA[name.rsplit(".", 1)[-1]])


def _notes(viewer: Viewer, request: Request) -> Response:
    """The last note of each prompt, as JSON Lines."""
    lines = pages.exported_notes(viewer, request.path_params["key"])
    return Response(
        "".join(lines),
        media_type="application/x-ndjson",
        headers={"content-disposition": 'attachment; filename="notes.jsonl"'},
    )


async def _take_note(viewer: Viewer, request: Request) -> Response:
    """Keep a flag or a note, and go back to the prompt."""
    if request.headers.get("content-type", "").split(";")[0] != "application/x-www-form-urlencoded":
        raise HTTPException(415, "send a form")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_FORM_BYTES:
            raise HTTPException(413, f"a note has at most {LONGEST:,} characters")
    form = {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
    place = await run_in_threadpool(pages.take_note, viewer, request.path_params["key"], form)
    return RedirectResponse(place, status_code=303)
