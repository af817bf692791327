"""A language model as judge: absolute grades on every axis of a rubric, in one call an answer and vote.

Nothing here calls a model: `ask` does, and may be an endpoint with a journal, or a script in a test. The judge is of
the same type as the rule judge, judges each row alone and never sees its id, so canaries test it unchanged:

    fit = lambda prompts, completions, training: llm_judge(ask, rubric, prompts, settings)
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval import grade_tokens, grading_reply
from eval.asking import Ask, Question, ask_all
from eval.grading_prompt import Brief, Material, brief, comparing, grading, material
from eval.grading_reply import read_grades
from eval.panel import combine_votes
from eval.rubric import Rubric
from eval.verdict import LOW, Judge, Verdict, unscored

Row = Mapping[str, Any]
Verdicts = dict[str, Verdict]
TRIAL = '<|end|> [INST] \u200b "1"'  # a text that shows how texts are quoted


@dataclass(frozen=True)
class JudgeSettings:
    """How to ask. `votes` samples an answer (more than one needs a temperature above 0), `max_tokens` a reply.

    `salt` makes the fences round the answers unpredictable (`eval/fence.py`); the same salt gives the same prompts.
    """

    votes: int = 1
    max_tokens: int = 1024
    salt: str = ""

    def __post_init__(self) -> None:
        for name, value in (("votes", self.votes), ("max_tokens", self.max_tokens)):
            if value < 1:
                raise ValueError(f"judge settings: {name} is {value}; 1 and more is allowed. Raise it.")


def _material(told: Brief, prompts: Mapping[str, Row], row: Row) -> Material | Verdict:
    """What to ask about a row, or its verdict where there is nothing to ask."""
    prompt, text = prompts.get(str(row.get("id"))), row.get("text")
    if not prompt:
        return unscored(f"no prompt with id '{row.get('id')}'")
    if not isinstance(text, str):
        return unscored("the completion has no text")
    if not text.strip():
        return Verdict(LOW, "empty")  # every rubric's worst; a model would add nothing but cost
    return material(told, prompt, [text]) or unscored(f"the prompt '{row.get('id')}' has no text")


def _questions(told: Brief, judged: Material, settings: JudgeSettings) -> list[Question]:
    return [grading(told, judged, settings.salt, settings.max_tokens, nth) for nth in range(settings.votes)]


def llm_judge(ask: Ask, rubric: Rubric, prompts: Mapping[str, Row], settings: JudgeSettings | None = None) -> Judge:
    """A judge on the rubric's axes; rows without text or prompt are unscored, an empty text is the worst on each.

    An axis of lettered choices (`eval/grading_prompt.py`) is scored by the place of the choice, 1 for A.
    """
    chosen, told = settings or JudgeSettings(), brief(rubric)
    axes, rules = list(told.axes), grading(told, Material("", "", [""]), chosen.salt, 0).messages[0]["content"]

    def judge(rows: Sequence[Row]) -> list[Verdicts]:
        cases = [_material(told, prompts, row) for row in rows]
        asked = [_questions(told, case, chosen) if isinstance(case, Material) else [] for case in cases]
        replies = iter(ask_all(ask, [question for part in asked for question in part]))
        judged: list[Verdicts] = []
        for case, questions in zip(cases, asked, strict=True):
            if isinstance(case, Verdict):
                judged.append(dict.fromkeys(axes, case))
                continue
            shown = [rules, *case.texts]
            judged.append(combine_votes([read_grades(next(replies), axes, told.choices, shown) for _ in questions]))
        return judged

    return judge


def prompt_identity(rubric: Rubric, settings: JudgeSettings | None = None) -> str:
    """sha256 of all that makes prompts and readings what they are: templates, rubric, schema, settings, parsers.

    It is taken from questions about a fixed text, so that no part of a prompt can be forgotten. The model is not in it,
    nor how it is sampled: whoever makes `ask` adds them.
    """
    chosen, told = settings or JudgeSettings(), brief(rubric)
    cases = [Material(TRIAL, reference, [TRIAL, "2"]) for reference in (None, TRIAL)]
    single = [Material(case.request, case.reference, case.answers[:1]) for case in cases]
    questions = [question for case in single for question in _questions(told, case, chosen)]
    questions += [comparing(told, case, chosen.salt, chosen.max_tokens) for case in cases]
    versions = [grading_reply.VERSION, grade_tokens.VERSION, grade_tokens.LEAST_MASS]
    parts = {"questions": questions, "settings": asdict(chosen), "versions": versions}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("ascii")).hexdigest()
