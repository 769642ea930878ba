"""The judge's prompt about answers to two prompts: (prompt, answer) A against (prompt, answer) B.

It is built as the one about two answers to one prompt (`prompts`), and no text in it can change its
structure either. A template has the variables `first_conversation`, `first`, `second_conversation`,
`second`, `answer`, each once and in this order, and `rubric` where there is one.

Source of the question: arXiv:2404.00530, in our own words.
"""

from prefine.judges import prompts
from prefine.records import Completion, Message, Prompt

PLACES = ("first_conversation", "first", "second_conversation", "second", "answer")


def nonce(
    seed: int, prompt: Prompt, first: Completion, second_prompt: Prompt, second: Completion
) -> str:
    """Return the code of one comparison in one order, as `prompts.nonce` does."""
    shown = [[p.id, c.id, c.message.chat()] for p, c in ((prompt, first), (second_prompt, second))]
    return prompts.code_of(seed, ["across", *shown])


def render(
    template: str,
    prompt: Prompt,
    first: Completion,
    second_prompt: Prompt,
    second: Completion,
    *,
    nonce: str,
    style: prompts.Style,
    rubric: str | None,
) -> tuple[Message, ...]:
    """Return one user message about two answers to two prompts, in the order shown.

    Args:
        template: Jinja source, see the module.
        prompt: What the first answers.
        first: The candidate shown as A.
        second_prompt: What the second answers.
        second: The candidate shown as B.
        nonce: The code in tags and verdict line, from `nonce`.
        style: As in `prompts.render`.
        rubric: As in `prompts.render`.

    Raises:
        ConfigError: As `prompts.render`.
        ValueError: A text contains the nonce.
    """
    conversations = prompts.conversation(prompt), prompts.conversation(second_prompt)
    shown = {
        "the prompt": conversations[0],
        "the first": prompts.shown_of(first),
        "the other prompt": conversations[1],
        "the second": prompts.shown_of(second),
    }
    prompts.check_nonce(nonce, shown, prompt)
    blocks = (
        conversations[0],
        prompts.candidate("A", first, nonce),
        conversations[1],
        prompts.candidate("B", second, nonce),
        prompts.answer(style, nonce),
    )
    pieces = prompts.skeleton(template, rubric, PLACES)
    return (Message(role="user", content=prompts.filled(pieces, blocks)),)
