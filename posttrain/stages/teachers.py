"""Who writes answers: a step, a directory, a hub model, a model behind an endpoint, or several of these with weights.

teacher: models/storyteller-8m
teacher: openai:gpt-4o-mini                        # with `endpoint:` for anything but OpenAI itself
teacher:
  - {model: sft, weight: 3}
  - {model: openai:llama-3.3-70b, weight: 1, endpoint: {base_url: "http://127.0.0.1:8000/v1"}}
"""

import random
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

from pydantic import Discriminator, Field, Tag

from posttrain.chain.references import ENDPOINT
from posttrain.chain.stage import Config
from posttrain.engines.endpoint import Endpoint, EndpointSettings
from posttrain.rows import Row

TEACHER = "teacher"  # the input's name; of a list `teacher.0`, `teacher.1`, …


class TeacherEndpoint(EndpointSettings):
    """An endpoint with room for an answer, and a temperature at which answers differ."""

    max_tokens: int = Field(1024, ge=1, description="of one answer; a cut one is dropped")
    temperature: float | None = Field(0.7, ge=0, description="null leaves it to the endpoint")


class TeacherChoice(Config):
    """One of several teachers. A row's teacher is drawn by its id, so that it does not depend on other rows."""

    model: str | None = Field(description="a step, a local directory, a hub id, or openai:MODEL")
    weight: float = Field(1.0, gt=0, description="its share of the rows, beside the weights of the others")
    endpoint: TeacherEndpoint = Field(TeacherEndpoint(), description="where openai:MODEL answers")


def _one_or_several(value: object) -> str:
    return "(several)" if isinstance(value, list | tuple) else "(one)"


# In brackets, so that errors do not name them: they are no keys of a recipe.
Teachers = Annotated[
    Annotated[str, Tag("(one)")] | Annotated[tuple[TeacherChoice, ...], Tag("(several)")],
    Discriminator(_one_or_several),
]


class Asked(NamedTuple):
    """A teacher by its input's name. `endpoint` is None where the model is here."""

    name: str
    weight: float
    endpoint: Endpoint | None


def teachers(teacher: str | Sequence[TeacherChoice] | None, endpoint: TeacherEndpoint) -> list[Asked]:
    """All teachers of a step, in their order."""
    if teacher is None:
        return []
    if isinstance(teacher, str):
        return [_asked(TEACHER, TeacherChoice(model=teacher, endpoint=endpoint))]
    return [_asked(f"{TEACHER}.{number}", one) for number, one in enumerate(teacher)]


def _asked(name: str, one: TeacherChoice) -> Asked:
    if one.model is None or not one.model.startswith(ENDPOINT):
        return Asked(name, one.weight, None)
    known = {field: getattr(one.endpoint, field) for field in EndpointSettings.model_fields}
    return Asked(name, one.weight, Endpoint(model=one.model.removeprefix(ENDPOINT), **known))


def shares(among: Sequence[Asked], rows: Sequence[Row], seed: int) -> Mapping[str, list[Row]]:
    """The rows of each teacher, by its name."""
    found: dict[str, list[Row]] = {one.name: [] for one in among}
    weights = [one.weight for one in among]
    for row in rows:
        rng = random.Random(f"teacher {seed} {row['id']}")
        found[rng.choices(among, weights)[0].name].append(row)
    return found
