"""The inputs of a configuration, row by row; rows that cannot be used go to an import report."""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from prefine.chat import TemplateRefusal, check_prompt, may_be_refused
from prefine.config.base import Component, LabelSource
from prefine.config.sections import ITEM_ENTRIES, RunConfig
from prefine.config.training import TrainConfig
from prefine.data import entries
from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.sources import read
from prefine.errors import DataError
from prefine.models.capabilities import provided
from prefine.models.protocol import HasWeights, PromptTooLong
from prefine.records import (
    Completion,
    LabelledCompletion,
    PreferenceList,
    PreferencePair,
    Prompt,
    content_hash,
)
from prefine.run.tables import column, parts
from prefine.turns import assistant_turns

Item = TypeVar("Item")
REFUSED_BY_TEMPLATE = "refused by the chat template"


def read_prompts(
    source: Component,
    *,
    where: str,
    report: ImportReport | None = None,
    references: bool = False,
) -> Iterator[Prompt]:
    """The prompts of a source, with `references` each with its reference answer."""
    return entries.prompts(read(source, where=where), report, references=references)


def prompts_to_answer(config: RunConfig, report: ImportReport) -> Iterator[Prompt]:
    """The prompts that are sampled for: those of the part that section `sample` asks for.

    Prompts of other parts are not counted at all.
    """
    assert config.prompts is not None and config.sample is not None, "checked by RunConfig"
    part = config.sample.part
    for prompt in read_prompts(
        config.prompts, where="prompts", report=report, references=config.unranked
    ):
        if part is None or part_of(prompt.id, part.of) == part.number:
            yield prompt
        else:
            report.read -= 1
            report.kept -= 1


def part_of(prompt_id: str, parts: int) -> int:
    """The part that a prompt is in, from 1 to `parts`."""
    return 1 + int(content_hash("part", prompt_id), 16) % parts


def read_completions(
    source: Component, *, where: str = "completions", report: ImportReport | None = None
) -> Iterator[tuple[Prompt, list[Completion]]]:
    """The prompts of a source with their completions."""
    return entries.completions(read(source, where=where), report)


def read_pairs(
    source: Component, *, report: ImportReport | None = None
) -> Iterator[PreferencePair]:
    """The pairs of a source."""
    return entries.pairs(read(source, where="pairs"), report)


def read_lists(
    source: Component, *, report: ImportReport | None = None
) -> Iterator[PreferenceList]:
    """The lists of a source."""
    from prefine.data import judged

    return judged.lists(read(source, where="lists"), report)


def read_labels(
    source: LabelSource, *, report: ImportReport | None = None
) -> Iterator[LabelledCompletion]:
    """The labelled answers of a source."""
    from prefine.data import judged

    return judged.labels(read(source, where="labels"), report, above=source.above)


def short_enough(
    prompts: Iterable[Prompt], check: Callable[[Prompt], None], report: ImportReport
) -> Iterator[Prompt]:
    """The prompts that fit into the model and its chat template, by its own check.

    Raises:
        DataError: None does.
    """
    for prompt in prompts:
        try:
            check(prompt)
        except (PromptTooLong, TemplateRefusal) as error:
            report.kept -= 1
            too_long = isinstance(error, PromptTooLong)
            reason = "over-long prompt" if too_long else REFUSED_BY_TEMPLATE
            report.drop(UselessRow(reason, str(error)), prompt.source)
            continue
        yield prompt
    report.require_some("prompts")


def renderable(
    items: Iterable[Item],
    prompts_of: Callable[[Item], Iterable[Prompt]],
    policy: Component,
    report: ImportReport | None = None,
) -> Iterator[Item]:
    """The items whose prompts the policy's chat template takes: the others cannot be trained on.

    Args:
        items: As they are read.
        prompts_of: The prompts of an item.
        policy: A backend without weights takes all of them.
        report: Counts the others.

    Raises:
        DataError: The template takes none.
    """
    for item in items:
        try:
            for prompt in filter(may_be_refused, prompts_of(item)):
                # Only now: most rows need no tokenizer, and loading one takes seconds.
                trained = provided(_policy(policy), HasWeights)
                if trained is not None:
                    check_prompt(trained.tokenizer, prompt)
        except TemplateRefusal as error:
            if report is not None:
                report.kept -= 1
                where = next(iter(prompts_of(item))).source
                report.drop(UselessRow(REFUSED_BY_TEMPLATE, str(error)), where)
            continue
        yield item
    if report is not None:
        report.require_some("rows")


def conversations_of(item: PreferencePair | PreferenceList | LabelledCompletion) -> list[Prompt]:
    """The conversations that an item's answers end: their prompts, and earlier turns of each.

    A template may refuse roles and tools; it does not matter to it what is said in a last turn.
    """
    match item:
        case PreferencePair():
            answers = [
                (item.prompt, item.chosen),
                (item.rejected_prompt or item.prompt, item.rejected),
            ]
        case PreferenceList():
            answers = [(item.prompt, one) for one in item.completions]
        case LabelledCompletion():
            answers = [(item.prompt, item.completion)]
    read = [item.prompt]
    for prompt, completion in answers:
        turns = assistant_turns(prompt, completion)
        if turns and turns[-1].prompt not in read:
            read.append(turns[-1].prompt)
    return read


def _policy(component: Component) -> object:
    """The backend of a policy, made once."""
    return component.once("policy", lambda: component.resolve("backend", where="policy")())


def unseen(
    prompts: Iterable[Prompt], trained_on: Collection[str], report: ImportReport
) -> Iterator[Prompt]:
    """The evaluation prompts that are not among those trained on.

    Raises:
        DataError: All are.
    """
    for prompt in prompts:
        if prompt.id in trained_on:
            report.kept -= 1
            message = (
                f"{prompt.source}: this evaluation prompt is also trained on, so it measures "
                "memory; remove it there or here"
            )
            report.drop(UselessRow("leaked evaluation prompt", message), prompt.source)
            continue
        yield prompt
    report.require_some("evaluation prompts")


def trained_on(folder: Path) -> frozenset[str]:
    """The ids of the prompts in the tables of items; none where there is no such table.

    Raises:
        DataError: A part is damaged.
    """
    tables = [folder / name for name in ITEM_ENTRIES if any((folder / name).glob("part-*"))]
    return frozenset(
        id_
        for table in tables
        for path in parts(table)
        for id_ in column(path, "prefine_prompt_id")
    )


def readable_by_loss(
    pairs: Iterable[PreferencePair], settings: TrainConfig, report: ImportReport | None = None
) -> Iterator[PreferencePair]:
    """Pass the pairs on; refuse one across prompts, unless the loss compares answers to two.

    Args:
        pairs: The pairs as they are read.
        settings: Has the loss.
        report: Counts the rows that the pairs come from, where they come from rows.

    Raises:
        DataError: A pair's rejected answer is to another prompt, and the loss is not joint.
    """
    for number, pair in enumerate(pairs, start=1):
        # The loss is imported for such a pair only: reading others needs no torch.
        if pair.rejected_prompt is not None:
            from prefine.losses.facts import reads_of

            where, loss = settings.loss_of("pairs")
            if loss is None or reads_of(loss.resolve("loss", where=where)) != "joint":
                name = "(none)" if loss is None else loss.name
                raise DataError(
                    f"{_row(number, pair, report)}: its rejected answer is to another prompt, and "
                    f"{where} {name!r} is not joint (jpo is; one of your own declares "
                    f"reads='joint'). Choose {where} jpo, remove the rows whose rejected_prompt is "
                    "set (prefine_rejected_prompt_id in another run's pairs/), or make the pairs "
                    "without selector joint"
                )
        yield pair


def with_loss_inputs(
    pairs: Iterable[PreferencePair], settings: TrainConfig, report: ImportReport | None = None
) -> Iterator[PreferencePair]:
    """Pass the pairs on; refuse one that lacks what the loss or the regularizer reads of it.

    Args:
        pairs: The pairs as they are read.
        settings: Has loss and regularizer.
        report: Counts the rows that the pairs come from, where they come from rows.

    Raises:
        DataError: A pair states no score gap, none states a probability, or all have one prompt,
            and that is read.
        ConfigError: Pairs have different weights, and the loss sorts the pairs of a step.
    """
    from prefine.training.relations.choose import configured_losses, losses_of_kind
    from prefine.training.relations.pair_checks import LossInputCheck

    check = LossInputCheck(losses_of_kind(configured_losses(settings), "pairs"))
    for number, pair in enumerate(pairs, start=1):
        where = _row(number, pair, report)
        check.add(pair, pair.prompt.id, where=where)
        yield pair
    check.finish("pairs")


def with_scores_read(
    lists: Iterable[PreferenceList], settings: TrainConfig
) -> Iterator[PreferenceList]:
    """Pass the lists on; refuse one of ranks alone if a loss of lists reads scores.

    Raises:
        DataError: It names the row.
    """
    from prefine.losses.facts import reads_scores
    from prefine.training.relations.choose import configured_losses, losses_of_kind
    from prefine.training.relations.lists import no_scores

    losses = losses_of_kind(configured_losses(settings), "lists")
    reader = " and ".join(name for name, function in losses if reads_scores(function))
    for found in lists:
        if reader and found.scores is None:
            raise no_scores(found.prompt.source or f"list {found.id}", reader)
        yield found


def _row(number: int, pair: PreferencePair, report: ImportReport | None) -> str:
    """The row that a pair comes from, for messages."""
    return f"pairs, row {number if report is None else report.read} ({pair.prompt.text[:40]!r})"
