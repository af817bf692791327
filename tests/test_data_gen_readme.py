"""What the README of data_gen tells people to write works when it is written."""

import importlib.util
import re
from math import lcm, prod
from pathlib import Path

import pytest

from data_gen import generator
from data_gen.generator import Generator, Rejected, Row
from data_gen.generators import GENERATORS
from data_gen.personas import lists
from data_gen.profiles import FEWEST_KEYS, MOST_KEYS, fields
from posttrain.chain import strict_yaml
from posttrain.stages import STAGES

ROOM = Path(generator.__file__).parent
README = (ROOM / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## A generator of your own")[1]


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def riddles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator:
    """The generator as the README has it, with its template where templates are looked for."""
    (tmp_path / "riddles.md").write_text(block("text"), encoding="utf-8")
    monkeypatch.setattr(generator, "TEMPLATES", tmp_path)
    (tmp_path / "riddles.py").write_text(block("python"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("riddles", tmp_path / "riddles.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.RIDDLES
    assert isinstance(made, Generator)
    return made


def taught(riddles: Generator, reply: str) -> list[Row | Rejected]:
    rows = riddles.draft(7, []).make(0, 20)
    return [riddles.read(row, reply.replace("THING", row["thing"])) for row in rows]


def test_the_generator_of_the_readme_gives_rows(riddles: Generator) -> None:
    rows = riddles.draft(7, []).make(0, 20)
    assert riddles.ask is not None and len({row["thing"] for row in rows}) > 10
    for row in rows:
        (message,) = riddles.ask(row)
        assert f'"{row["thing"]}"' in message["content"] and "$" not in message["content"]
    answered = taught(riddles, " I have hands and cannot clap. ")
    assert [row["messages"][-1] for row in answered if not isinstance(row, Rejected)] == [
        {"role": "assistant", "content": "I have hands and cannot clap."}
    ] * 20
    assert riddles.draft(7, []).make(5, 9) == rows[5:9] and riddles.draft(8, []).make(0, 20) != rows


def test_and_refuses_what_it_says_it_refuses(riddles: Generator) -> None:
    assert taught(riddles, "It is a THING!") == [Rejected("tells the answer")] * 20


def test_with_a_line_in_the_table_a_recipe_can_have_it(riddles: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, config = strict_yaml.parse(block("yaml"), "README.md")["riddles"], STAGES["generate"].config
    with pytest.raises(ValueError, match="generator"):
        config.model_validate(settings)
    monkeypatch.setitem(GENERATORS, "riddles", riddles)
    assert config.model_validate(settings)


def test_its_code_is_as_short_as_it_looks() -> None:
    assert len([line for line in block("python").splitlines() if line.strip()]) <= 20


def test_personas_are_told_of_with_every_file_and_generator() -> None:
    for name in ("personas.py", "diaries.py", "profiles.py", "personas/starter.jsonl", "world/personas.yaml"):
        assert f"`{name}`" in README and (ROOM / name).is_file()
    assert all(f"`{name}`" in README and name in GENERATORS for name in ("personas", "diaries", "profiles"))


def test_the_figures_of_personas_are_those_of_the_lists() -> None:
    persona = {name: len(values) for name, values in lists()["persona"].items()}
    count = prod(persona.values())
    assert count == lcm(*persona.values()) and f"{count // 10**6} million rows" in README
    assert f"each of {persona['work']} kinds of work" in README and f"run of {persona['work']} rows" in README
    assert f"{FEWEST_KEYS} to {MOST_KEYS} of {len(fields())} keys" in README
