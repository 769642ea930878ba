"""Answers of several turns: which tokens the model reads, and which of them are scored."""

import json
from pathlib import Path
from typing import Any

import pytest

import chat_tokenizers
from command import prefine
from prefine import chat, turns
from prefine.records import Completion, LabelledCompletion, Message, PreferenceList, Prompt
from prefine.run.item_rows import label_of, label_row, list_of, list_row
from prefine.training.items import TextReader
from run_place import GONE, OK, PAIRS, Place, jsonl

CALL = {"type": "function", "function": {"name": "clock", "arguments": {}}}
PROMPT = Prompt.from_text("Why?")


def says(text: str, **fields: Any) -> Message:
    return Message(role="assistant", content=text, **fields)


def hears(text: str, role: Any = "user") -> Message:
    return Message(role=role, content=text)


def answer(*messages: Message, prompt: Prompt = PROMPT, **fields: Any) -> Completion:
    values = {"id": "c", "prompt_id": prompt.id, "sample_index": 0, "finish_reason": "stop"}
    *earlier, message = messages
    return Completion(**values | fields, message=message, earlier_turns=tuple(earlier))


def read(
    tokenizer: Any, completion: Completion, prompt: Prompt = PROMPT
) -> tuple[str, list[str]] | None:
    """The text of prompt and answer, and the texts of the runs that are scored."""
    found = turns.answer_ids(
        tokenizer,
        prompt,
        completion,
        tokenizer_hash=chat.tokenizer_hash(tokenizer),
        stop_token_id=chat.stop_token_id(tokenizer),
    )
    if found is None:
        return None
    whole = tokenizer.decode(chat.prompt_ids(tokenizer, prompt) + found.ids)
    return whole, [tokenizer.decode(found.ids[slice(*run)]) for run in found.scored]


TWO = answer(says("I look."), hears("Well?"), says("Noon."))


@pytest.mark.parametrize(
    ("made", "stop"),
    [
        (chat_tokenizers.chatml, "<|im_end|>"),
        (chat_tokenizers.llama3, "<|eot_id|>"),
        (chat_tokenizers.gemma, "<end_of_turn>"),
        (chat_tokenizers.mistral, "</s>"),
    ],
)
def test_the_row_is_the_conversation_and_the_assistants_turns_are_scored(
    made: Any, stop: str
) -> None:
    tokenizer = made()
    found = read(tokenizer, TWO)
    assert found is not None
    whole, scored = found
    assert [text.strip() for text in scored] == [f"I look.{stop}", f"Noon.{stop}"]
    messages = [PROMPT.messages[0], *TWO.messages]
    rendered = tokenizer.apply_chat_template(
        [message.chat() for message in messages], tokenize=True, return_dict=False
    )
    # The template may end the last turn with a new line, on which nothing stops.
    assert tokenizer.decode(rendered).rstrip("\n") == whole


def test_calls_and_reasoning_are_scored_as_the_template_writes_them() -> None:
    tokenizer = chat_tokenizers.reasoning()
    used = answer(
        says("I look.", reasoning="Hm", tool_calls=(CALL,)),
        hears("12:00", "tool"),
        hears("12:01", "tool"),
        says("Noon.", reasoning="So"),
    )
    found = read(tokenizer, used)
    assert found is not None
    written = json.dumps(CALL["function"])
    assert found[1] == [
        f"<think>\nHm\n</think>\n\nI look.\n<tool_call>\n{written}\n</tool_call><|im_end|>",
        "<think>\nSo\n</think>\n\nNoon.<|im_end|>",
    ]


def test_reasoning_that_later_turns_no_longer_show_is_neither_read_nor_scored() -> None:
    """So TRL has it, too: the row is what the model reads before its last turn."""
    used = answer(
        says("", tool_calls=(CALL,), reasoning="Hm"),
        hears("12:00", "tool"),
        says("Noon.", reasoning="So"),
        hears("Sure?"),
        says("Yes.", reasoning="Quite"),
    )
    found = read(chat_tokenizers.reasoning(), used)
    assert found is not None
    whole, scored = found
    assert "Hm" not in whole and "So" not in whole
    assert scored[1:] == ["Noon.<|im_end|>", "<think>\nQuite\n</think>\n\nYes.<|im_end|>"]


def test_a_special_token_that_somebody_wrote_ends_no_turn() -> None:
    hostile = answer(says("a<|im_end|>b"), hears("c<|im_end|>d"), says("e<|im_end|>f"))
    found = read(chat_tokenizers.chatml(), hostile)
    assert found is not None
    assert found[1] == ["a<|im_end|>b<|im_end|>", "e<|im_end|>f<|im_end|>"]


def test_a_prefill_is_part_of_the_first_turn() -> None:
    prompt = Prompt.make((*PROMPT.messages, says("I")))
    found = read(chat_tokenizers.chatml(), answer(says(" look."), hears("?"), says("No.")), prompt)
    assert found is not None
    assert found[1] == [" look.<|im_end|>", "No.<|im_end|>"]
    assert "assistant\nI look.<|im_end|>" in found[0]


EOM = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}<|endoftext|>{% else %}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("tokenizer", "completion"),
    [
        (chat_tokenizers.chatml(), answer(hears("?"), says("No."))),
        (chat_tokenizers.chatml(), answer(says("One."), says("Two."))),
        # It opens the reasoning of the first turn, and later shows the turn without.
        (chat_tokenizers.reasoning(opened=True), TWO),
        # A turn with a call ends with another token, the next stop token is the tool's.
        (
            chat_tokenizers.chatml(chat_template=EOM),
            answer(says("", tool_calls=(CALL,)), hears("12:00", "tool"), says("Noon.")),
        ),
    ],
)
def test_turns_that_cannot_be_found_again_are_not_guessed(
    tokenizer: Any, completion: Completion
) -> None:
    assert read(tokenizer, completion) is None
    reader = TextReader(
        tokenizer,
        stop_token_id=chat.stop_token_id(tokenizer),
        max_prompt_tokens=99,
        max_completion_tokens=99,
    )
    assert reader.read(PROMPT, completion).dropped == "turns_that_the_template_rewrites"


@pytest.mark.parametrize(
    ("most", "scored"),
    [(99, ["I look.<|im_end|>", "Noon.<|im_end|>"]), (12, ["I look.<|im_end|>"]), (3, ["I l"])],
)
def test_a_long_answer_ends_with_its_last_scored_token(most: int, scored: list[str]) -> None:
    tokenizer = chat_tokenizers.chatml()
    reader = TextReader(
        tokenizer,
        stop_token_id=chat.stop_token_id(tokenizer),
        max_prompt_tokens=99,
        max_completion_tokens=most,
    )
    reading = reader.read(PROMPT, TWO)
    text = reading.text
    assert text is not None and reading.long_completion == (most < 99)
    assert [tokenizer.decode(text.completion[slice(*run)]) for run in text.runs] == scored
    assert tokenizer.decode(text.scored) == "".join(scored)
    assert text.runs[-1][1] == len(text.completion)
    assert bool(text.turns) == (len(scored) > 1)


def test_lists_and_labels_keep_all_turns_in_their_tables() -> None:
    other = answer(says("No idea."), id="other")
    listed = PreferenceList(prompt=PROMPT, completions=(TWO, other), ranks=(1, 2))
    assert list_of(json.loads(json.dumps(list_row(listed)))) == listed
    labelled = LabelledCompletion(prompt=PROMPT, completion=TWO, desirable=True)
    assert label_of(json.loads(json.dumps(label_row(labelled)))) == labelled


def _turns(*texts: str) -> list[dict[str, str]]:
    roles = ("assistant", "user")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


@pytest.mark.parametrize("entry", ["pairs", "lists", "labels"])
def test_the_command_trains_on_answers_of_several_turns(place: Place, entry: str) -> None:
    several = {"chosen": _turns("I look.", "Well?", "Noon."), "rejected": _turns("No idea.")}
    pairs = [{"prompt": f"What time is it in {n}?", **several} for n in range(4)]
    rows: dict[str, list[Any]] = {
        "pairs": pairs,
        "lists": [
            {
                "prompt": pair["prompt"],
                "completions": [
                    {"message": pair[side], "score": score}
                    for side, score in (("chosen", 2), ("rejected", 1))
                ],
            }
            for pair in pairs
        ],
        "labels": [
            {"prompt": p["prompt"], "completion": p["chosen"], "label": True} for p in pairs
        ],
    }
    place.put(f"{entry}.jsonl", jsonl(rows[entry]))
    loss = {"pairs": "dpo", "lists": "list_mle", "labels": "kto"}[entry]
    regularizer = {} if entry == "pairs" else {"train.regularizer": GONE}
    place.change(
        PAIRS
        | {"pairs": GONE, entry: {"name": "file", "path": f"{entry}.jsonl"}}
        | {"train.loss": {"name": loss}, "train.dtype": "float32"}
        | regularizer
    )
    done = prefine("run", "run.yaml")
    assert done.code == OK, done.err
    manifest = json.loads(Path("run/manifest.json").read_text())["stages"]["train"]
    assert manifest["counts"]["dropped"] == {}
    assert manifest["counts"]["produced"] == 4
    first = json.loads(Path("run/train_log.jsonl").read_text().splitlines()[0])
    # Two of the pairs (items) are in the step; what is between the turns is not scored.
    from prefine.models.hf.loading import load_tokenizer

    tokenizer = load_tokenizer("run/model")
    count = [len(tokenizer(text)["input_ids"]) + 1 for text in ("I look.", "Noon.", "No idea.")]
    scored = sum(count[:2] if entry == "labels" else count)
    assert first["tokens"] == 2 * scored
