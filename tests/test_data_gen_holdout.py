"""Laws of held-out prompts: what the evaluation asks is not in the training data."""

import json
from collections import Counter

from data_gen.holdout import drop_held_out, drop_near_requests
from data_gen.instructions import instruction_rows
from data_gen.prompts import prompt_rows

ROWS = [row for row in instruction_rows(6, 0, 300) if len(row["words"]) == 3]
PROMPTS = prompt_rows(99, 200)


def test_rows_of_another_seed_stay() -> None:
    kept, dropped = drop_held_out(ROWS, PROMPTS)
    assert len(kept) + dropped == len(ROWS)
    assert dropped <= 1


def test_the_same_words_in_another_order_are_dropped() -> None:
    leak = {**ROWS[0], "words": PROMPTS[3]["words"][::-1]}
    assert drop_held_out([leak, *ROWS[1:]], PROMPTS)[1] == 1 + drop_held_out(ROWS[1:], PROMPTS)[1]


def test_one_common_word_is_no_leak() -> None:
    row = {**ROWS[0], "words": PROMPTS[0]["words"][:1]}
    assert drop_held_out([row], PROMPTS) == ([row], 0)


def test_the_same_story_or_request_is_dropped() -> None:
    user, assistant = ROWS[0]["messages"]
    same_story = {**ROWS[0], "messages": [user, {**assistant, "content": PROMPTS[0]["reference"].upper()}]}
    same_request = {**ROWS[0], "messages": [{**user, "content": PROMPTS[0]["prompt"]}, assistant]}
    assert drop_held_out([same_story, same_request], PROMPTS) == ([], 2)


def test_prompts_have_three_words_each_and_no_set_twice() -> None:
    sets = Counter(frozenset(prompt["words"]) for prompt in PROMPTS)
    assert len(PROMPTS) == 200
    assert set(map(len, sets)) == {3}
    assert max(sets.values()) == 1
    assert prompt_rows(99, 200) == PROMPTS
    assert json.loads(json.dumps(PROMPTS)) == PROMPTS


def test_prompts_ask_for_features_heroes_and_first_sentences() -> None:
    assert 0.5 < sum(bool(prompt["features"]) for prompt in PROMPTS) / 200 < 0.7
    assert sum(prompt["hero"] is not None for prompt in PROMPTS) > 20
    assert sum(prompt["first_sentence"] is not None for prompt in PROMPTS) > 20


def test_a_request_that_says_nearly_the_same_is_dropped_and_the_worlds_own_stay() -> None:
    assert drop_near_requests(ROWS, PROMPTS, 0.8) == (ROWS, 0)
    near = {**ROWS[0], "messages": [{"role": "user", "content": f"{PROMPTS[3]['prompt']} Thank you!"}]}
    assert drop_held_out([near], PROMPTS)[1] == 0, "it is not the same one"
    assert drop_near_requests([near, *ROWS[1:]], PROMPTS, 0.8) == (ROWS[1:], 1)
    assert drop_near_requests([near], PROMPTS, 0.99) == ([near], 0)  # negative control
    assert drop_near_requests(ROWS[:20], ROWS[10:30], 1.0) == (ROWS[:10], 10)
