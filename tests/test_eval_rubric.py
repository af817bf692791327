"""A rubric file gives its axes and definitions, and a broken one says what is wrong."""

from pathlib import Path

import pytest

from eval.grading_prompt import brief
from eval.rubric import RubricError, load_rubric
from eval.story_rules import AXES
from eval.verdict import Verdict, graded, scores, tally, unscored

STORY = Path(__file__).parents[1] / "eval" / "rubrics" / "story.md"


def test_the_story_rubric_defines_exactly_the_axes_of_the_rule_judge_and_a_choice() -> None:
    rubric = load_rubric(STORY.read_text(encoding="utf-8"))
    assert sorted(rubric.axes) == sorted([*AXES, "age_group"])
    assert all(len(definition.split()) > 40 for definition in rubric.axes.values())
    assert list(brief(rubric).choices) == ["age_group"]
    assert "proxy" in rubric.intro


@pytest.mark.parametrize("page", ["eval/rubrics/story.md", "eval/README.md", "docs/judge.md"])
def test_every_page_that_shows_the_rule_judge_calls_it_a_proxy(page: str) -> None:
    text = (STORY.parents[2] / page).read_text(encoding="utf-8")
    assert "rule judge" in text.lower() and "proxy" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no '# title'"),
        ("## grammar\nGood.", "no '# title'"),
        ("# story\nHello.", "no axes"),
        ("# story\n## grammar\n\n## plot\nGood.", "'grammar' has no definition"),
        ("# story\n## plot\nA.\n## plot\nB.", "'plot' is defined twice"),
        ("# story\n## Two Words\nA.", "'## Two Words' is no valid name"),
        ("# story\n## plot\nA.\n# other", "second title '# other'"),
    ],
)
def test_a_broken_rubric_names_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(RubricError, match="rubric") as error:
        load_rubric(text)
    assert says in str(error.value)


def test_an_unknown_axis_lists_the_axes_there_are() -> None:
    rubric = load_rubric("# story\nIntro.\n## plot\nA plot.\n### detail\nMore.\n## grammar\nCorrect.")
    assert rubric.definition("plot") == "A plot.\n### detail\nMore."
    with pytest.raises(RubricError, match="no axis 'humour'; its axes are plot, grammar"):
        rubric.definition("humour")


def test_unscored_is_counted_and_never_averaged() -> None:
    verdicts = [Verdict(8.0, "a"), unscored("no text"), Verdict(4.0, "b")]
    assert scores(verdicts) == [8.0, 4.0]
    assert tally(verdicts) == (3, 2, 6.0)
    assert tally(verdicts).missing_share == pytest.approx(1 / 3)
    assert tally([unscored("no text")]).mean is None


def test_a_quality_that_is_not_a_number_is_refused() -> None:
    assert (graded(0.0, []).score, graded(1.0, []).score, graded(2.0, []).score) == (1.0, 10.0, 10.0)
    with pytest.raises(ValueError, match="nan"):
        graded(float("nan"), [])
