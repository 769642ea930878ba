"""`train_throughput.py --gpu`: Llama-3-shaped random models on one GPU, bfloat16, beside TRL.

Full training keeps float32 weights on both sides, LoRA bfloat16 ones with adapters in float32. TRL
is tried with micro-batches of 4, 2 and 1 pairs, without gradient checkpointing if one of them fits,
else with it; the fastest counts. Both are timed on the same steps of 16 pairs, without the
reference's values, which are known beforehand. Model-FLOP utilisation is what a step cannot do
without (a prompt once, no padding, no gradient of frozen weights) per second, over the rate of a
large bfloat16 matrix product in the same run. `--tiny` runs all of it on a CPU in a minute.
"""

import gc
import importlib.metadata
import importlib.util
import platform
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from line import Line
from prefine.config.training import AdapterConfig
from prefine.losses import dpo
from prefine.training import adapter
from prefine.training.forward.passes import Forward
from prefine.training.items import longest
from prefine.training.memory import retry_smaller_batches
from prefine.training.objective.gradient import accumulate_gradients
from prefine.training.objective.item_table import ItemTable
from prefine.training.objective.objective import Objective
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.choose import named_relation
from prefine.training.relations.pairs import TokenizedPair
from throughput_data import BETA, LEARNING_RATE, MAX_GRAD_NORM, PAD, STOP, Law, counts, random_pairs

PAIRS_PER_STEP = 16
WARM_STEPS = 1
DATA_SHEET = 989e12
"""Dense bfloat16 FLOP/s of an H100 SXM or H200 by the vendor's data sheet."""
LEAST_RATIO, LEAST_UTILISATION = 1.5, 0.5
LORA = AdapterConfig(name="lora", rank=16, alpha=32)


class Shape(NamedTuple):
    """The size of a Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool

    @property
    def linear(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's linear parts."""
        kv = self.kv_heads * self.hidden // self.heads
        square, gate = (self.hidden, self.hidden), (self.hidden, self.intermediate)
        return [square, (self.hidden, kv), (self.hidden, kv), square, gate, gate, gate[::-1]]


class Case(NamedTuple):
    """What is trained on what; `row_tokens` is where our limit of a row starts."""

    name: str
    shape: Shape
    lora: bool
    prompt: Law
    completion: Law
    timed: int
    row_tokens: int


class Measured(NamedTuple):
    """Seconds of each timed step, the most memory in GB that tensors took, and how it was done."""

    steps: list[float]
    peak: float
    how: str

    @property
    def pairs_per_second(self) -> float:
        """By the median step."""
        return PAIRS_PER_STEP / median(self.steps)


ONE = Shape(2048, 16, 32, 8, 8192, 128_256, tied=True)
EIGHT = Shape(4096, 32, 32, 8, 14336, 128_256, tied=False)
TINY = Shape(64, 2, 4, 2, 96, 512, tied=True)
PROMPTS: dict[str, Law] = {"512": (512.0, 0.5, 32, 2048), "2048": (2048.0, 0.5, 128, 6144)}
COMPLETIONS: Law = (256.0, 0.5, 16, 1024)
CASES = [
    Case("1B full 512", ONE, False, PROMPTS["512"], COMPLETIONS, 3, 8192),
    Case("8B LoRA 512", EIGHT, True, PROMPTS["512"], COMPLETIONS, 2, 8192),
    Case("1B LoRA 512", ONE, True, PROMPTS["512"], COMPLETIONS, 2, 8192),
    Case("8B LoRA 2048", EIGHT, True, PROMPTS["2048"], COMPLETIONS, 1, 8192),
    Case("1B full 2048", ONE, False, PROMPTS["2048"], COMPLETIONS, 2, 8192),
    Case("1B LoRA 2048", ONE, True, PROMPTS["2048"], COMPLETIONS, 2, 8192),
]
SMALL = [
    Case(
        f"tiny {'LoRA' if lora else 'full'}",
        TINY,
        lora,
        (24.0, 0.5, 4, 64),
        (12.0, 0.5, 4, 32),
        2,
        512,
    )
    for lora in (False, True)
]


def device() -> torch.device:
    """Where all of it runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now() -> float:
    """The time when all that was started has ended."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def fresh() -> None:
    """Give back what is no longer used, and measure the most memory from here on."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float:
    """The most that tensors took."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0


def make_model(case: Case) -> PreTrainedModel:
    """Random weights made on the device: bfloat16 below an adapter, else float32."""
    shape = case.shape
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=STOP,
        use_cache=False,
    )
    torch.manual_seed(0)
    with device():
        model: PreTrainedModel = LlamaForCausalLM._from_config(
            config, dtype=torch.bfloat16 if case.lora else torch.float32
        )
    return model


def examples_of(case: Case) -> list[TokenizedPair]:
    """The pairs of all steps, in order."""
    count = (WARM_STEPS + case.timed) * PAIRS_PER_STEP
    return random_pairs(
        count, vocab=case.shape.vocab, prompt=case.prompt, completion=case.completion
    )


def train_ours(case: Case, examples: list[TokenizedPair]) -> tuple[Measured, float]:
    """Time the functions that `prefine train` calls, and the reference pass in pairs per second."""
    fresh()
    model = make_model(case)
    model.eval()  # type: ignore[no-untyped-call]
    forward = Forward(model, dtype="bfloat16", tokens=case.row_tokens)
    every = range(len(examples))
    # A step's pairs and some alone first, as kernels are compiled then: for full rows, and for any
    # length.
    score_completions(forward, examples[:PAIRS_PER_STEP])
    alone = sorted(range(len(examples)), key=lambda index: longest(examples[index]))[
        len(examples) // 4 :
    ][:2]
    for index in alone:
        score_completions(forward, [examples[index]])
    began = now()
    initial = retry_smaller_batches(
        lambda: score_completions(forward, examples),
        forward,
        lambda: forward.cut(examples, every),
        examples,
    )
    scored_per_second = len(examples) / (now() - began)
    table = ItemTable.of(named_relation("pairs"), examples, {"initial": initial})
    if case.lora:
        adapter.attach(model, LORA, seed=0)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    objective = Objective(partial(dpo, beta=BETA))
    for index in alone:
        accumulate_gradients(
            forward, forward.cut(examples, [index]), table, objective, examples=examples, step=0
        )
    ends = [now()]
    for step in range(len(examples) // PAIRS_PER_STEP):
        pairs = range(step * PAIRS_PER_STEP, (step + 1) * PAIRS_PER_STEP)
        cut = partial(forward.cut, examples, pairs)

        def gradients(step: int = step, cut: Callable[[], Any] = cut) -> None:
            optimizer.zero_grad(set_to_none=True)
            accumulate_gradients(forward, cut(), table, objective, examples=examples, step=step + 1)

        retry_smaller_batches(gradients, forward, cut, examples)
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        ends.append(now())
        if step + 1 == WARM_STEPS and torch.cuda.is_available():
            # Rows that did not fit are no part of what the others take.
            torch.cuda.reset_peak_memory_stats()
    steps = [
        after - before
        for before, after in zip(ends[WARM_STEPS:], ends[WARM_STEPS + 1 :], strict=False)
    ]
    return Measured(steps, peak_gb(), f"rows of {forward.tokens}"), scored_per_second


def needed(case: Case, examples: list[TokenizedPair]) -> float:
    """FLOPs of the steps over these examples that no way of training can do without.

    2 FLOPs per weight and token forward and 2 for the gradient of the input; 2 more for that of a
    weight that is trained. A (query, key) pair of attention costs 4·hidden forward and 8·hidden
    backward per layer.
    """
    shape, read = case.shape, counts(examples, PAIRS_PER_STEP)
    weights = sum(wide_in * wide_out for wide_in, wide_out in shape.linear)
    beside = (
        sum(LORA.rank * (wide_in + wide_out) for wide_in, wide_out in shape.linear)
        if case.lora
        else 0
    )
    per_weight = 4.0 if case.lora else 6.0
    layers = shape.layers * read.inputs * (per_weight * weights + 6.0 * beside)
    attention = 12.0 * shape.hidden * shape.layers * read.seen
    return layers + attention + per_weight * shape.hidden * shape.vocab * read.scored


def product_rate(size: int) -> float:
    """FLOP/s of a large matrix product of random bfloat16 numbers."""
    a, b = (torch.randn(size, size, device=device()).bfloat16() for _ in range(2))
    for _ in range(3):
        a @ b
    seconds = []
    for _ in range(5):
        began = now()
        for _ in range(4):
            a @ b
        seconds.append((now() - began) / 4)
    return 2.0 * size**3 / median(seconds)


def machine() -> str:
    """Hardware and versions."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    packages = ("torch", "triton", "transformers", "peft", "trl", "accelerate")
    found = [
        f"{name} {importlib.metadata.version(name)}"
        for name in packages
        if importlib.util.find_spec(name)
    ]
    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ""
    return f"{card}{cuda}, Python {platform.python_version()}, {', '.join(found)}"


def run(*, tiny: bool, only: list[str] | None) -> int:
    """Measure and print; the number of figures that are missed."""
    from throughput_gpu_trl import best_of_trl

    rate = product_rate(256 if tiny else 8192)
    print(f"{machine()}; bfloat16 matrix product {rate / 1e12:.0f} TFLOP/s", flush=True)
    missed = 0
    for case in SMALL if tiny else CASES:
        if only and case.name not in only:
            continue
        examples = examples_of(case)
        timed = examples[WARM_STEPS * PAIRS_PER_STEP :]
        ours, reference = train_ours(case, examples)
        fresh()
        flops = needed(case, timed) / case.timed
        utilisation = flops * ours.pairs_per_second / PAIRS_PER_STEP / rate
        what = f"{case.name}: model-FLOP utilisation"
        note = (
            f"(>= {LEAST_UTILISATION}); {utilisation * rate / DATA_SHEET:.2f} of "
            f"{DATA_SHEET / 1e12:.0f} TFLOP/s"
        )
        lines = [Line(what, f"{utilisation:.2f} {note}", utilisation >= LEAST_UTILISATION)]
        trl = best_of_trl(case, examples)
        if trl is not None:
            ratio = ours.pairs_per_second / trl.pairs_per_second
            note = (
                f"{ours.pairs_per_second:.1f} pairs/s, TRL {trl.pairs_per_second:.1f} ({trl.how})"
            )
            lines.append(
                Line(
                    f"{case.name}: against TRL",
                    f"{ratio:.2f}x (>= {LEAST_RATIO}); {note}",
                    ratio >= LEAST_RATIO,
                )
            )
        else:
            lines.append(
                Line(
                    f"{case.name}: against TRL",
                    f"{ours.pairs_per_second:.1f} pairs/s; TRL does not fit",
                )
            )
        peaks = f"{ours.peak:.1f} GB with {ours.how}" + (f", TRL {trl.peak:.1f} GB" if trl else "")
        lines.append(Line(f"{case.name}: peak memory", peaks))
        lines.append(Line(f"{case.name}: reference pass", f"{reference:.1f} pairs/s"))
        for line in lines:
            print(line, flush=True)
        missed += sum(line.ok is False for line in lines)
    print(f"{missed} missed")
    return missed
