"""A viewer without a network, asked as a browser would ask it; and a run that it shows."""

import asyncio
import importlib.util
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from prefine.view.app import make_app
from prefine.view.guard import Access
from prefine.view.viewer import Viewer

_SPEC = importlib.util.spec_from_file_location(
    "view_run", Path(__file__).parents[1] / "benchmarks" / "view_run.py"
)
assert _SPEC is not None and _SPEC.loader is not None
view_run = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(view_run)
PORT = 4321
HOST = f"127.0.0.1:{PORT}"
ORIGIN = f"http://{HOST}"
Headers = Sequence[tuple[str, str]]


class Answer(NamedTuple):
    """What the viewer answered."""

    status: int
    headers: dict[str, str]
    text: str


class Asked:
    """A viewer of some folders and a browser that has opened its link.

    Args:
        folders: What it shows.
    """

    def __init__(self, *folders: Path) -> None:
        self.access = Access(PORT, "the-secret")
        self.viewer = Viewer(folders)
        self._app = make_app(self.viewer, self.access)
        self.cookie = f"{self.access.cookie}={self.access.token}"

    def get(self, path: str) -> Answer:
        """A page, once everything has been read."""
        headers = [("host", HOST), ("cookie", self.cookie)]
        while 'class="fine reading"' in (answer := self.ask("GET", path, headers)).text:
            pass
        return answer

    def post(self, path: str, **form: str) -> Answer:
        """Send a form as our own pages do."""
        headers = [
            ("host", HOST),
            ("cookie", self.cookie),
            ("origin", ORIGIN),
            ("content-type", "application/x-www-form-urlencoded"),
        ]
        return self.ask("POST", path, headers, urlencode(form).encode())

    def ask(self, method: str, path: str, headers: Headers, body: bytes = b"") -> Answer:
        """Send any request, however strange."""
        return asyncio.run(self._ask(method, path, headers, body))

    async def _ask(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        place, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": place,
            "raw_path": place.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "server": ("127.0.0.1", PORT),
            "client": ("127.0.0.1", 9),
        }
        sent: list[dict[str, Any]] = []
        received = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return received.pop() if received else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        start = sent[0]
        said = b"".join(message.get("body", b"") for message in sent[1:])
        named = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], named, said.decode())

    def key(self, name: str = "") -> str:
        """The key of the run with this name, or of the only one."""
        places = self.viewer.runs().by_key.values()
        return next(one.key for one in places if name in ("", one.path.name))


class Tags(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """Everything that is to be read."""
        return " ".join(" ".join(self.words).split())

    def links(self, **having: str) -> list[str]:
        """Where links go that have these attributes."""
        return [
            values["href"]
            for tag, values in self.tags
            if tag == "a" and all(values.get(k.replace("_", "-")) == v for k, v in having.items())
        ]


def small_run(folder: Path, prompts: int = 600) -> Path:
    """A run of three parts with short answers, of which 60 prompts are evaluated."""
    size = view_run.Size(prompts=prompts, completions=3, characters=40, evaluated=60)
    view_run.make(folder, size)
    return folder
