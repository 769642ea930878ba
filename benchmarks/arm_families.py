"""The families of `arms.py`: arms that differ in one thing, and what they have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

CONFIGS = Path(__file__).parent.parent / "configs"
DEMO = Path(str(files("prefine.playground") / "demo.yaml"))
SELF_PLAY = CONFIGS / "self-play.yaml"
COMMON = "{common}"
"""In a setting: the folder of what the arms of a family have in common."""
LABELS = "labels.jsonl"
"""In that folder: the answers of its pairs, each with a label."""
TUNED = "tuned"
"""In that folder: the run that fine-tunes the playground's model on good answers."""


@dataclass(frozen=True)
class Family:
    """Arms that differ in one thing.

    `about` says what they have in common, `settings` sets it over `config`, or over the arm's own
    one. Where `stages` are named, these run once for each seed, and the arms begin with a copy of
    what they were answered. With `tuned`, these settings fine-tune the playground's model on good
    answers before, once for each seed. The first arm is what the others are compared with.
    """

    about: str
    config: Path
    settings: tuple[str, ...]
    arms: Mapping[str, tuple[str, ...]]
    stages: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    own_configs: Mapping[str, Path] = field(default_factory=dict)


def _listwise(loss: str) -> tuple[str, ...]:
    return ("pair.selector=lists", f"train.loss={loss}", "train.pairs_per_step=16")


def _self_play(reference: str, segment: str) -> tuple[str, ...]:
    return (
        f"train.step_source.reference={reference}",
        f"train.step_source.segment_tokens={segment}",
    )


DPO = "dpo, one round of judged pairs"
BASE = "{name: playground}"
UNHELD = ("train.regularizer=null", "train.regularizer_weight=0")
"""Without a budget, which would hold the arms by different amounts."""
FINE_TUNING = ("train.loss=nll", "train.step_source=shuffled", *UNHELD)
"""Of `SELF_PLAY`, to train on its good answers themselves."""
PAIRWISE = ("pair.selector=best_vs_random", "train.loss={name: dpo, beta: 0.1}")
FAMILIES = {
    "lists": Family(
        "512 prompts, 8 completions, every pair judged once; 96 steps of 128 completions, so "
        "that DPO sees its 512 pairs 12 times and a list loss its lists of 8 three times",
        DEMO,
        ("prompts.count=512", "rank.strategy=round_robin"),
        {
            "dpo, best against random": (*PAIRWISE, "train.epochs=12"),
            "dpo, best against random, 24 steps": (*PAIRWISE, "train.epochs=3"),
            "dpo on all pairs of a list": _listwise("{name: all_pairs, loss: {name: dpo}}"),
            "best_vs_rest": _listwise("{name: best_vs_rest, loss: {name: dpo}}"),
            "list_mle": _listwise("list_mle"),
            "list_net": _listwise("{name: list_net, labels: ranks}"),
            "lambda_rank": _listwise("{name: lambda_rank, labels: ranks}"),
            "neural_ndcg": _listwise("{name: neural_ndcg, labels: ranks}"),
            "approx_ndcg": _listwise("{name: approx_ndcg, labels: ranks}"),
        },
        ("sample", "rank"),
    ),
    "labels": Family(
        "1,024 prompts, 8 completions, every pair judged once, 48 steps of 128 answers",
        DEMO,
        ("rank.strategy=round_robin",),
        {
            "dpo on pairs": PAIRWISE,
            "kto on the answers of the pairs": (
                *(f"{entry}=null" for entry in ("prompts", "sample", "rank")),
                f"labels={{name: file, path: {COMMON}/{LABELS}}}",
                "train.loss=kto",
                "train.pairs_per_step=128",
            ),
            "kto on all answers, by the mean score": (
                "pair.selector=labelled",
                "train.loss=kto",
                "train.pairs_per_step=128",
                "train.max_steps=48",
            ),
        },
        ("sample", "rank", "pair"),
    ),
    "rounds": Family(
        "960 prompts in all, 8 completions and 7 judge calls for each, 45 steps in all",
        CONFIGS / "rounds.yaml",
        ("prompts.count=960",),
        {
            "one round of 960 prompts": ("rounds=null",),
            "three rounds of 320": ("rounds.count=3",),
            "two rounds of 480": ("rounds.count=2",),
        },
    ),
    "self_play": Family(
        "64 steps of 64 pairs on 1,024 prompts; self-play has a reference answer to each, dpo "
        "instead judges 4 answers of its own (3 calls a prompt): 4,096 in all, as with whole "
        "answers, while a segment is 8 tokens of some 20",
        SELF_PLAY,
        (),
        {
            **{
                f"reference {reference}, {what}": _self_play(reference, segment)
                for what, segment in (("segments", "8"), ("whole answers", "null"))
                for reference in ("fixed", "policy", "ema")
            },
            DPO: (
                "sample.completions_per_prompt=4",
                "pair.held_out_prompts=0",
                "train.epochs=4",
                "train.learning_rate=3e-4",
            ),
        },
        own_configs={DPO: DEMO},
    ),
    "rso": Family(
        "8,192 completions, each scored once, and 80 steps of 32 pairs: RSO has 128 prompts of 64 "
        "answers at temperature .7 and takes 7 pairs of each, dpo has 1,024 prompts of 8 answers "
        "at temperature 1 and takes the best and a random one",
        CONFIGS / "rso.yaml",
        ("pair.held_out_prompts=0", "train.epochs=4"),
        {
            DPO: (
                "rounds=null",
                "prompts.count=1024",
                "sample.completions_per_prompt=8",
                "sample.temperature=1.0",
                "sample.top_k=null",
                *PAIRWISE,
                "train.max_steps=80",
            ),
            "rso, two rounds": ("train.max_steps=40",),
            "rso, one round": ("rounds=null", "train.max_steps=80"),
        },
    ),
    "spin": Family(
        "512 prompts, 48 steps of 128 answers, 1,024 completions (half of them in one round of "
        "SPIN, none in fine-tuning); a label for each prompt: a reference answer or, for dpo, one "
        "verdict on two answers of its own",
        CONFIGS / "spin.yaml",
        ("pair.held_out_prompts=0",),
        {
            DPO: (
                "prompts.count=512",
                "sample.completions_per_prompt=2",
                *UNHELD,
                "train.learning_rate=3e-4",
                "train.epochs=6",
            ),
            "spin, two rounds": (),
            "spin, one round": ("rounds=null", "train.epochs=6"),
            "fine-tuning on the reference answers": (
                "labels.count=512",
                *FINE_TUNING,
                "train.pairs_per_step=128",
                "train.epochs=12",
            ),
        },
        own_configs={DPO: DEMO, "fine-tuning on the reference answers": SELF_PLAY},
    ),
    "references": Family(
        "the policy is the playground's model after 8 steps on 512 good answers; 512 prompts, 8 of "
        "its completions each, 24 steps of 64 pairs, beta .1, no regularizer",
        DEMO,
        ("prompts.count=512", "train.learning_rate=3e-4", *UNHELD),
        {
            "dpo, the fine-tuned model (the policy)": PAIRWISE,
            "dpo, the base model": (*PAIRWISE, f"train.reference={BASE}"),
            "mrpo, both, half each": (
                "train.loss={name: mrpo, loss: {name: dpo, beta: 0.1}}",
                f"train.reference=[initial, {BASE}]",
            ),
        },
        ("sample", "rank"),
        tuned=("labels.count=512", *FINE_TUNING, "train.epochs=1"),
    ),
    "hacking": Family(
        "three rounds of 256 prompts, 8 completions and 7 judge calls for each, 36 steps in all",
        CONFIGS / "rounds.yaml",
        ("prompts.count=768",),
        {
            "honest judge": (),
            "judge that loves length": ("rank.judge.length_bias=4.0",),
        },
    ),
}
