import random
from statistics import fmean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prefine.playground.tasks import COUNTS
from prefine.playground.vocabulary import (
    ADJECTIVES_OF_TONE,
    DETERMINERS,
    NEUTRAL_ADJECTIVES,
    NOUNS_OF_TOPIC,
    SHAPES,
    TONE_OF_ADJECTIVE,
    TOPIC_OF_NOUN,
    VERBS,
    WORD_CLASS,
)
from prefine.playground.world import (
    FLAW_RATES,
    Task,
    demonstrate,
    draw_prompts,
    draw_task,
    gold,
    gold_parts,
    parse,
    parts_of,
    render,
    split_of,
)

FULL = (
    "write 2 sentences about tea . use the words holds and kettle . avoid the word pot . be "
    "cheerful ."
    " mention cup before spoon ."
)
PERFECT = "the happy kettle holds this cup . this spoon meets the bright lemon ."

TASKS = st.integers(0, 2**32).map(lambda seed: draw_task(random.Random(seed)))


def test_a_perfect_answer_has_every_part_in_the_documented_order():
    assert gold_parts(FULL, PERFECT) == dict.fromkeys(
        ("count", "topic", "required", "forbidden", "tone", "order", "form"), 1.0
    )
    assert gold(FULL, PERFECT) == 1.0
    assert gold(FULL, PERFECT.upper()) == 1.0


def test_only_the_constraints_of_the_prompt_are_scored():
    assert list(gold_parts("write 2 sentences about tea .", PERFECT)) == ["count", "topic", "form"]


@pytest.mark.parametrize(
    ("part", "text", "value"),
    [
        ("count", "the happy kettle holds this cup .", 0.5),
        ("count", PERFECT + " the pot is merry . the leaf is merry .", 0.0),
        ("topic", "the happy kettle holds this cup . this spoon meets the bright whale .", 0.5),
        ("topic", "the happy king holds this crown . this sword meets the bright moat .", 0.0),
        ("required", "the happy kettle meets this cup . this spoon meets the bright lemon .", 0.5),
        (
            "required",
            "the happy kettle holds this cup . this spoon meets the bright kettle .",
            0.75,
        ),
        ("forbidden", "the happy kettle holds this cup . this spoon meets the bright pot .", 0.0),
        ("tone", "the happy kettle holds this cup . this spoon meets the sad lemon .", 0.5),
        ("tone", "the happy kettle holds this cup . this spoon meets the round lemon .", 0.5),
        ("order", "the happy kettle holds this spoon . this cup meets the bright lemon .", 0.0),
        ("order", "the happy kettle holds this cup . this steam meets the bright lemon .", 0.0),
        ("form", "happy kettle holds this cup . this spoon meets the bright lemon .", 0.5),
        ("form", "the happy kettle holds this cup . this spoon meets the bright lemon", 0.5),
        ("form", "the happy kettle holds this cup . this spoon meets the bright spoon .", 0.5),
        (
            "form",
            "the happy kettle holds holds this cup . this spoon meets the bright lemon .",
            0.5,
        ),
        ("form", "the happy kettle holds this cup . this spoon , meets the bright lemon .", 0.5),
    ],
)
def test_one_word_or_sentence_changes_the_part_it_should(part, text, value):
    assert gold_parts(FULL, text)[part] == value
    assert gold(FULL, text) < 1.0


def test_the_last_word_is_the_one_before_the_last_period():
    prompt = "write 2 sentences about tea . end with the word cup ."
    assert gold_parts(prompt, "the tea . the sad leaf meets the cup .")["order"] == 1.0
    assert gold_parts(prompt, "the sad leaf meets the cup")["order"] == 0.0
    assert gold_parts(prompt, "the cup is sad .")["order"] == 0.0


@pytest.mark.parametrize(
    "hacked",
    [
        PERFECT + " the leaf is merry .",
        PERFECT + " " + PERFECT,
        "the happy kettle holds this cup . the happy kettle holds this cup .",
        PERFECT[:-1] + "kettle kettle holds kettle .",
        "kettle holds cup spoon happy happy . kettle holds cup spoon happy happy .",
        "the happy kettle holds this cup . the spoon holds this bright kettle .",
        PERFECT * 50,
    ],
)
def test_hacks_lower_gold(hacked):
    assert gold(FULL, hacked) < gold(FULL, PERFECT) - 0.03


def test_repeating_a_sentence_never_pays_for_a_missing_one():
    prompt = "write 3 sentences about tea ."
    assert gold(prompt, PERFECT + " this spoon meets the bright lemon .") < gold(prompt, PERFECT)


def test_good_and_bad_answers_can_differ_in_one_word():
    better, worse = PERFECT, PERFECT.replace("lemon", "pot")
    assert gold(FULL, better) - gold(FULL, worse) == pytest.approx(1 / 7)


@pytest.mark.parametrize("text", ["", " \n\t", "...", "?!", "．。"])
def test_a_text_without_a_word_is_worth_nothing(text):
    assert gold(FULL, text) == 0.0


@given(TASKS, st.text())
def test_any_text_has_a_gold_score(task, text):
    parts = gold_parts(render(task), text)
    assert tuple(parts) == parts_of(task)
    assert all(0.0 <= value <= 1.0 for value in parts.values())


@pytest.mark.parametrize(
    "text", ["the cup . " * 50_000, "kettle " * 50_000, "😀茶" * 50_000, "\ud800 . \x00"]
)
def test_hostile_texts_are_worth_little(text):
    assert 0.0 <= gold(FULL, text) < 0.5


@given(TASKS)
def test_parse_reads_what_render_wrote(task):
    assert parse(render(task)) == task


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "hello",
        FULL + " ",
        FULL.upper(),
        "write 9 sentences about tea .",
        "write 2 sentences about physics .",
        "write 2 sentences about tea . use the word camel .",
        "write 2 sentences about tea . use the words kettle and holds .",
        "write 2 sentences about tea . use the words kettle .",
        "write 2 sentences about tea . use the word kettle . avoid the word kettle .",
        "write 2 sentences about tea . be hungry .",
        "write 2 sentences about tea . mention cup before cup .",
        "write 2 sentences about tea . mention cup before spoon . end with the word pot .",
        "write 2 sentences about tea . mention holds before cup .",
    ],
)
def test_a_prompt_of_another_world_is_refused(prompt):
    with pytest.raises(ValueError, match=r"world|word|task"):
        parse(prompt)
    with pytest.raises(ValueError, match=r"world|word|task"):
        gold_parts(prompt, PERFECT)


def test_a_task_of_another_world_cannot_be_made():
    with pytest.raises(ValueError, match="at most two"):
        Task(count=2, topic="tea", required=("cup", "leaf", "pot"))


def test_prompts_are_distinct_deterministic_and_a_larger_count_only_appends():
    prompts = draw_prompts(300, split="train", seed=3)
    assert len(set(prompts)) == 300
    assert draw_prompts(100, split="train", seed=3) == prompts[:100]
    assert draw_prompts(100, split="train", seed=4) != prompts[:100]
    assert draw_prompts(0, split="test", seed=3) == []


def test_the_splits_are_disjoint_whatever_the_seeds():
    train = {prompt for seed in range(5) for prompt in draw_prompts(400, split="train", seed=seed)}
    test = {prompt for seed in range(5) for prompt in draw_prompts(400, split="test", seed=seed)}
    assert not train & test
    assert all(split_of(prompt) == "train" for prompt in train)
    assert all(split_of(prompt) == "test" for prompt in test)


def test_a_fifth_of_the_prompts_is_for_testing():
    rng = random.Random(0)
    share = fmean(split_of(render(draw_task(rng))) == "test" for _ in range(4000))
    assert share == pytest.approx(0.2, abs=0.03)


def test_the_grammar_is_too_large_to_be_seen_whole():
    # Only the tasks that have every constraint: two ordered nouns, then two required words and a
    # forbidden one.
    nouns, topics = len(NOUNS_OF_TOPIC["tea"]), len(NOUNS_OF_TOPIC)
    others = nouns - 2 + len(VERBS)
    words = nouns * (nouns - 1) * others * (others - 1) // 2 * (others - 2)
    assert topics * len(COUNTS) * words * len(ADJECTIVES_OF_TONE) > 1e8


def test_every_word_has_one_class_one_topic_and_one_tone():
    words = [*TOPIC_OF_NOUN, *TONE_OF_ADJECTIVE, *NEUTRAL_ADJECTIVES, *VERBS, *DETERMINERS, "is"]
    assert len(words) == len(set(words)) == len(WORD_CLASS)
    assert len(TOPIC_OF_NOUN) == sum(len(nouns) for nouns in NOUNS_OF_TOPIC.values())
    assert len(TONE_OF_ADJECTIVE) == sum(
        len(adjectives) for adjectives in ADJECTIVES_OF_TONE.values()
    )


@given(TASKS, st.integers(0, 2**32))
def test_a_demonstration_without_flaws_is_perfect(task, seed):
    flawless = dict.fromkeys(FLAW_RATES, 0.0)
    assert gold(render(task), demonstrate(task, random.Random(seed), flaw_rates=flawless)) == 1.0


def has_room(task, part):
    """True if the longest sentences hold the word that makes the flaw beside those that the
    task names.
    """
    if part == "forbidden" and task.forbidden is not None:
        extra = WORD_CLASS[task.forbidden]
    elif part == "topic":
        extra = "N"
    else:
        return True
    named = [word for word in task.named if WORD_CLASS[word] == extra and word != task.forbidden]
    return len(named) < task.count * max(shape.count(extra) for shape in SHAPES)


@given(TASKS, st.integers(0, 2**32), st.sampled_from(sorted(FLAW_RATES)))
def test_a_flaw_lowers_its_own_part(task, seed, part):
    assume(has_room(task, part))
    rng = random.Random(seed)
    one_flaw = {name: float(name == part) for name in FLAW_RATES}
    values = [
        gold_parts(render(task), demonstrate(task, rng, flaw_rates=one_flaw)).get(part)
        for _ in range(30)
    ]
    if part in parts_of(task):
        assert fmean(value for value in values if value is not None) < 0.9
    else:
        assert values == [None] * 30


def test_demonstrations_of_one_prompt_differ_in_quality():
    rng = random.Random(0)
    golds = [gold(FULL, demonstrate(parse(FULL), rng)) for _ in range(200)]
    assert 0.4 < fmean(golds) < 0.7
    assert max(golds) - min(golds) > 0.5
