"""Expected grades: the mean over the probabilities of grade tokens, however a tokenizer cuts them."""

import math

import pytest

from eval.asking import Alternatives, Reply
from eval.grading_reply import read_grades

FAR = math.log(1e-9)


def tokens(*pairs: tuple[str, float]) -> list[tuple[str, float]]:
    return [(token, math.log(share)) for token, share in pairs]


def read(*reply: Alternatives) -> float | None:
    """The score on plot of the reply whose tokens these are."""
    text = "".join(alternatives[0][0] for alternatives in reply)
    return read_grades(Reply(text, logprobs=reply), ["plot"], {}, [])["plot"].score


def sure(text: str) -> Alternatives:
    return [(text, 0.0), ("x", FAR)]


OPEN, CLOSE = sure('{"plot": {"reason": "7 of 10", "score":'), sure("}}")


@pytest.mark.parametrize("blank", ["", " "])
def test_the_score_is_the_expectation_over_the_grades(blank: str) -> None:
    grades = tokens((f"{blank}7", 0.5), (f"{blank}8", 0.3), (f"{blank}6", 0.2))
    assert read(OPEN, grades, CLOSE) == pytest.approx(7.1)


def test_the_same_grade_in_two_spellings_is_one_grade() -> None:
    assert read(OPEN, tokens((" 7", 0.4), ("7", 0.2), (" 9", 0.4)), CLOSE) == pytest.approx(7.8)
    assert read(OPEN, [*tokens((" 7", 0.6), (" 9", 0.4)), (" 7", math.log(0.6))], CLOSE) == pytest.approx(7.8)


def test_what_is_no_grade_is_left_out_and_the_rest_brought_to_one() -> None:
    grades = tokens((" 7", 0.6), (" 9", 0.3), (" null", 0.04), (" 11", 0.03), (" 0", 0.02), (" seven", 0.01))
    assert read(OPEN, grades, CLOSE) == pytest.approx((0.6 * 7 + 0.3 * 9) / 0.9, abs=1e-4)


def test_with_too_little_mass_on_grades_the_number_stands() -> None:
    assert read(OPEN, tokens((" 7", 0.5), (" 9", 0.2), (" null", 0.3)), CLOSE) == 7.0
    assert read(OPEN, tokens((" 7", 0.3), (" 9", 0.2)), CLOSE) == 7.0


def test_ten_as_one_token() -> None:
    assert read(OPEN, tokens((" 10", 0.5), (" 9", 0.3), (" 1", 0.2)), CLOSE) == pytest.approx(7.9)
    assert read(OPEN, tokens((" 9", 0.5), (" 10", 0.4), (" 1", 0.1)), CLOSE) == pytest.approx(8.6)


def test_ten_as_two_tokens() -> None:
    first, second = tokens((" 1", 0.8), (" 9", 0.2)), tokens(("0", 0.75), ("}}", 0.25))
    assert read(OPEN, first, second, CLOSE) == pytest.approx(0.6 * 10 + 0.2 * 1 + 0.2 * 9)
    one = tokens(("}}", 0.25), ("0", 0.75))
    assert read(OPEN, first, one) == pytest.approx(0.6 * 10 + 0.2 * 1 + 0.2 * 9)


def test_a_one_that_may_be_the_start_of_ten_is_left_out() -> None:
    assert read(OPEN, tokens((" 8", 0.9), (" 1", 0.1)), CLOSE) == pytest.approx(8.0)
    assert read(OPEN, tokens((" 8", 0.6), (" 1", 0.4)), CLOSE) == 8.0  # and with it too much mass


def test_a_token_may_hold_signs_before_and_after_the_grade() -> None:
    start = sure('{"plot": {"reason": "r", "score"')
    assert read(start, tokens((": 7", 0.5), (": 8", 0.5)), CLOSE) == pytest.approx(7.5)
    assert read(OPEN, tokens((" 7}}", 0.5), (" 8}}", 0.4), (" 8", 0.1))) == pytest.approx(7.5)
    quoted = sure('{"plot": {"reason": "r", "score": "')
    assert read(quoted, tokens(("7", 0.5), ("8", 0.5)), sure('"}}')) == pytest.approx(7.5)


def test_a_bare_number_is_weighed_too() -> None:
    assert read(sure('{"plot":'), tokens((" 7", 0.5), (" 8", 0.5)), sure("}")) == pytest.approx(7.5)


def test_only_the_number_of_the_axis_counts() -> None:
    reply = [sure('{"plot": {"score": '), tokens(("7", 0.5), ("8", 0.5)), sure(', "reason": "'),
             tokens(("3", 0.5), ("1", 0.5)), sure('", "other": {"score": 2}}, "x": {"score": '), tokens(("4", 1.0)),
             sure("}}")]  # fmt: skip
    assert read(*reply) == pytest.approx(7.5)


def test_a_half_grade_stays_as_said() -> None:
    assert read(OPEN, tokens((" 7", 0.5), (" 8", 0.5)), sure(".5"), CLOSE) == 7.5


@pytest.mark.parametrize("bad", [math.nan, 0.5, math.inf])
def test_a_figure_that_is_no_probability_leaves_the_number(bad: float) -> None:
    assert read(OPEN, [(" 7", bad), (" 8", math.log(0.5))], CLOSE) == 7.0
    assert read(OPEN, [(" 7", math.log(0.9)), (" 8", math.log(0.9))], CLOSE) == 7.0


def test_a_chance_of_zero_is_fine() -> None:
    assert read(OPEN, [(" 7", 0.0), (" 8", -math.inf), (" 9", -9999.0)], CLOSE) == 7.0


def test_tokens_that_do_not_make_up_the_text_leave_the_number() -> None:
    text = '{"plot": {"reason": "é", "score": 7}}'
    for logprobs in ([], [[]], [sure("something else")], [sure(text[:20]), [], sure(text[20:])]):
        assert read_grades(Reply(text, logprobs=logprobs), ["plot"], {}, [])["plot"].score == 7.0


def test_blanks_trimmed_from_the_text_and_a_stop_token_do_no_harm() -> None:
    reply = [sure("\n"), OPEN, tokens((" 7", 0.5), (" 8", 0.5)), CLOSE, sure("<|im_end|>")]
    text = "".join(alternatives[0][0] for alternatives in reply[1:4])
    assert read_grades(Reply(text, logprobs=reply), ["plot"], {}, [])["plot"].score == pytest.approx(7.5)


def test_the_reason_tells_what_was_said() -> None:
    reply = [OPEN, tokens((" 7", 0.5), (" 8", 0.5)), CLOSE]
    text = "".join(alternatives[0][0] for alternatives in reply)
    verdict = read_grades(Reply(text, logprobs=reply), ["plot"], {}, [])["plot"]
    assert verdict.reason == "7 of 10 (said 7)"


def test_a_score_out_of_range_is_not_rescued_by_probabilities() -> None:
    assert read(OPEN, tokens((" 11", 0.1), (" 9", 0.9)), CLOSE) is None
