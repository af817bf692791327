"""Is there a plot: an opening, a problem or wish, a turn, an ending that comes back to the start, and did it stop?

Cue phrases stand for the parts (see eval.cues), and the reference says how far the last sentences read like the close
of a story (see eval.reference), so a story is credited for having the shape of a story, not for a good one.
"""

from eval.cohesion import cohesion
from eval.cues import FINISH, GLAD, OPENING, SAD, TROUBLE, TURN, closing
from eval.loops import loop_share
from eval.prose import Story
from eval.reference import grams, lean, reference
from eval.verdict import Verdict, graded, ramp

SHORTEST, LONGEST = 8, 45  # sentences; nineteen in twenty TinyStories lie between
WEIGHTS = {
    "an opening": 0.1,
    "a problem or wish": 0.1,
    "a turn": 0.1,
    "an ending": 0.45,
    "an end that comes back to its start": 0.15,
    "a close of its own": 0.1,
}
CLOSED = (".", "!", "?", '."', '!"', '?"', ".'", "!'", "?'", '".')
CUED = 0.35  # the share of an ending that cue phrases show; the reference sees the rest
CLOSES_NOT, CLOSES = -0.3, 0.3  # lean of the last two sentences; of real stories one in ten is under 0
FULL_LINK, LONG = 0.2, 12  # as in eval.consistency
THERE = 0.8  # a part counts as there from here on


def _closes(story: Story) -> float:
    """How far the last two sentences read like a close, in [0, 1]; "The end." is one."""
    told = [tokens for tokens in story.tokens if [token.lower() for token in tokens[:2]] != ["the", "end"]]
    if len(told) < len(story.tokens):
        return 1.0
    leans = [lean(grams(tokens, story), reference().places.closing) for tokens in told[-2:]]
    return ramp(0.5 * max(leans) + 0.5 * sum(leans) / len(leans), CLOSES_NOT, CLOSES)


def _cued(story: Story) -> float:
    """How far cue phrases show an ending, in [0, 1]."""
    last, tail = closing(story, 1), closing(story, 2)
    if FINISH.search(last) or GLAD.search(last):
        return 1.0
    return 0.5 if GLAD.search(tail) or SAD.search(tail) or FINISH.search(tail) else 0.0


def _returns(story: Story) -> float:
    """How far the end speaks of what the start told of, in [0, 1]."""
    held = cohesion(story)
    return ramp(held.link, 0.0, FULL_LINK * min(1.0, len(story.sentences) / LONG)) if held else 0.0


def _parts(story: Story, stopped: bool) -> dict[str, float]:
    """How far each part is there, in [0, 1]."""
    count, closed = len(story.sentences), story.text.endswith(CLOSED)
    middle = " ".join(story.sentences[1 : max(2, round(0.75 * count))])
    later = " ".join(story.sentences[max(1, count // 4) :])
    return {
        "an opening": float(bool(OPENING.search(" ".join(story.sentences[:2])))),
        "a problem or wish": float(bool(TROUBLE.search(middle))),
        "a turn": float(bool(TURN.search(later))),
        "an ending": CUED * _cued(story) + (1 - CUED) * _closes(story) if closed else 0.0,
        "an end that comes back to its start": _returns(story),
        "a close of its own": 0.5 * stopped + 0.5 * closed,
    }


def _length(count: int) -> float:
    """1 within the bounds; falls in proportion outside them."""
    return min(1.0, count / SHORTEST, LONGEST / max(count, 1))


def plot(story: Story, *, stopped: bool) -> Verdict:
    """Weighted share of the parts, times a factor each for length and loops."""
    parts, count, loops = _parts(story, stopped), len(story.sentences), loop_share(story)
    quality = sum(WEIGHTS[name] * there for name, there in parts.items())
    quality *= _length(count) * (1 - min(0.9, 2 * max(0.0, loops - 0.03)))
    has = [name for name, there in parts.items() if there >= THERE]
    lacks = [name for name, there in parts.items() if there < THERE]
    evidence = ["has " + ", ".join(has)] if has else []
    evidence += ["lacks " + ", ".join(lacks)] if lacks else []
    evidence += [f"{count} sentences"] + ([f"{loops:.0%} loops"] if loops > 0.03 else [])
    return graded(quality, evidence + ([] if stopped else ["did not stop by itself"]))
