"""Records ↔ rows of the Parquet tables."""

import json
from collections.abc import Iterable
from typing import Any

from prefine.errors import DataError
from prefine.records import (
    Completion,
    Message,
    PreferenceList,
    PreferencePair,
    Prompt,
    Ranking,
    content_hash,
)
from prefine.run.tables import parse

_NOT_STORED = {"usage"}


def completion_row(completion: Completion, prompt: Prompt) -> dict[str, Any]:
    """A completion as a row; the prompt travels with it, so that a table can be read alone."""
    row = completion.model_dump(mode="json", exclude=_NOT_STORED)
    row["text"] = completion.text
    row["message"] = completion.message.model_dump_json(exclude_none=True)
    row["sampling"] = _text(row["sampling"])
    row["metadata"] = _text(row["metadata"])
    row["prompt"] = prompt.model_dump_json(exclude_none=True)
    return row


def completion_of(row: dict[str, Any]) -> tuple[Prompt, Completion]:
    """The records of a row."""
    values = {name: row[name] for name in Completion.model_fields if name not in _NOT_STORED}
    for field in ("message", "sampling", "metadata"):
        values[field] = json.loads(row[field])
    where = f"completion {row['id']}"
    return parse(Prompt, json.loads(row["prompt"]), where=where), parse(
        Completion, values, where=where
    )


def grouped_completions(rows: Iterable[dict[str, Any]]) -> list[tuple[Prompt, list[Completion]]]:
    """The completions of each prompt, in the order in which prompts first appear."""
    groups: dict[str, tuple[Prompt, list[Completion]]] = {}
    for row in rows:
        prompt, completion = completion_of(row)
        groups.setdefault(prompt.id, (prompt, []))[1].append(completion)
    return list(groups.values())


def ranking_of(row: dict[str, Any]) -> Ranking:
    """The record of a row."""
    return parse(Ranking, row, where=f"ranking of prompt {row['prompt_id']}")


def pair_row(pair: PreferencePair) -> dict[str, Any]:
    """A pair as a row: `prompt, chosen, rejected` as trainers read them, the rest in `prefine_*` columns."""
    return {
        "prompt": [_visible(message) for message in pair.prompt.messages],
        "chosen": [_visible(pair.chosen.message)],
        "rejected": [_visible(pair.rejected.message)],
        "prefine_prompt_id": pair.prompt.id,
        "prefine_chosen_id": pair.chosen.id,
        "prefine_rejected_id": pair.rejected.id,
        "prefine_rejected_prompt_id": pair.rejected_prompt and pair.rejected_prompt.id,
        "prefine_p_chosen": pair.p_chosen,
        "prefine_score_gap": pair.score_gap,
        "prefine_weight": pair.weight,
        "prefine_chosen_token_ids": _ids(pair.chosen),
        "prefine_rejected_token_ids": _ids(pair.rejected),
        "prefine_extra": _text(
            {
                "prompt": pair.prompt.model_dump(mode="json"),
                "rejected_prompt": pair.rejected_prompt
                and pair.rejected_prompt.model_dump(mode="json"),
                "chosen": pair.chosen.model_dump(mode="json", exclude={"token_ids", *_NOT_STORED}),
                "rejected": pair.rejected.model_dump(
                    mode="json", exclude={"token_ids", *_NOT_STORED}
                ),
            }
        ),
    }


def pair_of(row: dict[str, Any]) -> PreferencePair:
    """The record of a row.

    A text that was edited in its visible column counts as edited: it gets an id of its own, and the
    token ids and the log-probability of what was sampled are dropped.
    """
    extra = json.loads(row["prefine_extra"])
    prompt = Prompt.model_validate(extra["prompt"])
    if [_visible(message) for message in prompt.messages] != row["prompt"]:
        prompt = Prompt.make(
            tuple(Message.model_validate(message) for message in row["prompt"]),
            tools=prompt.tools,
            chat_template_kwargs=prompt.chat_template_kwargs,
            source=prompt.source,
            metadata=prompt.metadata,
        )
    sides = {}
    for side in ("chosen", "rejected"):
        asked = (
            extra["rejected_prompt"]["id"]
            if side == "rejected" and extra["rejected_prompt"]
            else prompt.id
        )
        completion = dict(extra[side], token_ids=row[f"prefine_{side}_token_ids"], prompt_id=asked)
        if [_visible(Message.model_validate(completion["message"]))] != row[side]:
            message = _only_turn(row[side], side)
            completion |= {
                "message": message,
                "token_ids": None,
                "sampled_logp": None,
                "finish_reason": "unknown",
            }
            completion["id"] = content_hash("edited", completion["id"], message)
        sides[side] = completion
    values = {
        "prompt": prompt,
        "rejected_prompt": extra["rejected_prompt"],
        "p_chosen": row["prefine_p_chosen"],
        "score_gap": row["prefine_score_gap"],
        "weight": row["prefine_weight"],
        **sides,
    }
    return parse(PreferencePair, values, where=f"pair of prompt {row['prefine_prompt_id']}")


def list_row(found: PreferenceList) -> dict[str, Any]:
    """A list as a row: what list losses read, the rest in `prefine_*` columns."""
    return {
        "prompt": [_visible(message) for message in found.prompt.messages],
        "completions": [[_visible(completion.message)] for completion in found.completions],
        "scores": found.scores,
        "ranks": found.ranks,
        "prefine_prompt_id": found.prompt.id,
        "prefine_completion_ids": [completion.id for completion in found.completions],
        "prefine_weight": found.weight,
        "prefine_token_ids": [_ids(completion) for completion in found.completions],
        "prefine_extra": _text(
            {
                "prompt": found.prompt.model_dump(mode="json"),
                "completions": [
                    completion.model_dump(mode="json", exclude={"token_ids", *_NOT_STORED})
                    for completion in found.completions
                ],
            }
        ),
    }


def list_of(row: dict[str, Any]) -> PreferenceList:
    """The record of a row."""
    where = f"list of prompt {row['prefine_prompt_id']}"
    extra = json.loads(row["prefine_extra"])
    visible = [
        [_visible(Message.model_validate(answer["message"]))] for answer in extra["completions"]
    ]
    if visible != row["completions"]:
        raise DataError(
            f"{where}: its visible completions were changed; make the lists again with prefine pair"
        )
    answers = [
        answer | {"token_ids": token_ids}
        for answer, token_ids in zip(extra["completions"], row["prefine_token_ids"], strict=True)
    ]
    values = {name: row[name] for name in ("scores", "ranks")} | {"weight": row["prefine_weight"]}
    return parse(
        PreferenceList, values | {"prompt": extra["prompt"], "completions": answers}, where=where
    )


def _only_turn(messages: Any, side: str) -> dict[str, str]:
    if (
        not isinstance(messages, list)
        or len(messages) != 1
        or messages[0].get("role") != "assistant"
    ):
        raise ValueError(f"{side} must be one assistant turn")
    return dict(messages[0])


def _visible(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _ids(completion: Completion) -> list[int] | None:
    return None if completion.token_ids is None else list(completion.token_ids)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
