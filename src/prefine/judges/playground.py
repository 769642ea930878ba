"""The playground's judge, simulated with known accuracy, noise and biases.

It knows the gold score and sees it through noise, so everything that is measured about a run on the
playground (the judge's accuracy, its slot preference, what they do to the trained model) can be
held against the truth.
"""

import math
from statistics import NormalDist
from typing import Annotated

from pydantic import Field

from prefine.errors import DataError
from prefine.judges.protocol import Verdict
from prefine.playground.world import gold, parse
from prefine.ranking.noise import SOFTNESS, Verdicts, first_slot_logit, noise_sd
from prefine.records import Completion, Prompt, content_hash

GOLD_SD = 0.16
"""Standard deviation of the gold score among the embedded model's samples for one prompt."""

LENGTH_SD = 30.0
"""Standard deviation of the length of the same samples [characters]; unit of `length_bias`."""

_NORMAL = NormalDist()


class PlaygroundJudge:
    """Compares completions by gold score plus noise; the same question gets the same answer.

    margin = gold gap / GOLD_SD + length_bias * length gap / LENGTH_SD
             + sigma * (sqrt(1 - order_noise) * pair noise + sqrt(order_noise) * order noise +
             first_slot_bias)

    and the first completion wins if it is above 0. Pair noise is what both orders get wrong
    together, order noise is drawn anew for each order; both are standard normal and hashes of
    (seed, prompt id, texts). Source: the judge of the ranking simulations.

    Args:
        accuracy: Probability that two random completions are judged rightly when there is no bias.
            It sets sigma, and is exact for normally distributed qualities only: on texts, with
            their ties and their limits, measure it.
        first_slot_bias: What the first slot adds to the margin [sigma].
        length_bias: What LENGTH_SD more characters add to the margin [quality sd].
        order_noise: Share of the noise variance that is drawn anew for each order; 0 makes both
            orders agree but for the slot bias.
        verdict: "hard" answers 0 or 1, "soft" sigmoid(3 margin / sigma). A margin of exactly 0,
            which noise makes impossible, is .5: at accuracy 1 that is every tie in gold.
        seed: Names the judge's noise; another seed is another judge of the same kind.
    """

    def __init__(
        self,
        *,
        accuracy: Annotated[float, Field(gt=0.5, le=1)] = 0.75,
        first_slot_bias: float = 0.5,
        length_bias: float = 0.0,
        order_noise: Annotated[float, Field(ge=0, le=1)] = 0.5,
        verdict: Verdicts = "hard",
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.sigma = noise_sd(accuracy)
        self._slot_bias = first_slot_bias
        self._length_bias = length_bias
        self._order_noise = order_noise
        self._verdict = verdict
        self._seed = seed
        self.fingerprint = content_hash(
            "playground",
            GOLD_SD,
            LENGTH_SD,
            accuracy,
            first_slot_bias,
            length_bias,
            order_noise,
            verdict,
            seed,
        )

    @property
    def first_slot_bias(self) -> float:
        """Log-odds for the first of two equal completions [logit], as measured on this judge.

        Exactly 3 * the bias in sigma for soft verdicts; logit(Phi(bias in sigma)) for hard ones.
        Without noise, 0.
        """
        if self.sigma == 0:
            return 0.0
        return first_slot_logit(self._slot_bias, self._verdict)

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Raise DataError for a prompt that is not of the playground: it has no gold score."""
        try:
            parse(prompt.text)
        except ValueError as error:
            raise DataError(
                f"prompt {prompt.id}: {error}. The playground judge knows no other prompts; "
                "rank these with another judge (rank.judge.name), or take "
                "prompts: {name: playground}"
            ) from error

    def compare(self, prompt: Prompt, first: Completion, second: Completion) -> Verdict:
        """Return the verdict on two completions in the order shown."""
        quality_gap = (gold(prompt.text, first.text) - gold(prompt.text, second.text)) / GOLD_SD
        return Verdict(self.p_first(prompt.id, first.text, second.text, quality_gap))

    def compare_across(
        self, prompt: Prompt, first: Completion, second_prompt: Prompt, second: Completion
    ) -> Verdict:
        """Return the verdict on answers to two prompts, each by its own gold score."""
        gap = gold(prompt.text, first.text) - gold(second_prompt.text, second.text)
        # The noise is of both prompts together. Ids are of one length, so that they do not count
        # as length of an answer, and both orders name the same two.
        both = " ".join(sorted((prompt.id, second_prompt.id)))
        sides = f"{prompt.id} {first.text}", f"{second_prompt.id} {second.text}"
        return Verdict(self.p_first(both, *sides, gap / GOLD_SD))

    def score(self, prompt: Prompt, completion: Completion) -> float:
        """Return quality with length bias plus N(0, sigma^2 / 2) noise [quality sd].

        The difference of two ratings has the noise variance of a verdict, so ratings are as
        accurate as verdicts.
        """
        quality = (
            gold(prompt.text, completion.text) / GOLD_SD
            + self._length_bias * len(completion.text) / LENGTH_SD
        )
        noise = _standard_normal(self._seed, "score", prompt.id, completion.text)
        return quality + self.sigma * math.sqrt(0.5) * noise

    def p_first(self, prompt_id: str, first: str, second: str, quality_gap: float) -> float:
        """Return P(first is better) of two texts; `quality_gap` is first - second [quality sd]."""
        margin = quality_gap + self._length_bias * (len(first) - len(second)) / LENGTH_SD
        if self.sigma > 0:
            # Both orders share the pair noise, with the opposite sign when the texts change places.
            noise = 0.0
            if first != second:
                sign = 1 if first < second else -1
                texts = sorted((first, second))
                noise = sign * _standard_normal(self._seed, "pair", prompt_id, *texts)
            shared = math.sqrt(1 - self._order_noise) * noise
            drawn_anew = math.sqrt(self._order_noise) * _standard_normal(
                self._seed, "order", prompt_id, first, second
            )
            margin += self.sigma * (shared + drawn_anew + self._slot_bias)
            if self._verdict == "soft":
                return 0.5 + 0.5 * math.tanh(SOFTNESS / 2 * margin / self.sigma)
        return 0.5 if margin == 0 else float(margin > 0)


def _standard_normal(*parts: str | int) -> float:
    """Return a standard normal number that is a function of `parts`."""
    # 52 bits and a half lie strictly between 0 and 1 and are exact in a float.
    uniform = ((int(content_hash(*parts), 16) >> 12) + 0.5) / 2**52
    return _NORMAL.inv_cdf(uniform)
