"""The models that a server lists: a question that costs nothing and shows whether it is there."""

import json
from collections.abc import Mapping

from prefine.calls.http import HttpReply, NoReply, origin_of, send, url_below
from prefine.errors import BackendError
from prefine.models.openai.refusals import server_error
from prefine.models.protocol import ModelList
from prefine.secrets import redact

_LONGEST_WAIT_S = 30.0


async def list_models(
    base_url: str, headers: Mapping[str, str], *, timeout_s: float, sends_key: bool
) -> ModelList:
    """Ask a server once for its models.

    Args:
        base_url: Up to and including `/v1`.
        headers: Those of every request, the key among them.
        timeout_s: For the answer; at most 30 s.
        sends_key: The headers hold a key.

    Raises:
        BackendError: It is not there or not well, or refuses the key; with its own words.
    """
    url = url_below(base_url, "/models")
    try:
        reply = await send("GET", url, None, headers, timeout_s=min(timeout_s, _LONGEST_WAIT_S))
    except NoReply as none:
        raise BackendError(f"{base_url}: {none}; start the server, or mend base_url") from None
    if reply.status == 200:
        return _names(reply)
    error = server_error(reply.status, reply.body)
    said = f"HTTP {error.status}: {error.words}".removesuffix(": ")
    if reply.status >= 500 and reply.status != 501:
        raise BackendError(f"{base_url}: the server is not well ({said}); mend it, or ask later")
    # Where there is no list, its absence says nothing about models.
    if reply.status not in (404, 405, 501) and (
        what := error.wont_mend(asks_to_wait=reply.status == 429)
    ):
        if reply.status == 401 and not sends_key:
            what = "the server wants a key: name its environment variable in api_key_env"
        raise BackendError(f"{base_url}: {what} ({said})")
    if 300 <= reply.status < 400:
        said += f", to {origin_of(reply.headers.get('location', ''))}"
    if not base_url.rstrip("/").endswith("/v1"):
        said += "; at most servers base_url ends with /v1"
    return ModelList(None, f"it lists no models ({said})")


def _names(reply: HttpReply) -> ModelList:
    """Read the list, whose entries have an id or, in some servers, a name only."""
    try:
        value = json.loads(reply.body)
    except (ValueError, RecursionError):
        value = None
    for key in ("data", "models"):
        value = value.get(key, value) if isinstance(value, Mapping) else value
    if not isinstance(value, list):
        return ModelList(None, "its answer is no list of models; look at base_url")
    found = (entry.get("id") or entry.get("name") for entry in value if isinstance(entry, Mapping))
    names = frozenset(redact(name) for name in found if isinstance(name, str))
    return ModelList(names) if names else ModelList(None, "its list of models is empty")
