"""Shared by both sides of `train_throughput.py`: model, pairs, a step's needs, child processes.

Nothing here imports torch until a model is asked for: a child begins with the peak memory of the
process that started it, so that process stays small.
"""

import importlib
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from prefine.cli.openmp import SPINS
from prefine.training.relations.pairs import TokenizedPair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS, HIDDEN, INTERMEDIATE, HEADS, POSITIONS = 6, 256, 688, 4, 2048
PAD, UNKNOWN, STOP, FIRST_WORD = 0, 1, 2, 3
THREADS = 2
PAIRS = 96
LEARNING_RATE, BETA, MAX_GRAD_NORM = 1e-5, 0.1, 1.0
Law = tuple[float, float, int, int]
"""Median, sigma, least and most of a lognormal length."""
PROMPT_LENGTHS: Law = (128.0, 0.9, 8, 1024)
COMPLETION_LENGTHS: Law = (128.0, 0.7, 4, 768)
WARM_LONGEST = 48
LIST_PROMPT, LIST_COMPLETION, LIST_SIZE = 512, 64, 8

Wait = Literal["ACTIVE", "PASSIVE", "SHORT"]
"""OpenMP threads that wait for work spin, sleep, or spin shortly and then sleep."""
_WAITS: dict[Wait, dict[str, str]] = {
    "ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "SHORT": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": SPINS},
}
OUTCOME = "outcome "


class Work(BaseModel):
    """What a child is to do. `micro_batch_pairs` and `precompute` are TRL's, `sharing` is ours.

    The steps that warm up have short pairs of their own. The timed ones are those of `drawn_pairs`
    from `first_step` on. The pairs are drawn whatever the steps are: a child that makes fewer steps
    makes the same ones.
    """

    model_config = ConfigDict(frozen=True)

    vocab: int
    drawn_pairs: int
    pairs_per_step: int
    warm_steps: int
    timed_steps: int
    first_step: int = 0
    data: Literal["pairs", "lists"] = "pairs"
    micro_batch_pairs: int = 1
    precompute: bool = True
    sharing: Literal["auto", "off"] = "auto"

    @property
    def steps(self) -> int:
        """All of them."""
        return self.warm_steps + self.timed_steps


class Outcome(BaseModel):
    """What a child measured.

    `step_seconds` are those of the timed steps, `pairs` and tokens what they train on;
    `unique_tokens` counts a prompt once per step, `positions` are all that went through the model.
    `reference_seconds` is a pass over the timed pairs, None where it was not measured alone.
    `rates` are GFLOP/s of matrix products.
    """

    model_config = ConfigDict(frozen=True)

    pairs_per_step: int
    step_seconds: list[float]
    peak_mb: float
    pairs: int
    unique_tokens: int
    scored_tokens: int
    positions: int | None = None
    reference_seconds: float | None = None
    row_fill: float | None = None
    efficiency: float | None = None
    rates: dict[str, float] = {}

    def seconds_per_pair(self, steps: int | None = None) -> float:
        """Over the first timed steps, or all; without the reference."""
        seconds = self.step_seconds[:steps]
        return sum(seconds) / (len(seconds) * self.pairs_per_step)

    def reference_seconds_per_pair(self) -> float:
        """Of the pass over the timed pairs."""
        assert self.reference_seconds is not None, "this child did not measure the reference alone"
        return self.reference_seconds / self.pairs


def examples_for(work: Work) -> list[TokenizedPair]:
    """The pairs of all steps in training order; the same for every child with this work."""
    draw = random_pairs if work.data == "pairs" else random_lists
    start = work.first_step * work.pairs_per_step
    stop = start + work.timed_steps * work.pairs_per_step
    assert stop <= work.drawn_pairs, f"the timed steps end with pair {stop} of {work.drawn_pairs}"
    warm = random_pairs(
        work.warm_steps * work.pairs_per_step, vocab=work.vocab, seed=1, longest=WARM_LONGEST
    )
    return warm + draw(work.drawn_pairs, vocab=work.vocab)[start:stop]


def typical_step(pairs: int, pairs_per_step: int, count: int) -> int:
    """Where `count` neighbouring steps begin that are most like all of them.

    Alike in what costs time: unique tokens, their (query, key) pairs, scored tokens, and positions
    with padding.
    """
    steps = steps_of(random_pairs(pairs, vocab=FIRST_WORD + 1), pairs_per_step)
    costs = np.array([(*counts(step, pairs_per_step), _padded(step)) for step in steps])
    runs = np.stack(
        [costs[start : start + count].mean(0) for start in range(len(steps) - count + 1)]
    )
    return int(np.abs(runs / costs.mean(0) - 1).max(1).argmin())


def _padded(step: Sequence[TokenizedPair]) -> int:
    """Positions of all answers, each behind its own copy of the prompt, in one batch."""
    answers = [max(len(example.chosen_ids), len(example.rejected_ids)) for example in step]
    longest = max(
        len(example.prompt_ids) + answer for example, answer in zip(step, answers, strict=True)
    )
    return 2 * len(step) * longest


def random_pairs(
    count: int,
    *,
    vocab: int,
    seed: int = 0,
    longest: int | None = None,
    prompt: Law = PROMPT_LENGTHS,
    completion: Law = COMPLETION_LENGTHS,
) -> list[TokenizedPair]:
    """Random token ids with lognormal lengths, stratified: a few pairs have the spread of many.

    With `longest`, no prompt and no completion is longer.
    """
    generator = np.random.default_rng(seed)
    prompts, chosen, rejected = (
        [min(length, longest or length) for length in _lengths(generator, count, law)]
        for law in (prompt, completion, completion)
    )
    return [
        TokenizedPair(
            id=f"pair-{seed}-{number}",
            prompt_ids=_words(generator, prompts[number], vocab),
            chosen_ids=(*_words(generator, chosen[number] - 1, vocab), STOP),
            rejected_ids=(*_words(generator, rejected[number] - 1, vocab), STOP),
        )
        for number in range(count)
    ]


def random_lists(pairs: int, *, vocab: int, seed: int = 0) -> list[TokenizedPair]:
    """Lists of completions of one prompt as disjoint pairs, one list after the other."""
    generator = np.random.default_rng(seed)
    examples = []
    for number in range(pairs):
        if number % (LIST_SIZE // 2) == 0:
            prompt = _words(generator, LIST_PROMPT, vocab)
        chosen, rejected = (
            (*_words(generator, LIST_COMPLETION - 1, vocab), STOP) for _ in range(2)
        )
        examples.append(
            TokenizedPair(
                id=f"pair-{number}", prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected
            )
        )
    return examples


def _lengths(generator: np.random.Generator, count: int, law: Law) -> list[int]:
    """One length from each of `count` equal slices of the distribution, shuffled."""
    median, sigma, low, high = law
    shares = (generator.permutation(count) + generator.uniform(size=count)) / count
    normal = NormalDist()
    return [
        int(np.clip(round(median * np.exp(sigma * normal.inv_cdf(share))), low, high))
        for share in shares
    ]


def _words(generator: np.random.Generator, count: int, vocab: int) -> tuple[int, ...]:
    return tuple(generator.integers(FIRST_WORD, vocab, size=count).tolist())


def make_model(vocab: int) -> "PreTrainedModel":
    """The Llama that everything here trains: random weights, untied, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=STOP,
        use_cache=False,
        dtype="float32",
    )
    model: PreTrainedModel = LlamaForCausalLM(config)
    assert model.config._attn_implementation == "sdpa" and model.dtype == torch.float32
    return model


class Counts(NamedTuple):
    """Count positions (a prompt's once per step), (query, key) pairs and scored positions."""

    inputs: int
    seen: int
    scored: int


def counts(examples: Sequence[TokenizedPair], pairs_per_step: int) -> Counts:
    """Of all steps together. A completion's last token is predicted but never read."""
    inputs = seen = 0
    for step in steps_of(examples, pairs_per_step):
        for prompt in {example.prompt_ids for example in step}:
            inputs += len(prompt)
            seen += len(prompt) * (len(prompt) + 1) // 2
        for example in step:
            for side in (example.chosen_ids, example.rejected_ids):
                read = len(side) - 1
                inputs += read
                seen += read * len(example.prompt_ids) + read * (read + 1) // 2
    return Counts(inputs, seen, scored_tokens(examples))


def unique_tokens(examples: Sequence[TokenizedPair], pairs_per_step: int) -> int:
    """Tokens of all pairs, a prompt counted once per step."""
    return sum(
        sum(len(prompt) for prompt in {example.prompt_ids for example in step})
        + scored_tokens(step)
        for step in steps_of(examples, pairs_per_step)
    )


def scored_tokens(examples: Sequence[TokenizedPair]) -> int:
    """Tokens of the completions."""
    return sum(len(example.chosen_ids) + len(example.rejected_ids) for example in examples)


def steps_of(
    examples: Sequence[TokenizedPair], pairs_per_step: int
) -> list[Sequence[TokenizedPair]]:
    """The examples of each step."""
    return [
        examples[start : start + pairs_per_step]
        for start in range(0, len(examples), pairs_per_step)
    ]


def step_seconds(ends: Sequence[float], work: Work) -> list[float]:
    """Seconds of each timed step from the moments at which all steps ended."""
    assert len(ends) == work.steps, f"{len(ends)} steps were made, not {work.steps}"
    return [
        after - before
        for before, after in zip(ends[work.warm_steps - 1 :], ends[work.warm_steps :], strict=False)
    ]


def peak_mb() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def answer(run: Callable[[Work], Outcome]) -> None:
    """Run a child script: the work of the command line, or else every line of standard input.

    Each line is done by a fork of this process, which has imported all and computed nothing, so
    every measurement has its own memory and threads and none waits ten seconds for the imports.
    """
    if len(sys.argv) > 1:
        print(run(Work.model_validate_json(sys.argv[1])).model_dump_json())
        return
    importlib.import_module("transformers.models.llama.modeling_llama")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                print(OUTCOME + run(Work.model_validate_json(line)).model_dump_json(), flush=True)
                status = 0
            except Exception:  # noqa: BLE001  # whatever it is, the one that asked prints it and ends
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            sys.exit(1)


class Children:
    """One waiting process per script and way to wait: OpenMP reads its settings when loaded."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, Wait], subprocess.Popen[str]] = {}
        self._messages = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # closed on leaving

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._waiting.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
        self._messages.close()

    def measure(self, script: str, work: Work, *, wait: Wait) -> Outcome:
        """What a process of its own measures.

        Raises:
            RuntimeError: It failed; the message holds the end of what it printed.
        """
        if (script, wait) not in self._waiting:
            self._waiting[script, wait] = self._start(script, wait)
        process = self._waiting[script, wait]
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(work.model_dump_json() + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith(OUTCOME):
                return Outcome.model_validate_json(line.removeprefix(OUTCOME))
        self._messages.seek(0)
        raise RuntimeError(f"{script} failed on {work}:\n{self._messages.read()[-3000:]}")

    def _start(self, script: str, wait: Wait) -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(THREADS),
            "MKL_NUM_THREADS": str(THREADS),
            **_WAITS[wait],
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",
        }
        command = [sys.executable, str(Path(__file__).with_name(script))]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=self._messages, text=True
        )
