"""Whether judge or scorer and policy are of one family: models prefer what they would have written themselves."""

import re
from collections.abc import Mapping

from prefine.config.sections import Component

_NOT_A_FAMILY = frozenset(
    ["model", "models", "checkpoint", "run", "runs", "policy", "judge", "trained"]
)


def same_family(policy: Component, judge: Component, *, role: str = "judge") -> str | None:
    """A note for the user when a judge or scorer is, or asks, a model of the policy's family, by the models' names.

    Args:
        policy: Wrote the answers.
        judge: Judges or rates them.
        role: What to call it.
    """
    asked = judge.options if judge.name == "reward" else judge.options.get("model")
    if not isinstance(asked, Mapping):
        return None
    one, other = _name(policy.options), _name(asked)
    if (
        not one
        or not other
        or (one != other and (_family(one) != _family(other) or _family(one) is None))
    ):
        return None
    return (
        f"{role} ({other}) and policy ({one}) are of one family; models prefer answers of their "
        "own kind: "
        f"compare with another {role} before you trust the win rate"
    )


def _name(options: Mapping[str, object]) -> str:
    name = options.get("model") or options.get("path") or ""
    return str(name).rstrip("/")


def _family(name: str) -> str | None:
    """The letters that a model's name begins with: qwen of Qwen/Qwen2.5-7B-Instruct."""
    match = re.match(r"[a-z]{3,}", name.rsplit("/", 1)[-1].lower())
    return match[0] if match and match[0] not in _NOT_A_FAMILY else None
