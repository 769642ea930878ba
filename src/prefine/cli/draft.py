"""The text of a first configuration, with comments that say why each line is as it is."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from prefine.cli.draft_facts import DataFacts, ModelFacts
from prefine.config.components import is_module_attribute
from prefine.stages.pair_options import FEWEST_TO_HOLD_OUT

_PLAIN = re.compile(r"[A-Za-z0-9_./][\w./-]*")
_FEWEST_STEPS, _MOST_NEW = 25, 512
_FEW = 16


class JudgeServer(NamedTuple):
    """A server for the judge, and for the policy if it runs it."""

    url: str
    judge: str
    runs_policy: bool
    api_key_env: str | None


class FirstConfig(NamedTuple):
    """The facts and choices behind a configuration; `reward` or `server` is the judge."""

    run_dir: str
    policy: str
    data: DataFacts
    model: ModelFacts
    server: JudgeServer | None
    reward: str | None
    reward_positions: int | None
    evaluation: str | None


def text_of(draft: FirstConfig) -> str:
    """Return the configuration as YAML."""
    return "\n".join(_lines(draft)) + "\n"


def _lines(draft: FirstConfig) -> Iterator[str]:
    data = draft.data
    yield "# Written by prefine init."
    yield "# Check it and see the plan: prefine run FILE --dry-run"
    yield "# Run it, and again to go on where it was: prefine run FILE"
    yield "# See all settings and defaults: prefine config show FILE"
    yield "# What they mean: docs/configuration.md"
    yield f"run_dir: {_word(draft.run_dir)}"
    plain = ", chat_template: none" if not draft.model.has_template else ""
    policy = f"{{path: {_word(draft.policy)}, name: hf{plain}}}" if plain else _word(draft.policy)
    yield f"policy: {policy}" + ("  # no chat template: it continues plain texts" if plain else "")
    more = "" if data.whole else " of its beginning"
    unit = "pairs" if data.entry == "pairs" else "prompts"
    yield f"{data.entry}: {_source(data)}  # {data.count:,} {unit}{more}, {_layout(data)}"
    yield from (f"# {note}" for note in data.notes)
    if data.entry == "prompts":
        yield from _sample(draft)
    if data.entry != "pairs":
        yield from _rank(draft)
    yield from _pair(draft)
    yield from _train(draft)
    if draft.evaluation is not None:
        yield f"evaluate: {{prompts: {_word(draft.evaluation)}}}  # before and after, by the judge"
    elif data.entry == "pairs":
        yield "# evaluate: {prompts: FILE, judge: …}  # a win rate on other prompts than the pairs'"
    else:
        yield "# evaluate: {prompts: FILE}  # a win rate by the judge on prompts not trained on"


def _sample(draft: FirstConfig) -> Iterator[str]:
    yield "sample:"
    if draft.server is not None and draft.server.runs_policy:
        yield f"  model: {_openai(draft.server, draft.policy)}  # it runs the policy"
    yield "  completions_per_prompt: 8  # more find better answers and cost more calls"
    yield "  temperature: 0.9"
    readers = (draft.model.positions, draft.reward_positions)
    shortest = min((one for one in readers if one is not None), default=None)
    if shortest is None or shortest - (draft.model.prompt_tokens or 0) > _MOST_NEW:
        yield f"  max_new_tokens: {_MOST_NEW}"
        return
    # A judge's template may take some tokens more than the policy's.
    tokens = max(8, (shortest - (draft.model.prompt_tokens or 0)) * 3 // 4 // 8 * 8)
    yield f"  max_new_tokens: {tokens}  # {shortest:,} can be read, with the prompt"


def _rank(draft: FirstConfig) -> Iterator[str]:
    server, reward = draft.server, draft.reward
    yield "rank:"
    if server is not None:
        yield "  # M - 1 to 2 (M - 1) calls a prompt; `prefine simulate` compares strategies"
        yield "  strategy: {name: iterative, order: lazy}"
        yield "  judge:"
        yield "    name: pairwise"
        yield f"    model: {_openai(server, server.judge)}"
        yield "    # prices: {prompt: 0.40, completion: 1.60}  # in model, per million tokens"
        yield "  # max_cost: 20  # stops there, in the unit of the prices"
        return
    yield "  strategy: round_robin  # grades cost nothing to compare, so all pairs are compared"
    if reward is None:
        yield "  judge: recorded  # the grades that the completions came with"
    elif is_module_attribute(reward):
        yield f"  judge: {_word(reward)}  # your function (prompt, completion) -> float"
    else:
        yield f"  judge: {{name: reward, path: {_word(reward)}}}  # a classifier with one label"


def _pair(draft: FirstConfig) -> Iterator[str]:
    data = draft.data
    if data.entry != "pairs":
        yield "pair:"
        if draft.server is None:
            yield "  selector: best_vs_worst"
        else:
            yield "  selector: best_vs_random  # the best answer, and any other that was judged"
    elif _held_out(data) is not None:
        yield "pair:"
    if (held_out := _held_out(data)) is not None:
        why = "not trained on: what training does to their answers is measured"
        yield f"  held_out_prompts: {held_out}  # {why}"


def _train(draft: FirstConfig) -> Iterator[str]:
    data, model = draft.data, draft.model
    size, epochs = 64, 1 if data.count >= 2_000 or not data.whole else 3
    while size > 2 and data.count * epochs / size < _FEWEST_STEPS:
        size //= 2
    yield "train:"
    yield "  loss: dpo  # `prefine losses` lists them"
    yield "  regularizer: {name: budget, delta: 5.0}  # nats that a preferred answer may lose"
    yield "  adapter: {name: lora, rank: 16, alpha: 32}  # without this line, all weights"
    yield "  learning_rate: 1e-5  # for all weights, about 1e-6"
    yield f"  pairs_per_step: {size}"
    yield f"  epochs: {epochs}"
    if model.half_precision:
        yield "  dtype: bfloat16"
    if model.prompt_tokens is not None and data.entry != "prompts":
        measured = f"of {len(data.sample):,} measured, the longest has"
        for what, longest in (
            ("prompt", model.prompt_tokens),
            ("completion", model.completion_tokens),
        ):
            if longest is not None:
                yield f"  max_{what}_tokens: {_rounded(longest)}  # {measured} {longest:,}"
    if _held_out(data) is not None:
        yield "  evaluate_every: 20  # steps, on what is held out"


def _held_out(data: DataFacts) -> int | str | None:
    """Return how many prompts to hold out; None if there are too few to spare any."""
    prompts = len({prompt.id for prompt, _ in data.sample})
    if prompts >= FEWEST_TO_HOLD_OUT or not data.whole:
        return "auto"
    return max(4, prompts // 10) if prompts >= _FEW else None


def _source(data: DataFacts) -> str:
    options = data.source.options
    if data.source.name == "file":
        return _word(str(options["path"]))
    if data.source.name == "hub":
        return f"{{name: hub, path: {_word(str(options['path']))}}}"
    return _word(data.source.name)


def _openai(server: JudgeServer, model: str) -> str:
    key = f", api_key_env: {server.api_key_env}" if server.api_key_env else ""
    return f"{{name: openai, model: {_word(model)}, base_url: {_word(server.url)}{key}}}"


def _layout(data: DataFacts) -> str:
    return "our own columns" if data.layout == "prefine" else f"layout {data.layout}"


def _rounded(tokens: int) -> int:
    """Return the next multiple of 64, or of an eighth of the next power of two."""
    step = max(64, 1 << max(0, tokens.bit_length() - 3))
    return -(-tokens // step) * step


def _word(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
