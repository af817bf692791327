"""The judges that need no model: which axes each one knows, and how each one is tested with canaries.

A rubric is judged by the first of them that knows all of its axes. A language model with the same rubric is tested with
the same canaries.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from eval import canaries, extraction, story_rules
from eval.canaries import Canary, Fit, Prompt

Figures = dict[str, dict[str, float]]  # name -> share, low, high
Rows = Sequence[Mapping[str, Any]]


class RuleJudge(NamedTuple):
    """A judge, and what is known of its task.

    `worth` says what its scores are; `asked` are the fields of a prompt that it sees; `choose` gives the prompts that
    can carry canaries (none where there are too few), `needed` what those have; `figures` are exact shares of answers.
    """

    axes: tuple[str, ...]
    worth: str
    fit: Fit
    asked: tuple[str, ...]
    choose: Callable[[Sequence[Prompt], int], list[Prompt]]
    needed: str
    make: Callable[[Sequence[Prompt], int], list[Canary]]
    figures: Callable[[Mapping[str, Prompt], Rows], Figures] = lambda prompts, rows: {}


STORY = RuleJudge(
    story_rules.AXES,
    "a proxy",
    story_rules.rule_judge,
    canaries.ASKED,
    canaries.choose,
    f"'words' and a 'reference' of {canaries.FEWEST_SENTENCES} sentences and more",
    canaries.make,
)
EXTRACTION = RuleJudge(
    extraction.AXES,
    "exact",
    extraction.rule_judge,
    extraction.ASKED,
    extraction.choose,
    f"'template' and 'expected' with {extraction.FEWEST_VALUES} values and more",
    extraction.make,
    extraction.figures,
)
RULE_JUDGES = (STORY, EXTRACTION)


def rule_judge_of(axes: Sequence[str]) -> RuleJudge:
    """The judge that knows all these axes; the judge of stories where none does."""
    return next((judge for judge in RULE_JUDGES if set(axes) <= set(judge.axes)), STORY)
