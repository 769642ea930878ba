"""The entries of `prefine.metrics`: each says what it gives, and loads no heavy library."""

import inspect
import subprocess
import sys

import pytest

from prefine import metrics


def test_the_list_is_sorted_and_complete() -> None:
    assert metrics.__all__ == sorted(set(metrics.__all__))
    assert {getattr(metrics, name).__name__ for name in metrics.__all__} == set(metrics.__all__)


@pytest.mark.parametrize("name", metrics.__all__)
def test_each_says_what_it_gives_in_its_first_line(name: str) -> None:
    text = inspect.getdoc(getattr(metrics, name)) or ""
    first = text.partition("\n\n")[0]
    # A dataclass or a NamedTuple without one has its signature there.
    assert not first.startswith(f"{name}(")
    assert len(first.split()) > 3
    assert first.endswith((".", ":"))


def test_arrays_go_in_without_any_framework() -> None:
    code = "import sys, prefine.metrics as m; [getattr(m, name) for name in m.__all__]\n"
    code += "print('scipy' in sys.modules, m.win_rate([1, 0]).n)\n"
    code += "print(sorted({'torch', 'pyarrow'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False 2\n[]\n"
