"""The judge `recorded`: grades that came with the completions, or verdicts of people in files."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from prefine.errors import ConfigError, DataError, option_path
from prefine.judges.human import HumanJudge, HumanVerdict
from prefine.judges.protocol import ComputedJudge
from prefine.judges.recorded import RecordedJudge
from prefine.records import SCHEMA_VERSION

_REMEDY = "restore it, or take the row out"


def recorded(
    *,
    field: str | None = None,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    path: str | None = None,
    config_path: str = "",
) -> ComputedJudge:
    """Return the judge of grades, p_first = sigmoid(grade gap / temperature), or people's verdicts.

    Args:
        field: Metadata field that holds the grade, higher is better. None takes whichever one of
            `preference`, `grade`, `score` and `rating` the completions have.
        temperature: Grade gap that makes the odds e to 1 [grades]. Near 0 every difference is a
            sure verdict.
        path: Verdicts of people (`prefine annotate`) in place of grades: a file of one annotator,
            or the folder of several, whose verdicts are averaged. Two answers that nobody has
            judged are a failed comparison.
        config_path: Of this judge, for messages.

    Raises:
        ConfigError: There is no such file, or there are options of grades beside it.
        DataError: A file is damaged, or holds no verdict.
    """
    if path is None:
        return RecordedJudge(field=field, temperature=temperature)
    where = option_path(config_path, "path")
    if field is not None or temperature != 1.0:
        raise ConfigError(
            f"{where}: verdicts of people have no grades; take field and temperature out, or path"
        )
    files = _files(Path(path), where)
    rows = [row for file in files for row in read_verdicts(file)]
    if not any(row.p_first is not None for row in rows):
        raise DataError(f"{where}: {path} holds no verdict; annotate with `prefine annotate RUN`")
    return HumanJudge(rows)


def read_verdicts(path: Path) -> list[HumanVerdict]:
    """The verdicts of an annotator's file, in their order.

    A last line that is still being written, or that a killed process left, is left out.

    Raises:
        DataError: A row is no verdict, or of another schema version.
        FileNotFoundError: There is no such file.
    """
    text = path.read_bytes()
    found = []
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].split(b"\n")[:-1], 1):
        try:
            row = HumanVerdict.model_validate_json(line)
        except ValidationError as error:
            (first, *_) = error.errors()
            place = ".".join(map(str, first["loc"]))
            raise DataError(
                f"{path}:{number}: no verdict of a person ({place and f'{place}: '}{first['msg']});"
                f" {_REMEDY}"
            ) from error
        if row.schema_version != SCHEMA_VERSION:
            raise DataError(
                f"{path}:{number}: schema version {row.schema_version}, this prefine reads "
                f"{SCHEMA_VERSION}"
            )
        found.append(row)
    return found


def _files(path: Path, where: str) -> list[Path]:
    if path.is_file():
        return [path]
    if files := sorted(path.glob("*.jsonl")):
        return files
    if inner := sorted((path / "annotations").glob("*.jsonl")):
        raise ConfigError(f"{where}: {path} is a run; name {inner[0].parent} for its annotations")
    raise ConfigError(
        f"{where}: {path}: no verdicts here; name a file that `prefine annotate` wrote, such as "
        "RUN/annotations/NAME.jsonl, or the folder of several"
    )
