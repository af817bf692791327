"""Replies of teachers about personas: read, or rejected by their fault."""

import json
from typing import Any

import pytest
from drafted_personas import BAKER, KEEPER, drafted, reason

from data_gen.diaries import DIARIES
from data_gen.generator import Rejected
from data_gen.json_reply import last_object
from data_gen.personas import PERSONAS
from data_gen.profiles import MOST, PROFILES

ASKED = {
    "age": "in their forties", "work": "beekeeper", "place": "Kraków", "temperament": "patient to a fault",
    "want": "to learn to swim", "detail": "keeps every ticket stub",
}  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (KEEPER, None),
        (f"\n{KEEPER}  ", None),
        ("A patient Beekeeper in Kraków who wants to swim. She asks the bees: is it cold? No.", "not two sentences"),
        ("", "too short"),
        ("A beekeeper in Kraków. He swims.", "too short"),
        (KEEPER.replace(" He", "\n\nHe"), "more than one paragraph"),
        (KEEPER.replace("swim", "swim" + " and swim" * 40), "too long"),
        ("Sure! " + KEEPER, "does not begin with A or An"),
        (f'"{KEEPER}"', "does not begin with A or An"),
        (KEEPER.replace(". He", " and he"), "not two sentences"),
        (KEEPER[:-1], "not two sentences"),
        (KEEPER.replace("Kraków,", "Kraków named Anna,"), "with a name"),
        (KEEPER.replace("beekeeper", "keeper of bees"), "without its work"),
        (KEEPER.replace("Kraków", "Warsaw"), "without its place"),
        (KEEPER.replace("beekeeper", "beekeepers"), "without its work"),
        ("A beekeeper in Kraków. Exactly two sentences in one paragraph, said he, and was patient.", "repeats"),
    ],
)
def test_a_persona_is_read_or_rejected_by_its_fault(reply: str, found: str | None) -> None:
    row = {**drafted(PERSONAS)[0], "attributes": ASKED}
    said = reason(PERSONAS, row, reply)
    assert said == found or (found == "repeats" and said == "repeats the question")
    if found is None:
        made = PERSONAS.read(row, reply)
        assert made == {**row, "persona": KEEPER, "messages": [*row["messages"], answer(KEEPER)]}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ENTRY = "It rained on the oven again. I whistled through the whole of it, and the bread was late and good.\n\n" * 5


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (ENTRY, None),
        (ENTRY.replace("I whistled", "We whistled").replace("the oven", "my oven"), None),
        ("", "too short"),
        (ENTRY[:200], "too short"),
        (ENTRY * 3, "too long"),
        (ENTRY.replace("I whistled", "She whistled"), "not in the first person"),
        (f"# Monday\n\n{ENTRY}", "not plain text"),
        (f"**Monday**\n\n{ENTRY}", "not plain text"),
        (f"{ENTRY}\n- bread\n- yeast", "not plain text"),
        (f"{BAKER.upper()}\n\n{ENTRY}", "repeats the persona"),
        (f"Tell what happened, with small things that can be seen. {ENTRY}", "repeats the question"),
    ],
)
def test_an_entry_is_read_or_rejected_by_its_fault(reply: str, found: str | None) -> None:
    row = drafted(DIARIES, BAKER)[0]
    row["attributes"]["length"] = "60 to 140"
    assert reason(DIARIES, row, reply) == found
    if found is None:
        assert DIARIES.read(row, reply) == {**row, "messages": [*row["messages"], answer(reply.strip())]}


PROFILE = {"likes": ["bread", "rain"], "age_group": "older adult", "home": "over the bakery"}


def with_(**changed: Any) -> str:
    return json.dumps({**PROFILE, **changed})


REPLIES = [
    (json.dumps(PROFILE), None),
    (f"<think>{{\"likes\": 1}}</think> Here it is:\n```json\n{json.dumps(PROFILE, indent=2)}\n```\nDone.", None),
    (with_(home="a house {with} \"quotes\" and é"), None),
    ("I cannot do that.", "no JSON object"),
    (json.dumps(PROFILE)[:-2], "no JSON object"),
    (json.dumps([PROFILE["likes"]]), "no JSON object"),
    (json.dumps(PROFILE)[:-1] + ', "home": "a tent"}', "no JSON object"),
    (json.dumps(PROFILE) + ' {"note": "done"}', "other keys"),
    (json.dumps({"profile": PROFILE}), "other keys"),
    (with_(name="Anna"), "other keys"),
    (json.dumps({"likes": ["a", "b"], "home": "x"}), "other keys"),
    (with_(home=["a house"]), "a value of another type"),
    (with_(home=None), "a value of another type"),
    (with_(likes="bread"), "a value of another type"),
    (with_(likes=["bread", 3]), "a value of another type"),
    (with_(age_group=45), "a value of another type"),
    (with_(likes=[]), "an empty value"),
    (with_(home=" "), "an empty value"),
    (with_(likes=["bread", ""]), "an empty value"),
    (with_(likes=["bread"]), "a list of another length"),
    (with_(likes=["bread"] * (MOST + 1)), "a list of another length"),
    (with_(age_group="old"), "none of the choices"),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "found"), REPLIES)
def test_a_profile_is_read_or_rejected_by_its_fault(reply: str, found: str | None) -> None:
    row = {**drafted(PROFILES, BAKER)[0], "keys": ["age_group", "home", "likes"]}
    assert reason(PROFILES, row, reply) == found
    made = PROFILES.read(row, reply)
    if not isinstance(made, Rejected):
        content = made["messages"][1]["content"]
        assert list(json.loads(content)) == row["keys"] and ": " not in content and "\n" not in content


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """The part of JSON Schema that a profile uses."""
    if schema["type"] == "object":
        known = schema["properties"]
        same_keys = isinstance(value, dict) and set(schema["required"]) == set(known) == value.keys()
        return same_keys and all(accepts(known[key], value[key]) for key in known)
    if schema["type"] == "array":
        fits = isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
        return fits and all(accepts(schema["items"], item) for item in value)
    return isinstance(value, str) and value in schema.get("enum", [value])


@pytest.mark.parametrize(("reply", "found"), REPLIES)
def test_the_schema_lets_through_what_is_read(reply: str, found: str | None) -> None:
    row = {**drafted(PROFILES, BAKER)[0], "keys": ["age_group", "home", "likes"]}
    schema = PROFILES.schema(row)
    assert schema is not None and schema["additionalProperties"] is False
    blank = reply in (with_(home=" "), with_(likes=["bread", ""]))  # no schema asks for words
    assert accepts(dict(schema), last_object(reply)) == (found is None or blank)


def test_a_reply_of_brackets_alone_is_given_up_without_delay() -> None:
    assert last_object("{" * 20_000) is None
    assert last_object('{"a":' * 500) is None
    assert last_object("[" * 100_000 + '{"a": 1}') == {"a": 1}
