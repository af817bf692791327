"""The grade that a judge expects, from the probabilities of the tokens in which it said one.

A judge that says 7 may have been about to say 8. The mean of the grades 1 to 10, weighted by their probabilities at
that place, tells answers apart that get the same number (as in G-Eval, Liu et al. 2023, arXiv 2303.16634). Only
whole grades count; their probabilities are brought to a sum of 1, and when they hold too little of the mass to begin
with there is no expectation, and the number that was said stands.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from eval.asking import Alternatives

VERSION = 1  # bumped when the same probabilities give another grade
LEAST_MASS = 0.8  # share of the probability that must be on whole grades
GRADE = re.compile(r"[^\w.+-]*(\d{1,2})[^\w.]*", re.ASCII)
ZERO = re.compile(r"0[^\w.]*", re.ASCII)
GOES_ON = re.compile(r"[\d.]", re.ASCII)  # the number is not over
SAID = re.compile(r"10|[1-9]", re.ASCII)


class TokenStarts(NamedTuple):
    """Tokens of a reply and where each starts in its text."""

    starts: list[int]
    tokens: Sequence[Alternatives]

    @classmethod
    def of(cls, text: str, logprobs: Sequence[Alternatives] | None) -> "TokenStarts | None":
        """None when there are no probabilities, or when the tokens do not make up the text."""
        if not logprobs or not all(logprobs):
            return None
        pieces = [alternatives[0][0] for alternatives in logprobs]
        offset = "".join(pieces).find(text)  # an endpoint may trim blanks, or show the stop token
        if offset < 0:
            return None
        return cls([start - offset for start in accumulate(map(len, pieces[:-1]), initial=0)], logprobs)


def expected_grade(tokens: TokenStarts, text: str, start: int, end: int) -> float | None:
    """The expected grade at the number in `text[start:end]`, or None: no whole grade, or too little mass on grades."""
    digits = text[start:end].strip('"')
    if not SAID.fullmatch(digits):
        return None
    at = text.index(digits, start)
    number = bisect_right(tokens.starts, at) - 1
    if number < 0:
        return None
    before = text[tokens.starts[number] : at] if tokens.starts[number] >= 0 else ""
    after = tokens.tokens[number + 1] if number + 1 < len(tokens.tokens) else None
    masses = _masses(tokens.tokens[number], after, before, digits)
    total = math.fsum(masses.values()) if masses else 0.0
    if masses is None or not LEAST_MASS <= total <= 1.01:
        return None
    return round(math.fsum(grade * mass for grade, mass in masses.items()) / total, 4)


def _probabilities(alternatives: Alternatives) -> dict[str, float] | None:
    """Token to probability; one that is listed twice counts once. None when a figure is no log-probability."""
    if any(math.isnan(logprob) or logprob > 0.001 for _, logprob in alternatives):
        return None
    return {token: math.exp(logprob) for token, logprob in alternatives}


def _grade(token: str, before: str) -> int | None:
    """The number that a token starts in the place after `before`, or None when it starts none."""
    found = GRADE.fullmatch(token.removeprefix(before))
    return int(found[1]) if found else None


def _masses(here: Alternatives, after: Alternatives | None, before: str, digits: str) -> dict[int, float] | None:
    """Grade to probability.

    A token "1" may be the grade 1 or the start of 10. Where it was generated, the next token decides; where it was not,
    it is 1 if the tokenizer has a token for 10 in sight, and else not known and left out.
    """
    found = _probabilities(here)
    if found is None:
        return None
    said = _grade(here[0][0], before)
    if said != int(digits) and not (said == 1 and digits == "10"):
        return None
    masses = dict.fromkeys(range(1, 11), 0.0)
    for token, probability in found.items():
        grade = _grade(token, before)
        if grade in masses:
            masses[grade] += probability
    if said == 1:
        one, ten = _split(after)
        masses[10] += masses[1] * ten
        masses[1] *= one
    elif masses[10] == 0:
        masses[1] = 0.0
    return masses


def _split(after: Alternatives | None) -> tuple[float, float]:
    """After a "1": the probabilities that the number is over and that it is 10."""
    found = (_probabilities(after) if after else None) or {}
    over = math.fsum(probability for token, probability in found.items() if not GOES_ON.match(token))
    return over, math.fsum(probability for token, probability in found.items() if ZERO.fullmatch(token))
