"""Laws of personas, diaries and profiles: drawn evenly, asked as data, and read strictly."""

import json
import re
from collections import Counter
from collections.abc import Callable
from string import Template

import pytest
from drafted_personas import BAKER, HOSTILE, KEEPER, asked, drafted
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.diaries import DIARIES
from data_gen.generator import TEMPLATES, Generator
from data_gen.generators import GENERATORS
from data_gen.personas import PERSONAS, check_lengths, lists, quoted, spread, usable
from data_gen.profiles import FEWEST, MOST, PROFILES, fields
from data_gen.story import stable_random
from data_gen.storyworld import WORLD


def uneven(draw: Callable[[int], dict[str, str]], rows: int) -> list[str]:
    """What is not spread: combinations that come twice, and lists of which a value comes oftener than another."""
    drawn = [draw(index) for index in range(rows)]
    found = ["twice"] if len({tuple(row.values()) for row in drawn}) < rows else []
    for name in drawn[0]:
        counts = Counter(row[name] for row in drawn)
        if max(counts.values()) - min(counts.values()) > 1:
            found.append(name)
    return found


def test_attributes_are_spread_evenly_and_no_combination_comes_twice() -> None:
    values = lists()["persona"]
    assert uneven(lambda index: spread(5, index, "persona"), 3000) == []
    rng = stable_random("control")
    assert uneven(lambda _: {name: rng.choice(of) for name, of in values.items()}, 3000) == list(values), "control"
    works = len(values["work"]) * len(values["place"])
    met = Counter((row["work"], row["place"]) for row in (spread(5, index, "persona") for index in range(works)))
    assert set(met.values()) == {1}, "every work meets every place once"
    assert spread(5, 7, "persona") == spread(5, 7, "persona") != spread(6, 7, "persona")


def test_lists_whose_lengths_share_a_divisor_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"persona: 4 of work and 6 of place are both multiples of 2; .* Add or delete"
    ):
        check_lengths("persona", {"work": "abcd", "place": "abcdef"})
    check_lengths("persona", {"work": "abcd", "place": "abcde"})


@pytest.mark.parametrize("name", ["personas", "diaries", "profiles"])
def test_a_row_depends_on_its_place_alone_and_is_plain_json(name: str) -> None:
    generator = GENERATORS[name]
    rows = drafted(generator, BAKER, KEEPER, rows=300)
    draft = generator.draft(3, [{"persona": BAKER}, {"persona": KEEPER}])
    assert draft.make(120, 130) == rows[120:130] and draft.total is None
    assert drafted(generator, BAKER, KEEPER, seed=4, rows=20) != rows[:20]
    assert json.loads(json.dumps(rows)) == rows
    for row in rows:
        assert row["words"] == [] and row["source"] == name and "$" not in row["messages"][0]["content"]
    assert len({row["messages"][0]["content"] for row in rows}) == 300, "no request comes twice"


def test_personas_take_turns_and_each_has_another_day_every_time() -> None:
    rows = drafted(DIARIES, BAKER, KEEPER, rows=60)
    assert [row["persona"] for row in rows] == [BAKER, KEEPER] * 30
    assert len({row["attributes"]["day"] for row in rows[::2]}) == 30


def test_a_request_says_all_that_is_drawn() -> None:
    for row in drafted(PERSONAS, rows=60) + drafted(DIARIES, BAKER, rows=60):
        said = row["messages"][0]["content"] + asked(PERSONAS if row["source"] == "personas" else DIARIES, row)
        assert [value for value in row["attributes"].values() if said.count(value) < 2] == []
    for row in drafted(PROFILES, BAKER, rows=60):
        assert all(key in row["messages"][0]["content"] and f'"{key}"' in asked(PROFILES, row) for key in row["keys"])
        assert BAKER in row["messages"][0]["content"]


@pytest.mark.parametrize("generator", [PERSONAS, DIARIES, PROFILES], ids=lambda generator: generator.template)
def test_every_slot_of_a_template_is_filled(generator: Generator) -> None:
    assert generator.template is not None
    template = Template((TEMPLATES / generator.template).read_text(encoding="utf-8"))
    assert template.is_valid() and len(template.get_identifiers()) >= 4
    for row in drafted(generator, BAKER, rows=40):
        assert "$" not in asked(generator, row)


def broken_out(plain: str, question: str, persona: str) -> list[str]:
    """How a persona shows in a question other than as a string: more lines, control strings, or not as it is."""
    found = ["lines"] if len(question.splitlines()) != len(plain.splitlines()) else []
    found += ["control"] if re.search(r"<\||\|>|＜|\[INST", question) else []
    strings = [as_string(line) for line in question.splitlines() if line.startswith('"')]
    return found if strings == [persona] else [*found, "value"]


def as_string(line: str) -> str | None:
    try:
        return str(json.loads(line))
    except ValueError:
        return None


@pytest.mark.parametrize("generator", [DIARIES, PROFILES], ids=lambda generator: generator.template)
@pytest.mark.parametrize("persona", HOSTILE, ids=range(len(HOSTILE)))
def test_a_persona_stays_data_in_a_question(generator: Generator, persona: str) -> None:
    (row,) = drafted(generator, BAKER)
    plain, question = asked(generator, row), asked(generator, {**row, "persona": persona})
    assert broken_out(plain, question, persona) == []
    assert broken_out(plain, plain.replace(quoted(BAKER), persona), persona), "negative control: as it is"
    request = drafted(generator, HOSTILE[0])[0]["messages"][0]["content"]
    assert HOSTILE[0] in request, "and is not filled as a template in the request either"


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_a_quoted_text_is_one_json_string_without_the_marks_of_control_tokens(text: str) -> None:
    assert json.loads(quoted(text)) == text
    assert len(quoted(text).splitlines()) == 1 and not set(quoted(text)) & set("<>|[]＜＞｜")


def test_personas_that_cannot_be_used_are_counted() -> None:
    texts = [BAKER, f"  {BAKER}\n", " \n", "x" * 2_001, "A baker who says <|us<|user|>er|> and more.", KEEPER]
    found, dropped = usable([{"persona": text} for text in texts])
    assert found == [BAKER, KEEPER]
    assert dropped == {
        "persona given twice": 1, "persona empty": 1, "persona too long": 1, "persona with a control string": 1,
    }  # fmt: skip
    for generator in (DIARIES, PROFILES):
        assert generator.draft(3, [{"persona": ""}]).total == 0


# What ships


def test_the_starter_personas_are_sixty_and_like_those_that_are_asked_for() -> None:
    lines = (WORLD.parent / "personas" / "starter.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 60 and all(set(row) == {"id", "persona"} for row in rows)
    assert len({row["id"] for row in rows}) == 60 and usable(rows) == ([row["persona"] for row in rows], {})
    for row in rows:
        sentences = re.findall(r"[.!?](?=\s|$)", row["persona"].replace("St. ", "St "))
        assert row["persona"].startswith(("A ", "An ")) and len(sentences) == 2 and len(row["persona"].split()) < 60


def test_the_lists_are_long_enough_to_be_diverse_and_every_way_to_ask_names_all() -> None:
    found = lists()
    combinations = 1
    for name, values in found["persona"].items():
        combinations *= len(values)
        assert len(set(values)) == len(values), name
    assert combinations > 10**8 and len(fields()) >= 12 and FEWEST < MOST
    for kind, slots in {
        "persona": {*found["persona"], "a_work"} - {"work"},
        "diary": {*found["diary"], "persona"},
        "profile": {"keys", "persona"},
    }.items():
        for way in found["requests"][kind]:
            assert {slot.removeprefix("a_") for slot in Template(way).get_identifiers()} == {
                slot.removeprefix("a_") for slot in slots
            }
