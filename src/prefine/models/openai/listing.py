"""The models that a server says it has."""

import json
import urllib.request
from http.client import HTTPException

from prefine.errors import BackendError
from prefine.secrets import read_secret

_TIMEOUT_S = 10.0


def served_models(base_url: str, api_key_env: str | None) -> list[str]:
    """Return the ids of `GET base_url/models`.

    Args:
        base_url: Up to and including `/v1`.
        api_key_env: The variable that holds the key; None sends none.

    Raises:
        BackendError: The server does not answer, or has no such list.
        ConfigError: The variable is not set.
    """
    headers = {}
    if api_key_env is not None:
        headers["Authorization"] = f"Bearer {read_secret(api_key_env)}"
    url = base_url.rstrip("/") + "/models"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S
        ) as reply:
            return [str(model["id"]) for model in json.load(reply)["data"]]
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise BackendError(f"{url}: no list of models: {error}") from error
