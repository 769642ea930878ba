"""The table of the log-probabilities of some held-out answers' tokens, at the end of `train`."""

from collections.abc import Iterator, Sequence

from prefine.config.sections import RunConfig
from prefine.records import AnswerTokens
from prefine.run.folder import RunFolder
from prefine.run.tables import TableWriter
from prefine.run.view import TOKEN_LOGPS
from prefine.stages.training_inputs import configured_relation, held_out_tables, records
from prefine.tokenizer import Tokenizer, pieces
from prefine.training.token_sample import ScoredItem


def write_token_logps(
    config: RunConfig,
    folder: RunFolder,
    tokenizer: Tokenizer,
    scored: Sequence[ScoredItem],
    *,
    key: str,
) -> None:
    """Write the table, whole or not at all.

    Args:
        config: Of the run, which has the items in its tables of held-out ones.
        folder: Its folder.
        tokenizer: The policy's.
        scored: Some held-out items.
        key: Everything that the values depend on.
    """
    with TableWriter(folder / TOKEN_LOGPS, TOKEN_LOGPS) as table:
        rows = [one.model_dump() for one in _answers(config, tokenizer, scored)]
        table.write(rows, key=key)


def _answers(
    config: RunConfig, tokenizer: Tokenizer, scored: Sequence[ScoredItem]
) -> Iterator[AnswerTokens]:
    """Join the values with the ids of their prompts and completions."""
    by_id = {one.item.id: one for one in scored}
    for path, kind in zip(held_out_tables(config), configured_relation(config).kinds, strict=True):
        if not path.is_dir():
            continue
        for record in records(path, kind):
            one = by_id.get(record.id)
            if one is None:
                continue
            answers = zip(
                kind.answers(record, one.item),
                one.item.texts,
                one.logps,
                one.initial_logps,
                strict=True,
            )
            for answer, text, logps, initial_logps in answers:
                yield AnswerTokens(
                    prompt_id=answer.prompt.id,
                    completion_id=answer.completion.id,
                    item_id=record.id,
                    role=answer.name,
                    tokens=tuple(pieces(tokenizer, text.scored)),
                    logps=tuple(logps),
                    initial_logps=tuple(initial_logps),
                )
