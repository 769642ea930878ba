"""Token ids of pairs by prefine beside those of TRL, for the families of templates and tokenizers.

    python benchmarks/tokens.py

Small tokenizers in the manner of each family are trained on the project's own documents; templates
are the published ones (those that TRL ships, or the same text in fewer words). Prints a row for
each family: the prompts' ids, the first scored id and all scored ids of the same rows, by TRL's
`DPOTrainer` and by prefine. A difference is stated with its reason, and is a MISS if it is another
one than that. Then answers of several turns beside the mask of TRL's `SFTTrainer` with
`assistant_only_loss`, where TRL has a template with a mask. It takes half a minute.
"""

import logging
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, NamedTuple

import datasets

from line import Line
from prefine import chat
from prefine.records import Completion, Message, Prompt
from prefine.turns import answer_ids
from token_families import FAMILIES, Family, corpus, shipped

ROWS = 40


class Scored(NamedTuple):
    """Token ids of a row: its prompt's, and those that are scored."""

    prompt: list[int]
    ids: list[int]


def rows(count: int = ROWS) -> list[dict[str, list[dict[str, str]]]]:
    """Pairs of questions and answers in TRL's columns, from the lines of the documents."""
    texts = [line.strip() for line in corpus() if 20 < len(line.strip()) < 300 and line[0] != "|"]
    step = len(texts) // (3 * count)

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    return [
        {
            "prompt": turn("user", f"What does this mean: {texts[3 * n * step]}"),
            "chosen": turn("assistant", texts[(3 * n + 1) * step]),
            "rejected": turn("assistant", texts[(3 * n + 2) * step]),
        }
        for n in range(count)
    ]


def by_trl(tokenizer: Any, pairs: list[Any]) -> list[Scored]:
    """Ids of the chosen answers as `DPOTrainer` makes them of its data set."""
    from trl.trainer.dpo_trainer import DPOTrainer

    settings: Any = SimpleNamespace(dataset_num_proc=None, max_length=None)
    trainer: Any = SimpleNamespace(_tokenizer=tokenizer)
    made = DPOTrainer._prepare_dataset(
        trainer, datasets.Dataset.from_list(pairs), tokenizer, settings, "rows"
    )
    return [Scored(row["prompt_ids"], row["chosen_ids"]) for row in made]


def by_prefine(tokenizer: Any, pairs: list[Any], stop: int) -> list[Scored]:
    """Ids of the chosen answers as prefine's training reads them."""
    own = chat.tokenizer_hash(tokenizer)
    found = []
    for pair in pairs:
        prompt = Prompt.make(tuple(map(Message.model_validate, pair["prompt"])))
        *earlier, message = map(Message.model_validate, pair["chosen"])
        completion = Completion(
            id="c", prompt_id=prompt.id, sample_index=0, message=message, earlier_turns=earlier
        )
        answer = answer_ids(tokenizer, prompt, completion, tokenizer_hash=own, stop_token_id=stop)
        assert answer is not None, pair
        runs = answer.scored or ((0, len(answer.ids)),)
        scored = [token for start, end in runs for token in answer.ids[start:end]]
        found.append(Scored(chat.prompt_ids(tokenizer, prompt), scored))
    return found


def family_line(name: str, tokenizer: Any, pairs: list[Any]) -> Line:
    """Compare one family's ids with TRL's."""
    family = FAMILIES[name]
    chat.check_template(tokenizer)
    if family.thought:
        pairs = [
            pair | {side: _thought(family.thought, pair[side]) for side in ("chosen", "rejected")}
            for pair in pairs
        ]
    ours, theirs = by_prefine(tokenizer, pairs, _stop(family, tokenizer)), by_trl(tokenizer, pairs)
    both = list(zip(ours, theirs, strict=True))
    equal = [
        sum(own.prompt == other.prompt for own, other in both),
        sum(own.ids[0] == other.ids[0] for own, other in both),
        sum(own.ids == other.ids for own, other in both),
    ]
    figure = "equal of {}: prompts {}, first ids {}, all ids {}".format(len(pairs), *equal)
    if not family.why:
        return Line(name, figure, equal == [len(pairs)] * 3)
    return Line(
        name,
        f"{figure}; {_stated(family)}",
        all(_differs_as_stated(family, tokenizer, own, other) for own, other in both),
    )


def _thought(thought: str, turns: list[dict[str, str]]) -> list[dict[str, str]]:
    return [turn | {"content": thought + turn["content"]} for turn in turns]


def _stated(family: Family) -> str:
    after = family.after or family.stop
    prompt = f"; TRL's prompt lacks {family.left_out}" if family.left_out else ""
    return (
        f"TRL scores {family.before}…{after}, prefine {family.ours}…{family.stop}{prompt}: "
        f"{family.why}"
    )


def _differs_as_stated(family: Family, tokenizer: Any, own: Scored, other: Scored) -> bool:
    """Return True if the ids of a row differ in nothing else than the family's difference."""
    skipped = next(
        (at for at in range(len(own.ids)) if _written(tokenizer, own.ids[:at]) == family.ours), 0
    )
    body = own.ids[skipped:-1]
    start = next(
        (at for at in range(len(other.ids)) if other.ids[at : at + len(body)] == body), None
    )
    if start is None:
        return False
    found = other.ids[:start], other.ids[start + len(body) :], own.prompt[len(other.prompt) :]
    # DeepSeek's names of tokens have the mark of a space.
    after = (family.after or family.stop).replace("▁", " ")
    expected = [family.before, after, family.left_out]
    return [_written(tokenizer, ids) for ids in found] == expected


def turns_line(name: str, tokenizer: Any, pairs: list[Any]) -> Line:
    """Compare the scored ids of answers of several turns with the mask of TRL's `SFTTrainer`."""
    family = FAMILIES[name]
    assert family.masked is not None
    asked = {"role": "user", "content": "Sure?"}
    several = [pair | {"chosen": [*pair["chosen"], asked, *pair["rejected"]]} for pair in pairs]
    equal = stated = 0
    ours = by_prefine(tokenizer, several, _stop(family, tokenizer))
    for pair, own in zip(several, ours, strict=True):
        row = tokenizer.apply_chat_template(
            [*pair["prompt"], *pair["chosen"]],
            chat_template=shipped(family.masked),
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        scored = zip(row["input_ids"], row["assistant_masks"], strict=True)
        masked = [token for token, is_scored in scored if is_scored]
        equal += own.ids == masked
        text = _written(tokenizer, masked).replace(family.before, "")
        stated += text.replace(family.after, family.stop) == _written(tokenizer, own.ids)
    figure = f"equal of {len(pairs)}: ids of the assistant's mask {equal}"
    if family.why:
        return Line(f"{name}, several turns", f"{figure}; {_stated(family)}", stated == len(pairs))
    return Line(f"{name}, several turns", figure, equal == len(pairs))


def _stop(family: Family, tokenizer: Any) -> int:
    named = SimpleNamespace(eos_token_id=tokenizer.convert_tokens_to_ids(family.stop))
    return chat.stop_token_id(tokenizer, named)


def _written(tokenizer: Any, ids: list[int]) -> str:
    """Tokens as one text, with their marks of spaces and lines."""
    text = "".join(tokenizer.convert_ids_to_tokens(ids))
    return text.replace("Ċ", "\\n").replace("<0x0A>", "\\n").replace("▁", " ")


def lines(names: Iterable[str] = FAMILIES, count: int = ROWS) -> Iterator[Line]:
    """Lines for some of the families."""
    pairs = rows(count)
    for name in names:
        tokenizer = FAMILIES[name].make()
        yield family_line(name, tokenizer, pairs)
        if FAMILIES[name].masked is not None:
            yield turns_line(name, tokenizer, pairs)


def main() -> None:
    """Print all lines."""
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    print(f"# transformers {version('transformers')}, trl {version('trl')}, {ROWS} rows a family")
    for line in lines():
        print(line, flush=True)


if __name__ == "__main__":
    main()
