"""An import of rows of which some cannot be used: what it says, and what --strict makes of it."""

from collections.abc import Sequence
from pathlib import Path

from command import prefine
from run_place import DATA, OK


def check_import(arguments: Sequence[str], says: Sequence[str], code: int, *, line: int) -> None:
    """Run `prefine import` in the working directory.

    Args:
        arguments: All but where to write.
        says: What is said of the row, on stdout if the import goes well, else on stderr.
        code: The exit code.
        line: The line of the row at fault.
    """
    result = prefine("import", *arguments, "--out", "out.jsonl")
    assert result.code == code, result.err + result.out
    text = result.out if code == OK else result.err
    for part in says:
        assert part in text, (part, text)
    assert "Traceback" not in result.err
    assert len(text) < 2000
    assert Path("out.jsonl").exists() == (code == OK)
    if code == OK:
        strict = prefine("import", *arguments, "--out", "strict.jsonl", "--strict")
        assert strict.code == DATA
        assert "--strict" in strict.err
        assert f"line {line}" in strict.err
        assert not Path("strict.jsonl").exists()
