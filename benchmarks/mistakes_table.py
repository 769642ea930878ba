"""What people do wrong in their first hour: `mistakes.py` does all of it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from run_place import GONE

CONFIG, DATA, BACKEND = 2, 3, 4
PAIRS = {"completions": GONE, "rank": GONE, "pairs": "pairs.jsonl"}
PROMPTS = {"completions": GONE, "prompts": "prompts.jsonl", "sample": {"completions_per_prompt": 3}}
SERVER = "http://127.0.0.1:9/v1"  # the port of a service that no machine runs


class Mistake(NamedTuple):
    """One mistake at the command line, in a folder with a configuration and data that work.

    `place` and `remedy` must be in the message; `changes` are made to the configuration and `files`
    written before; `before` is a command that works.
    """

    what: str
    command: str
    code: int
    place: str
    remedy: str
    changes: Mapping[str, Any] = MappingProxyType({})
    files: Mapping[str, str] = MappingProxyType({})
    before: str = ""


class Call(NamedTuple):
    """One mistake in Python: `code` raises `error`, whose message has `place` and `remedy`."""

    what: str
    code: str
    error: str
    place: str
    remedy: str


RUN = "run run.yaml"
CHECK = "config check run.yaml"
COMMANDS = [
    # Keys and values
    Mistake(
        "TRL's name of the step size",
        f"{CHECK} --set train.lr=1e-5",
        CONFIG,
        "train.lr",
        "learning_rate",
    ),
    Mistake(
        "transformers' batch size",
        CHECK,
        CONFIG,
        "train.per_device_train_batch_size",
        "pairs_per_step",
        {"train.per_device_train_batch_size": 4},
    ),
    Mistake(
        "transformers' epochs",
        CHECK,
        CONFIG,
        "train.num_train_epochs",
        "epochs",
        {"train.num_train_epochs": 3},
    ),
    Mistake("TRL's beta beside the loss", CHECK, CONFIG, "train.beta", "loss", {"train.beta": 0.1}),
    Mistake(
        "LLaMA-Factory's pref_beta",
        CHECK,
        CONFIG,
        "train.pref_beta",
        "beta",
        {"train.pref_beta": 0.1},
    ),
    Mistake(
        "LLaMA-Factory's model key",
        CHECK,
        CONFIG,
        "model_name_or_path",
        "policy",
        {"model_name_or_path": "model"},
    ),
    Mistake("OpenRLHF's max_len", CHECK, CONFIG, "train.max_len", "max_", {"train.max_len": 2048}),
    Mistake(
        "output_dir for run_dir", CHECK, CONFIG, "output_dir", "run_dir", {"output_dir": "out"}
    ),
    Mistake(
        "a word for a number",
        f"{CHECK} --set train.learning_rate=small",
        CONFIG,
        "train.learning_rate",
        "number",
    ),
    Mistake(
        "a number in words of YAML",
        f"{CHECK} --set train.epochs=two",
        CONFIG,
        "train.epochs",
        "integer",
    ),
    Mistake(
        "a negative step size",
        f"{CHECK} --set train.learning_rate=-1",
        CONFIG,
        "train.learning_rate",
        "greater than",
    ),
    Mistake(
        "automatic weight, no held-out prompts",
        f"{CHECK} --set train.regularizer.delta=1 --set train.regularizer_weight=auto",
        CONFIG,
        "train.regularizer_weight",
        "pair.held_out_prompts",
    ),
    Mistake(
        "automatic weight without a budget",
        f"{CHECK} --set train.regularizer_weight=auto",
        CONFIG,
        "regularizer_weight",
        "budget",
        {"train.regularizer": GONE},
    ),
    Mistake("an unknown loss", f"{CHECK} --set train.loss=dpoo", CONFIG, "train.loss", "dpo"),
    Mistake(
        "an unknown strategy",
        f"{CHECK} --set rank.strategy=swiss2",
        CONFIG,
        "rank.strategy",
        "swiss",
    ),
    Mistake(
        "an unknown judge", f"{CHECK} --set rank.judge=gpt-4", CONFIG, "rank.judge", "pairwise"
    ),
    Mistake(
        "an unknown selector",
        f"{CHECK} --set pair.selector=best_worst",
        CONFIG,
        "pair.selector",
        "best_vs_worst",
    ),
    Mistake(
        "an unknown option of a loss",
        f"{CHECK} --set train.loss.temperature=1",
        CONFIG,
        "train.loss",
        "beta",
    ),
    Mistake("--set without =", f"{CHECK} --set train.epochs", CONFIG, "train.epochs", "="),
    Mistake("--set with a colon", f"{CHECK} --set train.epochs:2", CONFIG, "train.epochs:2", "="),
    Mistake(
        "a list where a text is needed",
        f"{CHECK} --set run_dir=[a,b]",
        CONFIG,
        "run_dir",
        "expected a path",
    ),
    Mistake(
        "a text where a list is needed",
        CHECK,
        CONFIG,
        "evaluate.metrics",
        "list",
        {"evaluate": {"metrics": "win_rate"}},
    ),
    # YAML
    Mistake("no such configuration", "run my.yaml", CONFIG, "my.yaml", "init"),
    Mistake(
        "a tab in YAML", CHECK, CONFIG, "line 2", "tab", files={"run.yaml": "train:\n\tepochs: 1\n"}
    ),
    Mistake(
        "wrong indentation",
        CHECK,
        CONFIG,
        "line 3",
        "indent",
        files={"run.yaml": "train:\n  epochs: 1\n   loss: dpo\n"},
    ),
    Mistake("an empty configuration", CHECK, CONFIG, "run.yaml", "init", files={"run.yaml": ""}),
    Mistake(
        "a colon without a space",
        CHECK,
        CONFIG,
        "run.yaml",
        "space",
        files={"run.yaml": "run_dir:run\npolicy:model\n"},
    ),
    Mistake(
        "the data in place of the configuration", "run pairs.jsonl", CONFIG, "pairs.jsonl", "init"
    ),
    Mistake(
        "a key twice",
        CHECK,
        CONFIG,
        "line 2",
        "once",
        files={"run.yaml": "run_dir: a\nrun_dir: b\n"},
    ),
    # Files
    Mistake(
        "a missing file of pairs",
        CHECK,
        CONFIG,
        "nothing.jsonl",
        "no such file",
        PAIRS | {"pairs": "nothing.jsonl"},
    ),
    Mistake(
        "an empty file", CHECK, DATA, "pairs.jsonl", "at least one", PAIRS, {"pairs.jsonl": ""}
    ),
    Mistake(
        "JSON in a file called .jsonl",
        CHECK,
        DATA,
        "pairs.jsonl",
        ".json",
        PAIRS,
        {"pairs.jsonl": '[\n {"prompt": "a", "chosen": "b", "rejected": "c"}\n]\n'},
    ),
    Mistake(
        "a broken line", CHECK, DATA, "line 1", "JSON", PAIRS, {"pairs.jsonl": '{"prompt": "a", \n'}
    ),
    Mistake(
        "pairs with other columns",
        CHECK,
        DATA,
        "line 1",
        "chosen",
        PAIRS,
        {"pairs.jsonl": '{"question": "a", "good": "b", "bad": "c"}\n'},
    ),
    Mistake(
        "completions given as pairs",
        CHECK,
        DATA,
        "answers.jsonl",
        "chosen",
        PAIRS | {"pairs": "answers.jsonl"},
    ),
    Mistake(
        "pairs given as prompts, sampled",
        CHECK,
        CONFIG,
        "prompts",
        "completions",
        {"completions": GONE, "prompts": "pairs.jsonl"},
    ),
    Mistake(
        "a number as a prompt",
        CHECK,
        DATA,
        "line 1",
        "prompt",
        PAIRS,
        {"pairs.jsonl": '{"prompt": 1, "chosen": "b", "rejected": "c"}\n'},
    ),
    Mistake("a folder as a file", CHECK, DATA, "model", "file", PAIRS | {"pairs": "model"}),
    Mistake(
        "completions without grades to a recorded judge",
        RUN,
        DATA,
        "answers.jsonl",
        "grade",
        files={"answers.jsonl": '{"prompt": "a", "completions": ["b", "c"]}\n'},
    ),
    # Models, keys, servers
    Mistake(
        "no such model folder", CHECK, BACKEND, "models/mine", "hub id", {"policy": "./models/mine"}
    ),
    Mistake(
        "a folder without a model",
        CHECK,
        BACKEND,
        "data",
        "config.json",
        {"policy": "data"},
        {"data/readme.txt": "no model"},
    ),
    Mistake(
        "no chat template",
        RUN,
        CONFIG,
        "model",
        "chat_template",
        files={"model/chat_template.jinja": ""},
    ),
    Mistake(
        "a tokenizer is missing",
        CHECK,
        BACKEND,
        "model",
        "copy the tokenizer",
        files={"model/tokenizer.json": "", "model/tokenizer_config.json": ""},
    ),
    Mistake(
        "the key is not set",
        CHECK,
        CONFIG,
        "NO_SUCH_KEY",
        "export",
        {
            "rank.judge": {
                "name": "pairwise",
                "model": {
                    "name": "openai",
                    "base_url": SERVER,
                    "model": "m",
                    "api_key_env": "NO_SUCH_KEY",
                },
            }
        },
    ),
    Mistake(
        "no server",
        RUN,
        BACKEND,
        SERVER,
        "start",
        {
            "rank.judge": {
                "name": "pairwise",
                "model": {"name": "openai", "base_url": SERVER, "model": "m"},
            }
        },
    ),
    Mistake(
        "a URL without a scheme",
        CHECK,
        CONFIG,
        "base_url",
        "http",
        {
            "rank.judge": {
                "name": "pairwise",
                "model": {"name": "openai", "base_url": "localhost:8000", "model": "m"},
            }
        },
    ),
    Mistake(
        "training on a GPU that is not there",
        RUN,
        CONFIG,
        "cuda",
        "cpu",
        {"policy": {"name": "hf", "path": "model", "device": "cuda"}},
    ),
    # Runs
    Mistake(
        "a changed setting in a begun run",
        f"{RUN} --set rank.seed=5",
        CONFIG,
        "rank.seed",
        "--run-dir",
        before=RUN,
    ),
    Mistake(
        "another configuration in the same folder",
        f"{RUN} --set train.loss=simpo",
        CONFIG,
        "train.loss",
        "run",
        before=RUN,
    ),
    Mistake("a report of a folder that is no run", "report model", CONFIG, "model", "run"),
    Mistake("training before pairing", "train run.yaml", DATA, "run/pairs", "prefine pair"),
    Mistake("ranking before sampling", "rank run.yaml", DATA, "run/completions", "prefine sample"),
    Mistake("a sweep without its section", "sweep run.yaml", CONFIG, "sweep", "run.yaml"),
    Mistake(
        "a sweep of a setting that is not there",
        "sweep run.yaml",
        CONFIG,
        "train.lr",
        "learning_rate",
        {"sweep": {"grid": {"train.lr": [1, 2]}}},
    ),
    Mistake(
        "evaluate without prompts",
        "evaluate run.yaml",
        CONFIG,
        "evaluate.prompts",
        "held_out_prompts",
        before=RUN,
    ),
    # Commands and options
    Mistake("a misspelled command", "trian run.yaml", CONFIG, "trian", "train"),
    Mistake("a misspelled option", f"{RUN} --dryrun", CONFIG, "--dryrun", "--dry-run"),
    Mistake("an option of another command", f"{CHECK} --dry-run", CONFIG, "--dry-run", "Usage"),
    Mistake("a missing argument", "train", CONFIG, "CONFIG", "Usage"),
    Mistake(
        "init without a file",
        "init nothing.jsonl --policy model",
        CONFIG,
        "nothing.jsonl",
        "no such file",
    ),
    Mistake(
        "init over a file",
        "init pairs.jsonl --policy model --out run.yaml",
        CONFIG,
        "run.yaml",
        "--out",
    ),
    Mistake("an unknown loss to look up", "losses dppo", CONFIG, "dppo", "dpo"),
    Mistake(
        "import to nowhere",
        "import nothing.jsonl --as pairs --out out.jsonl",
        CONFIG,
        "nothing.jsonl",
        "no such file",
    ),
]
CALLS = [
    Call(
        "a DataFrame without columns",
        "prefine.train('model', pandas.DataFrame(), output_dir='out')",
        "DataError",
        "pairs",
        "there are none",
    ),
    Call(
        "a DataFrame with other columns",
        "prefine.read_pairs(pandas.DataFrame({'q': ['a'], 'good': ['b']}))",
        "DataError",
        "row 0",
        "chosen",
    ),
    Call(
        "a used generator",
        "prefine.train('model', iter([]), output_dir='out')",
        "DataError",
        "pairs",
        "there are none",
    ),
    Call(
        "a row in place of rows",
        "prefine.read_pairs({'prompt': 'a', 'chosen': 'b', 'rejected': 'c'})",
        "ConfigError",
        "pairs",
        "brackets",
    ),
    Call(
        "transformers' lr as an argument",
        "prefine.train('model', pairs, output_dir='out', settings={'lr': 1e-5})",
        "ConfigError",
        "lr",
        "learning_rate",
    ),
    Call(
        "an unknown argument",
        "prefine.train('model', pairs, learning_rate=1e-5)",
        "TypeError",
        "learning_rate",
        "keyword argument",
    ),
    Call(
        "no such model",
        "prefine.train('./models/mine', pairs, output_dir='out')",
        "BackendError",
        "models/mine",
        "folder",
    ),
    Call(
        "an unknown loss",
        "prefine.train('model', pairs, output_dir='out', settings={'loss': 'dppo'})",
        "ConfigError",
        "loss",
        "dpo",
    ),
    Call(
        "a text where prompts are needed",
        "prefine.sample('model', 'Why is the sky blue?')",
        "ConfigError",
        "prompts",
        "list",
    ),
    Call(
        "no baseline",
        "prefine.evaluate('model', ['a'], judge='playground')",
        "TypeError",
        "baseline",
        "argument",
    ),
    Call(
        "more completions than can be simulated",
        "prefine.simulate(1000)",
        "ConfigError",
        "completions",
        "128",
    ),
    Call("a missing name", "prefine.trian", "AttributeError", "trian", "train"),
    Call(
        "a number for completions",
        "prefine.sample('model', ['a'], completions_per_prompt='8x')",
        "ConfigError",
        "completions_per_prompt",
        "whole number",
    ),
    Call(
        "a judge that is none",
        "prefine.rank(['a'], [], judge=3)",
        "ConfigError",
        "judge",
        "function",
    ),
]
