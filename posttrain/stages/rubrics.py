"""A judge's rubric as the stages read it: a file, its axes, and which rule judge knows them."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from posttrain.errors import PosttrainError
from posttrain.stages.judges import RULE

if TYPE_CHECKING:
    from eval.grading_prompt import Brief
    from eval.rubric import Rubric
    from eval.rule_judges import RuleJudge


class Ruled(Protocol):
    """A judge with what it goes by."""

    @property
    def judge(self) -> str: ...

    @property
    def rubric(self) -> Path: ...


def graded_axes(config: Ruled) -> list[str]:
    """The axes of the rubric that are scores from 1 to 10; those that the rule judge does not know are an error."""
    from eval.rule_judges import RULE_JUDGES

    graded, rules = scored(told_of(config)), rules_of(config)
    unknown = [axis for axis in graded if axis not in rules.axes] if config.judge == RULE else []
    if unknown:
        known = ", or ".join(", ".join(judge.axes) for judge in RULE_JUDGES)
        raise PosttrainError(
            f"{config.rubric}: axis '{unknown[0]}' is unknown to the rule judge; it knows {known}. "
            "Rename or delete that section."
        )
    return graded


def rules_of(config: Ruled) -> "RuleJudge":
    """The rule judge of the rubric's task, whose canaries test every other judge of that rubric as well."""
    from eval.rule_judges import rule_judge_of

    return rule_judge_of(scored(told_of(config)))


def rubric_of(config: Ruled) -> "Rubric":
    from eval.rubric import RubricError, load_rubric

    try:
        return load_rubric(config.rubric.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise PosttrainError(f"{config.rubric}: cannot be read; a Markdown file is needed. Check the path.") from None
    except RubricError as error:
        raise PosttrainError(f"{config.rubric}: {error}") from None


def told_of(config: Ruled) -> "Brief":
    """The rubric as a language model is told of it."""
    from eval.grading_prompt import brief
    from eval.rubric import RubricError

    try:
        return brief(rubric_of(config))
    except RubricError as error:
        raise PosttrainError(f"{config.rubric}: {error}") from None


def scored(told: "Brief") -> list[str]:
    """The axes that are scores from 1 to 10; the others ask for a choice among letters."""
    return [axis for axis in told.axes if axis not in told.choices]
