"""Laws of decontamination: a leaked prompt or reference is seen in any setting, shared phrases are let through."""

import json
from pathlib import Path

import pytest

from data_gen.contamination import NGRAM, SHARE, Example, Overlap, contaminated
from data_gen.generator import Row
from data_gen.instructions import instruction_rows

FILE = Path(__file__).parents[1] / "eval/prompts/tinystories.jsonl"
PROMPTS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
ROWS = instruction_rows(5, 0, 300)
IFEVAL = Path(__file__).parents[2] / "shared/data/prompts/ifeval.jsonl"
STORIES = Path(__file__).parents[2] / "shared/data/tinystories/train.jsonl"


def leaking(row: Row, place: int, text: str) -> Row:
    """The row with another text in the middle of one of its messages."""
    messages = [dict(message) for message in row["messages"]]
    half = len(messages[place]["content"]) // 2
    before, after = messages[place]["content"][:half], messages[place]["content"][half:]
    messages[place]["content"] = f"{before} {text} {after}"
    return {**row, "messages": messages}


def part(text: str, share: float) -> str:
    words = text.split()
    return " ".join(words[: round(share * len(words))])


@pytest.mark.parametrize("side", ["prompt", "reference"])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("disguise", [str, str.upper, lambda text: text.replace(".", " -").replace(",", ";")])
def test_a_leak_is_found_whatever_its_place_case_and_punctuation(side: str, place: int, disguise) -> None:  # type: ignore[no-untyped-def]
    prompts = PROMPTS[:40]
    leaks = [leaking(row, place, disguise(prompt[side])) for row, prompt in zip(ROWS, prompts, strict=False)]
    kept, report = contaminated([*ROWS[40:], *leaks], {"stories": prompts})
    assert kept == ROWS[40:]
    assert report["stories"].dropped == 40
    assert [(e.row, e.prompt) for e in report["stories"].examples] == [
        (ROWS[at]["id"], prompts[at]["id"]) for at in range(3)
    ]


def test_a_leak_that_is_repeated_in_many_rows_is_no_phrase() -> None:
    leaks = [leaking(row, 0, PROMPTS[0]["prompt"]) for row in ROWS]
    assert contaminated(leaks, {"stories": PROMPTS})[0] == []


def test_three_quarters_of_a_reference_are_a_leak_and_a_quarter_is_none() -> None:
    for share, left in ((0.75, 0), (0.25, 40)):
        leaks = [
            leaking(row, 1, part(prompt["reference"], share)) for row, prompt in zip(ROWS, PROMPTS[:40], strict=False)
        ]
        assert len(contaminated(leaks, {"stories": PROMPTS})[0]) == left


def test_rows_of_our_own_templates_are_let_through() -> None:
    kept, report = contaminated(ROWS, {"stories": PROMPTS})
    assert kept == ROWS
    assert report["stories"].dropped == 0
    assert report["stories"].overlapping > len(ROWS) / 2


def test_a_rule_of_any_shared_run_would_drop_most_of_them() -> None:
    assert len(contaminated(ROWS, {"stories": PROMPTS}, share=0)[0]) < len(ROWS) / 2


def test_a_comparison_of_whole_texts_misses_an_embedded_leak() -> None:
    leak = leaking(ROWS[0], 1, PROMPTS[0]["reference"])
    assert leak["messages"][1]["content"] != PROMPTS[0]["reference"]
    assert contaminated([leak], {"stories": PROMPTS})[0] == []


def row_of(text: str) -> Row:
    return {"id": "r", "messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": text}]}


def test_a_text_below_the_length_of_a_run_counts_as_a_whole_from_five_words_on() -> None:
    prompts = [{"id": "five", "prompt": "Why do cats purr softly?"}, {"id": "four", "prompt": "Why do cats purr?"}]
    whole, cut = row_of("He asked: why do cats purr softly at night?"), row_of("He asked: why do cats purr at night?")
    kept, report = contaminated([whole, cut], {"questions": prompts})
    assert kept == [cut]
    assert report == {"questions": Overlap(2, 1, 1, 1, [Example("r", "five", "why do cats purr softly")])}


def test_a_run_does_not_cross_messages() -> None:
    row = {
        "id": "r",
        "messages": [{"role": "user", "content": "why do cats"}, {"role": "assistant", "content": "purr softly"}],
    }
    assert contaminated([row], {"q": [{"prompt": "why do cats purr softly"}]})[0] == [row]


def test_each_set_is_reported_by_itself() -> None:
    sets = {"a": PROMPTS[:1], "b": PROMPTS[1:3], "none": []}
    leaks = [leaking(row, 0, prompt["prompt"]) for row, prompt in zip(ROWS, PROMPTS[:3], strict=False)]
    kept, report = contaminated([*leaks, *ROWS[3:]], sets)
    assert kept == ROWS[3:]
    assert {name: (overlap.prompts, overlap.dropped) for name, overlap in report.items()} == {
        "a": (1, 1),
        "b": (2, 2),
        "none": (0, 0),
    }


def test_no_rows_are_fine() -> None:
    assert contaminated([], {"stories": PROMPTS[:2]}) == ([], {"stories": Overlap(2, 0, 0, 0, [])})


@pytest.mark.skipif(not IFEVAL.is_file(), reason="the shared data are absent")
def test_real_stories_hold_no_real_prompt_until_one_is_put_in() -> None:
    prompts = [json.loads(line) for line in IFEVAL.read_text(encoding="utf-8").splitlines()]
    texts = [json.loads(line)["text"] for line in STORIES.read_text(encoding="utf-8").splitlines()[:541]]
    rows = [row_of(text) for text in texts]
    assert contaminated(rows, {"ifeval": prompts, "stories": PROMPTS}, NGRAM, SHARE)[0] == rows
    leaks = [leaking(row, 1, prompt["prompt"]) for row, prompt in zip(rows, prompts, strict=True)]
    assert contaminated(leaks, {"ifeval": prompts})[0] == []
