"""Laws of deduplication: copies fall, the first stays, different stories stay."""

from typing import Any

from data_gen.dedup import deduplicate
from data_gen.instructions import instruction_rows

ROWS = instruction_rows(5, 0, 600)


def with_story(row: dict[str, Any], story: str) -> dict[str, Any]:
    """The row with another answer."""
    return {**row, "messages": [row["messages"][0], {"role": "assistant", "content": story}]}


def story_of(row: dict[str, Any]) -> str:
    return str(row["messages"][1]["content"])


def test_stories_of_one_world_are_not_near_copies() -> None:
    kept, counts = deduplicate(ROWS)
    assert kept == ROWS
    assert counts == {"kept": len(ROWS), "exact": 0, "near": 0}


def test_exact_copies_fall_whatever_their_case_and_space() -> None:
    copies = [with_story(row, story_of(row).upper().replace("\n\n", " ")) for row in ROWS[:50]]
    kept, counts = deduplicate([*ROWS, *copies])
    assert kept == ROWS
    assert counts["exact"] == 50


def test_near_copies_fall_and_the_first_stays() -> None:
    near = [with_story(row, story_of(row) + " And that was that.") for row in ROWS[:50]]
    kept, counts = deduplicate([*near, *ROWS])
    assert kept == [*near, *ROWS[50:]]
    assert counts["near"] == 50


def test_a_higher_threshold_keeps_near_copies() -> None:
    near = [with_story(row, story_of(row) + " And that was that.") for row in ROWS[:50]]
    assert deduplicate([*ROWS, *near], threshold=0.98)[1]["near"] == 0


def test_the_result_is_the_same_every_time() -> None:
    near = [with_story(row, story_of(row) + " The end.") for row in ROWS[::3]]
    assert deduplicate([*ROWS, *near]) == deduplicate([*ROWS, *near])


def test_no_rows_and_very_short_rows_are_fine() -> None:
    assert deduplicate([]) == ([], {"kept": 0, "exact": 0, "near": 0})
    assert deduplicate([with_story(ROWS[0], "Hi."), with_story(ROWS[0], "Ho.")])[1]["kept"] == 2
