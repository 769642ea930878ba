"""A run folder as it is read: without a lock, finished or while another process works on it.

Every file is replaced whole or grows line by line, so a reader never sees half a row; it may see
more rows of one table than of another. Nothing is written, and the journal is not opened.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefine.errors import ConfigError, DataError
from prefine.records import (
    AnswerTokens,
    Completion,
    Judgment,
    LabelledCompletion,
    Manifest,
    PreferenceList,
    PreferencePair,
    Prompt,
    Ranking,
    Score,
)
from prefine.run.item_rows import TableRow, label_of, list_of, pair_of
from prefine.run.manifests import read_config, read_manifests
from prefine.run.rows import grouped_completions, joint_judgment_of, judgment_of, ranking_of
from prefine.run.tables import existing_parts, parse, read_part

JUDGMENTS = "judgments"
"""The table of what judges said while ranking; below `evaluation/`, of what they said there."""
JOINT_JUDGMENTS = "joint_judgments"
"""The table of what they said of answers to two prompts."""
EVALUATION_JUDGMENTS = f"evaluation/{JUDGMENTS}"
TOKEN_LOGPS = "heldout_tokens"
"""The table of the log-probabilities of some held-out answers' tokens."""
_REMEDY = "restore it, or run its stage anew"


class RunView:
    """The tables and logs of a run folder, read anew at every call.

    A table that no stage has written yet has no rows.

    Args:
        path: The folder.

    Raises:
        ConfigError: It is no run folder.
        DataError: Its configuration is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "config.json").is_file():
            raise ConfigError(f"{path}: there is no run here (no config.json); name a run folder")
        read_config(path)

    def config(self) -> dict[str, Any]:
        """The configuration with its defaults."""
        return read_config(self.path)

    def manifests(self) -> dict[str, Manifest]:
        """The manifests of the stages that have begun."""
        return read_manifests(self.path)

    def completions(self, table: str = "completions") -> Iterator[tuple[Prompt, list[Completion]]]:
        """Each prompt with its completions.

        Args:
            table: Or those of an evaluation: "evaluation/baseline", "evaluation/trained".
        """
        for rows in self._parts(table):
            yield from grouped_completions(rows)

    def prompts(self) -> Iterator[Prompt]:
        """The prompts that have completions."""
        return (prompt for prompt, _ in self.completions())

    def judgments(self, table: str = JUDGMENTS) -> Iterator[Judgment]:
        """The comparisons of judges, in the order in which each prompt's were asked.

        Args:
            table: `JUDGMENTS` of the ranking, or `EVALUATION_JUDGMENTS`.
        """
        return (one for one in self._answers(table) if isinstance(one, Judgment))

    def joint_judgments(self) -> Iterator[Judgment]:
        """The comparisons of answers to two prompts, which ranking asked for by `rank.across`."""
        return (joint_judgment_of(row) for rows in self._parts(JOINT_JUDGMENTS) for row in rows)

    def ratings(self) -> Iterator[Score]:
        """The ratings of scorers, for strategies that ask for them."""
        return (one for one in self._answers(JUDGMENTS) if isinstance(one, Score))

    def rankings(self) -> Iterator[Ranking]:
        """The rankings."""
        return (ranking_of(row) for rows in self._parts("rankings") for row in rows)

    def pairs(self, table: str = "pairs") -> Iterator[PreferencePair]:
        """The pairs that are trained on, or rewritten before.

        Args:
            table: Or "heldout_pairs", or "bridged_pairs", which are trained on where they are.
        """
        return (pair_of(row) for rows in self._parts(table) for row in rows)

    def lists(self, table: str = "lists") -> Iterator[PreferenceList]:
        """The lists that are trained on.

        Args:
            table: Or "heldout_lists".
        """
        return (list_of(row) for rows in self._parts(table) for row in rows)

    def labels(self, table: str = "labels") -> Iterator[LabelledCompletion]:
        """The labelled answers that are trained on.

        Args:
            table: Or "heldout_labels".
        """
        return (label_of(row) for rows in self._parts(table) for row in rows)

    def token_logps(self) -> Iterator[AnswerTokens]:
        """Some held-out answers with their tokens' log-probabilities before and after training.

        There are none before training has ended, and in runs of earlier versions.
        """
        where = str(self.path / TOKEN_LOGPS)
        return (
            parse(AnswerTokens, row, where=where)
            for rows in self._parts(TOKEN_LOGPS)
            for row in rows
        )

    def outcomes(self) -> list[dict[str, Any]]:
        """Each evaluation prompt with both answers, P(after is better) and gold scores."""
        return self.log("evaluation/outcomes.jsonl")

    def log(self, name: str = "train_log.jsonl") -> list[dict[str, Any]]:
        """The whole rows of a log; a row that is being written is left out.

        Args:
            name: Or "eval_log.jsonl", the log of the held-out pairs.

        Raises:
            DataError: A line is damaged.
        """
        try:
            text = (self.path / name).read_bytes()
        except FileNotFoundError:
            return []
        lines = text[: text.rfind(b"\n") + 1].splitlines()
        rows = []
        for number, line in enumerate(lines, 1):
            where = f"{self.path / name}, line {number}"
            row = _value(line, where)
            if not isinstance(row, dict):
                raise DataError(f"{where}: damaged (no object); {_REMEDY}")
            rows.append(row)
        return rows

    def json(self, name: str) -> Any:
        """The value of a JSON file, such as metrics.json or train_final.json; None without it.

        Raises:
            DataError: It is damaged.
        """
        try:
            text = (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        return _value(text, str(self.path / name))

    def _answers(self, table: str) -> Iterator[Judgment | Score]:
        return (judgment_of(row) for rows in self._parts(table) for row in rows)

    def _parts(self, table: str) -> Iterator[list[TableRow]]:
        for path in existing_parts(self.path / table):
            try:
                yield read_part(path)
            except DataError as error:
                # A stage that makes its table anew has taken the part away since it was listed.
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise


def _value(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: damaged ({error}); {_REMEDY}") from error
