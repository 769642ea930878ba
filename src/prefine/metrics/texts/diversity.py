"""Diversity of a model's samples: within a prompt, and across prompts."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from prefine.metrics.statistics.intervals import mean_value
from prefine.metrics.statistics.normal import normal_interval
from prefine.records import MetricValue

Grams = Literal["words", "characters"]


class Diversity(NamedTuple):
    """Diversity of samples, from 0, all the same, to 1, nothing in common.

    Attributes:
        within_prompts: 1 - mean cosine of two samples of one prompt, mean over prompts.
        across_prompts: 1 - mean cosine of a sample of one prompt and a sample of another.
        distinct: Different n-grams over all n-grams of one prompt's samples, mean over prompts.
    """

    within_prompts: MetricValue
    across_prompts: MetricValue
    distinct: MetricValue


def diversity(
    samples_of: Mapping[str, Sequence[str]],
    *,
    n: int = 2,
    grams: Grams = "words",
    samples: int = 2000,
    seed: int = 0,
) -> Diversity:
    """Diversity within and across prompts by n-grams, over all pairs of different samples.

    A sample is never paired with itself, so means do not depend on how many samples there are;
    `distinct` does: it falls with every sample and with length, and compares only models with
    equally many samples of similar length. Within prompts and distinct have a bootstrap interval
    over prompts; across prompts a jackknife over prompts gives the standard error, and 1.96 of them
    the interval.

    Args:
        samples_of: The samples of each prompt, by its id: two or more each, two prompts or more.
        n: Length of an n-gram. A text that is shorter is one gram of its own.
        grams: Of what: "words" between white space, or "characters".
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns: Metrics named after n and what the grams are of; `n` is the number of prompts.

    Raises:
        ValueError: Fewer than two prompts, a prompt with fewer than two samples, or n below 1.
    Source: after Kirk et al., arXiv:2310.06452 (per-input and across-input diversity), as METHODS
        §3 recalls it.
    Deviation: counts of n-grams instead of sentence embeddings: no model is needed, paraphrases
        count as different.
    """
    if len(samples_of) < 2:
        raise ValueError(f"diversity needs samples of at least two prompts, got {len(samples_of)}")
    few = [prompt for prompt, texts in samples_of.items() if len(texts) < 2]
    if few:
        raise ValueError(
            f"{len(few)} of {len(samples_of)} prompts have fewer than two samples, first {few[0]!r}"
        )
    within, distinct, means = [], [], []
    # By id, so that rounding does not depend on the order given.
    for prompt in sorted(samples_of):
        counted = [Counter(ngrams(text, n=n, grams=grams)) for text in samples_of[prompt]]
        total = _sum_of_directions(counted)
        size = len(counted)
        within.append(_within(total, size))
        means.append({gram: weight / size for gram, weight in total.items()})
        together = sum(counted, Counter[str]())
        distinct.append(len(together) / together.total())
    unit = f"{n}_{grams}"
    return Diversity(
        mean_value(
            f"diversity_within_prompts_{unit}", np.maximum(within, 0.0), samples=samples, seed=seed
        ),
        _across(f"diversity_across_prompts_{unit}", means),
        mean_value(f"distinct_{unit}", distinct, samples=samples, seed=seed),
    )


def within_prompt(texts: Sequence[str], *, n: int = 2, grams: Grams = "words") -> float:
    """1 - mean cosine of two samples of one prompt, from 0, all the same, to 1.

    Args:
        texts: The samples, two or more.
        n: Length of an n-gram.
        grams: Of what, as in `diversity`.

    Raises:
        ValueError: There are fewer than two.
    """
    if len(texts) < 2:
        raise ValueError(f"diversity within a prompt needs two samples or more, got {len(texts)}")
    counted = [Counter(ngrams(text, n=n, grams=grams)) for text in texts]
    return max(0.0, _within(_sum_of_directions(counted), len(counted)))


def adjusted_distinct(
    samples_of: Mapping[str, Sequence[str]],
    *,
    longest: int = 5,
    vocabulary: int = 32_000,
    grams: Grams = "words",
) -> MetricValue:
    """Different n-grams of all samples over the number that chance would give, mean over n.

    With C n-grams of V possible ones it is distinct / (V * (1 - ((V - 1) / V)^C)), the mean over n
    from 1 to `longest`: unlike the share of different n-grams it does not fall merely because there
    are more or longer samples. 1 is what drawing from V at random gives.

    Args:
        samples_of: The samples of each prompt, by its id.
        longest: Largest length of an n-gram.
        vocabulary: V, how many n-grams are possible, whatever n.
        grams: Of what: "words" between white space, or "characters".

    Returns: The metric `adjusted_distinct_…`, without an error: it is one figure of all samples.

    Raises:
        ValueError: No sample, `longest` below 1 or `vocabulary` below 2.
    Source: arXiv:2202.13587 (EAD); as the diversity across inputs in arXiv:2410.11677.
    """
    texts = [text for texts in samples_of.values() for text in texts]
    if not texts or vocabulary < 2 or longest < 1:
        raise ValueError(
            "adjusted_distinct needs samples, longest of at least 1 and vocabulary of at least 2 "
            f"(got {len(texts)} samples, {longest} and {vocabulary})"
        )
    shares = []
    for n in range(1, longest + 1):
        counted = Counter(gram for text in texts for gram in ngrams(text, n=n, grams=grams))
        # 1 - ((V - 1) / V)^C without cancellation.
        by_chance = -vocabulary * math.expm1(counted.total() * math.log1p(-1 / vocabulary))
        shares.append(len(counted) / by_chance)
    return MetricValue(
        name=f"adjusted_distinct_{longest}_{grams}",
        value=math.fsum(shares) / longest,
        n=len(samples_of),
    )


def ngrams(text: str, *, n: int, grams: Grams) -> list[str]:
    """The n-grams of a text, in order and with repetition; of a shorter text, the text itself.

    Raises:
        ValueError: An unknown kind of grams, or n below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if grams == "words":
        words = text.split()
        return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)] or [" ".join(words)]
    if grams == "characters":
        return [text[i : i + n] for i in range(len(text) - n + 1)] or [text]
    raise ValueError(f"grams must be 'words' or 'characters', got {grams!r}")


def _within(total: Mapping[str, float], size: int) -> float:
    """1 - mean cosine of two of `size` samples, from the sum of their directions."""
    return 1 - min((_square(total) - size) / (size * (size - 1)), 1.0)


def _sum_of_directions(counted: Sequence[Counter[str]]) -> dict[str, float]:
    """The sum of the count vectors, each at length 1: products of such sums are sums of cosines."""
    total: dict[str, float] = {}
    for counts in counted:
        length = math.sqrt(sum(count * count for count in counts.values()))
        for gram, count in counts.items():
            total[gram] = total.get(gram, 0.0) + count / length
    return total


def _across(name: str, means: Sequence[dict[str, float]]) -> MetricValue:
    """1 - mean cosine over all pairs of different prompts, from each prompt's mean direction."""
    total: dict[str, float] = {}
    for mean in means:
        for gram, weight in mean.items():
            total[gram] = total.get(gram, 0.0) + weight
    own = np.array([_square(mean) for mean in means])
    to_all = np.array(
        [sum(weight * total[gram] for gram, weight in mean.items()) for mean in means]
    )
    to_others = to_all - own
    prompts = len(means)
    value = min(max(1 - float(to_others.sum()) / (prompts * (prompts - 1)), 0.0), 1.0)
    if prompts < 3:
        return MetricValue(name=name, value=value, n=prompts)
    left_out = 1 - (to_others.sum() - 2 * to_others) / ((prompts - 1) * (prompts - 2))
    error = math.sqrt((prompts - 1) / prompts * float(((left_out - left_out.mean()) ** 2).sum()))
    low, high = normal_interval(value, error)
    interval = (max(low, 0.0), min(high, 1.0))
    return MetricValue(name=name, value=value, standard_error=error, interval=interval, n=prompts)


def _square(vector: Mapping[str, float]) -> float:
    return sum(weight * weight for weight in vector.values())
