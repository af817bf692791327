"""Profiles: what a persona says as JSON with drawn keys, so that a student learns to fill in a form."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_gen.generator import Draft, Generator, Message, Rejected, Row, as_answer
from data_gen.instructions import listed
from data_gen.json_reply import last_object
from data_gen.personas import lists, question, quoted, requested, usable
from data_gen.story import stable_random

FEWEST, MOST = 2, 6  # items of a list
FEWEST_KEYS, MOST_KEYS = 3, 7


def fields() -> Mapping[str, Mapping[str, Any]]:
    """What a profile may have, by key."""
    found: Mapping[str, Mapping[str, Any]] = lists()["profile"]
    return found


def profile_row(seed: int, index: int, personas: Sequence[str]) -> Row:
    """A request for some keys in some order. The personas take turns."""
    rng, persona = stable_random("profiles", seed, index), personas[index % len(personas)]
    keys = rng.sample(list(fields()), rng.randint(FEWEST_KEYS, MOST_KEYS))
    shown = listed([f"{key} (a list)" if "list" in fields()[key] else key for key in keys])
    messages = requested(rng, "profile", persona=persona, keys=shown)
    facts = {"persona": persona, "keys": keys, "source": "profiles"}
    return {"id": f"{index:06d}", "messages": messages, "words": [], **facts}


def draft_profiles(seed: int, source: Sequence[Row]) -> Draft:
    """As many as one likes, if there is a persona."""
    personas, dropped = usable(source)

    def make(start: int, stop: int) -> list[Row]:
        return [profile_row(seed, index, personas) for index in range(start, stop)]

    return Draft(make, None if personas else 0, dropped)


def field_schema(field: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of one value; without `minLength`, which some endpoints refuse."""
    if "choices" in field:
        return {"type": "string", "enum": field["choices"]}
    text = {"type": "string"}
    return {"type": "array", "items": text, "minItems": FEWEST, "maxItems": MOST} if "list" in field else text


def profile_schema(row: Row) -> dict[str, Any]:
    """The JSON Schema of a row's profile: the keys that it asks for, all of them, and no others."""
    properties = {key: field_schema(fields()[key]) for key in row["keys"]}
    return {"type": "object", "properties": properties, "required": row["keys"], "additionalProperties": False}


def line_of(key: str) -> str:
    """What a teacher is told of a key."""
    field = fields()[key]
    if "choices" in field:
        form = f"one of {json.dumps(field['choices'])}"
    else:
        form = "a list of strings" if "list" in field else f"a string, {field['in']}"
    return f"- {json.dumps(key)}: {field['means']} ({form})"


def ask_profile(row: Row) -> list[Message]:
    """The persona as data, and the form that `read_profile` checks."""
    form = "\n".join(line_of(key) for key in row["keys"])
    return question("profiles.md", persona=quoted(row["persona"]), form=form, fewest=str(FEWEST), most=str(MOST))


def value_fault(value: Any, field: Mapping[str, Any]) -> str | None:
    """Why a value is not what its key asks for, or None."""
    is_list = isinstance(value, list)
    items = value if is_list else [value]
    if is_list != ("list" in field) or not all(isinstance(item, str) for item in items):
        return "a value of another type"
    if not items or not all(item.strip() for item in items):
        return "an empty value"
    if is_list and not FEWEST <= len(items) <= MOST:
        return "a list of another length"
    return "none of the choices" if value not in field.get("choices", [value]) else None


def read_profile(row: Row, reply: str) -> Row | Rejected:
    """The row with the profile, in one line and with its keys in the order asked for, as its answer."""
    profile = last_object(reply)
    if profile is None:
        return Rejected("no JSON object")
    if profile.keys() != set(row["keys"]):
        return Rejected("other keys")
    faults = [fault for key in row["keys"] if (fault := value_fault(profile[key], fields()[key]))]
    if faults:
        return Rejected(faults[0])
    ordered = {key: profile[key] for key in row["keys"]}
    return as_answer(row, json.dumps(ordered, ensure_ascii=False, separators=(",", ":")))


PROFILES = Generator(
    draft_profiles,
    "persona",
    answers=False,
    source_needed=True,
    ask=ask_profile,
    read=read_profile,
    schema=profile_schema,
    template="profiles.md",
)
