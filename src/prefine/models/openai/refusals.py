"""Read the errors of servers, in whatever shape they come, and tell which cannot mend."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from prefine.secrets import redact

_CLIP = 200
_WORDS = ("message", "detail", "msg", "error_description", "description", "raw", "error", "title")
_CODES = ("code", "type", "status", "reason", "error_type", "error_code")
_PARAMETERS = ("param", "parameter", "params", "field", "loc", "property", "argument", "pointer")

_NO_KEY = re.compile(
    r"(?:api[ _-]?key|x-api-key|access token|credential|authentication)\W+(?:\w+\W+){0,4}?"
    r"(?:not valid|invalid|incorrect|missing|expired|revoked|required|failed|disabled)"
    r"|(?:invalid|incorrect|wrong|missing|expired|revoked|unknown|no)\W+(?:\w+\W+){0,2}?"
    r"(?:api[ _-]?key|x-api-key|access token|credential|authentication)"
    r"|unauthori[sz]ed|unauthenticated|authentication[ _]error",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(
    r"insufficient[ _-]?(?:quota|credit|balance|fund)|(?:exceeded|out of|exhausted|used up|reached)"
    r"\W+(?:\w+\W+){0,3}?(?:quota|credit|balance|budget|spend)|(?:quota|credit|balance|budget)\w*"
    r"\W+(?:\w+\W+){0,3}?(?:exceeded|exhausted|too low|used up|depleted|insufficient)"
    r"|billing|payment[ _]required|top up|recharge|not enough (?:credit|money|balance|fund)"
    r"|arrears|hard limit|spending limit",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model[ _]?not[ _]?found|unknown model|no such model|invalid[ _]model|not a valid model"
    r"|\bmodels?\b.{0,80}?(?:does not exist|doesn't exist|do not exist|not found|is not valid"
    r"|not available|was retired|been deprecated|decommissioned|not loaded|try pulling)"
    r"|(?:no|invalid|unrecogni[sz]ed|not find(?: the)?|not have access to(?: the)?) model\b"
    r"|^model: [\w./:-]+$",
    re.IGNORECASE | re.MULTILINE,
)


class ServerError(NamedTuple):
    """An error of a server.

    `words` is its message, for people; `text` all of its texts; `codes` its codes and types, and
    `parameters` the names of fields that it points at, in lower case.
    """

    status: int
    words: str
    text: str
    codes: frozenset[str]
    parameters: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The reason of a failure: such are counted, and numbers differ from call to call."""
        words = re.sub(r"[0-9]{2,}", "#", self.words)
        return f"HTTP {self.status}: {words}" if words else f"HTTP {self.status}"

    def wont_mend(self, *, asks_to_wait: bool) -> str | None:
        """Return why no request will ever be answered: the key, the money, the model; else None.

        Args:
            asks_to_wait: The server says when to ask again, so that a quota is one of a minute.
        """
        said = f"{self.text} {' '.join(self.codes)}"
        if self.status == 401 or (self.status in (400, 403) and _NO_KEY.search(said)):
            return "the key is refused"
        if self.status == 402 or (
            self.status in (400, 403, 429) and not asks_to_wait and _NO_MONEY.search(said)
        ):
            return "the money or the quota is used up"
        if self.status in (400, 404) and (_NO_MODEL.search(said) or "model" in self.parameters):
            return "there is no model {model!r}"
        return None


def server_error(status: int, body: bytes) -> ServerError:
    """Read the body of an error."""
    text = body.decode(errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        plain = " ".join(re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", text, flags=re.S).split())
        return ServerError(status, redact(plain)[:_CLIP], plain, frozenset(), ())
    return error_of(value, status)


def error_of(value: Any, status: int) -> ServerError:
    """Read an error that is JSON; a status within it, as in an answer with 200, goes before."""
    leaves = list(_leaves(value, "", 0))
    texts = [
        f"{name} {leaf}" if "retry" in name else leaf
        for name, leaf in leaves
        if isinstance(leaf, str)
    ]
    texts += [f"retry {leaf}s" for name, leaf in leaves if _is_wait(name, leaf)]
    numbers = (leaf for name, leaf in leaves if name in ("code", "status"))
    if status == 200:
        inner = (int(n) for n in numbers if str(n).isdecimal() and 400 <= int(n) <= 599)
        status = next(inner, _status_of(texts))
    return ServerError(
        status,
        redact(" ".join(_message(value).split()))[:_CLIP],
        "\n".join(texts),
        frozenset(str(leaf).lower() for name, leaf in leaves if name in _CODES),
        tuple(
            dict.fromkeys(
                re.split(r"[./\[]", leaf)[-1].strip("]'\"` ").lower()
                for name, leaf in leaves
                if name in _PARAMETERS and isinstance(leaf, str)
            )
        ),
    )


def _is_wait(name: str, leaf: Any) -> bool:
    return "retry" in name and type(leaf) in (int, float)


def _status_of(texts: list[str]) -> int:
    """The status that an error in an answer with 200 stands for, if it has no number."""
    said = " ".join(texts)
    if re.search(r"rate.?limit|too many requests|resource.?exhausted", said, re.IGNORECASE):
        return 429
    if re.search(r"invalid.?request|invalid.?argument|bad.?request", said, re.IGNORECASE):
        return 400
    return 500


def _leaves(value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Every value with the name it stands under; JSON within a text is read, too."""
    if depth > 12:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, str(key).lower(), depth + 1)
    elif isinstance(value, list):
        # Of a place such as ["body", "seed"] the last part is the field.
        items = value[-1:] if name == "loc" else value
        for item in items:
            yield from _leaves(item, name, depth + 1)
    elif isinstance(value, str) and (inner := _json_within(value)) is not None:
        yield from _leaves(inner, name, depth + 1)
    elif value is not None:
        yield name, value


def _message(value: Any, depth: int = 0) -> str:
    """The sentence for people in an error."""
    if isinstance(value, str):
        inner = _json_within(value)
        return value if inner is None else _message(inner, depth + 1)
    if depth > 12:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_message(item, depth + 1) for item in value[:3])))
    if not isinstance(value, Mapping):
        return ""
    if "msg" in value and isinstance(value.get("loc"), list):
        return f"{'.'.join(str(part) for part in value['loc'])}: {value['msg']}"
    inner_error = value.get("error")
    if isinstance(inner_error, Mapping | list):
        return _message(inner_error, depth + 1)
    for name in _WORDS:
        if found := _message(value.get(name), depth + 1):
            cause = value.get("metadata")
            raw = _message(cause, depth + 1) if isinstance(cause, Mapping) else ""
            return f"{found} ({raw})" if raw and raw not in found else found
    return ""


def _json_within(text: str) -> Any:
    """The JSON that a text is or ends with, as gateways pass on errors of others."""
    start = min((i for mark in "[{" if (i := text.find(mark)) >= 0), default=-1)
    if start < 0 or text.rstrip()[-1:] not in ("}", "]"):
        return None
    try:
        value = json.loads(text[start:])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) or (isinstance(value, list) and start == 0) else None
