"""What the design promises about the shape of the house: floors, lazy imports, file lengths,
tables, configurations.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from pydantic import BaseModel

import prefine as package
from command import prefine
from prefine.config import base, rounds, sections, storage, training
from prefine.config.components import CONFIG_PATH, TABLES, lookup, options_model
from prefine.config.filled import GIVEN, filled_in
from prefine.config.named import components
from prefine.config.yaml import load
from prefine.judging.choose import make_judge
from prefine.run.config_changes import with_begun_defaults
from prefine.stages.pipeline import STAGES
from prefine.sweep.trials import read_trials

SOURCE = Path(package.__file__).parent
REPOSITORY = SOURCE.parents[1]

# A room may import itself and the rooms above it in this list, and no other. The longest prefix of
# a module's name decides. The package itself hands on names of all floors and stands in no room.
FLOORS = {
    0: (
        "errors",
        "lazy",
        "schedules",
        "records",
        "reasoning",
        "secrets",
        "atomic",
        "config",
        "tokenizer",
        "chat",
        "turns",
    ),
    1: (
        "playground.world",
        "newton",
        "losses",
        "regularizers",
        "ranking",
        "simulator",
        "judges",
        "pairing",
        "metrics",
    ),
    2: ("calls", "models", "judging", "bridging", "run", "executors", "data", "training", "suites"),
    3: ("playground", "report", "stages", "rounds", "sweep", "compare", "view", "annotate", "hub"),
    4: ("api", "cli", "trl", "__main__"),
}
WORLD = ("vocabulary", "tasks", "demonstrations", "scoring", "world")
"""The pure half of the playground; the other half trains its model."""

EXCEPTIONS = {
    ("prefine.cli.app", "prefine"): "prefine --version",
}
ROOMS = [f"prefine.{room}" for rooms in FLOORS.values() for room in rooms]
CONFIG_MODULES = (base, rounds, sections, storage, training)
"""Where the sections of a configuration stand."""

IMPURE = (
    "prefine.secrets",
    "prefine.atomic",
    "prefine.config.yaml",
    *(module.__name__ for module in CONFIG_MODULES),
)
"""What floor 0 has of the outside world: the variable of a key, files written whole,
configurations and their paths.
"""

MOST_LINES = 500
TORCH = {
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "peft",
    "datasets",
    "jaxtyping",
}
MAY_IMPORT_TORCH = (
    "prefine.losses",
    "prefine.training",
    "prefine.regularizers",
    "prefine.trl",
    "prefine.models.hf",
    "prefine.data.hub",
    "prefine.playground.build",
    "prefine.playground.pretraining",
    "prefine.playground.tokenizer",
)

# Files, network, clock, environment, logging; reading package data through importlib.resources is
# no such thing.
OUTSIDE_WORLD = {
    *("os", "pathlib", "io", "shutil", "tempfile", "glob", "fcntl", "sqlite3", "pyarrow"),
    *(
        "socket",
        "urllib",
        "http",
        "requests",
        "subprocess",
        "threading",
        "asyncio",
        "multiprocessing",
        "signal",
    ),
    *("time", "logging", "warnings", "secrets", "uuid", "sys"),
}
OWN_RANDOM = {"random.Random", "np.random.default_rng", "np.random.Generator", "np.random.Philox"}
GLOBAL_RANDOM = re.compile(
    r"^(random|(np|numpy)\.random)\.\w+$|^torch\.(manual_seed|rand\w*|bernoulli|multinomial)$"
)
CLOCK = re.compile(r"\.(now|today|utcnow)$")


class Module(NamedTuple):
    """A module of the package: its dotted name, its file, its syntax tree."""

    name: str
    path: Path
    tree: ast.Module


def _modules() -> Iterator[Module]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield Module(name, path, ast.parse(path.read_text(encoding="utf-8")))


MODULES = {module.name: module for module in _modules()}
INNER = [module for module in MODULES.values() if module.name != "prefine"]
"""All but the package itself, which hands on names of all floors."""


def _imports(module: Module) -> set[str]:
    """Dotted names of everything it imports, inside functions too; `from a import b` is a.b
    where that is a module.
    """
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}: relative import in line {node.lineno}"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


def room(name: str) -> int:
    """The place of a module's room in the list."""
    if name.rpartition(".")[2] in WORLD and name.startswith("prefine.playground."):
        return ROOMS.index("prefine.playground.world")
    found = [place for place in ROOMS if name == place or name.startswith(place + ".")]
    assert found, f"{name} is in no room: add it to the list here and to the design"
    return ROOMS.index(max(found, key=len))


def floor(name: str) -> int:
    return next(
        floor
        for floor, rooms in FLOORS.items()
        if ROOMS[room(name)].removeprefix("prefine.") in rooms
    )


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


IMPORTS = {module.name: _imports(module) for module in MODULES.values()}
USED = {
    module.name: {name for node in ast.walk(module.tree) if (name := dotted(node))}
    for module in MODULES.values()
}
"""All dotted names that the code of a module mentions."""


def may_import(importer: str, imported: str) -> bool:
    return (importer, imported) in EXCEPTIONS or (
        imported != "prefine" and room(imported) <= room(importer)
    )


def test_imports_go_down() -> None:
    wrong = [
        f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"
        for name, others in IMPORTS.items()
        for other in others
        if name != "prefine" and other.split(".")[0] == "prefine" and not may_import(name, other)
    ]
    assert not wrong, "\n".join(wrong)


def test_exceptions_are_few_and_needed() -> None:
    assert len(EXCEPTIONS) <= 5
    for importer, imported in EXCEPTIONS:
        assert imported in IMPORTS[importer], (importer, imported)


def test_a_forbidden_import_would_be_seen() -> None:
    assert not may_import("prefine.ranking.strategies.iterative", "prefine.run.journal")
    assert not may_import("prefine.losses.pairs.dpo", "prefine.metrics.texts.diversity")
    assert not may_import("prefine.run.tables", "prefine.data.files")
    assert may_import("prefine.stages.rank", "prefine.calls.engine")
    assert may_import("prefine.pairing.pairs", "prefine.ranking.protocol")
    inside = Module(
        "x", Path(), ast.parse("def f():\n    from prefine.run import journal\n    import torch.nn")
    )
    assert _imports(inside) == {"prefine.run.journal", "torch.nn"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_never_imports_a_stage(stage: str) -> None:
    others = {f"prefine.stages.{other}" for other in STAGES if other != stage}
    # Through what it shares with others, too.
    reached, queue = set(), [f"prefine.stages.{stage}"]
    while queue:
        name = queue.pop()
        new = {n for n in IMPORTS[name] if n.startswith("prefine.stages.")} - reached
        reached |= new
        queue += new
    assert not reached & others


def test_torch_stays_in_its_rooms() -> None:
    heavy = {
        name
        for name, others in IMPORTS.items()
        if {other.split(".")[0] for other in others} & TORCH
        and not name.startswith(MAY_IMPORT_TORCH)
    }
    assert not heavy


def test_the_lower_floors_are_pure() -> None:
    wrong = {}
    for module in INNER:
        if module.name in IMPURE or floor(module.name) > 1:
            continue
        outside = {name.split(".")[0] for name in IMPORTS[module.name]} & OUTSIDE_WORLD
        names = USED[module.name]
        outside |= {n for n in names if GLOBAL_RANDOM.match(n) and n not in OWN_RANDOM}
        outside |= {n for n in names if CLOCK.search(n)} | names & {"open", "print", "input"}
        if outside:
            wrong[module.name] = outside
    assert not wrong


# Beside the command line, a module that is run with `python -m` speaks for itself.
SPEAKERS = {
    "prefine.cli.app": "the command line",
    "prefine.cli.ending": "what it says when it ends",
    "prefine.cli.terminal": "the terminal that `annotate` draws on",
    "prefine.playground.build": "python -m prefine.playground.build",
    "prefine.cli.processes": "reads what a launcher says of the processes",
    "prefine.cli.sweep": "gives its trials this environment, with one GPU each",
    "prefine.stages.origins": "stores the command line in the manifest",
    "prefine.secrets": "reads the one variable that holds a key",
    "prefine.models.served.keeper": "a program: gives a server this environment, and tells its end",
    "prefine.executors.ray_cluster": "sets what Ray reads when it is loaded: no telemetry",
}


OURS_ALONE = {
    *("print", "input", "exit", "sys.exit", "sys.stdout", "sys.argv", "os.environ", "os.getenv"),
}


def test_only_the_command_line_prints_exits_and_reads_the_environment() -> None:
    wrong = {name: names & OURS_ALONE for name, names in USED.items() if name not in SPEAKERS}
    assert not {name: names for name, names in wrong.items() if names}


def _heavy_after(code: str) -> str:
    check = (
        f"import sys; print(sorted(set(sys.modules) & {TORCH | {'pyarrow', 'numpy'}!r}), "
        "file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, check=True
    )
    return run.stderr.strip().splitlines()[-1]


HELP = """
import sys
sys.argv = ["prefine", "--help"]
from prefine.cli.app import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
"""


@pytest.mark.parametrize("code", ["import prefine", HELP], ids=["import", "help"])
def test_start_up_loads_nothing_heavy(code: str) -> None:
    assert _heavy_after(code) == "[]"


def test_stages_without_a_local_model_do_not_load_torch() -> None:
    names = ", ".join(
        f"prefine.stages.{stage}"
        for stage in ("sample", "rank", "pair", "bridge", "evaluate", "report", "plan")
    )
    loaded = _heavy_after(f"import {names}")
    assert not TORCH & set(re.findall(r"\w+", loaded))


def test_help_answers_fast() -> None:
    """Half a second is promised; the check is of processor time with room for a slow or busy
    machine.
    """

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", HELP], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1.0


def test_every_module_imports() -> None:
    found = {info.name for info in pkgutil.walk_packages([str(SOURCE)], "prefine.")}
    assert found == set(MODULES) - {"prefine"}, "a folder without __init__.py"
    # Importing __main__ is running the command.
    for name in sorted(found - {"prefine.__main__"}):
        importlib.import_module(name)


def test_files_stay_short() -> None:
    lengths = {m.name: len(m.path.read_text(encoding="utf-8").splitlines()) for m in INNER}
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}


# --- tables


def test_tables_are_literal() -> None:
    (value,) = (
        node.value
        for node in MODULES["prefine.config.components"].tree.body
        if isinstance(node, ast.AnnAssign) and dotted(node.target) == "TABLES"
    )
    assert value is not None
    assert ast.literal_eval(value) == TABLES


ENTRIES = [(kind, name) for kind, table in TABLES.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), ENTRIES, ids=lambda part: str(part))
def test_every_entry_loads_and_its_options_are_keywords(kind: Any, name: str) -> None:
    component = lookup(kind, name, where="test")
    assert callable(component)
    assert component.__doc__
    parameters = inspect.signature(component).parameters.values()
    for parameter in parameters:
        assert parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD), parameter
        assert parameter.default is parameter.empty or parameter.kind is parameter.KEYWORD_ONLY, (
            parameter
        )
    assert set(options_model(component).model_fields) == {
        p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != CONFIG_PATH
    }


# --- configuration


SECTIONS = [
    value
    for module in CONFIG_MODULES
    for value in vars(module).values()
    if inspect.isclass(value)
    and issubclass(value, BaseModel)
    and value.__module__ == module.__name__
]
FIELDS = sorted({name for section in SECTIONS for name in section.model_fields})


def test_there_are_sections() -> None:
    assert sections.RunConfig in SECTIONS
    assert training.TrainConfig in SECTIONS
    assert len(FIELDS) > 40


def test_every_config_field_is_read() -> None:
    read = {
        node.attr
        for module in INNER
        if module.name not in {config.__name__ for config in CONFIG_MODULES}
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
    }
    assert not set(FIELDS) - read


SECRET = re.compile(r"(^|_)(key|secret|password|credential|token)($|_)")


def test_no_setting_takes_a_secret() -> None:
    names = set(FIELDS)
    for kind, name in ENTRIES:
        names |= set(options_model(lookup(kind, name, where="test")).model_fields)
    assert not {name for name in names if SECRET.search(name) and not name.endswith("_env")}


COMMITTED = [*sorted((REPOSITORY / "configs").glob("*.yaml")), SOURCE / "playground" / "demo.yaml"]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_every_committed_configuration_loads_and_round_trips(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    config = load(path)
    shown = prefine("config", "show", str(path))
    assert shown.code == 0, shown.err
    (tmp_path / "shown.yaml").write_text(shown.out, encoding="utf-8")
    again = load(tmp_path / "shown.yaml")
    assert filled_in(again) == filled_in(config)
    assert with_begun_defaults(again, config.resolved()).resolved() == config.resolved()
    assert yaml.safe_load(shown.out)["run_dir"] == str(config.run_dir)
    for where, kind, component in components(config):
        if kind == "judge":
            make_judge(component, where=where)
            continue
        component.resolve(kind, where=where, given=GIVEN.get(kind, ()))


def test_nothing_but_configurations_and_the_modules_that_they_name_lies_in_configs() -> None:
    sweeps = (REPOSITORY / "configs" / "sweeps").glob("*.yaml")
    configs = [
        *(load(path) for path in COMMITTED),
        *(trial.config for path in sweeps for trial in read_trials(path, (), None).trials),
    ]
    named = {
        f"{component.name.partition(':')[0]}.py"
        for config in configs
        for _, _, component in components(config)
        if ":" in component.name
    }
    files = [
        path
        for path in (REPOSITORY / "configs").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert not [path for path in files if path.suffix != ".yaml" and path.name not in named]


# --- words


DOCSTRING_RIDDLES = ("What", "Whether", "How", "Who", "Nothing")


def test_a_class_name_has_one_meaning() -> None:
    homes: dict[str, list[str]] = {}
    for module in MODULES.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(module.name)
    assert not {name: places for name, places in homes.items() if len(places) > 1}


def test_docstrings_say_what_is_done_or_returned() -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    wrong = [
        f"{module.name}: {text.splitlines()[0]}"
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
        if text.split()[0].strip(",:") in DOCSTRING_RIDDLES
    ]
    assert not wrong, "\n".join(wrong)
