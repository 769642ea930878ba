"""The inputs of a configuration, read row by row; what is worthless is set aside on a screen."""

from collections.abc import Callable, Collection, Iterable, Iterator

from prefine.config.sections import Component
from prefine.data import entries
from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.sources import read
from prefine.errors import DataError
from prefine.models.protocol import PromptTooLong
from prefine.records import Completion, PreferencePair, Prompt
from prefine.run.folder import RunFolder
from prefine.run.tables import column, parts


def read_prompts(
    source: Component, *, where: str, screen: ImportReport | None = None
) -> Iterator[Prompt]:
    """The prompts of a source."""
    return entries.prompts(read(source, where=where), screen)


def read_completions(
    source: Component, *, where: str = "completions", screen: ImportReport | None = None
) -> Iterator[tuple[Prompt, list[Completion]]]:
    """The prompts of a source with their completions."""
    return entries.completions(read(source, where=where), screen)


def read_pairs(
    source: Component, *, where: str = "pairs", screen: ImportReport | None = None
) -> Iterator[PreferencePair]:
    """The pairs of a source."""
    return entries.pairs(read(source, where=where), screen)


def short_enough(
    prompts: Iterable[Prompt], check: Callable[[Prompt], None], screen: ImportReport
) -> Iterator[Prompt]:
    """The prompts that fit into the model, by its own check.

    Raises:
        DataError: None does.
    """
    for prompt in prompts:
        try:
            check(prompt)
        except PromptTooLong as error:
            screen.kept -= 1
            screen.drop(UselessRow("over-long prompt", str(error)), prompt.source)
            continue
        yield prompt
    screen.require_some("prompts")


def unseen(
    prompts: Iterable[Prompt], trained_on: Collection[str], screen: ImportReport
) -> Iterator[Prompt]:
    """The evaluation prompts that are not among those trained on.

    Raises:
        DataError: All are.
    """
    for prompt in prompts:
        if prompt.id in trained_on:
            screen.kept -= 1
            useless = UselessRow(
                "leaked evaluation prompt",
                f"{prompt.source}: this evaluation prompt is also trained on, so it measures "
                "memory; remove it there "
                "or here",
            )
            screen.drop(useless, prompt.source)
            continue
        yield prompt
    screen.require_some("evaluation prompts")


def trained_on(folder: RunFolder) -> frozenset[str]:
    """The ids of the prompts in `pairs/`; none where there is no such table.

    Raises:
        DataError: A part is damaged.
    """
    try:
        paths = parts(folder / "pairs")
    except DataError:
        return frozenset()
    return frozenset(id_ for path in paths for id_ in column(path, "prefine_prompt_id"))
