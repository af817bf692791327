"""Laws of instruction rows: the story does exactly what the request asks."""

import json

from data_gen.instructions import (
    FIRST_SENTENCE,
    HERO,
    THREE_WORDS,
    Request,
    instruction_rows,
    phrase,
    phrasings,
)
from data_gen.story import stable_random
from data_gen.storyworld import load_world

ROWS = instruction_rows(11, 0, 1500)
PASTS = load_world().verbs


def broken_promises(row: dict) -> list[str]:  # type: ignore[type-arg]
    """What the row's story does not do although the request asks for it."""
    prompt, story = (message["content"] for message in row["messages"])
    broken = [w for w in row["words"] if w not in story.lower() and PASTS.get(w, w) not in story.lower()]
    broken += [w for w in row["words"] if f" {w}" not in prompt]
    if row["first_sentence"] and not (story.startswith(row["first_sentence"]) and row["first_sentence"] in prompt):
        broken.append("first sentence")
    if row["hero"] and not (row["hero"] in story and row["hero"] in prompt):
        broken.append("hero")
    if "dialogue" in row["features"] and '"' not in story:
        broken.append("dialogue")
    return broken


def test_every_story_does_what_is_asked() -> None:
    assert [row["id"] for row in ROWS if broken_promises(row)] == []


def test_a_story_for_another_request_is_caught() -> None:
    other = {**ROWS[0], "messages": [ROWS[0]["messages"][0], ROWS[1]["messages"][1]]}
    assert broken_promises(other)


def test_rows_do_not_depend_on_the_range_they_are_made_in() -> None:
    assert instruction_rows(11, 700, 710) == ROWS[700:710]
    assert instruction_rows(12, 0, 5) != ROWS[:5]


def test_shares_are_as_declared() -> None:
    def share(rows: list[bool]) -> float:
        return sum(rows) / len(rows)

    assert abs(share([len(row["words"]) == 3 for row in ROWS]) - THREE_WORDS) < 0.05
    assert abs(share([row["first_sentence"] is not None for row in ROWS]) - FIRST_SENTENCE) < 0.05
    assert abs(share([row["hero"] is not None for row in ROWS]) - HERO) < 0.05
    assert abs(share([bool(row["features"]) for row in ROWS]) - 0.6) < 0.05


def test_words_come_in_any_order_and_requests_in_many_forms() -> None:
    request = Request(("key", "run", "calm"), (), None, None)
    prompts = {phrase(stable_random(index), request) for index in range(500)}
    assert len(phrasings()["requests"]) >= 16
    assert len(prompts) >= 6 * 16 * 0.9
    assert any("key, run and calm" in prompt for prompt in prompts)
    assert any("calm, key and run" in prompt for prompt in prompts)


def test_every_part_of_a_request_is_said() -> None:
    request = Request(("key",), ("dialogue", "conflict"), "It rained.", "Mia")
    for index in range(50):
        prompt = phrase(stable_random(index), request)
        assert "the word key" in prompt
        assert '"It rained."' in prompt
        assert "Mia" in prompt
        assert "dialogue" in prompt
        assert "conflict" in prompt
        assert "$" not in prompt


def test_rows_are_plain_json() -> None:
    assert json.loads(json.dumps(ROWS)) == ROWS
    keys = {"id", "messages", "words", "features", "first_sentence", "hero", "source"}
    assert all(set(row) == keys for row in ROWS)
