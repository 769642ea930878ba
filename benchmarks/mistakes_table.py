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
    # People's verdicts
    Mistake(
        "annotating before there is a run",
        "annotate run",
        CONFIG,
        "run: there is no run here",
        "name a run folder",
    ),
    Mistake(
        "annotating a run without evaluated answers",
        "annotate run --summary",
        DATA,
        "no evaluation with answers has ended here",
        "take --of rank for the duels of the ranking",
        before="sample run.yaml",
    ),
    Mistake(
        "a queue that is none",
        "annotate run --queue unsure",
        CONFIG,
        "--queue 'unsure': ",
        "Allowed: disagree, mixed, random, uncertain",
        before="sample run.yaml",
    ),
    Mistake(
        "annotating without a terminal",
        "annotate run --of rank",
        CONFIG,
        "annotate asks at a terminal",
        "with --summary",
        before="run run.yaml",
    ),
    Mistake(
        "verdicts of people that are not there",
        CHECK,
        CONFIG,
        "rank.judge.path: people.jsonl: no verdicts here",
        "RUN/annotations/NAME.jsonl",
        {"rank.judge": {"name": "recorded", "path": "people.jsonl"}},
    ),
    Mistake(
        "grades and verdicts of people at once",
        CHECK,
        CONFIG,
        "rank.judge.path: verdicts of people have no grades",
        "take field and temperature out",
        {"rank.judge": {"name": "recorded", "path": "people.jsonl", "field": "grade"}},
    ),
    # Keys and values
    Mistake(
        "TRL's name of the step size",
        f"{CHECK} --set train.lr=1e-5",
        CONFIG,
        "train.lr: unknown key",
        "here it is train.learning_rate",
    ),
    Mistake(
        "transformers' batch size",
        CHECK,
        CONFIG,
        "train.per_device_train_batch_size: unknown key",
        "here it is train.pairs_per_step",
        {"train.per_device_train_batch_size": 4},
    ),
    Mistake(
        "transformers' epochs",
        CHECK,
        CONFIG,
        "train.num_train_epochs: unknown key",
        "here it is train.epochs",
        {"train.num_train_epochs": 3},
    ),
    Mistake(
        "TRL's beta beside the loss",
        CHECK,
        CONFIG,
        "train.beta: unknown key",
        "{name: dpo, beta: 0.1}",
        {"train.beta": 0.1},
    ),
    Mistake(
        "LLaMA-Factory's pref_beta",
        CHECK,
        CONFIG,
        "train.pref_beta: unknown key",
        "{name: dpo, beta: 0.1}",
        {"train.pref_beta": 0.1},
    ),
    Mistake(
        "LLaMA-Factory's model key",
        CHECK,
        CONFIG,
        "model_name_or_path: unknown key",
        "here it is policy",
        {"model_name_or_path": "model"},
    ),
    Mistake(
        "OpenRLHF's max_len",
        CHECK,
        CONFIG,
        "train.max_len: unknown key",
        "here it is train.max_prompt_tokens and train.max_completion_tokens",
        {"train.max_len": 2048},
    ),
    Mistake(
        "output_dir for run_dir",
        CHECK,
        CONFIG,
        "output_dir: unknown key",
        "here it is run_dir",
        {"output_dir": "out"},
    ),
    Mistake(
        "a word for a number",
        f"{CHECK} --set train.learning_rate=small",
        CONFIG,
        "train.learning_rate: ",
        "valid number (got 'small')",
    ),
    Mistake(
        "a number in words of YAML",
        f"{CHECK} --set train.epochs=two",
        CONFIG,
        "train.epochs: ",
        "valid integer (got 'two')",
    ),
    Mistake(
        "a negative step size",
        f"{CHECK} --set train.learning_rate=-1",
        CONFIG,
        "train.learning_rate: ",
        "greater than 0 (got -1)",
    ),
    Mistake(
        "automatic weight, no held-out prompts",
        f"{CHECK} --set train.regularizer.delta=1 --set train.regularizer_weight=auto",
        CONFIG,
        "train.regularizer_weight: auto",
        "set pair.held_out_prompts to 128 or more",
    ),
    Mistake(
        "automatic weight without a budget",
        f"{CHECK} --set train.regularizer_weight=auto",
        CONFIG,
        "train.regularizer_weight: auto",
        "give regularizer: {name: budget, delta: 3.0}",
        {"train.regularizer": GONE},
    ),
    Mistake(
        "an unknown loss",
        f"{CHECK} --set train.loss=dpoo",
        CONFIG,
        "train.loss.name: unknown loss 'dpoo'",
        "did you mean 'dpo'?",
    ),
    Mistake(
        "an unknown strategy",
        f"{CHECK} --set rank.strategy=swiss2",
        CONFIG,
        "rank.strategy.name: unknown strategy 'swiss2'",
        "did you mean 'swiss'?",
    ),
    Mistake(
        "an unknown judge",
        f"{CHECK} --set rank.judge=gpt-4",
        CONFIG,
        "rank.judge.name: unknown judge 'gpt-4'",
        "Allowed: pairwise",
    ),
    Mistake(
        "an unknown selector",
        f"{CHECK} --set pair.selector=best_worst",
        CONFIG,
        "pair.selector.name: ",
        "did you mean 'best_vs_worst'?",
    ),
    Mistake(
        "an unknown option of a loss",
        f"{CHECK} --set train.loss.temperature=1",
        CONFIG,
        "train.loss.temperature: unknown option",
        "Allowed: beta, label_smoothing",
    ),
    Mistake(
        "--set without =",
        f"{CHECK} --set train.epochs",
        CONFIG,
        "--set 'train.epochs'",
        "such as train.loss.beta=0.05",
    ),
    Mistake(
        "--set with a colon",
        f"{CHECK} --set train.epochs:2",
        CONFIG,
        "--set 'train.epochs:2'",
        "such as train.loss.beta=0.05",
    ),
    Mistake(
        "a list where a text is needed",
        f"{CHECK} --set run_dir=[a,b]",
        CONFIG,
        "run_dir: ",
        "a text such as runs/first",
    ),
    Mistake(
        "a text where a list is needed",
        CHECK,
        CONFIG,
        "evaluate.metrics: ",
        "a list, such as [a, b]",
        {"evaluate": {"metrics": "win_rate"}},
    ),
    # YAML
    Mistake(
        "no such configuration",
        "run my.yaml",
        CONFIG,
        "my.yaml: no such configuration",
        "`prefine init` writes one",
    ),
    Mistake(
        "a tab in YAML",
        CHECK,
        CONFIG,
        "line 2, column 1",
        "indent by spaces",
        files={"run.yaml": "train:\n\tepochs: 1\n"},
    ),
    Mistake(
        "wrong indentation",
        CHECK,
        CONFIG,
        "line 3, column 8",
        "indent the keys of a section alike",
        files={"run.yaml": "train:\n  epochs: 1\n   loss: dpo\n"},
    ),
    Mistake(
        "an empty configuration",
        CHECK,
        CONFIG,
        "run.yaml: ",
        "`prefine init` writes",
        files={"run.yaml": ""},
    ),
    Mistake(
        "a colon without a space",
        CHECK,
        CONFIG,
        "run.yaml: ",
        "such as `run_dir: runs/first`",
        files={"run.yaml": "run_dir:run\npolicy:model\n"},
    ),
    Mistake(
        "the data in place of the configuration",
        "run pairs.jsonl",
        CONFIG,
        "pairs.jsonl: ",
        "`prefine init` writes a configuration",
    ),
    Mistake(
        "a key twice",
        CHECK,
        CONFIG,
        "line 2, column 1",
        "write it once",
        files={"run.yaml": "run_dir: a\nrun_dir: b\n"},
    ),
    # Files
    Mistake(
        "a missing file of pairs",
        CHECK,
        CONFIG,
        "pairs.path: nothing.jsonl: no such file",
        "give the path of a file",
        PAIRS | {"pairs": "nothing.jsonl"},
    ),
    Mistake(
        "an empty file",
        CHECK,
        DATA,
        "pairs.jsonl: ",
        "give a file with at least one",
        PAIRS,
        {"pairs.jsonl": ""},
    ),
    Mistake(
        "JSON in a file called .jsonl",
        CHECK,
        DATA,
        "pairs.jsonl, line 1: ",
        "let its name end in .json, or set format: json",
        PAIRS,
        {"pairs.jsonl": '[\n {"prompt": "a", "chosen": "b", "rejected": "c"}\n]\n'},
    ),
    Mistake(
        "a broken line",
        CHECK,
        DATA,
        "pairs.jsonl, line 1: ",
        "mend this one or remove it",
        PAIRS,
        {"pairs.jsonl": '{"prompt": "a", \n'},
    ),
    Mistake(
        "pairs with other columns",
        CHECK,
        DATA,
        "pairs.jsonl, line 1: no column 'chosen'",
        "map it with columns",
        PAIRS,
        {"pairs.jsonl": '{"question": "a", "good": "b", "bad": "c"}\n'},
    ),
    Mistake(
        "completions given as pairs",
        CHECK,
        DATA,
        "answers.jsonl, line 1: no column 'chosen'",
        "are read with completions:",
        PAIRS | {"pairs": "answers.jsonl"},
    ),
    Mistake(
        "pairs given as prompts, sampled",
        CHECK,
        CONFIG,
        "sample is missing",
        "add sample: {completions_per_prompt: 8}",
        {"completions": GONE, "prompts": "pairs.jsonl"},
    ),
    Mistake(
        "a number as a prompt",
        CHECK,
        DATA,
        "pairs.jsonl, line 1, prompt: ",
        "fill it, or remove the row",
        PAIRS,
        {"pairs.jsonl": '{"prompt": 1, "chosen": "b", "rejected": "c"}\n'},
    ),
    Mistake(
        "a folder as a file",
        CHECK,
        DATA,
        "model/config.json: ",
        "give the file that has your rows",
        PAIRS | {"pairs": "model"},
    ),
    Mistake(
        "completions without grades to a recorded judge",
        RUN,
        DATA,
        "answers.jsonl, line 1: ",
        "rank.judge.field",
        files={"answers.jsonl": '{"prompt": "a", "completions": ["b", "c"]}\n'},
    ),
    # Models, keys, servers
    Mistake(
        "no such model folder",
        CHECK,
        BACKEND,
        "policy.path: ./models/mine: ",
        "a hub id like org/name",
        {"policy": "./models/mine"},
    ),
    Mistake(
        "a folder without a model",
        CHECK,
        BACKEND,
        "policy.path: data: ",
        "give the folder of a Hugging Face model",
        {"policy": "data"},
        {"data/readme.txt": "no model"},
    ),
    Mistake(
        "no chat template",
        RUN,
        CONFIG,
        "policy.path: model: ",
        "add chat_template.jinja to the folder",
        files={"model/chat_template.jinja": ""},
    ),
    Mistake(
        "a tokenizer is missing",
        CHECK,
        BACKEND,
        "policy.path: model: ",
        "copy the tokenizer's files anew",
        files={"model/tokenizer.json": "", "model/tokenizer_config.json": ""},
    ),
    Mistake(
        "the key is not set",
        CHECK,
        CONFIG,
        "rank.judge.model.api_key_env: ",
        "export NO_SUCH_KEY=...",
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
        "rank.judge.model.base_url: http://127.0.0.1:9/v1: ",
        "start the server, or mend base_url",
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
        "rank.judge.model.base_url: ",
        "http://localhost:8000/v1",
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
        "policy.device: 'cuda'",
        "there is cpu",
        {"policy": {"name": "hf", "path": "model", "device": "cuda"}},
    ),
    # Runs
    Mistake(
        "a changed setting in a begun run",
        f"{RUN} --set rank.seed=5",
        CONFIG,
        "rank.seed: 0 → 5",
        "Use another --run-dir",
        before=RUN,
    ),
    Mistake(
        "another configuration in the same folder",
        f"{RUN} --set train.loss=simpo",
        CONFIG,
        'train.loss.name: "dpo" → "simpo"',
        "Use another --run-dir",
        before=RUN,
    ),
    Mistake(
        "a report of a folder that is no run",
        "report model",
        CONFIG,
        "/model: a folder, and no run folder",
        "give a YAML file, or the folder of a run",
    ),
    Mistake(
        "training before pairing", "train run.yaml", DATA, "run/pairs: ", "run `prefine pair` first"
    ),
    Mistake(
        "ranking before sampling",
        "rank run.yaml",
        DATA,
        "run/completions: ",
        "run `prefine sample` first",
    ),
    Mistake(
        "a sweep without its section",
        "sweep run.yaml",
        CONFIG,
        "run.yaml: there is no section sweep",
        "sweep: {grid: ",
    ),
    Mistake(
        "a sweep of a setting that is not there",
        "sweep run.yaml",
        CONFIG,
        "train.lr: unknown key",
        "here it is train.learning_rate",
        {"sweep": {"grid": {"train.lr": [1, 2]}}},
    ),
    Mistake(
        "evaluate without prompts",
        "evaluate run.yaml",
        CONFIG,
        "evaluate: ",
        "give evaluate.prompts, or pair.held_out_prompts",
        before=RUN,
    ),
    # Commands and options
    Mistake("a misspelled command", "trian run.yaml", CONFIG, "'trian'", "Did you mean 'train'"),
    Mistake("a misspelled option", f"{RUN} --dryrun", CONFIG, "--dryrun", "--dry-run)"),
    Mistake(
        "an option of another command",
        f"{CHECK} --dry-run",
        CONFIG,
        "--dry-run",
        "`prefine run`, `prefine sweep`, `prefine push` have --dry-run",
    ),
    Mistake("a missing argument", "train", CONFIG, "CONFIG: ", "`prefine init` writes one"),
    Mistake(
        "init without a file",
        "init nothing.jsonl --policy model",
        CONFIG,
        "nothing.jsonl: no such file",
        "give the path of a file",
    ),
    Mistake(
        "init over a file",
        "init pairs.jsonl --policy model --out run.yaml",
        CONFIG,
        "--out run.yaml: exists already",
        "give another file",
    ),
    Mistake("an unknown loss to look up", "losses dppo", CONFIG, "'dppo'", "did you mean 'dpo'?"),
    Mistake(
        "import to nowhere",
        "import nothing.jsonl --as pairs --out out.jsonl",
        CONFIG,
        "nothing.jsonl: no such file",
        "give the path of a file",
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
        "row 0: no column 'chosen'",
        "map it with columns",
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
        "pairs: ",
        "put one row in brackets",
    ),
    Call(
        "transformers' lr as an argument",
        "prefine.train('model', pairs, output_dir='out', settings={'lr': 1e-5})",
        "ConfigError",
        "settings.lr: ",
        "here it is train.learning_rate",
    ),
    Call(
        "an unknown argument",
        "prefine.train('model', pairs, learning_rate=1e-5)",
        "TypeError",
        "train() got an unexpected keyword argument 'learning_rate'",
        "settings={'learning_rate': …}",
    ),
    Call(
        "no such model",
        "prefine.train('./models/mine', pairs, output_dir='out')",
        "BackendError",
        "policy.path: ./models/mine: ",
        "a hub id like org/name",
    ),
    Call(
        "an unknown loss",
        "prefine.train('model', pairs, output_dir='out', settings={'loss': 'dppo'})",
        "ConfigError",
        "train.loss.name: ",
        "did you mean 'dpo'?",
    ),
    Call(
        "a text where prompts are needed",
        "prefine.sample('model', 'Why is the sky blue?')",
        "ConfigError",
        "prompts: ",
        "write ['Why is the sky blue?']",
    ),
    Call(
        "no baseline",
        "prefine.evaluate('model', ['a'], judge='playground')",
        "TypeError",
        "evaluate() ",
        "'baseline': The model to compare with",
    ),
    Call(
        "more completions than can be simulated",
        "prefine.simulate(1000)",
        "ConfigError",
        "completions 1000: ",
        "from 2 to 128",
    ),
    Call("a missing name", "prefine.trian", "AttributeError", "'trian'", "did you mean 'train'?"),
    Call(
        "a number for completions",
        "prefine.sample('model', ['a'], completions_per_prompt='8x')",
        "ConfigError",
        "completions_per_prompt '8x': ",
        "a whole number from 1",
    ),
    Call(
        "a judge that is none",
        "prefine.rank(['a'], [], judge=3)",
        "ConfigError",
        "judge: int is no judge",
        "is a function (prompt, completion) -> float",
    ),
]
