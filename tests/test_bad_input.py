"""Everything that users get wrong: the exit code, a message that helps, and nothing lost.

One table: what is prepared, what is called, the exit code, and what the message must contain. The
starting point of every row is a run that works (`test_the_starting_point_works`).
"""

import gzip
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import prefine
from run_place import (
    BACKEND,
    CONFIG,
    DATA,
    GONE,
    LIMIT,
    OK,
    PAIRS,
    SAMPLED,
    Place,
    good_answers,
    good_pairs,
    good_prompts,
    jsonl,
)


@dataclass(frozen=True)
class Case:
    """One row of the table.

    `config` changes the configuration, `yaml` replaces it; `answers`, `prompts`, `pairs` change the
    rows of a file; `files` writes files; `prepare` does anything else. `spent` says whether it may
    be found only when work has begun.
    """

    name: str
    code: int
    says: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    yaml: bytes | str | None = None
    answers: Callable[[list[Any]], Any] | None = None
    prompts: Callable[[list[Any]], Any] | None = None
    pairs: Callable[[list[Any]], Any] | None = None
    files: dict[str, bytes | str] = field(default_factory=dict)
    prepare: Callable[[Place], object] | None = None
    run: tuple[str, ...] = ("run", "run.yaml")
    spent: bool = False


def set_in(rows: list[Any], number: int, **values: Any) -> None:
    """Change fields of a row; `...` takes one away."""
    for name, value in values.items():
        if value is ...:
            del rows[number][name]
        else:
            rows[number][name] = value


def grade(value: Any) -> Callable[[list[Any]], Any]:
    """The grade of the second completion in line 3; `...` takes it away."""
    return lambda rows: set_in(rows[2]["completions"], 1, grade=value)


def line(content: bytes, number: int = 2) -> Callable[[list[Any]], Any]:
    """Line 3 (from 1) as these bytes."""
    return lambda rows: rows.__setitem__(number, content)


def config_case(
    name: str, changes: dict[str, Any], *says: str, code: int = CONFIG, **more: Any
) -> Case:
    return Case(f"config: {name}", code, says, config=changes, **more)


def yaml_case(name: str, text: bytes | str, *says: str) -> Case:
    return Case(f"yaml: {name}", CONFIG, ("run.yaml", *says), yaml=text)


def answers_case(name: str, edit: Callable[[list[Any]], Any], *says: str, **more: Any) -> Case:
    return Case(f"answers: {name}", DATA, says, answers=edit, **more)


def prompts_case(name: str, edit: Callable[[list[Any]], Any], *says: str, **more: Any) -> Case:
    return Case(
        f"prompts: {name}",
        DATA,
        says,
        prompts=edit,
        config=SAMPLED,
        run=("sample", "run.yaml"),
        **more,
    )


def _without_one_score(rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        row.update(score_chosen=3, score_rejected=None if number == 2 else 1)


def labels_case(
    name: str, change: Callable[[list[Any]], Any], *says: str, code: int = DATA, **more: Any
) -> Case:
    """A row of labelled answers, of which twelve are as they should be."""
    rows = [
        {"prompt": f"question {n // 2}", "completion": f"answer {n}", "label": n % 3 > 0}
        for n in range(12)
    ]
    change(rows)
    config = {
        **{key: GONE for key in ("rank", "completions", "train.regularizer")},
        "labels": {"name": "file", "path": "labels.jsonl"},
        "train.loss": {"name": "kto"},
        **more.pop("config", {}),
    }
    return Case(f"labels: {name}", code, says, config, files={"labels.jsonl": jsonl(rows)}, **more)


def graded(rows: list[Any], **third: Any) -> None:
    """Grades in place of labels; of the third row something else."""
    for number, row in enumerate(rows):
        del row["label"]
        row["grade"] = number % 5
    rows[2].update(third)


ABOVE = {"labels": {"name": "file", "path": "labels.jsonl", "above": 2.5}}
MISMATCHED = {"train.loss": {"name": "kto", "z0": "mismatched"}}


def pairs_case(name: str, edit: Callable[[list[Any]], Any], *says: str, **more: Any) -> Case:
    return Case(f"pairs: {name}", DATA, says, pairs=edit, config=PAIRS, **more)


def model_case(
    name: str, break_it: Callable[[Path], object], *says: str, code: int = BACKEND, **more: Any
) -> Case:
    return Case(
        f"model: {name}", code, says, prepare=lambda place: break_it(place.root / "model"), **more
    )


def edit_json(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    for name, value in values.items():
        if value is GONE:
            content.pop(name, None)
        else:
            content[name] = value
    path.write_text(json.dumps(content))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def edit_weights(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def one_shard_missing(folder: Path) -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (folder / "model.safetensors").rename(folder / shards[0])
    index = {"metadata": {}, "weight_map": dict(zip("ab", shards, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def bomb() -> str:
    """Nine aliases of nine aliases of ...: 387 million values in 300 bytes."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join([*lines, "policy: *a8", ""])


def parquet(table: dict[str, Any]) -> Callable[[Place], object]:
    return lambda place: pq.write_table(pa.table(table), place.root / "data.parquet")


def zstd(path: Path, content: bytes) -> None:
    with pa.output_stream(path, compression="zstd") as out:
        out.write(content)


def first(*stages: str) -> Callable[[Place], object]:
    """Run these stages, which must work."""

    def prepare(place: Place) -> None:
        for stage in stages:
            result = prefine(stage, "run.yaml")
            assert result.code == OK, result.err

    return prepare


def first_then(
    stages: tuple[str, ...], then: Callable[[Place], object]
) -> Callable[[Place], object]:
    def prepare(place: Place) -> None:
        first(*stages)(place)
        then(place)

    return prepare


STRICT = ("run", "run.yaml", "--strict")
BRIDGED = PAIRS | {
    "bridge": {"model": {"name": "scripted", "replies": ["better"]}, "judge": None},
    "train.regularizer": GONE,
}
ANSWERS_IN_PARQUET = {"completions.path": "data.parquet"}
ONE_SAMPLE = {"sample.completions_per_prompt": 1}

CASES = [
    # --- the command line
    Case("no such command", CONFIG, ("rnu",), run=("rnu", "run.yaml")),
    Case("no configuration given", CONFIG, ("CONFIG",), run=("run",)),
    Case(
        "no such configuration",
        CONFIG,
        ("nowhere.yaml", "no such configuration"),
        run=("run", "nowhere.yaml"),
    ),
    Case(
        "the configuration is a folder",
        CONFIG,
        ("/model: a folder, and no run",),
        run=("run", "model"),
    ),
    Case(
        "--set without a value",
        CONFIG,
        ("train.loss.beta", "section.key=value"),
        run=("run", "run.yaml", "--set", "train.loss.beta"),
    ),
    Case(
        "--set without a key",
        CONFIG,
        ("'=1'", "section.key=value"),
        run=("run", "run.yaml", "--set", "=1"),
    ),
    Case(
        "--set through a value",
        CONFIG,
        ("run_dir", "not a section"),
        run=("run", "run.yaml", "--set", "run_dir.x=1"),
    ),
    Case(
        "--set an unknown key",
        CONFIG,
        ("train.learing_rate", "learning_rate"),
        run=("run", "run.yaml", "--set", "train.learing_rate=1"),
    ),
    Case(
        "--set a broken value",
        CONFIG,
        ("--set train.loss", "not valid YAML"),
        run=("run", "run.yaml", "--set", "train.loss={a"),
    ),
    # --- YAML
    yaml_case("empty", "", "expected sections"),
    yaml_case("a list", "- a\n- b\n", "expected sections", "list"),
    yaml_case("never closed", "policy: {name: hf\nrun_dir: x\n", "not valid YAML", "line 2"),
    yaml_case("tab as indentation", "policy:\n\tname: hf\n", "not valid YAML", "line 2"),
    yaml_case(
        "a key twice",
        "run_dir: a\npolicy: {name: hf}\nrun_dir: b\n",
        "'run_dir' appears twice",
        "line 3",
    ),
    yaml_case(
        "a key twice, deeper",
        "train: {loss: {name: dpo, beta: 1, beta: 2}}\n",
        "'beta' appears twice",
        "line 1",
    ),
    yaml_case("two documents", "run_dir: a\n---\nrun_dir: b\n", "single document"),
    yaml_case("a list as a key", "? [a, b]\n: c\n", "a key must be a word", "line 1"),
    yaml_case(
        "an object of Python",
        "run_dir: !!python/object/apply:os.system ['touch pwned']\n",
        "python/object",
        "line 1",
    ),
    yaml_case("a tag that does not fit", "run_dir: !!bool maybe\n", "not valid YAML"),
    yaml_case("an alias of itself", "policy: &p {name: hf, again: *p}\n", "contains itself"),
    yaml_case("an alias bomb", bomb(), "aliases"),
    yaml_case("nested too deep", "a: " + "[" * 500, "not valid YAML"),
    yaml_case("Latin-1", b"run_dir: caf\xe9\n", "UTF-8"),
    yaml_case("UTF-16", "run_dir: a\n".encode("utf-16"), "UTF-8"),
    # --- keys and values
    config_case(
        "unknown key",
        {"train.learing_rate": 1e-6},
        "train.learing_rate",
        "did you mean 'learning_rate'",
    ),
    config_case("unknown section", {"trian": {}}, "trian", "did you mean 'train'"),
    config_case("no near key", {"zzzqqq": 1}, "zzzqqq: unknown key", "Allowed: bridge"),
    config_case(
        "unknown loss",
        {"train.loss.name": "dpoo"},
        "train.loss.name",
        "'dpoo'",
        "did you mean 'dpo'",
        "module:attribute",
    ),
    config_case(
        "unknown option", {"train.loss.bta": 0.1}, "train.loss.bta", "'dpo'", "did you mean 'beta'"
    ),
    config_case(
        "unknown option of a judge",
        {"rank.judge.temprature": 1},
        "rank.judge.temprature",
        "did you mean 'temperature'",
    ),
    config_case(
        "no name",
        {"train.regularizer": {"delta": 1}},
        "train.regularizer.name",
        "missing; a component is a name",
    ),
    config_case("a word for a section", {"train": "dpo"}, "train: expected a section", "'dpo'"),
    config_case("nothing for a section", {"train": None}, "train: expected a section", "None"),
    config_case(
        "true is not 1", {"train.loss.beta": True}, "train.loss.beta", "valid number", "True"
    ),
    config_case(
        "a number in quotes", {"train.loss.beta": "0.1"}, "train.loss.beta", "valid number", "'0.1'"
    ),
    config_case(
        "a count in quotes",
        {"train.pairs_per_step": "8"},
        "train.pairs_per_step",
        "valid integer",
        "'8'",
    ),
    config_case(
        "a count of 8.5",
        {"train.pairs_per_step": 8.5},
        "train.pairs_per_step",
        "valid integer",
        "8.5",
    ),
    config_case(
        "yes is a word",
        {"train.train_on_truncated": "yes"},
        "train.train_on_truncated",
        "boolean",
        "'yes'",
    ),
    config_case(
        "no run folder's name", {"run_dir": ""}, "run_dir", "working directory", "runs/mine"
    ),
    Case(
        "command: no run folder's name",
        CONFIG,
        ("run_dir", "working directory"),
        run=("run", "run.yaml", "--run-dir", ""),
    ),
    config_case(
        "beta 1 of Adam",
        {"train.adam_betas": [0.9, 1.0]},
        "train.adam_betas.1",
        "less than 1",
        "1.0",
    ),
    config_case(
        "one bootstrap sample",
        {"evaluate.bootstrap_samples": 1},
        "evaluate.bootstrap_samples",
        "equal to 2",
    ),
    config_case(
        "an endless seed", {"train.seed": 2**64}, "train.seed", "less than", "18446744073709551616"
    ),
    config_case(
        "all prompts held out",
        {"pair.held_out_prompts": 4},
        "pair.held_out_prompts: 4 of 4 prompts",
    ),
    config_case(
        "all prompts of pairs held out",
        PAIRS | {"pair.held_out_prompts": 5},
        "pair.held_out_prompts: 5 of 4 prompts",
    ),
    config_case(
        "weights of references that sum to less than 1",
        {
            "train.loss": {"name": "mrpo"},
            "train.reference": [
                {"name": "hf", "path": "model", "weight": 0.5},
                {"name": "hf", "path": "model2", "weight": 0.3},
            ],
        },
        "train.reference: the weights sum to 0.8; let all sum to 1",
    ),
    config_case(
        "nothing left for a reference",
        {"train.reference": ["initial", {"name": "hf", "path": "model", "weight": 1.0}]},
        "the weights sum to 1, and nothing is left for 1 without a weight",
    ),
    config_case(
        "a negative weight of a reference",
        {"train.reference": ["initial", {"name": "hf", "path": "model", "weight": -0.3}]},
        "train.reference: 1.weight is -0.3, and no number from 0 to 1",
    ),
    config_case(
        "a weight of a reference in words",
        {"train.reference": ["initial", {"name": "hf", "path": "model", "weight": "half"}]},
        "train.reference: 1.weight is 'half', and no number from 0 to 1",
    ),
    config_case(
        "a reference named twice",
        {
            "train.reference": [
                {"name": "hf", "path": "model", "weight": 0.6},
                {"name": "hf", "path": "model"},
            ]
        },
        "train.reference: 1 is the same model as 0; name each once",
    ),
    config_case(
        "a weight of the policy",
        {"train.reference": [{"name": "initial", "weight": 0.5}, "./model"]},
        "train.reference: 0 is initial, which is a word",
    ),
    config_case(
        "no reference in a list", {"train.reference": []}, "train.reference: the list is empty"
    ),
    config_case(
        "several references for a loss of one",
        {"train.reference": ["initial", "./model"]},
        "train.reference: names 2 models, and train.loss 'dpo' compares with one",
        "choose train.loss mrpo",
    ),
    config_case(
        "a weight that the loss computes",
        {
            "train.loss": {"name": "mrpo", "weights": "example"},
            "train.reference": ["initial", {"name": "hf", "path": "model", "weight": 0.5}],
        },
        "train.reference: states a weight, and train.loss.weights 'example' computes its own",
    ),
    config_case(
        "swapped weights of one reference",
        {"train.loss": {"name": "mrpo", "weights": "example_swapped"}},
        "train.loss.weights: example_swapped is for 2 references (got 1)",
    ),
    config_case(
        "references weighed by pairs that are not there",
        {
            "train.loss": {"name": "mrpo", "weights": "held_out"},
            "train.reference": ["initial", "./model"],
        },
        "train.loss.weights: held_out weighs the references by held-out pairs",
        "pair.held_out_prompts",
    ),
    config_case(
        "several references that include one without weights",
        {
            "train.loss": {"name": "mrpo"},
            "train.reference": ["initial", {"name": "scripted", "replies": ["a"]}],
        },
        "train.reference.1.name",
        "'scripted' has no weights",
    ),
    config_case(
        "a reference that is no model",
        {"train.loss": {"name": "mrpo"}, "train.reference": ["initial", "./nowhere"]},
        "train.reference.1.path",
        "nowhere",
        code=BACKEND,
    ),
    config_case(
        "references within a loss of answers without one",
        {"train.loss": {"name": "mrpo", "loss": {"name": "simpo"}}},
        "train.loss: loss compares with no reference",
    ),
    config_case(
        "jpo within a loss of lists",
        {"train.loss": {"name": "best_vs_rest", "loss": {"name": "jpo"}}},
        "train.loss: loss reads joint",
    ),
    config_case(
        "a reference without weights",
        {"train.reference": {"name": "scripted", "replies": ["a"]}},
        "train.reference.name",
        "'scripted' has no weights",
    ),
    config_case(
        "a strategy that states no facts",
        {"rank.strategy": {"name": "random:random"}, "pair.selector.name": "best_vs_random"},
        "rank.strategy.name",
        "does not state its facts",
    ),
    config_case(
        "no module's name", {"train.loss": {"name": ":loss"}}, "train.loss.name", "':loss' fails"
    ),
    config_case("beta 0", {"train.loss.beta": 0}, "train.loss.beta", "greater than 0"),
    config_case(
        "learning rate below 0",
        {"train.learning_rate": -1e-6},
        "train.learning_rate",
        "greater than 0",
        "-1e-06",
    ),
    config_case(
        "delta not a number",
        {"train.regularizer.delta": math.nan},
        "train.regularizer.delta",
        "finite",
        "nan",
    ),
    config_case(
        "delta infinite",
        {"train.regularizer.delta": math.inf},
        "train.regularizer.delta",
        "finite",
        "inf",
    ),
    config_case(
        "share above 1",
        {"rank.max_failed_fraction": 1.5},
        "rank.max_failed_fraction",
        "less than or equal to 1",
        "1.5",
    ),
    config_case("no step", {"train.pairs_per_step": 0}, "train.pairs_per_step", "greater than 0"),
    config_case(
        "one completion",
        SAMPLED | ONE_SAMPLE,
        "sample.completions_per_prompt",
        "greater than or equal to 2",
    ),
    config_case(
        "three problems",
        {"train.bta": 1, "rank.seed": -1, "policy": 3},
        "train.bta",
        "rank.seed",
        "policy: expected a section",
    ),
    config_case(
        "reference is a word",
        {"train.reference": "frozen"},
        "train.reference",
        "'initial'",
        "'frozen'",
    ),
    config_case(
        "no entry", {"completions": GONE}, "exactly one of prompts, completions and pairs", "none"
    ),
    config_case(
        "two entries",
        {"prompts": {"name": "playground"}},
        "exactly one of",
        "prompts and completions",
    ),
    config_case("no judge", {"rank": GONE}, "rank is missing", "judge"),
    config_case(
        "no sample", SAMPLED | {"sample": GONE}, "sample is missing", "completions_per_prompt"
    ),
    config_case(
        "selector and strategy",
        {"pair.selector.name": "best_vs_worst"},
        "pair.selector.name",
        "worst",
        "'iterative'",
        "best_vs_random",
    ),
    config_case(
        "gap without scores",
        {"pair.min_gap": 0.5},
        "pair.min_gap",
        "needs scores",
        "'iterative'",
        "min_p_chosen",
    ),
    config_case(
        "lists for a loss of pairs",
        {"rank.strategy": {"name": "round_robin"}, "pair.selector": {"name": "lists"}},
        "train.loss.name",
        "'dpo'",
        "only list losses read",
    ),
    config_case(
        "ratio below 1",
        {"pair.max_length_ratio": 0.5},
        "pair.max_length_ratio",
        "greater than or equal to 1",
    ),
    config_case(
        "policy without weights", SAMPLED, "policy.name", "'scripted'", "no weights to train"
    ),
    config_case(
        "own module missing",
        {"train.loss": {"name": "no_such_module:loss"}},
        "train.loss.name",
        "no_such_module",
    ),
    config_case(
        "own attribute missing",
        {"train.loss": {"name": "math:no_such_loss"}},
        "train.loss.name",
        "'math'",
        "no_such_loss",
    ),
    config_case(
        "a key, not its name", {"policy.api_key": "sk-planted-123"}, "policy.api_key", "api_key_env"
    ),
    config_case(
        "terminal codes",
        {"train.loss.name": "\x1b]0;pwn\x07\x1b[2J"},
        "train.loss.name",
        "unknown loss",
    ),
    config_case(
        "everything held out",
        {"pair.held_out_prompts": 4},
        "pair.held_out_prompts",
        "4 of 4",
        spent=True,
    ),
    # --- where input is
    config_case(
        "no such file", {"completions.path": "nowhere.jsonl"}, "nowhere.jsonl", "no such file"
    ),
    config_case(
        "a folder", {"completions.path": "model", "completions.format": "jsonl"}, "model", "folder"
    ),
    config_case(
        "unknown format",
        {"completions.path": "answers.xlsx"},
        "answers.xlsx",
        "'.xlsx'",
        "jsonl, parquet",
        files={"answers.xlsx": "x"},
    ),
    config_case(
        "column not there",
        {"completions.columns": {"prompt": "question"}},
        "answers.jsonl, line 1",
        "'question'",
        "completions, prompt",
        code=DATA,
    ),
    # --- rows of any file
    answers_case("empty file", lambda rows: rows.clear(), "answers.jsonl", "no rows"),
    answers_case(
        "only blank lines",
        lambda rows: rows.__setitem__(slice(None), [b"\n", b"  \n"]),
        "answers.jsonl",
        "no rows",
    ),
    answers_case("torn line", line(b'{"prompt": "a'), "answers.jsonl, line 3", "not valid JSON"),
    answers_case(
        "lines are counted with blank ones",
        lambda rows: rows.insert(1, b"\n\n{\n"),
        "answers.jsonl, line 4",
        "not valid JSON",
    ),
    answers_case("a list", line(b'["a"]\n'), "answers.jsonl, line 3", "expected an object", "list"),
    answers_case("a number", line(b"3\n"), "answers.jsonl, line 3", "expected an object", "int"),
    answers_case(
        "a field twice",
        line(b'{"prompt": "a", "prompt": "b"}\n'),
        "answers.jsonl, line 3",
        "'prompt' appears twice",
    ),
    answers_case(
        "not UTF-8", line(b'{"prompt": "caf\xe9"}\n'), "answers.jsonl, line 3", "not UTF-8", "iconv"
    ),
    answers_case(
        "UTF-16",
        lambda rows: rows.__setitem__(slice(None), ['{"prompt": "a"}\n'.encode("utf-16")]),
        "answers.jsonl",
        "UTF-16",
        "iconv -f UTF-16",
    ),
    answers_case(
        "gzip",
        lambda rows: rows.__setitem__(slice(None), [b"\x1f\x8b\x08\x00\x00"]),
        "answers.jsonl",
        "damaged gzip",
    ),
    answers_case(
        "half an emoji",
        line(b'{"prompt": "tea \\ud83d", "completions": ["a", "b"]}\n'),
        "answers.jsonl, line 3",
        "surrogate",
    ),
    answers_case(
        "half an emoji in metadata",
        line(b'{"prompt": "a", "completions": ["a", "b"], "tag": "\\uD83D"}\n'),
        "answers.jsonl, line 3",
        "surrogate",
    ),
    answers_case(
        "nested too deep", line(b"[" * 100_000 + b"\n"), "answers.jsonl, line 3", "not valid JSON"
    ),
    answers_case(
        "5,000 digits",
        line(b'{"prompt": "a", "n": ' + b"7" * 5000 + b"}\n"),
        "answers.jsonl, line 3",
        "not valid JSON",
    ),
    # --- prompts
    answers_case(
        "no prompt",
        lambda rows: set_in(rows, 2, prompt=..., promt="a"),
        "answers.jsonl, line 3",
        "no column 'prompt'",
        "promt",
        "columns",
    ),
    answers_case(
        "two prompts",
        lambda rows: set_in(rows, 2, messages=[]),
        "answers.jsonl, line 3",
        "'prompt' and 'messages'",
    ),
    answers_case(
        "prompt empty",
        lambda rows: set_in(rows, 2, prompt=""),
        "answers.jsonl, line 3",
        "empty",
        run=STRICT,
    ),
    answers_case(
        "prompt blank",
        lambda rows: set_in(rows, 2, prompt=" \n\t"),
        "answers.jsonl, line 3",
        "empty",
        r"\n\t",
        run=STRICT,
    ),
    answers_case(
        "prompt null", lambda rows: set_in(rows, 2, prompt=None), "answers.jsonl, line 3", "None"
    ),
    answers_case(
        "prompt a number", lambda rows: set_in(rows, 2, prompt=3), "answers.jsonl, line 3", "got 3"
    ),
    answers_case(
        "unknown role",
        lambda rows: set_in(rows, 2, prompt=[{"role": "tutor", "content": "a"}]),
        "answers.jsonl, line 3",
        "role",
        "'tutor'",
    ),
    answers_case(
        "turn without text",
        lambda rows: set_in(rows, 2, prompt=[{"role": "user"}]),
        "answers.jsonl, line 3",
        "content",
    ),
    answers_case(
        "no turns",
        lambda rows: set_in(rows, 2, prompt=[]),
        "answers.jsonl, line 3",
        "list of messages",
    ),
    answers_case(
        "assistant last",
        lambda rows: set_in(
            rows,
            2,
            prompt=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        ),
        "answers.jsonl, line 3",
        "end the prompt with a user turn",
    ),
    answers_case(
        "tools are no list",
        lambda rows: set_in(rows, 2, tools="hammer"),
        "answers.jsonl, line 3",
        "tools",
        "'hammer'",
    ),
    prompts_case(
        "nothing sampled before the last row is checked",
        lambda rows: rows.append(b"{"),
        "prompts.jsonl, line 5",
        "not valid JSON",
    ),
    # --- completions
    answers_case(
        "no completions",
        lambda rows: set_in(rows, 2, completions=...),
        "answers.jsonl, line 3",
        "no column 'completions'",
    ),
    answers_case(
        "completions a text",
        lambda rows: set_in(rows, 2, completions="a"),
        "answers.jsonl, line 3",
        "list",
        "'a'",
    ),
    answers_case(
        "completions empty",
        lambda rows: set_in(rows, 2, completions=[]),
        "answers.jsonl, line 3",
        "no text at all ([])",
        run=STRICT,
    ),
    answers_case(
        "completion empty",
        lambda rows: set_in(rows[2]["completions"], 1, text="  "),
        "answers.jsonl, line 3, completion 1",
        "empty",
        run=STRICT,
    ),
    answers_case(
        "completion null",
        lambda rows: rows[2]["completions"].__setitem__(1, None),
        "answers.jsonl, line 3, completion 1",
        "the text is empty",
        "remove the row",
        run=STRICT,
    ),
    answers_case(
        "completion a number",
        lambda rows: rows[2]["completions"].__setitem__(1, 7),
        "answers.jsonl, line 3, completion 1",
        "got 7",
    ),
    answers_case(
        "completion without text",
        lambda rows: set_in(rows[2]["completions"], 1, text=..., txt="a"),
        "answers.jsonl, line 3, completion 1",
        "no field 'text'",
        "txt",
    ),
    answers_case(
        "completion by the user",
        lambda rows: set_in(rows[2]["completions"], 1, text=[{"role": "user", "content": "a"}]),
        "answers.jsonl, line 3, completion 1",
        "assistant",
    ),
    answers_case(
        "grade NaN", grade(math.nan), "answers.jsonl, line 3", "'grade'", "None", "not a number"
    ),
    answers_case("grade infinite", grade(math.inf), "answers.jsonl, line 3", "no grade", "'grade'"),
    answers_case(
        "grade a text", grade("5"), "answers.jsonl, line 3", "'grade'", "'5'", "not a number"
    ),
    answers_case("grade true", grade(True), "answers.jsonl, line 3", "'grade'", "True"),
    answers_case("grade missing", grade(...), "answers.jsonl, line 3", "no grade", "'grade'"),
    answers_case(
        "one completion each",
        lambda rows: [row["completions"].__delitem__(slice(1, None)) for row in rows],
        "no prompt could be ranked",
        "4 × fewer than two",
        spent=True,
    ),
    answers_case(
        "all identical",
        lambda rows: [c.update(text="same") for row in rows for c in row["completions"]],
        "no prompt could be ranked",
        "4 × all completions identical",
        spent=True,
    ),
    answers_case(
        "the playground's judge on other prompts",
        lambda rows: None,
        "answers.jsonl, line 1",
        "playground",
        "rank.judge.name",
        config={"rank.judge": {"name": "playground"}},
    ),
    answers_case(
        "a recorded judge of answers that are not there yet",
        lambda rows: None,
        "prompts.jsonl, line 1",
        "grade",
        config=SAMPLED | {"policy": {"name": "hf", "path": "model"}},
    ),
    # --- JSON and Parquet
    config_case(
        "JSON with one object",
        {"completions.path": "one.json"},
        "one.json",
        "list of objects",
        "dict",
        code=DATA,
        files={"one.json": '{"prompt": "a"}'},
    ),
    config_case(
        "JSON with a list of texts",
        {"completions.path": "one.json"},
        "one.json, row 0",
        "expected an object",
        code=DATA,
        files={"one.json": '["a"]'},
    ),
    config_case(
        "Parquet that is text",
        ANSWERS_IN_PARQUET,
        "data.parquet",
        "not readable as Parquet",
        code=DATA,
        files={"data.parquet": "prompt,answer"},
    ),
    config_case(
        "Parquet with a wrong type",
        ANSWERS_IN_PARQUET,
        "data.parquet, row 0",
        "[1, 2]",
        code=DATA,
        prepare=parquet({"prompt": [[1, 2]], "completions": [["a", "b"]]}),
    ),
    config_case(
        "Parquet with bytes",
        ANSWERS_IN_PARQUET,
        "data.parquet, row 0",
        "b'tea'",
        code=DATA,
        prepare=parquet({"prompt": [b"tea"], "completions": [["a", "b"]]}),
    ),
    config_case(
        "Parquet with a column twice",
        ANSWERS_IN_PARQUET,
        "data.parquet",
        "'prompt' is the name of several columns",
        "rename or drop",
        code=DATA,
        prepare=lambda place: pq.write_table(
            pa.Table.from_arrays([pa.array(["a"])] * 2, names=["prompt"] * 2),
            place.root / "data.parquet",
        ),
    ),
    config_case(
        "Parquet inside gzip",
        ANSWERS_IN_PARQUET,
        "data.parquet",
        "compressed with gzip",
        "gunzip data.parquet",
        code=DATA,
        files={"data.parquet": gzip.compress(b"PAR1")},
    ),
    config_case(
        "a zip archive",
        {"completions.path": "answers.zip", "completions.format": "jsonl"},
        "answers.zip",
        "compressed with zip",
        "unzip answers.zip",
        code=DATA,
        files={"answers.zip": b"PK\x03\x04"},
    ),
    *(
        config_case(
            f"damaged {name}",
            {"completions.path": f"a.jsonl{ending}"},
            f"a.jsonl{ending}",
            f"damaged {name}",
            "compress the file again",
            code=DATA,
            files={f"a.jsonl{ending}": start + b"torn"},
        )
        for name, ending, start in (
            ("gzip", ".gz", b"\x1f\x8b"),
            ("bzip2", ".bz2", b"BZh91AY&SY"),
            ("xz", ".xz", b"\xfd7zXZ\x00"),
            ("zstd", ".zst", b"\x28\xb5\x2f\xfd"),
            ("lz4", ".lz4", b"\x04\x22\x4d\x18"),
        )
    ),
    config_case(
        "compressed, of no known format",
        {"completions.path": "a.xlsx.gz"},
        "a.xlsx.gz",
        "cannot tell the format",
        "jsonl, parquet",
        files={"a.xlsx.gz": b"x"},
    ),
    config_case(
        "CSV inside zstd with a cell too many",
        {"completions.path": "a.csv"},
        "a.csv, row 0 (line 2)",
        "2 cells for 1 columns",
        code=DATA,
        prepare=lambda place: zstd(place.root / "a.csv", b"prompt\nq,1\n"),
    ),
    # --- context that would be lost
    *(
        pairs_case(
            f"{name} of a pair",
            lambda rows, name=name: set_in(rows, 2, **{name: ["a.bin"]}),  # type: ignore[misc]
            "pairs.jsonl, line 3",
            f"{name} holds ['a.bin']",
            "remove the row",
        )
        for name in ("images", "image", "videos", "audios")
    ),
    prompts_case(
        "a picture in a prompt",
        lambda rows: set_in(rows, 2, prompt=[{"role": "user", "content": [{"type": "image"}]}]),
        "prompts.jsonl, line 3",
        "parts of type text",
        "remove the row",
    ),
    prompts_case(
        "pictures in a turn",
        lambda rows: set_in(
            rows, 2, prompt=[{"role": "user", "content": "a", "images": ["a.png"]}]
        ),
        "prompts.jsonl, line 3",
        "images holds ['a.png']",
    ),
    *(
        prompts_case(
            f"earlier turns {shown}",
            lambda rows, value=value: set_in(rows, 2, history=value),  # type: ignore[misc]
            "prompts.jsonl, line 3",
            "history must be earlier turns",
            "unused_history: history",
        )
        for shown, value in (
            ("as prose", "we spoke of tea"),
            ("in one list", ["a", "b"]),
            ("without an answer", [["a"]]),
            ("of numbers", [[1, 2]]),
        )
    ),
    # --- messages in other forms
    answers_case(
        "messages as Python prints them",
        lambda rows: set_in(rows, 2, prompt="[{'role': 'user', 'content': 'a'}]"),
        "answers.jsonl, line 3",
        "the cell prompt",
        "as Python prints them",
        "JSON Lines or Parquet",
    ),
    answers_case(
        "messages as JSON text with an unknown role",
        lambda rows: set_in(rows, 2, prompt='[{"role": "narrator", "content": "a"}]'),
        "answers.jsonl, line 3",
        "role",
        "'narrator'",
    ),
    answers_case(
        "ShareGPT's words with an unknown role",
        lambda rows: set_in(rows, 2, prompt=[{"from": "narrator", "value": "a"}]),
        "answers.jsonl, line 3",
        "role",
        "'narrator'",
    ),
    answers_case(
        "a struct of uneven lists",
        lambda rows: set_in(rows, 2, prompt={"role": ["user"], "content": ["a", "b"]}),
        "answers.jsonl, line 3, prompt",
        "content must be a text",
    ),
    answers_case(
        "null for all answers",
        lambda rows: [row.update(completions=[None, None]) for row in rows],
        "nothing is left of 4 rows",
        "8 × empty answer",
        "answers.jsonl, line 1, completion 0",
    ),
    answers_case(
        "answers of several turns only",
        lambda rows: [
            row.update(
                completions=[
                    {"text": [{"role": r, "content": "a"} for r in ("assistant", "user")] * 2}
                    | {"grade": 1}
                ]
            )
            for row in rows
        ],
        "answers.jsonl, line 1, completion 0",
        "one assistant turn, or turns that begin and end with one",
        "'user'",
    ),
    answers_case(
        "an empty turn before the question",
        lambda rows: set_in(
            rows,
            2,
            prompt=[
                {"role": "user", "content": ""},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "b"},
            ],
        ),
        "answers.jsonl, line 3, prompt",
        "the text is empty",
        run=STRICT,
    ),
    # --- pairs
    pairs_case(
        "both answers begin with the prompt",
        lambda rows: set_in(rows, 2, chosen="question 2: a", rejected="question 2: b"),
        "pairs.jsonl, line 3",
        "begin with the prompt's text 'question 2'",
        "cut it off",
        run=STRICT,
    ),
    pairs_case(
        "one of two scores",
        _without_one_score,
        "pairs.jsonl, line 3",
        "score_chosen 3 and score_rejected None",
        "fill the missing one",
        run=STRICT,
    ),
    pairs_case(
        "a loss of score gaps, and one of two scores",
        _without_one_score,
        "pairs, row 3",
        "score_gap",
        prepare=lambda place: place.change({"train.loss": {"name": "odpo"}}),
    ),
    pairs_case(
        "no vote in any row",
        lambda rows: rows.__setitem__(
            slice(None),
            [
                {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": None},
            ],
        ),
        "nothing is left of 1 rows",
        "1 × no preference given",
        "better_response_id is missing",
    ),
    pairs_case(
        "three answers with grades",
        lambda rows: rows.__setitem__(
            slice(None),
            [{"prompt": "q", "completions": [{"text": t, "grade": 1} for t in "abc"]}],
        ),
        "pairs.jsonl, line 1",
        "no column 'chosen'",
        "--as completions",
    ),
    pairs_case(
        "no rejected",
        lambda rows: set_in(rows, 2, rejected=...),
        "pairs.jsonl, line 3",
        "no column 'rejected'",
    ),
    pairs_case(
        "no prompt",
        lambda rows: set_in(rows, 2, prompt=...),
        "pairs.jsonl, line 3",
        "no column 'prompt'",
    ),
    pairs_case(
        "the same text",
        lambda rows: set_in(rows, 2, rejected="good 2"),
        "pairs.jsonl, line 3",
        "same text",
        "'good 2'",
        run=STRICT,
    ),
    pairs_case(
        "chosen empty",
        lambda rows: set_in(rows, 2, chosen=""),
        "pairs.jsonl, line 3, chosen",
        "empty",
        run=STRICT,
    ),
    pairs_case(
        "nothing but empty answers",
        lambda rows: [row.update(chosen="") for row in rows],
        "nothing is left of 4 rows",
        "4 × empty answer",
        "pairs.jsonl, line 1",
    ),
    pairs_case(
        "weight 0",
        lambda rows: set_in(rows, 2, weight=0),
        "pairs.jsonl, line 3",
        "weight",
        "greater than 0",
    ),
    pairs_case(
        "weight infinite",
        lambda rows: set_in(rows, 2, weight=math.inf),
        "pairs.jsonl, line 3",
        "weight",
    ),
    pairs_case(
        "a pair twice",
        lambda rows: rows.append(rows[0]),
        "pairs.jsonl, line 5",
        "pairs.jsonl, line 1",
        "remove one",
        run=STRICT,
    ),
    pairs_case(
        "preference of the other side",
        lambda rows: set_in(rows, 2, p_chosen=0.4),
        "pairs.jsonl, line 3",
        "p_chosen",
        "greater than 0.5",
    ),
    pairs_case(
        "turns on one side",
        lambda rows: set_in(
            rows,
            2,
            chosen=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        ),
        "pairs.jsonl, line 3, chosen",
        "one assistant turn",
    ),
    pairs_case(
        "nothing left after truncation",
        lambda rows: [row.update(chosen="tea one", rejected="tea two") for row in rows],
        "no preference pair is left",
        "sides_coincide: 4",
        spent=True,
        prepare=lambda place: place.change({"train.max_completion_tokens": 1}),
    ),
    # --- labelled answers
    labels_case(
        "neither true nor false",
        lambda rows: set_in(rows, 2, label="good"),
        "labels.jsonl, line 3",
        "label must be true or false (or 1, 0), got 'good'",
        "above: …",
    ),
    labels_case(
        "a grade for a label",
        lambda rows: set_in(rows, 2, label=0.7),
        "labels.jsonl, line 3",
        "label must be true or false (or 1, 0), got 0.7",
    ),
    labels_case(
        "null for a label",
        lambda rows: set_in(rows, 2, label=None),
        "labels.jsonl, line 3",
        "no label",
        "every answer needs one",
    ),
    labels_case(
        "grades without a threshold",
        graded,
        "labels.jsonl, line 1",
        "no label; there is grade",
        "every answer needs one",
    ),
    labels_case(
        "a grade in words",
        lambda rows: graded(rows, grade="high"),
        "labels.jsonl, line 3",
        "grade must be a finite number, got 'high'",
        config=ABOVE,
    ),
    labels_case(
        "a grade that is true",
        lambda rows: graded(rows, grade=True),
        "labels.jsonl, line 3",
        "grade must be a finite number, got True",
        config=ABOVE,
    ),
    labels_case(
        "a grade that is not finite",
        lambda rows: graded(rows, grade=math.inf),
        "labels.jsonl, line 3",
        "the column 'grade' holds float inf, which JSON cannot",
        config=ABOVE,
        run=STRICT,
    ),
    labels_case(
        "a grade that is NaN",
        lambda rows: graded(rows, grade=math.nan),
        "labels.jsonl, line 3",
        "no grade, labels.above needs one",
        config=ABOVE,
        run=STRICT,
    ),
    labels_case(
        "no grade at all",
        lambda rows: [graded(rows), [row.update(grade=None) for row in rows]],
        "nothing is left of 6 rows",
        "12 × answer without a grade",
        config=ABOVE,
    ),
    labels_case(
        "an answer without a grade",
        lambda rows: graded(rows, grade=None),
        "labels.jsonl, line 3",
        "no grade",
        "labels.above needs one",
        config=ABOVE,
        run=STRICT,
    ),
    labels_case(
        "a threshold in words",
        graded,
        "labels.above",
        "Input should be a valid number",
        "'high'",
        code=CONFIG,
        config={"labels": ABOVE["labels"] | {"above": "high"}},
    ),
    labels_case(
        "a threshold for lists",
        lambda rows: None,
        "lists.above: unknown option of source 'file'",
        code=CONFIG,
        config={"labels": GONE, "lists": ABOVE["labels"], "train.loss": {"name": "list_mle"}},
    ),
    labels_case(
        "one prompt for z0",
        lambda rows: [row.update(prompt="question") for row in rows],
        "all labels have the same prompt",
        "'kto' reads answers to other prompts",
        "set its z0 to a number",
        config=MISMATCHED,
    ),
    labels_case(
        "z0 in other words",
        lambda rows: None,
        "train.loss.z0",
        "Input should be a valid number (got 'auto')",
        code=CONFIG,
        config={"train.loss": {"name": "kto", "z0": "auto"}},
    ),
    labels_case(
        "delta of bco set",
        lambda rows: None,
        "train.loss.delta: unknown option of loss 'bco_unpaired'",
        code=CONFIG,
        config={"train.loss": {"name": "bco_unpaired", "delta": 0.1}},
    ),
    labels_case(
        "a loss of lists",
        lambda rows: None,
        "train.loss.name: 'dro'",
        "labelled answers, which only losses of labels read",
        "kto, bco_unpaired",
        code=CONFIG,
        config={"train.loss": {"name": "dro"}},
    ),
    config_case(
        "labels of rankings without scores",
        {
            "rank.strategy": {"name": "merge"},
            "pair.selector": {"name": "labelled"},
            "train.loss": {"name": "kto"},
        },
        "pair.selector.name: 'labelled' needs scores",
        "'merge' does not guarantee",
    ),
    config_case(
        "pairs of a prompt's labels",
        {
            "rank.strategy": {"name": "pointwise"},
            "pair.selector": {"name": "labelled"},
            "pair.pairs_per_prompt": 2,
            "train.loss": {"name": "kto"},
        },
        "pair.pairs_per_prompt: a prompt gives single answers and no pairs",
    ),
    # --- the model folder
    model_case(
        "missing", shutil.rmtree, "model", "no such model folder", config={"policy.path": "./model"}
    ),
    model_case(
        "empty",
        lambda m: [p.unlink() for p in m.iterdir()],
        "model",
        "config.json",
        "nothing",
        config={"policy.path": "./model"},
    ),
    model_case(
        "configuration torn",
        lambda m: cut(m / "config.json", 40),
        "model",
        "configuration",
        config={"policy.path": "./model"},
    ),
    model_case(
        "unknown kind",
        lambda m: edit_json(m / "config.json", model_type="gpt9"),
        "model",
        "gpt9",
        config={"policy.path": "./model"},
    ),
    model_case(
        "tokenizer missing",
        lambda m: [(m / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")],
        "model",
        "tokenizer",
        config={"policy.path": "./model"},
    ),
    model_case(
        "tokenizer torn",
        lambda m: cut(m / "tokenizer.json", 200),
        "model",
        "tokenizer",
        config={"policy.path": "./model"},
    ),
    model_case(
        "no weights",
        lambda m: (m / "model.safetensors").unlink(),
        "model",
        "safetensors",
        config={"policy.path": "./model"},
    ),
    model_case(
        "pickled weights",
        only_pickle,
        "model",
        "safetensors",
        "pytorch_model.bin",
        config={"policy.path": "./model"},
    ),
    model_case(
        "another tokenizer's",
        lambda m: edit_json(m / "config.json", vocab_size=200),
        "model",
        "tokenizer has 298",
        "200",
        config={"policy.path": "./model"},
    ),
    model_case(
        "weights torn",
        lambda m: cut(m / "model.safetensors", 2000),
        "model.safetensors: cannot be loaded: the file has 2,000 bytes",
        "cut short",
        "download",
        config={"policy.path": "./model"},
    ),
    model_case(
        "weights empty",
        lambda m: cut(m / "model.safetensors", 0),
        "model.safetensors: cannot be loaded: the file has 0 bytes and no header",
        config={"policy.path": "./model"},
    ),
    model_case(
        "a pointer in place of the weights",
        lambda m: (m / "model.safetensors").write_text("version https://git-lfs.github.com/"),
        "model.safetensors",
        "a pointer of Git LFS",
        "git lfs pull",
        config={"policy.path": "./model"},
    ),
    model_case(
        "a shard missing",
        one_shard_missing,
        "1 of the 2 weight files",
        "such as model-00002-of-00002.safetensors",
        config={"policy.path": "./model"},
    ),
    model_case(
        "a weight missing",
        lambda m: edit_weights(m, lambda w: w.pop("model.norm.weight")),
        "model.norm.weight",
        "missing",
        spent=True,
        config={"policy.path": "./model"},
    ),
    model_case(
        "a weight of another shape",
        lambda m: edit_json(m / "config.json", hidden_size=32),
        "model",
        "cannot be loaded",
        spent=True,
        config={"policy.path": "./model"},
    ),
    model_case(
        "weights not numbers",
        lambda m: edit_weights(m, lambda w: w["model.norm.weight"].fill_(math.nan)),
        "step 1",
        "not finite",
        code=LIMIT,
        spent=True,
    ),
    model_case(
        "no chat template",
        lambda m: edit_json(m / "tokenizer_config.json", chat_template=GONE),
        "model",
        "no chat template",
        "chat_template.jinja",
        code=CONFIG,
    ),
    model_case(
        "a chat template that refuses",
        lambda m: edit_json(
            m / "tokenizer_config.json", chat_template="{{ raise_exception('no users here') }}"
        ),
        "no users here",
        code=CONFIG,
        spent=True,
    ),
    model_case(
        "a chat template that cannot be read",
        lambda m: edit_json(m / "tokenizer_config.json", chat_template="{% for %}"),
        "chat template",
        code=CONFIG,
        spent=True,
    ),
    # --- bridged pairs
    Case(
        "a bridge model that repeats the rejected answer",
        LIMIT,
        (
            "bridge: 4 of 4 rewritings failed, more than max_failed_fraction 0.2",
            "4 × the rewriting repeats the rejected answer",
            "mend the cause or raise the limit",
        ),
        config=BRIDGED | {"bridge.model": {"name": "scripted", "replies": ["bad"]}},
        pairs=lambda rows: [set_in(rows, number, rejected="bad") for number in range(4)],
        spent=True,
    ),
    config_case(
        "a bridge that nobody judges",
        PAIRS | {"bridge": {"model": {"name": "scripted", "replies": ["better"]}}},
        "bridge.judge",
        "no section rank",
        "null to take every rewriting",
    ),
    config_case(
        "a judge of grades for rewritten answers",
        {"bridge": {"model": {"name": "scripted", "replies": ["better"]}}},
        "bridge.judge",
        "rank.judge is 'recorded'",
        "give bridge.judge",
    ),
    config_case(
        "a share of no pairs", BRIDGED | {"bridge.share": 0.0}, "bridge.share", "greater than 0"
    ),
    config_case(
        "the playground's bridger for other prompts",
        BRIDGED | {"bridge.model": "playground"},
        "pairs.jsonl",
        "line 1",
        "playground bridger knows no other prompts",
        "bridge.model",
        code=DATA,
    ),
    config_case(
        "a bridge of lists",
        BRIDGED
        | {"pairs": GONE, "lists": {"name": "file", "path": "answers.jsonl"}}
        | {"train.loss": {"name": "list_mle"}},
        "bridge",
        "starts with lists",
    ),
    config_case(
        "a loss of score gaps on rewritten answers",
        BRIDGED | {"train.loss": {"name": "odpo"}},
        "train.loss",
        "a rewritten answer has no score",
    ),
    config_case(
        "stage bridge without its section",
        {},
        "no section bridge",
        run=("bridge", "run.yaml"),
        spent=True,
    ),
    Case(
        "train before bridge",
        DATA,
        ("run/bridged_pairs", "run `prefine bridge CONFIG` first"),
        config=BRIDGED,
        prepare=first_then(("pair",), lambda place: None),
        run=("train", "run.yaml"),
        spent=True,
    ),
    # --- the run folder
    config_case(
        "run folder below a file",
        {"run_dir": "answers.jsonl/run"},
        "answers.jsonl/run",
        "cannot write",
        "--run-dir",
    ),
    config_case(
        "run folder with a long name", {"run_dir": "r" * 300}, "rrr", "cannot write", "--run-dir"
    ),
    config_case("run folder with a NUL", {"run_dir": "a\0b"}, "run-dir", "null"),
    config_case(
        "run folder is a model folder",
        {"run_dir": "model"},
        "model/config.json",
        "no run folder",
        "--run-dir",
    ),
    Case(
        "rank before sample",
        DATA,
        ("run/completions", "run `prefine sample` first"),
        run=("rank", "run.yaml"),
        spent=True,
    ),
    Case(
        "pair before rank",
        DATA,
        ("run/rankings", "run `prefine rank` first"),
        run=("pair", "run.yaml"),
        spent=True,
    ),
    Case(
        "train before pair",
        DATA,
        ("run/pairs", "run `prefine pair` first"),
        run=("train", "run.yaml"),
        spent=True,
    ),
    Case(
        "evaluate before train",
        DATA,
        ("model", "prefine train"),
        run=("evaluate", "run.yaml"),
        spent=True,
    ),
    Case("report of nothing", DATA, ("nothing to report",), run=("report", "run.yaml"), spent=True),
    Case(
        "changed configuration",
        CONFIG,
        ("rank.judge.temperature", "null → 2.0", "--run-dir"),
        prepare=first_then(
            ("sample", "rank"), lambda place: place.change({"rank.judge.temperature": 2.0})
        ),
        spent=True,
    ),
    Case(
        "fewer completions than before",
        CONFIG,
        ("sample.completions_per_prompt", "3 → 2"),
        config=SAMPLED,
        prepare=first_then(
            ("sample",), lambda place: place.change({"sample.completions_per_prompt": 2})
        ),
        run=("sample", "run.yaml"),
        spent=True,
    ),
    Case(
        "config.json torn",
        DATA,
        ("run/config.json", "damaged"),
        prepare=first_then(("sample",), lambda place: cut(place.root / "run/config.json", 30)),
        spent=True,
    ),
    Case(
        "config.json of another version",
        DATA,
        ("run/config.json", "999"),
        prepare=first_then(
            ("sample",), lambda place: edit_json(place.root / "run/config.json", schema_version=999)
        ),
        spent=True,
    ),
    Case(
        "manifest torn",
        DATA,
        ("run/manifest.json", "damaged"),
        prepare=first_then(("sample",), lambda place: cut(place.root / "run/manifest.json", 30)),
        spent=True,
    ),
    Case(
        "manifest of another version",
        DATA,
        ("run/manifest.json", "999"),
        prepare=first_then(
            ("sample",),
            lambda place: edit_json(place.root / "run/manifest.json", schema_version=999),
        ),
        spent=True,
    ),
    Case(
        "manifest with other content",
        DATA,
        ("run/manifest.json", "not a manifest"),
        prepare=first_then(
            ("sample",), lambda place: edit_json(place.root / "run/manifest.json", stages=[3])
        ),
        spent=True,
    ),
    Case(
        "journal is no journal",
        DATA,
        ("part-00000.sqlite", "damaged"),
        prepare=first_then(
            ("sample",),
            lambda place: place.put("run/journal/part-00000.sqlite", b"SQLite format 4\0" * 500),
        ),
        spent=True,
    ),
    Case(
        "a part of another version",
        DATA,
        ("part-00000.parquet", "schema version"),
        prepare=first_then(
            ("sample",),
            lambda place: pq.write_table(
                pa.table({"id": ["a"]}), place.root / "run/completions/part-00000.parquet"
            ),
        ),
        run=("rank", "run.yaml"),
        spent=True,
    ),
    # --- limits
    Case(
        "too many calls",
        LIMIT,
        ("max_calls", "limit 5", "raise the limit"),
        config={"rank.max_calls": 5},
        spent=True,
    ),
    Case(
        "too many failures",
        LIMIT,
        ("12 of 12 calls failed", "12 × out of tea", "first ids", "max_failed_fraction 0.02"),
        config=SAMPLED | {"policy.fail_share": 1.0, "policy.fail_reason": "out of tea"},
        run=("sample", "run.yaml"),
        spent=True,
    ),
]


def set_up(case: Case, place: Place) -> None:
    place.change(case.config)
    for name, rows, edit in (
        ("answers.jsonl", good_answers(), case.answers),
        ("prompts.jsonl", good_prompts(), case.prompts),
        ("pairs.jsonl", good_pairs(), case.pairs),
    ):
        if edit is not None:
            edit(rows)
            place.put(name, jsonl(rows))
    for name, content in case.files.items():
        place.put(name, content)
    if case.prepare is not None:
        case.prepare(place)
    if case.yaml is not None:
        place.put("run.yaml", case.yaml)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, place: Place) -> None:
    set_up(case, place)
    inputs = place.inputs()
    result = prefine(*case.run)
    assert result.code == case.code, result.err
    for fragment in case.says:
        assert fragment in result.err, (fragment, result.err)
    assert "Traceback" not in result.err
    assert "\x1b" not in result.err
    assert "sk-planted" not in result.err
    assert len(result.err) < 4000
    assert result.out == ""
    assert place.inputs() == inputs, "an input was modified"
    assert not (place.root / "pwned").exists()
    if not case.spent:
        assert not (place.root / "run" / "manifest.json").exists(), (
            "found only after work had begun"
        )
    again = prefine(*case.run)
    assert again.code == result.code
    # Stopped by a limit, the second run is further on.
    assert case.code == LIMIT or again.err.splitlines()[-1:] == result.err.splitlines()[-1:]


def test_the_starting_point_works(place: Place) -> None:
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    assert os.path.exists("run/report.html")


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)
