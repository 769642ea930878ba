"""One sampled answer a row, beside its prompt."""

from collections.abc import Mapping
from typing import Any

from prefine.data.layouts.protocol import PROMPT_NAMES, SourceRow, Values, rest

ANSWERS = ("completion", "response", "output")
_OF_THE_PROMPT = (
    *PROMPT_NAMES,
    "input",
    "system",
    "system_prompt",
    "tools",
    "chat_template_kwargs",
)


def one_sample(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """`prompt` or `instruction`, and the answer; what else there is belongs to the answer."""
    name = next(name for name in ANSWERS if name in row.values)
    prompt = {key: value for key, value in row.values.items() if key in _OF_THE_PROMPT}
    answer = rest(row.values, name, *prompt) | {
        "text": "" if row.values[name] is None else row.values[name]
    }
    return prompt | {"completions": [answer]}
