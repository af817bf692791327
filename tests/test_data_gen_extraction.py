"""Structured extraction: texts whose facts are known, and replies that are a row only when the text bears them out."""

import json
import random
from typing import Any

import pytest

from data_gen.extraction import EXTRACTION, ask, draft, has_structure, leaves, plain, read, rows, schema
from data_gen.extraction_prompts import prompt_rows
from data_gen.extraction_scenes import slots_of, tell, written
from data_gen.generator import Rejected, Row

ROW: Row = {
    "id": "0",
    "messages": [{"role": "user", "content": "…"}],
    "text": "Mia has a dog named  Otto.\nTom has an owl.",
    "template": {"owners": [], "pet": {"kind": "", "age": ""}, "all": [{"kind": ""}]},
}
GOOD = {"owners": ["Mia", "Tom"], "pet": {"kind": "dog", "age": ""}, "all": [{"kind": "dog"}, {"kind": "owl"}]}


def with_value(**changed: Any) -> str:
    return json.dumps({**GOOD, **changed})


def test_every_row_is_right_by_construction() -> None:
    for index in range(400):
        row = rows(3, index)
        answer = row["messages"][1]["content"]
        assert json.loads(answer) == row["expected"] and has_structure(row["expected"], row["template"])
        assert read(row, answer) == row  # what a teacher has to meet, the generator meets
        assert any(leaves(row["expected"])) and row["words"] == [] and row["source"] == "extraction"
        assert row["text"] in row["messages"][0]["content"]
        assert not any(leaves(row["template"]))
        wrong = next(value for value in leaves(row["expected"]) if value)
        assert read({**row, "text": row["text"].replace(wrong, "")}, answer) == Rejected("a value not in the text")


def test_a_fact_stands_in_one_place_only() -> None:
    """Each value is drawn once, so that which one is meant is told by its sentence and by nothing else."""
    repeated = 0
    for index in range(400):
        told = tell(random.Random(index))
        values = [value for value in leaves(told.expected) if value]
        assert len(set(values)) == len(values)
        repeated += "  " in told.text or "$" in told.text
    assert repeated == 0


def test_rows_are_functions_of_seed_and_place() -> None:
    made = draft(5, []).make(0, 30)
    assert draft(5, []).make(10, 20) == made[10:20]
    assert draft(6, []).make(0, 30) != made


def test_texts_and_templates_vary() -> None:
    made = [rows(1, index) for index in range(500)]
    assert len({row["text"] for row in made}) == 500
    assert len({json.dumps(row["template"]) for row in made}) > 100
    shapes = [row["template"].values() for row in made]
    for kind in (str, list, dict):
        assert any(isinstance(value, kind) for values in shapes for value in values)
    empty = sum(value in ("", []) for row in made for value in row["expected"].values())
    assert 0.1 < empty / sum(len(row["expected"]) for row in made) < 0.4


def test_every_slot_of_a_sentence_is_a_field() -> None:
    def unknown(scene: dict[str, Any]) -> set[str]:
        said = {slot for group in scene["says"] for sentence in group for slot in slots_of(sentence)}
        each = scene.get("each", {"fields": {}})["fields"].keys()
        beside = set(scene.get("many", ())).union(*scene.get("under", {}).values())
        partly = [each ^ slots_of(sentence) for sentence in scene.get("told", ())]
        return ((said | beside) - scene["fields"].keys()).union(*partly)

    scenes = written()["scenes"]
    assert not any(unknown(scene) for scene in scenes.values())
    assert unknown({**scenes["pet"], "says": [["$owner has $pett."]]}) == {"pett"}  # negative control


def test_prompts_are_no_rows() -> None:
    texts = {row["text"] for row in prompt_rows(99, 200)}
    assert len(texts) == 200
    assert texts.isdisjoint(rows(seed, index)["text"] for seed in (7, 99) for index in range(1000))


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(GOOD),
        f"```json\n{json.dumps(GOOD, indent=2)}\n```",
        f"I first thought of {{}} and of {{this}}. Now: {json.dumps(GOOD)} I hope this helps {{",
        json.dumps(dict(reversed(GOOD.items()))),
    ],
)
def test_the_last_object_of_a_reply_is_the_answer(reply: str) -> None:
    found = read(ROW, reply)
    assert not isinstance(found, Rejected)
    assert found["messages"] == [
        ROW["messages"][0],
        {"role": "assistant", "content": json.dumps(GOOD).replace(" ", "")},
    ]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "not JSON"),
        ("Mia has a dog.", "not JSON"),
        (json.dumps(GOOD)[:-1], "not JSON"),  # cut: what stands in it is no answer
        (json.dumps(GOOD)[:-1].replace("{", "", 1), "another structure"),  # what is left of it is an inner object
        ('["Mia"]', "not JSON"),
        (json.dumps(GOOD) + "{}", "another structure"),
        (with_value(more=""), "another structure"),
        (with_value(owners="Mia"), "another structure"),
        (with_value(owners=[["Mia"]]), "another structure"),
        (with_value(pet={"kind": "dog"}), "another structure"),
        (with_value(pet={"kind": "dog", "age": None}), "another structure"),
        (with_value(pet={"kind": "dog", "age": 3}), "another structure"),
        (with_value(all=["dog"]), "another structure"),
        (with_value(owners=["Mia", "Ben"]), "a value not in the text"),
        (with_value(owners=["mia"]), "a value not in the text"),
        ('{"a":' * 20_000, "not JSON"),
    ],
)
def test_a_reply_that_the_text_does_not_bear_out_is_no_row(reply: str, reason: str) -> None:
    assert read(ROW, reply) == Rejected(reason)


def test_white_space_is_no_difference() -> None:
    assert not isinstance(read(ROW, with_value(owners=["named Otto. Tom"])), Rejected)
    assert plain(" a\n b ") == "a b"


def test_the_schema_admits_the_template_and_its_answers_alone() -> None:
    text = {"type": "string"}

    def thing(**fields: Any) -> dict[str, Any]:
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}

    assert schema(ROW) == thing(
        owners={"type": "array", "items": text},
        pet=thing(kind=text, age=text),
        all={"type": "array", "items": thing(kind=text)},
    )


def test_the_texts_of_a_source_wait_for_a_teacher() -> None:
    source = [{"text": f"Story {number} of Mia and $Tom {{}}."} for number in range(30)] + [{"text": " \n"}]
    made = draft(2, source)
    found = made.make(0, 30)
    assert made.total == 30 and made.dropped == {"empty texts": 1}
    assert found[10:20] == made.make(10, 20)
    assert len({json.dumps(row["template"]) for row in found}) > 3
    for number, row in enumerate(found):
        assert [message["role"] for message in row["messages"]] == ["user"] and "expected" not in row
        (question,) = ask(row)
        assert row["text"] == source[number]["text"] and row["text"] in question["content"]
        assert json.dumps(row["template"], separators=(",", ":")) in question["content"]
    assert not isinstance(read(found[0], json.dumps(found[0]["template"])), Rejected)
    assert EXTRACTION.column == "text" and not EXTRACTION.source_needed
