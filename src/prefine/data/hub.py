"""Rows of a data set on the Hugging Face hub, or in a local folder in the hub's form."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from prefine.data.layouts.protocol import SourceRow
from prefine.data.layouts.table import LayoutName
from prefine.data.sources import Columns, Limit, shaped
from prefine.data.table_formats import as_json
from prefine.errors import BackendError, ConfigError
from prefine.reasoning import ReasoningInText


def hub(
    *,
    path: str,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    data_dir: str | None = None,
    data_files: str | list[str] | None = None,
    streaming: bool = False,
    columns: Columns | None = None,
    layout: LayoutName = "auto",
    reasoning: ReasoningInText = "split",
    limit: Limit | None = None,
) -> Iterator[SourceRow]:
    """Yield the rows of a data set on the hub. Code that comes with a data set is never run.

    Args:
        path: Its name there, such as org/name; or a local folder.
        split: Which split.
        config: Which configuration, where it has several.
        revision: A commit or tag, so that the data stay the same.
        data_dir: Which folder of it, such as helpful-base.
        data_files: Which files of it, by path or pattern.
        streaming: Read over the network as needed instead of downloading all of it first.
        columns: Our name → the data set's name, for columns that are called otherwise there.
        layout: "auto" recognises it by the names of the columns of the first row.
        reasoning: What becomes of <think>…</think> at the beginning of an answer: "split" makes it
            the answer's reasoning, which is not judged; "keep" leaves it in the text.
        limit: Take the first rows only; of prompts whose answers are rows, the first prompts.

    Raises:
        ConfigError: The package `datasets` is missing, or there is no such split.
        BackendError: The data set cannot be loaded.
    """
    rows = _rows(
        path,
        split,
        name=config,
        data_dir=data_dir,
        data_files=data_files,
        revision=revision,
        streaming=streaming,
    )
    return shaped(rows, columns=columns, layout=layout, reasoning=reasoning, limit=limit)


def _rows(path: str, split: str, **options: Any) -> Iterator[SourceRow]:
    rows = iter(_load(path, split, options))
    for number in count():
        try:
            values = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise BackendError(
                f"hub:{path}: reading stopped ({type(error).__name__}: {error}); run the same "
                "command again"
            ) from error
        yield SourceRow(f"hub:{path} {split}, row {number}", as_json(values))


def _load(path: str, split: str, options: dict[str, Any]) -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"hub:{path}: reading from the hub needs the package {error.name!r}; install "
            "prefine[train]"
        ) from error
    try:
        return datasets.load_dataset(path, split=split, **options)
    except Exception as error:  # the library raises its own errors, the network's and its parsers'
        first = next(iter(str(error).splitlines()), "")
        if first.startswith(("Unknown split", "Bad split")):
            raise ConfigError(f"hub:{path}: {first}") from error
        raise BackendError(
            f"hub:{path}: cannot be loaded ({type(error).__name__}: {first}); check the name, the "
            "configuration and the revision; offline, download it first or read the files with "
            "{name: file, path: ...}"
        ) from error
