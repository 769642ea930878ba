"""Texts that are longer than the model reads, found before anything is loaded or paid."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from prefine.config.sections import RunConfig
from prefine.data.import_report import ImportReport
from prefine.errors import ConfigError
from prefine.models.hf.loading import load_positions
from prefine.pairing.filters import refusal
from prefine.records import Completion, Message, PreferencePair, Prompt
from prefine.stages.references import reads_other_tokens, references_of
from prefine.stages.training_inputs import configured_relation, text_reader, trainable
from prefine.training.items import ReadsTexts, Text

T = TypeVar("T")
_TOO_LONG = (
    "longer than the {limit} positions that training can read: a pair of it would be refused; "
    "lower train.max_prompt_tokens or train.max_completion_tokens"
)
Texts = tuple[Prompt, Iterable[Text]]
"""A record's prompt, which says where it comes from, and its tokenized texts."""


def read_in_one_piece(
    records: Iterable[T],
    config: RunConfig,
    tokenize: Callable[[T, ReadsTexts], Texts],
    report: ImportReport | None = None,
) -> Iterator[T]:
    """Pass records on; refuse or count one that is too long for the policy or for the reference.

    Nothing is tokenized where the token limits of section `train` let no such text through.

    Args:
        records: What will be trained on.
        config: Has the limits and the models.
        tokenize: Reads a record.
        report: Counts the records that are too long, where not all of them come to training.

    Raises:
        ConfigError: Without a report, a text is too long; the message has its place.
    """
    settings = config.train
    policy = trainable(config.policy, where="policy")
    paths = [policy.path]
    # One with another tokenizer reads other tokens: what it cannot read whole is left out.
    paths += [
        one.model.path
        for one in references_of(config)
        if one.model is not None and not reads_other_tokens(policy, one.model)
    ]
    limits = [(limit, path) for path in paths if (limit := load_positions(path)) is not None]
    limit, path = min(limits, default=(None, ""))
    # A completion's last token is never an input.
    longest = settings.max_prompt_tokens + settings.max_completion_tokens - 1
    if limit is None or longest <= limit:
        yield from records
        return
    reader = text_reader(policy, config)
    for record in records:
        prompt, texts = tokenize(record, reader)
        longest = max((text.positions for text in texts), default=0)
        if longest > limit:
            message = (
                f"{prompt.source or f'prompt {prompt.id}'}: takes {longest} positions, and {path} "
                f"reads {limit}; lower train.max_prompt_tokens ({settings.max_prompt_tokens}) or "
                f"train.max_completion_tokens ({settings.max_completion_tokens}): together "
                f"{limit + 1} always fit"
            )
            if report is None:
                raise ConfigError(message)
            report.remark(_TOO_LONG.format(limit=limit), message, prompt.source)
        yield record


def as_item(config: RunConfig, kind: str) -> Callable[[Any, ReadsTexts], Texts]:
    """Return the reader of the items of a kind; one that is left out has no texts."""
    (relation,) = (one for one in configured_relation(config).kinds if one.name == kind)

    def tokenize(record: Any, reader: ReadsTexts) -> Texts:
        if isinstance(record, PreferencePair) and refusal(record, config.pair) is not None:
            return record.prompt, ()
        item = relation.read(record, reader).item
        return record.prompt, () if item is None else item.texts

    return tokenize


def as_group(group: tuple[Prompt, list[Completion]], reader: ReadsTexts) -> Texts:
    """Read a prompt with its completions, each of which may come to a pair."""
    prompt, completions = group
    readings = (reader.read(prompt, completion) for completion in completions)
    return prompt, (reading.text for reading in readings if reading.text is not None)


def as_prompt(prompt: Prompt, reader: ReadsTexts) -> Texts:
    """Read a prompt with an answer of one word, as what is yet to be sampled is not known."""
    shortest = Completion(
        id="unsampled",
        prompt_id=prompt.id,
        sample_index=0,
        message=Message(role="assistant", content="A"),
    )
    return as_group((prompt, [shortest]), reader)
