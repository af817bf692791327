"""What a language-model judge is told: a rubric, the request, a reference where there is one, and the fenced answer.

The words are in `prompts_judge/*.md` and in the rubric file; here they are put together. Three conventions let one
rubric file serve people, the rule judge and a language model:

- From the first sentence that names "the rule judge" to the end of its paragraph, the text is for people and not shown.
- A paragraph of the introduction that begins "Reference answer" asks for one: it is shown, with the prompt's
  `reference`, where the prompt has one. Without that paragraph no reference is ever shown.
- An axis whose section lists lettered choices (`- A: 3 or under`, `- B: 4-5`, ...) is answered by a letter; its score
  is the place of that choice, 1 for A. So the age group of the TinyStories paper (Eldan and Li 2023, arXiv 2305.07759)
  is a section like any other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from string import Template
from typing import Any

from eval.asking import Question
from eval.fence import fenced, mark
from eval.rubric import Rubric, RubricError

TEMPLATES = Path(__file__).parent / "prompts_judge"
SENTENCE = re.compile(r"(?<=[.!?])\s+")
FOR_PEOPLE = "the rule judge"
REFERENCE = "Reference answer"
CHOICE = re.compile(r"^[-*][ \t]+([A-Z]):[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GRADES = list(range(1, 11))
VERDICTS = ["A", "B", "tie"]


@dataclass(frozen=True)
class Brief:
    """The part of a rubric that a language model is shown; `reference` is the paragraph about it, or None."""

    title: str
    intro: str
    reference: str | None
    axes: Mapping[str, str]
    choices: Mapping[str, Sequence[str]]  # axis -> what A, B, ... stand for

    @cached_property
    def form(self) -> str:
        """The object wanted, which is no JSON itself: a reply that copies it holds no verdict."""
        graded = '"score": 1 to 10'
        last = {axis: f'"choice": A to {LETTERS[len(found) - 1]}, in quotes' for axis, found in self.choices.items()}
        rows = [f'  "{axis}": {{"reason": "...", {last.get(axis, graded)}}}' for axis in self.axes]
        return "{\n" + ",\n".join(rows) + "\n}"

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of {axis: {reason, score}}, or {reason, choice}; every field is needed and no other allowed."""
        last: dict[str, dict[str, Any]] = {axis: {"score": {"type": "integer", "enum": GRADES}} for axis in self.axes}
        for axis, found in self.choices.items():
            last[axis] = {"choice": {"type": "string", "enum": list(LETTERS[: len(found)])}}
        return _object({axis: _object({"reason": {"type": "string"}, **wanted}) for axis, wanted in last.items()})


@dataclass(frozen=True)
class Material:
    """What one verdict is about; all of it is untrusted text. `answers` is one text, or two to compare."""

    request: str
    reference: str | None
    answers: Sequence[str]

    @property
    def texts(self) -> list[str]:
        return [self.request, *([self.reference] if self.reference is not None else []), *self.answers]


@cache
def template(name: str) -> str:
    """The text of `prompts_judge/<name>.md`."""
    return (TEMPLATES / f"{name}.md").read_text(encoding="utf-8").strip()


def _told(paragraph: str) -> str:
    """The paragraph up to the first sentence that names the rule judge."""
    kept: list[str] = []
    for sentence in SENTENCE.split(paragraph):
        if FOR_PEOPLE in " ".join(sentence.lower().split()):
            break
        kept.append(sentence)
    return " ".join(kept)


def _paragraphs(text: str) -> list[str]:
    """What may be told of a text; a paragraph that is told whole keeps its line breaks (lists stay lists)."""
    whole = [part.strip() for part in re.split(r"\n[ \t]*\n", text)]
    told = [part if FOR_PEOPLE not in " ".join(part.lower().split()) else _told(part) for part in whole]
    return [part for part in told if part]


def brief(rubric: Rubric) -> Brief:
    """What a language model is told of a rubric; RubricError where nothing is left of an axis."""
    intro = _paragraphs(rubric.intro)
    axes = {axis: "\n\n".join(_paragraphs(text)) for axis, text in rubric.axes.items()}
    for axis, text in axes.items():
        if not text:
            raise RubricError(
                f"rubric '{rubric.title}': axis '{axis}' speaks of the rule judge only, and a language model is not "
                "shown that; a definition for a reader is needed. Write one before it."
            )
    choices = {axis: found for axis, text in axes.items() if (found := _choices(rubric.title, axis, text))}
    wanted = [part for part in intro if part.startswith(REFERENCE)]
    rest = [part for part in intro if part not in wanted]
    return Brief(rubric.title, "\n\n".join(rest), "\n\n".join(wanted) or None, axes, choices)


def _choices(title: str, axis: str, text: str) -> list[str]:
    found = CHOICE.findall(text)
    letters = "".join(letter for letter, _ in found)
    if found and (len(found) < 2 or not LETTERS.startswith(letters)):
        raise RubricError(
            f"rubric '{title}': axis '{axis}' lists the choices {', '.join(letters)}; at least two are needed, "
            "lettered A, B, C and so on without a gap. Letter them anew, or write the list without 'X:'."
        )
    return [label for _, label in found]


def material(told: Brief, prompt: Mapping[str, Any], answers: Sequence[str]) -> Material | None:
    """What is to be judged, or None when the prompt has no text; the reference only where the rubric asks for it."""
    request, reference = prompt.get("prompt"), prompt.get("reference")
    if not isinstance(request, str):
        return None
    shown = reference if told.reference and isinstance(reference, str) and reference.strip() else None
    return Material(request, shown, answers)


def grading(told: Brief, judged: Material, salt: str, max_tokens: int, nth: int = 0) -> Question:
    """The question that grades one answer on all axes at once."""
    letter = ", or the choice, the letter of one, where an axis lists choices" if told.choices else ""
    ask_for = (
        "Write for each axis first the reason, one or two sentences that name evidence in the answer, then the score, "
        f"a whole number from 1 to 10{letter}."
    )
    content = _filled("absolute", told, list(told.axes), judged, salt, told.form, ask_for=ask_for)
    return Question(({"role": "user", "content": content},), told.schema, max_tokens, nth)


def comparing(told: Brief, judged: Material, salt: str, max_tokens: int) -> Question:
    """The question which of two answers is better on the whole; axes that ask for a choice take no part."""
    axes = [axis for axis in told.axes if axis not in told.choices]
    content = _filled("pairwise", told, axes, judged, salt, '{"reason": "...", "verdict": A or B or tie in quotes}')
    schema = _object({"reason": {"type": "string"}, "verdict": {"type": "string", "enum": VERDICTS}})
    return Question(({"role": "user", "content": content},), schema, max_tokens)


def _filled(name: str, told: Brief, axes: Sequence[str], judged: Material, salt: str, form: str, **more: str) -> str:
    """The template with the rubric and the fenced material; substituted text is not looked at again."""
    key = mark(salt, *judged.texts)
    labels = ["ANSWER"] if len(judged.answers) == 1 else [f"ANSWER {letter}" for letter in LETTERS]
    fences = [fenced("REQUEST", judged.request, key)]
    intro = told.intro
    if judged.reference is not None:
        intro = f"{told.intro}\n\n{told.reference}".strip()
        fences.append(fenced("REFERENCE", judged.reference, key))
    fences += [fenced(label, text, key) for label, text in zip(labels, judged.answers, strict=False)]
    sections = "\n\n".join(f"## {axis}\n\n{told.axes[axis]}" for axis in axes)
    return Template(template(name)).substitute(
        title=told.title, intro=intro, axes=sections, mark=key, material="\n\n".join(fences), form=form, **more
    )


def _object(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(fields), "required": list(fields), "additionalProperties": False}
