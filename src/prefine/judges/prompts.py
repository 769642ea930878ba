"""The judge's prompt about two completions, which untrusted text cannot restructure.

Instructions and conversation come first, so that all comparisons of a prompt share a prefix that
servers can cache; then the two candidates, each between tags that carry the nonce; then how to
answer. A prompt template is Jinja text with the variables `conversation`, `first`, `second`,
`answer`, each once and in this order, and `rubric` where there is one. It is rendered without the
texts, which are put in afterwards: no text is ever read as a template, and no filter of a template
can touch a candidate's tags.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from jinja2 import StrictUndefined, TemplateSyntaxError, meta
from jinja2.sandbox import SandboxedEnvironment

from prefine.errors import ConfigError
from prefine.records import Completion, Message, Prompt, canonical_json

Style = Literal["label", "text"]

PROMPTS = ("helpfulness", "rubric")
"""Names of the built-in prompts."""

ACROSS_PROMPTS = ("across", "across_rubric")
"""Names of those about answers to two prompts, see `across_prompt`."""

LAYOUT_VERSION = 1
"""Part of a judge's fingerprint; raise it when this module writes something else around texts."""

BREAK = "\u200b"
"""ZERO WIDTH SPACE, which `plain` puts into control tokens."""

_PLACES = ("conversation", "first", "second", "answer")

_CONTROL = re.compile(
    r"""
    <(?=[|｜])              # <|im_start|>, <|eot_id|>, <｜User｜>
  | <(?=[^\s<>=]+>)         # <s>, </s>, <start_of_turn>, <think>, <seed:bos>, and other bare tags
  | \[(?=/?[a-z]?[A-Z][A-Z0-9_]*\])  # [INST], [/INST], [TOOL_CALLS], [gMASK]
  | \[(?=\w?~) | \](?=~)    # ]~b], [e~[
  | >(?=>[A-Z]+<<)          # >>TITLE<<
    """,
    re.VERBOSE,
)


def prompt_text(name: str) -> str:
    """Return the template source of a built-in prompt; raise ValueError for another name."""
    if name not in (*PROMPTS, *ACROSS_PROMPTS):
        raise ValueError(f"{name!r} is no built-in judge prompt; there are {', '.join(PROMPTS)}")
    return (files("prefine.judges") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def outline(template: str, rubric: str | None) -> str:
    """Return a template with its rubric, and the names of the texts in their places."""
    pieces = skeleton(template, rubric)
    places = [f"[{name}]" for name in _PLACES]
    return "".join(piece + place for piece, place in zip(pieces, [*places, ""], strict=True))


def plain(text: str) -> str:
    """Break up the control tokens of chat templates, so that no tokenizer takes them for special.

    Which tokens a judge's tokenizer has is unknown behind a URL, so their shapes count, not their
    names. A zero-width space after the first character is enough: special tokens are matched letter
    by letter. A reader sees the same text, and nothing is replaced or removed. Bare tags of markup
    (<b>, </div>, vector<int>) have the shape of control tokens and get one too.
    """
    return _CONTROL.sub(rf"\g<0>{BREAK}", text)


def nonce(seed: int, prompt: Prompt, first: Completion, second: Completion) -> str:
    """Return the code of one comparison in one order, 16 hex digits of a keyed hash.

    A candidate cannot contain it: it depends on the candidate itself, on its opponent and on the
    run's seed.
    """
    return code_of(seed, [prompt.id, *([c.id, c.message.chat()] for c in (first, second))])


def code_of(seed: int, shown: Sequence[object]) -> str:
    """Return 16 hex digits of a keyed hash of what is shown, as canonical JSON."""
    text = canonical_json(shown).encode("utf-8", "surrogatepass")
    return hmac.new(str(seed).encode(), text, hashlib.sha256).hexdigest()[:16]


def render(
    template: str,
    prompt: Prompt,
    first: Completion,
    second: Completion,
    *,
    nonce: str,
    style: Style,
    rubric: str | None,
) -> tuple[Message, ...]:
    """Return one user message about two completions in the order shown; nothing is truncated.

    Of a completion its text and its tool calls (as JSON) are shown, its reasoning is not.

    Args:
        template: Jinja source, see the module.
        prompt: What both completions answer.
        first: The candidate shown as A.
        second: The candidate shown as B.
        nonce: The code in tags and verdict line, from `nonce`.
        style: "label" asks for one letter, "text" for brief reasons and a verdict line.
        rubric: What decides, for a template that has the variable `rubric`; else None.

    Raises:
        ConfigError: The template is no valid Jinja, misses a variable, has an unknown one, or
            repeats or reorders them.
        ValueError: A text contains the nonce, which only a nonce from elsewhere makes possible.
    """
    shown_before = conversation(prompt)
    shown = {"the prompt": shown_before, "the first": shown_of(first)}
    check_nonce(nonce, shown | {"the second": shown_of(second)}, prompt)
    blocks = (
        shown_before,
        candidate("A", first, nonce),
        candidate("B", second, nonce),
        answer(style, nonce),
    )
    return (Message(role="user", content=filled(skeleton(template, rubric), blocks)),)


def check_nonce(nonce: str, shown: Mapping[str, str], prompt: Prompt) -> None:
    """Raise ValueError if a text that is shown contains the nonce; `shown` names the texts."""
    for what, text in shown.items():
        if nonce in text:
            raise ValueError(
                f"prompt {prompt.id}: {what} contains the nonce {nonce}; take it from prompts.nonce"
            )


def filled(pieces: Sequence[str], blocks: Sequence[str]) -> str:
    """Return the text of a `skeleton` with a block at each of its places."""
    return "".join(piece + block for piece, block in zip(pieces, (*blocks, ""), strict=True))


def shown_of(completion: Completion) -> str:
    """Return everything of a completion that is shown."""
    return "\n".join([completion.text, *_calls(completion.message)])


def _calls(message: Message) -> list[str]:
    """Return tool calls as JSON."""
    return [plain(canonical_json(call)) for call in message.tool_calls or ()]


def conversation(prompt: Prompt) -> str:
    """Return the prompt between tags that its text cannot write: `plain` breaks them."""
    lines = ["<the:conversation>"]
    if prompt.tools:
        tools = [plain(canonical_json(tool)) for tool in prompt.tools]
        lines += ["<tools:available>", *tools, "</tools:available>"]
    for message in prompt.messages:
        calls = _calls(message)
        lines += [f"<turn:{message.role}>", plain(message.content)]
        lines += ["<tools:called>", *calls, "</tools:called>"] if calls else []
        lines += [f"</turn:{message.role}>"]
    lines.append("</the:conversation>")
    if prompt.messages[-1].role == "assistant":
        lines.append("The last turn was begun for the assistant; each candidate continues it.")
    return "\n".join(lines)


def candidate(label: str, completion: Completion, nonce: str) -> str:
    """One candidate between its tags, its tool calls in tags of their own."""
    calls = _calls(completion.message)
    lines = [f"<answer-{label}-{nonce}>", plain(completion.text)]
    if calls:
        lines += [f"<tools-called-{label}-{nonce}>", *calls, f"</tools-called-{label}-{nonce}>"]
    return "\n".join([*lines, f"</answer-{label}-{nonce}>"])


def answer(style: Style, nonce: str) -> str:
    """Return the instruction how to answer; an echo of its verdict line is no verdict."""
    if style == "label":
        return "Which candidate is better? Answer with A or B: one letter and nothing else."
    return (
        "Which candidate is better? First weigh them against each other in a few sentences. Then "
        "end with one line of exactly this form, with a single word after the colon: A or B for "
        f"the better candidate, tie only if you can find no difference that counts.\n"
        f"verdict-{nonce}: A|B|tie"
    )


@lru_cache(maxsize=16)
def skeleton(
    template: str, rubric: str | None, places: tuple[str, ...] = _PLACES
) -> tuple[str, ...]:
    """Return the template's own text around its places, one piece more than there are places.

    Args:
        template: Jinja source.
        rubric: See `render`.
        places: The variables that it has to have, in this order.

    Raises:
        ConfigError: As `render`.
    """
    known = (*places, "rubric")
    environment = SandboxedEnvironment(autoescape=False, undefined=StrictUndefined)
    try:
        names = meta.find_undeclared_variables(environment.parse(template))
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"the judge's prompt template is no valid Jinja: line {error.lineno}: {error}"
        ) from error
    if unknown := sorted(names - set(known)):
        raise ConfigError(
            f"the judge's prompt template has no variable {unknown[0]!r}; it has {', '.join(known)}"
        )
    if missing := [name for name in places if name not in names]:
        raise ConfigError(
            f"the judge's prompt template misses {{{{ {missing[0]} }}}}; it needs "
            f"{', '.join(places)}"
        )
    if "rubric" in names and not (rubric and rubric.strip()):
        raise ConfigError(
            "the judge's prompt template shows a rubric, but none is given: set rubric"
        )
    if rubric is not None and "rubric" not in names:
        raise ConfigError(
            "a rubric is given, but the judge's prompt template does not show it: add {{ rubric }}"
        )
    marks = {name: f"\0{name}\0" for name in places}
    try:
        text = environment.from_string(template).render(marks, rubric=plain((rubric or "").strip()))
    except Exception as error:  # a template is a program, which may raise anything
        raise ConfigError(f"the judge's prompt template cannot be rendered: {error}") from error
    found = [text.find(mark) for mark in marks.values()]
    if any(text.count(mark) != 1 for mark in marks.values()) or found != sorted(found):
        raise ConfigError(
            f"the judge's prompt template must show {', '.join(places)} once each, unchanged and "
            "in this order"
        )
    return tuple(re.split("|".join(marks.values()), text.strip()))
