"""API keys: read from the environment, and kept out of everything that is written or shown."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from prefine.errors import ConfigError

_HIDDEN = "[key]"
# A name that does not look like an environment variable may be the key itself and is not shown.
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
# Local servers take any word as a key, such as "EMPTY" or "x". Hiding those would only spoil texts.
_SHORTEST = 12
# Variables of stores, trackers and providers, such as AWS_SECRET_ACCESS_KEY and WANDB_API_KEY.
_NAMED_KEY = re.compile(r"(?:API|ACCESS|SECRET|ACCOUNT)_?KEY$|(?:TOKEN|SECRET|PASSWORD)$", re.I)
_LITERAL_KEYS = frozenset(
    [
        *("apikey", "xapikey", "subscriptionkey", "secretkey", "secret", "clientsecret"),
        *("token", "accesstoken", "authtoken", "bearer", "cookie", "password"),
        *("authorization", "proxyauthorization"),
    ]
)
_IN_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s]+", re.IGNORECASE)
# What the large providers' keys look like, whatever they are called.
_LOOKS_LIKE_KEY = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{24,}|gsk_[A-Za-z0-9]{24,}|xai-[A-Za-z0-9]{24,}"
    r"|AIza[A-Za-z0-9_-]{30,}|gh[pous]_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,})|^Bearer\s+\S{8,}"
)

_REMEDY = (
    "keys are never written into a configuration; export MY_KEY=... and write api_key_env: MY_KEY"
)

_read: set[str] = set()


def read_secret(name: str, where: str = "api_key_env") -> str:
    """Return the key in an environment variable; from now on `redact` hides it unless it is short.

    Args:
        name: Of the variable.
        where: The config path that names it, for messages.

    Raises:
        ConfigError: The variable is not set, or this is not the name of a variable.
    """
    require_name(name, where)
    value = os.environ.get(name, "").strip()
    if not value:
        raise ConfigError(
            f"{where}: the environment variable {name} is not set; export {name}=... and try again"
        )
    remember_secret(value)
    return value


def remember_secret(value: str) -> None:
    """Let `redact` hide a key, and `find_secrets` find it, unless it is short."""
    if len(value) >= _SHORTEST:
        _read.add(value)


def remember_environment() -> None:
    """Remember the value of every variable that is called like a key, whoever reads it."""
    for name, value in os.environ.items():
        if _NAMED_KEY.search(name):
            remember_secret(value.strip())


def require_name(name: str, where: str = "api_key_env") -> None:
    """Raise ConfigError if this is not the name of an environment variable.

    The message does not repeat it, since it may be a key; `where` is its config path.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: this is no name of an environment variable (capital letters, digits and _). "
            f"{_REMEDY}"
        )


def refuse_secrets(options: Any, where: str = "") -> None:
    """Raise ConfigError if a value of a configuration is a key, or a URL that holds one.

    Configurations are written into the run folder. The message does not repeat the secret.

    Args:
        options: A section, a component, or a part of one.
        where: Its config path for the message.
    """
    if isinstance(options, str):
        _refuse_secret_text(options, where)
    if isinstance(options, list | tuple):
        for number, value in enumerate(options):
            refuse_secrets(value, f"{where}.{number}" if where else "")
    if not isinstance(options, dict):
        return
    for name, value in options.items():
        path = f"{where}.{name}" if where else str(name)
        if value is not None and _is_literal_key(name):
            raise ConfigError(f"{path}: {_REMEDY}")
        if name == "api_key_env" and isinstance(value, str):
            require_name(value, path)
        if name == "headers_env" and isinstance(value, dict):
            for header, variable in value.items():
                require_name(str(variable), f"{path}.{header}")
            continue
        refuse_secrets(value, path)


def _is_literal_key(name: Any) -> bool:
    """Return True if a setting of this name is a key, however the name is written."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower()) in _LITERAL_KEYS


def _refuse_secret_text(text: str, path: str) -> None:
    for found in _IN_URL.findall(text):
        try:
            parts = urlsplit(found)
        except ValueError:  # no URL; whoever opens it says so
            continue
        if parts.password or (parts.username and parts.scheme.startswith("http")):
            raise ConfigError(f"{path}: the URL holds a password; take it out and use api_key_env")
        names = [name for name, value in parse_qsl(parts.query) if value]
        if any(_is_literal_key(name) or name.lower() in ("key", "sig") for name in names):
            raise ConfigError(
                f"{path}: the URL holds a key; take it out and use api_key_env or headers_env"
            )
    if _LOOKS_LIKE_KEY.search(text):
        raise ConfigError(f"{path}: this looks like a key; {_REMEDY}")


def find_secrets(text: str, *, urls: bool = True) -> Iterator[tuple[int, str]]:
    """Yield where a text holds a key and what kind it is; the key itself is not repeated.

    Args:
        text: Such as a file that is to be published.
        urls: Whether a login in a URL counts, which texts about servers have as an example.
    """
    for value in _read:
        if (at := text.find(value)) >= 0:
            yield at, "a key that this command reads"
    for found in _LOOKS_LIKE_KEY.finditer(text):
        # Keys are random; hyphenated words, such as the names of packages, have no digits.
        if any(character.isdigit() for character in found[0]):
            yield found.start(), "what looks like a key"
    for found in _IN_URL.finditer(text) if urls else ():
        if _without_login(found[0]) != found[0]:
            yield found.start(), "a URL with a login or a key"


def redact(text: str) -> str:
    """Return the text without the keys that this process has read."""
    for value in sorted(_read, key=len, reverse=True):
        text = text.replace(value, _HIDDEN)
    return text


def redacted_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return a command line without keys: read ones, and whatever is named or looks like one.

    A command may be a program of the user's with options of its own.
    """
    shown = []
    key_follows = False
    for argument in arguments:
        name, is_set, _ = argument.partition("=")
        if key_follows and not argument.startswith("-"):
            shown.append(_HIDDEN)
        elif is_set and _is_literal_key(name.rpartition(".")[2]):
            shown.append(f"{name}={_HIDDEN}")
        else:
            hidden = _LOOKS_LIKE_KEY.sub(_HIDDEN, redact(argument))
            shown.append(_IN_URL.sub(lambda found: _without_login(found[0]), hidden))
        key_follows = argument.startswith("-") and not is_set and _is_literal_key(argument)
    return tuple(shown)


def _without_login(url: str) -> str:
    """Return a URL without user, password and the values of a query that are keys."""
    url = re.sub(r"://[^/@\s]*@", f"://{_HIDDEN}@", url)
    return re.sub(
        r"([?&;]([^=&;\s]+)=)[^&;\s]+",
        lambda part: (
            part[1] + _HIDDEN
            if _is_literal_key(part[2]) or part[2].lower() in ("key", "sig")
            else part[0]
        ),
        url,
    )
