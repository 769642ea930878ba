"""The hub as this uses it: `huggingface_hub`, its token, and its errors in our words."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from prefine.errors import BackendError, ConfigError, PrefineError
from prefine.secrets import remember_secret

_CARD = "README.md"


def library() -> ModuleType:
    """Return `huggingface_hub`.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the hub needs the package {error.name!r}; install prefine[storage]"
        ) from error
    return huggingface_hub


def hub_token() -> str | None:
    """Return the token of HF_TOKEN or of `hf auth login`; from now on it is hidden and found.

    Raises:
        ConfigError: The package is missing.
    """
    token: str | None = library().get_token()
    if token is not None:
        remember_secret(token)
    return token


def client(*, writes: bool) -> Any:
    """Return an `HfApi` with the token of HF_TOKEN or of `hf auth login`.

    Args:
        writes: Whether a token is needed.

    Raises:
        ConfigError: The package is missing; or there is no token, and one is needed.
    """
    token = hub_token()
    if token is None and writes:
        raise ConfigError(
            "publishing needs a token of the hub: export HF_TOKEN=..., or run `hf auth login`"
        )
    return library().HfApi(token=token)


def check_repo_id(repo: str, option: str) -> None:
    """Raise ConfigError unless this is OWNER/NAME as the hub allows it."""
    hub = library()
    try:
        hub.utils.validate_repo_id(repo)
    except hub.errors.HFValidationError as error:
        raise ConfigError(f"{option}: {error}") from error
    if "/" not in repo:
        raise ConfigError(f"{option} {repo}: expected OWNER/NAME")


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into our errors, which name the repository."""
    errors = library().errors
    try:
        yield
    except PrefineError:
        raise
    except errors.OfflineModeIsEnabled as error:
        raise ConfigError(
            f"{repo}: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set; unset it to reach the hub"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{repo}: there is no such repository on the hub, or the token may not see it"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ConfigError(
                f"{repo}: the hub refuses (HTTP {status}: {_first_line(error)}); check the token's "
                "rights"
            ) from error
        raise BackendError(
            f"{repo}: the hub answered HTTP {status} ({_first_line(error)}); run the same command "
            "again"
        ) from error
    except Exception as error:  # connections, timeouts and malformed answers have many types
        raise BackendError(
            f"{repo}: the hub cannot be reached ({type(error).__name__}: {_first_line(error)}); "
            "run the same command again"
        ) from error


def card_of(place: str, type_: str) -> str | None:
    """Return the card of a folder, or of a repository of the hub or its cache; None without one."""
    if Path(place).exists():
        file = Path(place) / _CARD
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None
    hub = library()
    try:
        hub.utils.validate_repo_id(place)
        found = hub.hf_hub_download(place, _CARD, repo_type=type_)
    except Exception:  # noqa: BLE001 - whatever hides the licence, it is unknown, and is asked for
        return None
    return Path(found).read_text(encoding="utf-8", errors="replace")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300]
