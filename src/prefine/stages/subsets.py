"""A share of every source of the data, chosen by a hash: smaller shares lie within larger ones."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from prefine.config.sections import PairConfig
from prefine.errors import ConfigError
from prefine.records import Prompt, content_hash

OUTSIDE = "outside of pair.fraction"
OTHER_SOURCE = "not of pair.only_sources"
PLACE = re.compile(r",? (?:lines?|rows?|prompt) \d+\b.*$", re.DOTALL)
_SHOWN = 8


class _OfPrompt(Protocol):
    @property
    def prompt(self) -> Prompt: ...


Item = TypeVar("Item", bound=_OfPrompt)


def source_of(prompt: Prompt) -> str:
    """The source of a prompt: its column `source` or, without one, the file that it stands in."""
    named = prompt.metadata.get("source")
    return named if isinstance(named, str) and named else PLACE.sub("", prompt.source)


def takes_all(settings: PairConfig) -> bool:
    """Return True if nothing is left out."""
    return settings.fraction == 1 and settings.only_sources is None


def left_out(
    sources: Mapping[str, str], held_out_ids: Collection[str], settings: PairConfig
) -> dict[str, str]:
    """The prompts that are not trained on, and why; held-out ones stay, of any source.

    Of every source those with the smallest hashes are taken, at least one: a larger fraction takes
    all that a smaller one does, and adding prompts moves few.

    Args:
        sources: The source of each prompt, by its id.
        held_out_ids: The prompts that are held out.
        settings: The section `pair`.

    Raises:
        ConfigError: No prompt is of a source that is asked for.
    """
    if takes_all(settings):
        return {}
    of_source: defaultdict[str, list[str]] = defaultdict(list)
    for id_, source in sources.items():
        of_source[source].append(id_)
    wanted = of_source.keys() if settings.only_sources is None else settings.only_sources
    if missing := [source for source in wanted if source not in of_source]:
        known = sorted(of_source)
        shown = ", ".join(map(repr, known[:_SHOWN])) + (", …" if len(known) > _SHOWN else "")
        raise ConfigError(
            f"pair.only_sources: no prompt is of {missing[0]!r}; there are {shown} (a prompt's "
            "column source, or the file that it stands in)"
        )
    found: dict[str, str] = {}
    for source, ids in of_source.items():
        trained = [id_ for id_ in ids if id_ not in held_out_ids]
        if source not in wanted:
            found |= dict.fromkeys(trained, OTHER_SOURCE)
            continue
        trained.sort(key=lambda id_: content_hash("fraction", settings.seed, id_))
        number = max(1, round(settings.fraction * len(trained)))
        found |= dict.fromkeys(trained[number:], OUTSIDE)
    return found


def within(
    items: Iterable[Item], reasons: Mapping[str, str], dropped: Counter[str]
) -> Iterator[Item]:
    """The items whose prompts are not left out; the others are counted by reason."""
    for item in items:
        if reason := reasons.get(item.prompt.id):
            dropped[reason] += 1
        else:
            yield item
