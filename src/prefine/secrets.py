"""Keys: read from the environment by name, and kept out of everything that is written or shown."""

import os
import re
from typing import Any

from prefine.errors import ConfigError

_HIDDEN = "[key]"
# An environment variable as people name them. What does not look like one may be the key itself,
# and is not shown.
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
# Servers of one's own take any word for a key: "EMPTY", "token", "x". Hiding those would spoil
# texts, not keep secrets.
_SHORTEST = 12
_LITERAL_KEYS = frozenset(["api_key", "apikey", "token", "authorization", "password"])
_URL_PASSWORD = re.compile(r"https?://[^/@\s]*:[^/@\s]*@")

_read: set[str] = set()


def read_secret(name: str) -> str:
    """The value of an environment variable that holds a key; `redact` hides it from now on, unless it is too short.

    Raises:
        ConfigError: The variable is not set, or this is no variable's name.
    """
    require_name(name)
    value = os.environ.get(name, "").strip()
    if not value:
        raise ConfigError(
            f"api_key_env: the environment variable {name} is not set; export {name}=... and try "
            "again"
        )
    if len(value) >= _SHORTEST:
        _read.add(value)
    return value


def require_name(name: str, where: str = "api_key_env") -> None:
    """Nothing, if this is the name of an environment variable; `where` is its config path.

    Raises:
        ConfigError: It is not; the message does not repeat it, since it may be a key.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: this is no name of an environment variable (capital letters, digits and "
            "_). Keys are never "
            "written into a configuration: export MY_KEY=... and write api_key_env: MY_KEY"
        )


def refuse_secrets(options: Any, where: str = "") -> None:
    """Nothing, if a configuration's values hold no key: what is in them is written into the run folder.

    Args:
        options: A section, a component, or whatever is in one.
        where: Its config path, for the message.

    Raises:
        ConfigError: There is a literal key, or a password in a URL; the message does not repeat it.
    """
    if isinstance(options, list | tuple):
        for number, value in enumerate(options):
            refuse_secrets(value, f"{where}.{number}" if where else "")
    if not isinstance(options, dict):
        return
    for name, value in options.items():
        path = f"{where}.{name}" if where else str(name)
        if name in _LITERAL_KEYS:
            raise ConfigError(
                f"{path}: keys are never written into a configuration; export MY_KEY=... and "
                "write api_key_env: MY_KEY"
            )
        if name == "api_key_env" and isinstance(value, str):
            require_name(value, path)
        if isinstance(value, str) and _URL_PASSWORD.match(value):
            raise ConfigError(f"{path}: the URL holds a password; take it out and use api_key_env")
        refuse_secrets(value, path)


def redact(text: str) -> str:
    """The text without any key that was read in this process."""
    for value in sorted(_read, key=len, reverse=True):
        text = text.replace(value, _HIDDEN)
    return text
