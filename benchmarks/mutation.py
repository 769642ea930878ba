"""Mutation tests of every loss, every regularizer and their shared code.

    python benchmarks/mutation.py [NAME…] [--jobs 2]

A mutant is a file with one sign, comparison, constant, bound, default, side (chosen and rejected),
model (policy and reference), `detach`, branch or declared fact changed. The tests are collected
once; every mutant is then installed in a fork of this process, which runs the tests of that loss
first (a test of every case takes its cases alone) and then all others of `tests/losses`, until one
fails. Prints a row per file, the survivors with reasons, and the share of mutants that were
noticed; the goal is 95 %.
"""

import argparse
import ast
import contextlib
import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from _pytest.runner import runtestprotocol

from prefine.config.components import TABLES

ROOT = Path(__file__).parents[1]
GOAL, SECONDS = 0.95, 300
SHARED = {name: f"prefine.losses.{name}" for name in ("protocol", "controllers", "token_diff")}
NAMES = [*sorted({**TABLES["loss"], **TABLES["regularizer"]}), *SHARED]
TESTS = ("tests/losses",)
# These test pages and commands, not formulas, and take long.
LEFT_OUT = ("test_catalogue",)
# A long run that tests these alone.
TOY, OF_THE_TOY = "test_budget_toy", ("dpo", "budget", "protocol")
SLOW = (
    "drawn_pairs",
    "hostile",
    "float32",
    "central",
    "gradients_are_those",
    "which_pairs",
    "1e4",
    "test_token_diff",
)
# These run before a mutant is installed.
NOT_CHANGED = ("declare", "NEED_WORDS")

SURVIVORS: dict[str, str] = {
    "bdpo logps.policy_chosen -> .policy_rejected": "only its dtype and device are taken",
    "bdpo logps.policy_chosen -> .ref_chosen": "only its dtype and device are taken",
    "beta_dpo rho > 0: Gt -> GtE": "at rho 0 the draw keeps all pairs",
    ("beta_dpo margin.detach(): .detach() dropped"): (
        "only the order is read, and an order has no gradient"
    ),
    "beta_dpo 1e-09 -> 2e-09": "it only has to exceed rounding, up to 1e8 pairs",
    "chi_po 88 -> 89": "beside the log-ratio, exp(-88) is nothing",
    "orpo mean_logp > -math.log(2): Gt -> GtE": "at log 1/2 both forms are equal",
    "orpo 2 -> 3": "between log 1/3 and log 1/2 both forms are equal, up to rounding",
    "controllers 0.0 -> 1.0": "the first step gives what was there no weight",
}
"""Mutants that no test can notice, as printed without the line, and why."""


@dataclass(frozen=True)
class Mutant:
    """A change of one file: what, in which line, and the changed tree."""

    name: str
    line: int
    what: str
    tree: ast.Module

    @property
    def key(self) -> str:
        """Its name in `SURVIVORS`, which new lines above do not change."""
        return f"{self.name} {self.what}"

    def __str__(self) -> str:
        return f"{self.name}:{self.line} {self.what}"


Edit = Callable[[], None]


def mutants(name: str) -> Iterator[Mutant]:
    """All mutants of the file of a loss."""
    module = _module(name)
    source = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    for number in range(len(list(_sites(source)))):
        tree = deepcopy(source)
        node, what, edit = list(_sites(tree))[number]
        before = ast.unparse(node)
        edit()
        yield Mutant(name, node.lineno, what.replace("{}", before), tree)


def _module(name: str) -> ModuleType:
    target = SHARED.get(name) or TABLES["loss"].get(name) or TABLES["regularizer"][name]
    return importlib.import_module(target.partition(":")[0])


_OPPOSITE: dict[type[ast.AST], list[type[Any]]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
_TYPES = {"PositiveFloat": "NonNegativeFloat", "NonNegativeFloat": "PositiveFloat"}
_KEYWORDS = {"min": "max", "max": "min", "gt": "ge", "ge": "gt", "lt": "le", "le": "lt"}
_WORDS = (("chosen", "rejected"), ("rejected", "chosen"), ("policy", "ref"), ("ref", "policy"))
_REMOVED = ("detach", "relu", "square", "abs", "mean", "log", "exp")


def _sites(tree: ast.Module) -> Iterator[tuple[Any, str, Edit]]:
    """Yield every place that can be changed: the node, a description and the change."""
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    skipped = {
        inner for node in ast.walk(tree) for part in _not_maths(node) for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.BinOp) and type(node.op) in _OPPOSITE:
            for new in _OPPOSITE[type(node.op)]:
                yield (
                    node,
                    f"{{}}: {type(node.op).__name__} -> {new.__name__}",
                    _set(node, "op", new()),
                )
        elif isinstance(node, ast.Compare):
            for at, op in enumerate(node.ops):
                for new in _OPPOSITE[type(op)]:
                    yield (
                        node,
                        f"{{}}: {type(op).__name__} -> {new.__name__}",
                        _set_item(node.ops, at, new()),
                    )
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield node, "{}: minus dropped", _replace(parents, node, node.operand)
        elif isinstance(node, ast.Constant):
            for value in _other_values(node, parents):
                yield node, f"{{}} -> {value!r}", _set(node, "value", value)
        elif isinstance(node, ast.Attribute):
            for old, new_word in _WORDS:
                if old in node.attr.split("_"):
                    changed = "_".join(
                        new_word if word == old else word for word in node.attr.split("_")
                    )
                    yield node, f"{{}} -> .{changed}", _set(node, "attr", changed)
        elif isinstance(node, ast.Name) and node.id in _TYPES:
            yield node, f"{{}} -> {_TYPES[node.id]}", _set(node, "id", _TYPES[node.id])
        elif isinstance(node, ast.IfExp):
            yield node, "{}: branches swapped", _swap(node)
        elif isinstance(node, ast.Return) and node.value is not None:
            negated = ast.UnaryOp(op=ast.USub(), operand=node.value)
            yield node, "{}: negated", _set(node, "value", ast.copy_location(negated, node.value))
        if isinstance(node, ast.keyword) and node.arg in _KEYWORDS:
            yield (
                node.value,
                f"{node.arg}={{}} -> {_KEYWORDS[node.arg]}=",
                _set(node, "arg", _KEYWORDS[node.arg]),
            )
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _REMOVED
        ):
            yield (
                node,
                f"{{}}: .{node.func.attr}() dropped",
                _replace(parents, node, node.func.value),
            )
        if isinstance(node, ast.Set) and all(isinstance(item, ast.Constant) for item in node.elts):
            for at in range(len(node.elts)):
                yield node, f"{{}}: need {at + 1} dropped", _drop(node, at)
        if isinstance(node, ast.keyword) and node.arg == "kind":
            yield node.value, "kind={} -> 'local'", _set(node, "value", ast.Constant("local"))


def _not_maths(node: ast.AST) -> list[ast.AST]:
    """Return the children that stay: docstrings, imports, shapes, messages, families."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr | ast.Raise):
        return [node]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return [node]
    if isinstance(node, ast.FunctionDef) and node.name in NOT_CHANGED:
        return [node]
    if isinstance(node, ast.FunctionDef):
        return [node.returns] if node.returns is not None else []
    if isinstance(node, ast.ClassDef):
        # Only the methods of a class are replaced.
        return [*node.decorator_list, *node.bases]
    if isinstance(node, ast.AnnAssign):
        # The types of fields, which no code checks; and tables of words.
        return [node.annotation, *([node.value] if isinstance(node.value, ast.Dict) else [])]
    if isinstance(node, ast.keyword) and node.arg == "family":
        return [node]
    return []


def _other_values(node: ast.Constant, parents: dict[ast.AST, ast.AST]) -> list[Any]:
    if isinstance(node.value, bool) or node.value is None:
        return [not node.value] if isinstance(node.value, bool) else []
    if isinstance(node.value, int):
        return [node.value + 1]
    if isinstance(node.value, float):
        return [node.value * 2] if node.value else [1.0]
    # Words matter where they are compared or are a default.
    matters = isinstance(parents[node], ast.Compare | ast.arguments) and isinstance(node.value, str)
    return [node.value + "_"] if matters else []


def _set(node: Any, field: str, value: Any) -> Edit:
    return lambda: setattr(node, field, value)


def _set_item(items: list[Any], at: int, value: Any) -> Edit:
    return lambda: items.__setitem__(at, value)


def _drop(node: ast.Set, at: int) -> Edit:
    return lambda: node.elts.__setitem__(at, ast.Starred(ast.Tuple([], ast.Load()), ast.Load()))


def _swap(node: ast.IfExp) -> Edit:
    def edit() -> None:
        node.body, node.orelse = node.orelse, node.body

    return edit


def _replace(parents: dict[ast.AST, ast.AST], node: ast.expr, new: ast.expr) -> Edit:
    def edit() -> None:
        parent = parents[node]
        for field, value in ast.iter_fields(parent):
            if value is node:
                setattr(parent, field, new)
            elif isinstance(value, list) and node in value:
                value[value.index(node)] = new

    return edit


def install(mutant: Mutant) -> None:
    """Change the functions in place where they are imported: code, defaults, annotations, facts."""
    module = _module(mutant.name)
    namespace = {key: value for key, value in vars(module).items() if key.startswith("__")}
    tree = deepcopy(mutant.tree)
    types = ast.parse(f"from pydantic import {', '.join(_TYPES)}").body
    after_docstring = int(ast.get_docstring(tree) is not None)
    tree.body[after_docstring:after_docstring] = types
    exec(compile(ast.fix_missing_locations(tree), str(module.__file__), "exec"), namespace)
    for key, new in namespace.items():
        old = vars(module).get(key)
        if key.startswith("__") or old is new:
            continue
        if (
            isinstance(old, FunctionType)
            and isinstance(new, FunctionType)
            and old.__module__ == module.__name__
        ):
            _refit(old, new)
        elif isinstance(old, type) and old.__module__ == module.__name__:
            for attribute, method in vars(new).items():
                before = vars(old).get(attribute)
                if isinstance(before, property):
                    before, method = before.fget, method.fget
                if (
                    isinstance(before, FunctionType)
                    and before.__code__.co_filename == module.__file__
                ):
                    _refit(before, method)
        elif not isinstance(new, FunctionType | ModuleType | type):
            setattr(module, key, new)


def _refit(old: FunctionType, new: FunctionType) -> None:
    old.__code__, old.__kwdefaults__ = new.__code__, new.__kwdefaults__
    old.__annotations__ = new.__annotations__
    old.__dict__.update(new.__dict__)


class Hunt:
    """A pytest plugin that runs the collected tests on mutants, instead of running them once."""

    def __init__(self, names: list[str], jobs: int) -> None:
        self._names, self._jobs = names, jobs

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests on all mutants; return True, so that pytest does not run them again."""
        session.config.option.tbstyle = (
            "native"  # the full form is slow, and their output is dropped
        )
        items = [
            item for item in session.items if not any(word in item.nodeid for word in LEFT_OUT)
        ]
        began, total, noticed, survivors = time.monotonic(), 0, 0, []
        # A test that fails without a mutant would notice every mutant.
        parts = [items[part :: self._jobs] for part in range(self._jobs)]
        forks = [_fork(None, part) for part in parts]
        if any(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in forks):
            print("the tests fail without any change; nothing was measured")
            session.testsfailed = 1
            return True
        print(f"{len(items)} tests, {len(self._names)} files")
        # A garbage collection would touch, and so copy, the memory that forks share.
        gc.collect()
        gc.freeze()
        gc.disable()
        for name in self._names:
            found = list(mutants(name))
            alive = self._alive(found, _ordered(items, name))
            total, noticed = total + len(found), noticed + len(found) - len(alive)
            survivors += alive
            print(f"{name:<16} {len(found) - len(alive):>3} of {len(found):>3} noticed", flush=True)
        print(f"\nsurvivors: {len(survivors)}")
        for mutant in survivors:
            print(f"  {mutant}\n      {SURVIVORS.get(mutant.key, 'NO REASON IS KNOWN')}")
        share = noticed / max(1, total)
        mark = "ok  " if share >= GOAL else "MISS"
        print(
            f"\n{mark} {noticed} of {total} mutants noticed, {100 * share:.1f} %, goal "
            f"{100 * GOAL:g} %"
        )
        print(f"{time.monotonic() - began:.0f} s with {self._jobs} processes")
        return True

    def _alive(self, found: list[Mutant], items: list[pytest.Item]) -> list[Mutant]:
        running: dict[int, Mutant] = {}
        alive, waiting = [], list(found)
        while waiting or running:
            while waiting and len(running) < self._jobs:
                mutant = waiting.pop(0)
                running[_fork(mutant, items)] = mutant
            pid, status = os.wait()
            mutant = running.pop(pid)
            ended = os.waitstatus_to_exitcode(status)
            if ended == 0:
                alive.append(mutant)
            elif ended == -signal.SIGALRM:
                print(f"{mutant} took longer than {SECONDS} s")
        return sorted(alive, key=lambda mutant: (mutant.line, mutant.what))


def _fork(mutant: Mutant | None, items: list[pytest.Item]) -> int:
    """Fork a process that exits with 0 if all tests pass with the mutant, or without any."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with contextlib.suppress(BaseException):
        signal.alarm(SECONDS)  # one that hangs has been noticed
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        if mutant is not None:
            install(mutant)
            if mutant.name not in SHARED:
                # The tests have imported it from here.
                importlib.import_module("loss_cases").SELECTED.add(mutant.name)
        code = int(
            any(report.failed for item in items for report in runtestprotocol(item, log=False))
        )
    os._exit(code)


def _ordered(items: list[pytest.Item], name: str) -> list[pytest.Item]:
    """Return the tests of this loss, then those of no single loss; those of others are left out.

    All tests may notice a change of shared code.
    """
    if name not in OF_THE_TOY:
        items = [item for item in items if TOY not in item.nodeid]
    if name in SHARED:
        return sorted(
            (i for i in items if not (_slow(i) and _of_every_case(i))),
            key=lambda item: _of_every_case(item) or _named(item) is not None,
        )
    of_this = [item for item in items if _of_every_case(item) or _named(item) == name]
    values_first = sorted(of_this, key=lambda item: "test_losses.py" not in item.nodeid)
    others = [item for item in items if _named(item) is None and not _of_every_case(item)]
    return sorted(values_first, key=_slow) + sorted(others, key=_slow)


def _of_every_case(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "function", None), "every_case")


def _slow(item: pytest.Item) -> bool:
    return any(word in item.nodeid for word in SLOW)


def _named(item: pytest.Item) -> str | None:
    """Return the loss of a test that is parametrized by its name."""
    callspec = getattr(item, "callspec", None)
    name = None if callspec is None else callspec.params.get("name")
    return name if name in NAMES else None


def main() -> int:
    """Run the mutants of some losses, or of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="These instead of all")
    parser.add_argument("--jobs", type=int, default=2, help="Processes at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # The first comparison imports modules: here once, instead of in every fork.
    torch.testing.assert_close(torch.zeros(1), torch.zeros(1))
    os.chdir(ROOT)
    hunt = Hunt(options.names or NAMES, options.jobs)
    quiet = ["--override-ini=addopts=", "-p", "no:cacheprovider", "-p", "no:terminal", "-s"]
    return int(pytest.main([*quiet, *TESTS], plugins=[hunt]))


if __name__ == "__main__":
    sys.exit(main())
