"""The guard of the viewer: refuses strangers, and forbids pages what they do not need."""

import hmac
import secrets
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "token"
_TOKEN_BYTES = 24
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: with that, a form of our own pages is sent with the origin "null".
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
_SAFE = ("GET", "HEAD")


class Access(NamedTuple):
    """The address of the viewer and the secret that opens it.

    The name of the cookie has the port, because cookies are of a host with all its ports.
    """

    port: int
    token: str

    @classmethod
    def new(cls, port: int) -> "Access":
        """Access with a random secret."""
        return cls(port, secrets.token_urlsafe(_TOKEN_BYTES))

    @property
    def url(self) -> str:
        """The link that opens the viewer."""
        return f"http://127.0.0.1:{self.port}/?{TOKEN}={self.token}"

    @property
    def hosts(self) -> frozenset[str]:
        """The values that the header Host may have; a page of any other name is another's."""
        return frozenset({f"127.0.0.1:{self.port}", f"localhost:{self.port}"})

    @property
    def cookie(self) -> str:
        """The name of the cookie."""
        return f"prefine_view_{self.port}"

    def knows(self, token: str) -> bool:
        """Return True for the secret; takes as long for any other text."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())


class Guard:
    """Refuses requests of other origins, under other names and without the token.

    Args:
        app: The pages.
        access: The address and the secret.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.encode() for name in HEADERS}
                kept = [one for one in message.get("headers", ()) if one[0].lower() not in own]
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": kept + more}
            await send(message)

        refusal = self._refusal(scope) if scope["type"] == "http" else _refused("no HTTP")
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that gets no page; None for one that does."""
        headers = _headers(scope)
        if headers is None:
            return _refused("a header is there twice")
        if headers.get("host") not in self._access.hosts:
            return _refused("this host name is not the viewer's")
        own = {f"http://{host}" for host in self._access.hosts}
        origin, method = headers.get("origin"), scope["method"]
        if origin is not None and origin not in own:
            return _refused("the request comes from a page of another origin")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return _refused("the request comes from a page of another site")
        if method not in _SAFE and (method != "POST" or origin is None):
            return _refused("only the viewer's own pages may send forms")
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == TOKEN]
        if method in _SAFE and len(given) == 1 and self._access.knows(given[0]):
            rest = urlencode([(name, value) for name, value in query if name != TOKEN])
            return self._welcome(scope["path"], rest)
        # Unlike the standard library's, this parser reads on after the odd cookie of another app.
        cookies = cookie_parser(headers.get("cookie", ""))
        if self._access.knows(cookies.get(self._access.cookie, "")):
            return None
        return _refused("open the link that `prefine view` has printed; it has a token")

    def _welcome(self, path: str, rest: str) -> Response:
        """Keep the token as a cookie, and go to the same page without it."""
        # Two slashes at the beginning would name another host.
        place = "/" + path.lstrip("/\\")
        answer = RedirectResponse(f"{place}?{rest}" if rest else place, status_code=303)
        answer.set_cookie(
            self._access.cookie, self._access.token, httponly=True, samesite="strict", path="/"
        )
        return answer


def _headers(scope: Scope) -> Mapping[str, str] | None:
    """The headers by name; None if one that is checked is there twice."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in found and key in ("host", "origin", "cookie", "sec-fetch-site"):
            return None
        found[key] = value.decode("latin-1")
    return found


def _refused(why: str) -> Response:
    return PlainTextResponse(f"403: {why}\n", status_code=403)
