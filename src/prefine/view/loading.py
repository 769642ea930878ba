"""Load what is kept of the tables of a run: a row for each prompt, part by part, by SQL alone."""

from typing import NamedTuple

from prefine.run.view import JOINT_JUDGMENTS
from prefine.stages.bridged import BRIDGED_PAIRS
from prefine.stages.subsets import PLACE

_SHOWN = 300
"""Characters of a prompt that are kept for lists; texts themselves stay in their files."""

TABLES = """
CREATE TABLE asked (unit INTEGER, round INTEGER, place BIGINT, prompt_id VARCHAR, shown VARCHAR,
    source VARCHAR, kind VARCHAR, answers INTEGER, truncated INTEGER, constraints VARCHAR[]);
CREATE TABLE judged (unit INTEGER, round INTEGER, prompt_id VARCHAR, comparisons INTEGER,
    failed INTEGER, orders_apart INTEGER, judges_apart INTEGER);
CREATE TABLE ranked (unit INTEGER, round INTEGER, prompt_id VARCHAR);
CREATE TABLE preferred (unit INTEGER, round INTEGER, prompt_id VARCHAR, held_out BOOLEAN,
    gap DOUBLE, p_chosen DOUBLE, ratio DOUBLE);
CREATE TABLE contested (unit INTEGER, round INTEGER, place BIGINT, prompt_id VARCHAR,
    shown VARCHAR, p_after DOUBLE, gold_before DOUBLE, gold_after DOUBLE, ratio DOUBLE,
    constraints VARCHAR[], start BIGINT);
CREATE TABLE scored (unit INTEGER, round INTEGER, prompt_id VARCHAR, margin DOUBLE, fall DOUBLE);
CREATE TABLE noted (round INTEGER, prompt_id VARCHAR, flag BOOLEAN, note VARCHAR);
"""
KEPT = ("asked", "judged", "ranked", "preferred", "contested", "scored")

# A prompt stands in the table as JSON; its source is that of `prefine.stages.subsets.source_of`.
_SOURCE = f"""
coalesce(
    nullif(json_extract_string({{prompt}}, '$.metadata.source'), ''),
    regexp_replace(
        coalesce(json_extract_string({{prompt}}, '$.source'), ''), '(?s){PLACE.pattern}', ''
    )
)"""
_LAST_TURN = "json_extract_string({prompt}, '$.messages[#-1].content')"
PLACES, EVALUATED = 10**8, 10**15
"""Prompts are ordered by part and row, those of an evaluation last: places of a part begin so far
from those of the next one."""
_FIRST_PLACE = f"""
    CASE WHEN $kind = 'evaluated' THEN {EVALUATED} ELSE 0 END
    + $number::BIGINT * {PLACES} + min(row)
"""

_ANSWERS = f"""
INSERT INTO asked
SELECT $unit, $round, {_FIRST_PLACE}, prompt_id, any_value(shown), any_value(source), $kind,
    count(*), count(*) FILTER (finish_reason = 'length'), any_value(constraints)
FROM (
    SELECT row_number() OVER () AS row, prompt_id, finish_reason,
        CASE WHEN first THEN left({_LAST_TURN.format(prompt="prompt")}, {_SHOWN}) END AS shown,
        CASE WHEN first THEN {_SOURCE.format(prompt="prompt")} END AS source,
        CASE WHEN first
            THEN json_extract_string(prompt, '$.metadata.constraints[*]')::VARCHAR[]
        END AS constraints
    FROM (
        SELECT *, prompt_id IS DISTINCT FROM lag(prompt_id) OVER () AS first
        FROM read_parquet($files)
    )
)
GROUP BY prompt_id
"""
_JUDGMENTS = """
INSERT INTO judged
WITH met AS (
    SELECT prompt_id, judge, least(first, second) AS one, greatest(first, second) AS other,
        CASE WHEN first < second THEN p_first ELSE 1 - p_first END AS p
    FROM read_parquet($files) WHERE second IS NOT NULL
), by_judge AS (
    SELECT prompt_id, one, other, judge, count(*) AS comparisons,
        count(*) FILTER (p IS NULL) AS failed, min(p) < 0.5 AND max(p) > 0.5 AS apart, avg(p) AS p
    FROM met GROUP BY ALL
), by_two AS (
    SELECT prompt_id, sum(comparisons) AS comparisons, sum(failed) AS failed,
        coalesce(bool_or(apart), false) AS apart,
        coalesce(min(p) < 0.5 AND max(p) > 0.5, false) AS judges
    FROM by_judge GROUP BY prompt_id, one, other
)
SELECT $unit, $round, prompt_id, sum(comparisons), sum(failed), count(*) FILTER (apart),
    count(*) FILTER (judges)
FROM by_two GROUP BY prompt_id
"""
_RANKINGS = """
INSERT INTO ranked SELECT $unit, $round, prompt_id FROM read_parquet($files)
"""
_PAIRS = """
INSERT INTO preferred
SELECT $unit, $round, prefine_prompt_id, $held_out, max(prefine_score_gap), max(prefine_p_chosen),
    first(len(chosen[-1].content) / greatest(len(rejected[-1].content), 1))
FROM read_parquet($files) GROUP BY prefine_prompt_id
"""
_LISTS = """
INSERT INTO preferred
SELECT $unit, $round, prefine_prompt_id, $held_out, max(list_max(scores) - list_min(scores)), NULL,
    first(len(completions[1][-1].content) / greatest(len(completions[-1][-1].content), 1))
FROM read_parquet($files) GROUP BY prefine_prompt_id
"""
_LABELS = """
INSERT INTO preferred
SELECT $unit, $round, prefine_prompt_id, $held_out, NULL, NULL, NULL
FROM read_parquet($files) GROUP BY prefine_prompt_id
"""
_OF_ITEMS = f"""
INSERT INTO asked
SELECT $unit, $round, {_FIRST_PLACE}, prefine_prompt_id, 
    any_value(left(prompt[-1].content, {_SHOWN})),
    any_value({_SOURCE.format(prompt="json_extract(prefine_extra, '$.prompt')")}), $kind, 0, 0, NULL
FROM (SELECT row_number() OVER () AS row, * FROM read_parquet($files))
GROUP BY prefine_prompt_id
"""
"""The prompts of items, for runs that begin with them."""


class TableLoad(NamedTuple):
    """The way in which a table of the run folder is read.

    Attributes:
        folder: Its folder below the run.
        kept: The one of `KEPT` that knows which parts have a prompt.
        statements: SQL that puts what is kept of some of its files into `KEPT`.
        kind: What its prompts are for.
        whole: All its parts are read together: rows of a prompt may stand in several.
    """

    folder: str
    kept: str
    statements: tuple[str, ...]
    kind: str = "trained"
    whole: bool = False


LOADS = (
    TableLoad("completions", "asked", (_ANSWERS,)),
    TableLoad("judgments", "judged", (_JUDGMENTS,)),
    TableLoad(JOINT_JUDGMENTS, "judged", (_JUDGMENTS,)),
    TableLoad("rankings", "ranked", (_RANKINGS,)),
    TableLoad("pairs", "preferred", (_PAIRS, _OF_ITEMS)),
    TableLoad(BRIDGED_PAIRS, "preferred", (_PAIRS, _OF_ITEMS)),
    TableLoad("lists", "preferred", (_LISTS, _OF_ITEMS)),
    TableLoad("labels", "preferred", (_LABELS, _OF_ITEMS)),
    TableLoad("heldout_pairs", "preferred", (_PAIRS, _OF_ITEMS), "held-out"),
    TableLoad("heldout_lists", "preferred", (_LISTS, _OF_ITEMS), "held-out"),
    TableLoad("heldout_labels", "preferred", (_LABELS, _OF_ITEMS), "held-out"),
    TableLoad("evaluation/trained", "asked", (_ANSWERS,), "evaluated"),
    TableLoad("evaluation/baseline", "asked", (_ANSWERS,), "evaluated"),
    TableLoad("evaluation/judgments", "judged", (_JUDGMENTS,), "evaluated", whole=True),
)
JUDGED = tuple(load.folder for load in LOADS if load.kept == "judged")
"""The tables of verdicts."""

_OUTCOME = "CASE WHEN gain > 0 THEN 'won' WHEN gain < 0 THEN 'lost' WHEN gain = 0 THEN 'tied' END"
FACTS = f"""
CREATE OR REPLACE TABLE facts AS
WITH prompts AS (
    SELECT round, prompt_id, coalesce(min(place) FILTER (answers > 0), min(place)) AS place,
        arg_min(shown, place) AS shown,
        max(source) AS source, sum(answers)::INTEGER AS answers,
        sum(truncated)::INTEGER AS truncated, max(constraints) AS constraints,
        bool_or(kind = 'evaluated') AS evaluated
    FROM asked GROUP BY round, prompt_id
    UNION ALL
    SELECT round, prompt_id, min(place), any_value(shown), '', 0, 0, NULL, true
    FROM contested ANTI JOIN asked USING (round, prompt_id) GROUP BY round, prompt_id
), verdicts AS (
    SELECT round, prompt_id, sum(comparisons) AS comparisons, sum(failed) AS failed,
        sum(orders_apart) AS orders_apart, sum(judges_apart) AS judges_apart
    FROM judged GROUP BY ALL
), items AS (
    SELECT round, prompt_id, bool_or(held_out) AS held_out, max(gap) AS gap,
        max(p_chosen) AS p_chosen, first(ratio) AS ratio
    FROM preferred GROUP BY round, prompt_id
), contests AS (
    SELECT round, prompt_id, p_after, ratio, constraints, start,
        coalesce(round(gold_after - gold_before, 6), p_after - 0.5) AS gain,
        sign(round(gold_after - gold_before, 6)) * sign(p_after - 0.5) < 0 AS gold_apart
    FROM contested
), trained AS (
    SELECT round, prompt_id, max(margin) AS margin, max(fall) AS fall FROM scored GROUP BY ALL
)
SELECT row_number() OVER (ORDER BY round, place, prompt_id) AS number, p.round, p.prompt_id,
    place, shown,
    p.source, p.answers, p.truncated, comparisons, failed,
    coalesce(orders_apart, 0) AS orders_apart,
    coalesce(judges_apart, 0) + coalesce(gold_apart, false)::INTEGER AS judges_apart,
    CASE WHEN i.prompt_id IS NOT NULL THEN CASE WHEN held_out THEN 'held-out' ELSE 'trained' END
        WHEN evaluated THEN 'evaluated' ELSE 'unused' END AS use,
    gap, p_chosen, coalesce(c.ratio, i.ratio) AS ratio, gain, {_OUTCOME} AS outcome, p_after,
    coalesce(c.constraints, p.constraints, []) AS constraints, start, margin, fall
FROM prompts p LEFT JOIN verdicts v USING (round, prompt_id)
LEFT JOIN items i USING (round, prompt_id) LEFT JOIN contests c USING (round, prompt_id)
LEFT JOIN trained t USING (round, prompt_id)
ORDER BY number
"""
