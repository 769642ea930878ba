"""The request to rewrite a rejected answer towards the chosen one, and how the reply is read.

The texts stand between tags that no text can write, as in the judge's prompt (`prompts`). Source of
the request: arXiv:2408.07471, in our own words.
"""

from functools import lru_cache
from importlib.resources import files
from typing import Literal

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from prefine.judges import prompts
from prefine.records import Completion, Message, Prompt

BridgePrompt = Literal["instructions", "answers"]
"""The built-in requests: any task, or tasks with one right answer."""

LAYOUT_VERSION = 1
"""Part of a rewriting's key; raise it when request or reading change outside of the templates."""

GOOD_ENOUGH = "none"
"""The reply to `answers` that leaves an answer as it is, in lower case without its period."""


def prompt_text(name: BridgePrompt) -> str:
    """Return the template of a built-in request."""
    folder = files("prefine.judges") / "templates"
    return (folder / f"bridge_{name}.jinja").read_text(encoding="utf-8")


@lru_cache(maxsize=4)
def _template(source: str) -> Template:
    return SandboxedEnvironment(autoescape=False, undefined=StrictUndefined).from_string(source)


def render(
    template: str, prompt: Prompt, chosen: Completion, rejected: Completion, *, nonce: str
) -> tuple[Message, ...]:
    """Return one user message that asks to rewrite the rejected answer.

    Args:
        template: From `prompt_text`.
        prompt: What both answers reply to.
        chosen: The better answer.
        rejected: The answer to revise.
        nonce: The code in the tags, from `prompts.nonce` of these.
    """
    text = _template(template).render(
        conversation=prompts.conversation(prompt),
        worse=prompts.candidate("to-revise", rejected, nonce),
        better=prompts.candidate("better", chosen, nonce),
    )
    return (Message(role="user", content=text.strip()),)


def read(text: str, *, shown: str, nonce: str) -> str:
    """Return the rewriting in a reply: without the tags around it, and without our marks inside.

    Args:
        text: The reply.
        shown: Everything that the model was shown; a mark that stands in its own texts stays.
        nonce: The code of the question's tags.
    """
    lines = text.strip().split("\n")
    if len(lines) > 1 and nonce in lines[0] and nonce in lines[-1]:
        lines = lines[1:-1]
    found = "\n".join(lines).strip()
    return found if prompts.BREAK in shown else found.replace(prompts.BREAK, "")
