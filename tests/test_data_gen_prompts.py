"""Laws of the committed evaluation prompts: fixed, distinct, and honoured by their references."""

import json
from pathlib import Path
from typing import Any

from data_gen.holdout import drop_held_out
from data_gen.instructions import instruction_rows
from data_gen.storyworld import FEATURES, load_world

FILE = Path(__file__).parents[1] / "eval" / "prompts" / "tinystories.jsonl"
PROMPTS: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
PASTS = load_world().verbs


def is_honoured(prompt: dict[str, Any]) -> bool:
    """Whether the reference has the words, hero and first sentence that the prompt asks for."""
    story = prompt["reference"].lower()
    has_words = all(word in story or PASTS.get(word, word) in story for word in prompt["words"])
    return (
        has_words
        and (prompt["hero"] or "").lower() in story
        and story.startswith((prompt["first_sentence"] or "").lower())
    )


def test_there_are_two_hundred_distinct_prompts() -> None:
    assert len(PROMPTS) == len({prompt["id"] for prompt in PROMPTS}) == 200
    assert len({frozenset(prompt["words"]) for prompt in PROMPTS}) == 200
    assert len({prompt["reference"] for prompt in PROMPTS}) == 200
    assert {len(prompt["words"]) for prompt in PROMPTS} == {3}
    assert all(set(prompt["features"]) <= set(FEATURES) for prompt in PROMPTS)


def test_every_reference_honours_its_prompt_and_another_one_does_not() -> None:
    assert [prompt["id"] for prompt in PROMPTS if not is_honoured(prompt)] == []
    assert not is_honoured({**PROMPTS[0], "reference": PROMPTS[1]["reference"]})


def test_training_rows_seldom_meet_the_prompts() -> None:
    rows = instruction_rows(0, 0, 3000)
    kept, dropped = drop_held_out(rows, PROMPTS)
    assert dropped <= 3
    assert drop_held_out(kept, PROMPTS) == (kept, 0)
