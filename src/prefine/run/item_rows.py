"""Items of training (pairs, lists, labelled answers) ↔ rows of the Parquet tables."""

import json
from collections.abc import Iterable
from typing import Any, TypeAlias

from prefine.errors import DataError
from prefine.records import (
    Completion,
    LabelledCompletion,
    Message,
    PreferenceList,
    PreferencePair,
    Prompt,
    content_hash,
)
from prefine.run.tables import parse

TableRow: TypeAlias = dict[str, Any]

NOT_STORED = {"usage"}
"""Fields of a completion that no table has."""
_OWN_COLUMN = {"token_ids", *NOT_STORED}


def pair_row(pair: PreferencePair) -> TableRow:
    """A pair as a row: `prompt, chosen, rejected` as in TRL, the rest in `prefine_*` columns."""
    other = pair.rejected_prompt
    extra = {
        "prompt": pair.prompt.model_dump(mode="json"),
        "rejected_prompt": other and other.model_dump(mode="json"),
        "chosen": _extra(pair.chosen),
        "rejected": _extra(pair.rejected),
    }
    if pair.bridged_from is not None:
        extra["bridged_from"] = pair.bridged_from.model_dump(mode="json", exclude=NOT_STORED)
    return {
        "prompt": visible(pair.prompt.messages),
        "chosen": visible(pair.chosen.messages),
        "rejected": visible(pair.rejected.messages),
        "prefine_prompt_id": pair.prompt.id,
        "prefine_chosen_id": pair.chosen.id,
        "prefine_rejected_id": pair.rejected.id,
        "prefine_rejected_prompt_id": other and other.id,
        "prefine_p_chosen": pair.p_chosen,
        "prefine_score_gap": pair.score_gap,
        "prefine_weight": pair.weight,
        "prefine_chosen_token_ids": _tokens(pair.chosen),
        "prefine_rejected_token_ids": _tokens(pair.rejected),
        "prefine_extra": json_text(extra),
    }


def bridged_row(pair: PreferencePair, outcome: str) -> TableRow:
    """A pair of the table `bridged_pairs`: what became of it, and the chosen answer before."""
    original = pair.bridged_from
    return pair_row(pair) | {
        "prefine_bridge": outcome,
        "prefine_original_chosen": None if original is None else visible(original.messages),
    }


def pair_of(row: TableRow) -> PreferencePair:
    """The record of a row.

    A text that was edited in its visible column counts as edited: it gets an id of its own, and the
    token ids and the log-probability of what was sampled are dropped.
    """
    extra = json.loads(row["prefine_extra"])
    prompt = Prompt.model_validate(extra["prompt"])
    if visible(prompt.messages) != row["prompt"]:
        prompt = Prompt.make(
            tuple(map(Message.model_validate, row["prompt"])),
            tools=prompt.tools,
            chat_template_kwargs=prompt.chat_template_kwargs,
            source=prompt.source,
            metadata=prompt.metadata,
        )
    other = extra["rejected_prompt"]
    prompt_ids = {"chosen": prompt.id, "rejected": other["id"] if other else prompt.id}
    values = {
        "prompt": prompt,
        "rejected_prompt": other,
        "p_chosen": row["prefine_p_chosen"],
        "score_gap": row["prefine_score_gap"],
        "weight": row["prefine_weight"],
        "bridged_from": extra.get("bridged_from"),
    }
    for side, prompt_id in prompt_ids.items():
        token_ids = row[f"prefine_{side}_token_ids"]
        values[side] = completion = extra[side] | {"token_ids": token_ids, "prompt_id": prompt_id}
        if _visible_turns(completion) != row[side]:
            message = _only_turn(row[side], side)
            completion |= {
                "id": content_hash("edited", completion["id"], message),
                "message": message,
                "earlier_turns": (),
                "token_ids": None,
                "sampled_logp": None,
                "finish_reason": "unknown",
            }
    return parse(PreferencePair, values, where=f"pair of prompt {row['prefine_prompt_id']}")


def list_row(found: PreferenceList) -> TableRow:
    """A list as a row: what list losses read, the rest in `prefine_*` columns."""
    extra = {
        "prompt": found.prompt.model_dump(mode="json"),
        "completions": [_extra(completion) for completion in found.completions],
    }
    return {
        "prompt": visible(found.prompt.messages),
        "completions": [visible(completion.messages) for completion in found.completions],
        "scores": found.scores,
        "ranks": found.ranks,
        "prefine_prompt_id": found.prompt.id,
        "prefine_completion_ids": [completion.id for completion in found.completions],
        "prefine_weight": found.weight,
        "prefine_token_ids": [_tokens(completion) for completion in found.completions],
        "prefine_extra": json_text(extra),
    }


def list_of(row: TableRow) -> PreferenceList:
    """The record of a row.

    Raises:
        DataError: A visible text was changed; a list has no way to count as edited.
    """
    where = f"list of prompt {row['prefine_prompt_id']}"
    extra = json.loads(row["prefine_extra"])
    completions = extra["completions"]
    if list(map(_visible_turns, completions)) != row["completions"]:
        raise DataError(
            f"{where}: its visible completions were changed; make the lists again with prefine pair"
        )
    for completion, token_ids in zip(completions, row["prefine_token_ids"], strict=True):
        completion["token_ids"] = token_ids
    values = {"scores": row["scores"], "ranks": row["ranks"], "weight": row["prefine_weight"]}
    return parse(PreferenceList, extra | values, where=where)


def label_row(labelled: LabelledCompletion) -> TableRow:
    """A labelled answer as a row: `prompt, completion, label` as in TRL, and our own columns."""
    extra = {
        "prompt": labelled.prompt.model_dump(mode="json"),
        "completion": _extra(labelled.completion),
    }
    return {
        "prompt": visible(labelled.prompt.messages),
        "completion": visible(labelled.completion.messages),
        "label": labelled.desirable,
        "prefine_prompt_id": labelled.prompt.id,
        "prefine_completion_id": labelled.completion.id,
        "prefine_weight": labelled.weight,
        "prefine_token_ids": _tokens(labelled.completion),
        "prefine_extra": json_text(extra),
    }


def label_of(row: TableRow) -> LabelledCompletion:
    """The record of a row.

    Raises:
        DataError: A visible text was changed; a labelled answer has no way to count as edited.
    """
    where = f"labelled answer to prompt {row['prefine_prompt_id']}"
    extra = json.loads(row["prefine_extra"])
    completion = extra["completion"]
    if _visible_turns(completion) != row["completion"]:
        raise DataError(
            f"{where}: its visible completion was changed; make the labels again with prefine pair"
        )
    completion["token_ids"] = row["prefine_token_ids"]
    values = {"desirable": row["label"], "weight": row["prefine_weight"]}
    return parse(LabelledCompletion, extra | values, where=where)


def _only_turn(messages: Any, side: str) -> dict[str, str]:
    if (
        not isinstance(messages, list)
        or len(messages) != 1
        or messages[0].get("role") != "assistant"
    ):
        raise ValueError(f"{side} must be one assistant turn")
    return dict(messages[0])


def visible(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Role and content of messages, as TRL reads them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def _visible_turns(completion: TableRow) -> list[dict[str, str]]:
    """`visible` of all turns of a stored completion."""
    turns = [*completion.get("earlier_turns", ()), completion["message"]]
    return visible(map(Message.model_validate, turns))


def _extra(completion: Completion) -> TableRow:
    return completion.model_dump(mode="json", exclude=_OWN_COLUMN)


def _tokens(completion: Completion) -> list[int] | None:
    return None if completion.token_ids is None else list(completion.token_ids)


def json_text(value: Any) -> str:
    """A value as JSON, the same text for equal values."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
