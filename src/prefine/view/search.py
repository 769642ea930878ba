"""The prompts of an index that a query finds, in its order; a word is looked for in the files.

A word is looked for part by part, and what a part has is remembered: the next page and the next
prompt of the same search go on from there.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from prefine.stages.bridged import BRIDGED_PAIRS
from prefine.view.index import PromptIndex
from prefine.view.loading import JUDGED
from prefine.view.query import PromptQuery

PAGE = 50
"""Prompts of a page."""
Key: TypeAlias = tuple[int, str]
"""A prompt: its round and its id."""
_KEPT_SEARCHES, _KEPT_LISTS = 8, 3
_MOST_CHUNKS = 8
"""Chunks that are searched together at most; one at first, for the first hits."""

_IN_ANSWERS = (
    "SELECT DISTINCT prompt_id FROM read_parquet($files) WHERE contains(lower(text), lower($q))"
)
_IN_PROMPTS = """
SELECT DISTINCT prompt_id FROM read_parquet($files) LEFT JOIN (
    SELECT DISTINCT prompt_id, true AS has_first FROM read_parquet($files) WHERE sample_index = 0
) USING (prompt_id)
WHERE CASE WHEN sample_index = 0 OR has_first IS NULL THEN contains(lower(
    array_to_string(json_extract_string(prompt, '$.messages[*].content'), chr(10))), lower($q)) END
"""
"""Every answer has its prompt, so of each prompt the first one is read, if it was not lost."""
_IN_CONTESTS = "SELECT round, prompt_id FROM contested WHERE contains(lower(shown), lower($q))"
_IN_VERDICTS = (
    "SELECT DISTINCT prompt_id FROM read_parquet($files) WHERE contains(lower(raw_text), lower($q))"
)
_ITEM = "array_to_string([m.content for m in {}], chr(10))"
_IN_ITEM_PROMPTS = f"""
SELECT DISTINCT prefine_prompt_id FROM read_parquet($files)
WHERE contains(lower({_ITEM.format("prompt")}), lower($q))
"""
_IN_PAIRS = f"""
SELECT DISTINCT prefine_prompt_id FROM read_parquet($files)
WHERE contains(lower({_ITEM.format("chosen")}), lower($q))
    OR contains(lower({_ITEM.format("rejected")}), lower($q))
"""
_IN_LISTS = f"""
SELECT DISTINCT prefine_prompt_id FROM read_parquet($files)
WHERE list_bool_or([contains(lower({_ITEM.format("c")}), lower($q)) for c in completions])
"""
_IN_LABELS = f"""
SELECT DISTINCT prefine_prompt_id FROM read_parquet($files)
WHERE contains(lower({_ITEM.format("completion")}), lower($q))
"""

_ANSWERED = ("completions", "evaluation/trained", "evaluation/baseline")
_ITEMS = {"pairs": _IN_PAIRS, BRIDGED_PAIRS: _IN_PAIRS, "lists": _IN_LISTS, "labels": _IN_LABELS}


_PATIENCE_S = 0.2
"""So long a page waits for more hits than it has."""


class Found(NamedTuple):
    """A page of prompts.

    `total` is how many there are in all, None while only the first ones of a search are known.
    """

    rows: list[dict[str, Any]]
    total: int | None
    more: bool


class Beside(NamedTuple):
    """The neighbours of a prompt in a list, its place there from 1, and the length of the list.

    What there is not, or is not known yet, is None.
    """

    before: Key | None
    after: Key | None
    place: int | None
    total: int | None


class _FileGroup(NamedTuple):
    """Files that are searched together, and the statement for them.

    `first` is the place of the first prompt that they can have.
    """

    first: tuple[int, int]
    table: str
    files: tuple[str, ...]
    round: int
    statements: tuple[str, ...]


class _WordSearch:
    """A word, what it was looked for in, and the prompts that have it."""

    def __init__(self) -> None:
        self.looked: set[_FileGroup] = set()
        self.hits: set[Key] = set()


class Searches:
    """The lists of prompts of one index.

    Args:
        index: Its facts.
    """

    def __init__(self, index: PromptIndex) -> None:
        self.index = index
        self.notes_version = 0
        """Grows when a note is taken, which may change what a list has."""
        self._searches: OrderedDict[tuple[str, str, int], _WordSearch] = OrderedDict()
        self._lists: OrderedDict[tuple[object, ...], list[tuple[int, str, int]]] = OrderedDict()
        self._lock = threading.Lock()

    def page(self, query: PromptQuery) -> Found:
        """The prompts of a page."""
        start = (query.page - 1) * PAGE
        if query.q:
            keys, whole = self._hits(query, start + PAGE + 1)
            rows = self._rows(keys[start : start + PAGE])
            return Found(rows, len(keys) if whole else None, len(keys) > start + PAGE)
        where, values = query.condition()
        (total,) = self.index.database.rows(f"SELECT count(*) FROM facts WHERE {where}", values)[0]
        rows = self.index.database.dicts(
            f"SELECT * FROM facts WHERE {where} ORDER BY {query.order()} "
            "LIMIT $limit OFFSET $start",
            {**values, "limit": PAGE, "start": start},
        )
        return Found(rows, total, total > start + PAGE)

    def beside(self, query: PromptQuery, key: Key) -> Beside:
        """The prompts before and after one in the list."""
        if not query.q:
            return self._beside(query, key)
        keys, whole = self._hits(query, 0, until=key)
        total = len(keys) if whole else None
        if key not in keys:
            return Beside(None, keys[0] if keys else None, None, total)
        at = keys.index(key)
        after = keys[at + 1] if at + 1 < len(keys) else None
        return Beside(keys[at - 1] if at else None, after, at + 1, total)

    def _beside(self, query: PromptQuery, key: Key) -> Beside:
        """Return the neighbours of a prompt in a list that no search has narrowed."""
        where, values = query.condition()
        found = self.index.database.rows(
            "WITH list AS (SELECT round, prompt_id, "
            f"row_number() OVER (ORDER BY {query.order()}) AS nth, count(*) OVER () AS total "
            f"FROM facts WHERE {where}), here AS (SELECT coalesce(max(nth), 0) AS here FROM list "
            "WHERE round = $here_round AND prompt_id = $here_prompt) "
            "SELECT round, prompt_id, nth, here, total FROM list, here "
            "WHERE nth BETWEEN here - 1 AND here + 1",
            {**values, "here_round": key[0], "here_prompt": key[1]},
        )
        keys = {nth: (number, prompt) for number, prompt, nth, _, _ in found}
        here, total = found[0][-2:] if found else (0, 0)
        return Beside(keys.get(here - 1), keys.get(here + 1), here or None, total)

    def _candidates(self, query: PromptQuery) -> list[tuple[int, str, int]]:
        """The prompts that pass the filters, in order: round, id and place of each."""
        plain = query._replace(q="", scope="", page=1)
        state = (plain, self.index.version, self.notes_version)
        with self._lock:
            if state in self._lists:
                self._lists.move_to_end(state)
                return self._lists[state]
        where, values = query.condition()
        found: Any = self.index.database.rows(
            f"SELECT round, prompt_id, place FROM facts WHERE {where} ORDER BY {query.order()}",
            values,
        )
        with self._lock:
            self._lists[state] = found
            while len(self._lists) > _KEPT_LISTS:
                self._lists.popitem(last=False)
        return found  # type: ignore[no-any-return]

    def _rows(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        found = self.index.database.dicts(
            "SELECT * FROM facts WHERE prompt_id IN (SELECT unnest($ids::VARCHAR[]))",
            {"ids": [prompt for _, prompt in keys]},
        )
        by_key = {(row["round"], row["prompt_id"]): row for row in found}
        return [by_key[key] for key in keys if key in by_key]

    def _hits(
        self, query: PromptQuery, enough: int, until: Key | None = None
    ) -> tuple[list[Key], bool]:
        """The first prompts that have the word, in order, and True if these are all.

        Args:
            query: Has the word.
            enough: As many are wanted; fewer of the last page, if that takes long.
            until: Or as many as there are up to the one behind this one.
        """
        candidates = self._candidates(query)
        search = self._search(query)
        chunks, in_order = self._chunks(query)
        with self._lock:
            left = [chunk for chunk in chunks if chunk not in search.looked]
        # In the order of the run, hits in the first parts are the first hits.
        stepwise = in_order and query.sort == "run"
        size, deadline = 1, time.monotonic() + _PATIENCE_S
        hits: list[Key] = []
        settled = 0
        while left:
            first = left[0].first
            while stepwise and settled < len(candidates):
                number, prompt, place = candidates[settled]
                if (number, place) >= first:
                    break
                if (number, prompt) in search.hits:
                    hits.append((number, prompt))
                settled += 1
            late = time.monotonic() > deadline and len(hits) > enough - PAGE - 1
            beyond = bool(hits) and until != hits[-1] and until in hits
            if beyond or (until is None and (len(hits) >= enough or late)):
                return hits, False
            step = left[:size] if stepwise else left
            left = left[len(step) :]
            self._look(search, query.q, step)
            size = min(2 * size, _MOST_CHUNKS)
        rest = ((number, prompt) for number, prompt, _ in candidates[settled:])
        return hits + [key for key in rest if key in search.hits], True

    def _search(self, query: PromptQuery) -> _WordSearch:
        with self._lock:
            name = (query.q, query.scope, self.index.version)
            if name not in self._searches:
                self._searches[name] = _WordSearch()
                if query.scope not in ("answers", "judge"):
                    # Prompts that no other table may have.
                    in_contests: Any = self.index.database.rows(_IN_CONTESTS, {"q": query.q})
                    self._searches[name].hits.update(in_contests)
            found = self._searches[name]
            self._searches.move_to_end(name)
            while len(self._searches) > _KEPT_SEARCHES:
                self._searches.popitem(last=False)
            return found

    def _look(self, search: _WordSearch, word: str, chunks: Sequence[_FileGroup]) -> None:
        """Look for a word in files, those with the same statements in one go."""
        alike: dict[tuple[int, tuple[str, ...]], list[_FileGroup]] = {}
        for chunk in chunks:
            alike.setdefault((chunk.round, chunk.statements), []).append(chunk)
        for (number, statements), same in alike.items():
            files = [file for chunk in same for file in chunk.files]
            for statement in statements:
                found = self.index.database.rows(statement, {"files": files, "q": word})
                with self._lock:
                    search.hits.update((number, prompt) for (prompt,) in found)
            with self._lock:
                search.looked.update(same)

    def _chunks(self, query: PromptQuery) -> tuple[list[_FileGroup], bool]:
        """The files to search, and True if they are in the order of the prompts."""
        rounds = None if query.round is None else [query.round]
        if query.scope == "judge":
            tables: dict[str, tuple[str, ...]] = dict.fromkeys(JUDGED, (_IN_VERDICTS,))
            return self._files(tables, rounds), False
        answers = () if query.scope == "prompts" else (_IN_ANSWERS,)
        prompts = () if query.scope == "answers" else (_IN_PROMPTS,)
        tables = dict.fromkeys(_ANSWERED, answers + prompts)
        ((without,),) = self.index.database.rows(
            "SELECT count(*) FROM facts WHERE answers = 0 AND use <> 'evaluated'"
        )
        items: dict[str, tuple[str, ...]] = {}
        if without:
            for name, of_items in _ITEMS.items():
                answers = () if query.scope == "prompts" else (of_items,)
                prompts = () if query.scope == "answers" else (_IN_ITEM_PROMPTS,)
                items |= dict.fromkeys((name, f"heldout_{name}"), answers + prompts)
        bridged = bool(self.index.files(BRIDGED_PAIRS, rounds))
        if bridged and query.scope != "prompts":
            # Answers that no other table has.
            items.setdefault(BRIDGED_PAIRS, (_IN_PAIRS,))
        mixed = (bool(without) or bridged) and bool(self.index.files("completions", rounds))
        return self._files(tables | items, rounds), not mixed

    def _files(
        self, tables: dict[str, tuple[str, ...]], rounds: Sequence[int] | None
    ) -> list[_FileGroup]:
        chunks = []
        for table, statements in tables.items():
            for first, number, files in self.index.chunks(table, rounds):
                chunks.append(_FileGroup((number, first), table, files, number, statements))
        return sorted(chunks)
