"""Read a judge's answer from the probabilities of its first token, or from its text.

Anything that is no clear verdict is None with the reason. Nothing here raises, and nothing favours
a label: both are read by the same expressions, so that swapped labels give 1 - p.
"""

import math
import re
import unicodedata
from collections.abc import Mapping

from prefine.judges.protocol import Verdict

PARSER_VERSION = 1
"""Part of the key of a judgment; raise it when the same answer is read differently."""

MIN_LABEL_MASS = 0.5
"""Least probability of A and B together; below it the judge would rather say something else."""

_MASS_TOLERANCE = 0.01
"""Probabilities may sum to this much more than 1: servers round, and compute in 16 bits."""

_NEVER = -1e4
"""Log-probability [nats] whose exponential is 0 in any precision."""

_QUOTED = 200
"""Length of the part of an unreadable answer that a reason shows [characters]."""

# Spaces and line ends as tokenizers write them, marks of emphasis, quotes and brackets, what ends a
# sentence.
_BEFORE = r"""[\sĠ▁Ċ*_`~#>"'“”‘’«»「『(\[{<]*"""
_AFTER = r"""[\sĠ▁Ċ*_`~"'“”‘’«»」』)\]}>.,:;!。．，：！]*"""
_TOKEN = re.compile(rf"{_BEFORE}([ABＡＢ]){_AFTER}")
_ANSWER = re.compile(rf"{_BEFORE}([ABＡＢ]|[Tt]ie|TIE){_AFTER}")
# Behind the code of a verdict line the letter may be small, called a candidate's, or in a box.
_MARKS = re.compile(r"[^\w|+\-<>=?/&]+|_+")
_NAMED = frozenset(
    [
        "the",
        "candidate",
        "answer",
        "response",
        "assistant",
        "completion",
        "option",
        "output",
        "model",
        "is",
        "final",
        "verdict",
        "boxed",
        "fbox",
        "text",
        "textbf",
        "mathrm",
        "mathbf",
    ]
)

_P_FIRST = {"A": 1.0, "B": 0.0, "TIE": 0.5}

_WHO = r"\b(?i:answer|candidate|response|assistant|output|completion|option|model)\W{0,3}[AB]\b"
_BETTER = r"\b(?i:better|best|wins?|winner|winning|superior|preferred|preferable)\b"
_VERDICT_LIKE = re.compile(
    "|".join(
        (
            r"(?i:verdict)\W{0,3}[-:=]",  # verdict: A, "verdict" = B, verdict-0f3a
            r"\[\[\s*([AB]|C|(?i:tie)|[AB]\W{1,3}[AB])\s*\]\]",  # [[A]], [[A>>B]]
            r"</?\W{0,3}(?i:answer|candidate|tools-called|tools:|turn|the)[-_:]",  # tags like ours
            rf"{_WHO}.{{0,30}}{_BETTER}",
            rf"{_BETTER}.{{0,30}}{_WHO}",
            r"\b(?i:winner|preference|better one|final "
            r"(answer|decision|choice))\W{1,10}((?i:is)\W{1,5})?[AB]\b",
            rf"\b(?i:choose|pick|select|prefer|vote for)\W{{1,5}}({_WHO}|[AB]\b)",
            r"(?i:\b(ignore|disregard|forget)\b.{0,30}\b(instructions?|rules?|rubrics?|criteria)\b)",
        )
    )
)


def label_of(token: str) -> str | None:
    """Return the label that a token spells (" A", "A.", "**A", "ĠA"); None for "a" and the rest."""
    match = _TOKEN.fullmatch(token)
    return _narrow(match[1]) if match else None


def read_label(logps: Mapping[str, float]) -> Verdict:
    """Return P(A) / (P(A) + P(B)) at the first position, summed over the labels' spellings.

    Args:
        logps: Log-probability of each token text at the first position [nats]; a list cut to the
            likeliest is fine.
    """
    found: dict[str, list[float]] = {"A": [], "B": []}
    for token, logp in logps.items():
        label = label_of(token) if isinstance(token, str) else None
        if label is None:
            continue
        # Written so that NaN, which is below nothing, is refused as well.
        if not (isinstance(logp, int | float) and logp <= _MASS_TOLERANCE):
            return Verdict(None, f"the log-probability of {_shown(token)} is {_shown(repr(logp))}")
        found[label].append(math.exp(max(logp, _NEVER)))
    a, b = math.fsum(found["A"]), math.fsum(found["B"])
    if a + b > 1 + _MASS_TOLERANCE:
        return Verdict(None, f"the labels' probabilities sum to {a + b:.3g}, more than 1")
    if not a + b >= MIN_LABEL_MASS:
        likeliest = _likeliest(logps)
        said = "" if likeliest is None else f"; the likeliest first token is {_shown(likeliest)}"
        return Verdict(
            None, f"A and B together have probability {a + b:.3g}, less than {MIN_LABEL_MASS}{said}"
        )
    return Verdict(a / (a + b))


def read_text(text: str, *, nonce: str) -> Verdict:
    """Return 1 for A, 0 for B, .5 for a tie, from the last line `verdict-NONCE: …`.

    Without such a line, the whole answer may be a label. A verdict line counts only with the
    comparison's nonce, which no candidate knows, so a quoted candidate is no verdict. Its letter
    may be small, in a box, or called a candidate's. If the last line is not valid there is no
    verdict: an earlier one never stands in for it.
    """
    if not text.strip():
        return Verdict(None, "the judge's answer is empty")
    line = rf"(?<!\w)verdict-{re.escape(nonce)}(?!\w)([^\n]*)"
    lines = re.findall(line, text, re.IGNORECASE)
    if not lines:
        match = _ANSWER.fullmatch(text)
        problem = f"no verdict line with this comparison's code in {_shown(text)}"
    else:
        said = re.sub(r"^[\s*_`]*[:：=]", "", lines[-1]).strip()
        match = _ANSWER.fullmatch(said) or _ANSWER.fullmatch(_label_said(said))
        problem = f"the verdict line says {_shown(said)}, not A, B or tie"
    return Verdict(None, problem) if match is None else Verdict(_P_FIRST[_narrow(match[1])])


def _label_said(line: str) -> str:
    """Return the one word of a verdict line beside words for candidates; "" if there are more."""
    words = [word for word in _MARKS.sub(" ", line).split() if word.lower() not in _NAMED]
    return words[0].upper() if len(words) == 1 else ""


def suspicious(text: str) -> bool:
    """Return True if a candidate reads like a verdict, or like an instruction to its judge.

    For counting and looking at; what is safe does not depend on it. Letters hidden by invisible
    characters or by compatibility forms are read as what they look like.
    """
    visible = "".join(
        c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf"
    )
    return _VERDICT_LIKE.search(visible) is not None


def _narrow(label: str) -> str:
    """Return the label in its one spelling."""
    return unicodedata.normalize("NFKC", label).upper()


def _likeliest(logps: Mapping[str, float]) -> str | None:
    numbers = {
        t: p
        for t, p in logps.items()
        if isinstance(t, str) and isinstance(p, int | float) and p <= 0
    }
    return max(numbers, key=lambda token: (numbers[token], token), default=None)


def _shown(text: str) -> str:
    """Return the text in quotes, only its end if it is long: there a verdict should be."""
    return repr(text) if len(text) <= _QUOTED else f"…{text[-_QUOTED:]!r}"
