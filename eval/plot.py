"""Is there a plot: an opening, a problem or wish, a turn, an ending, told in a sensible length and stopped?

Cue phrases stand for the parts (see eval.cues), so a story is credited for having the shape of a story,
not for a good one.
"""

from eval.cues import FINISH, GLAD, OPENING, SAD, TROUBLE, TURN, closing
from eval.loops import loop_share
from eval.prose import Story
from eval.verdict import Verdict, graded

SHORTEST, LONGEST = 6, 45  # sentences; nineteen in twenty TinyStories lie between
WEIGHTS = {
    "an opening": 0.15,
    "a problem or wish": 0.15,
    "a turn": 0.15,
    "an ending": 0.3,
    "a close of its own": 0.25,
}
CLOSED = (".", "!", "?", '."', '!"', '?"', ".'", "!'", "?'", '".')


def _parts(story: Story, stopped: bool) -> dict[str, float]:
    """How far each part is there, in [0, 1]."""
    count = len(story.sentences)
    middle = " ".join(story.sentences[1 : max(2, round(0.75 * count))])
    later = " ".join(story.sentences[max(1, count // 4) :])
    last, tail = closing(story, 1), closing(story, 2)
    felt = bool(GLAD.search(tail) or SAD.search(tail))
    ended = 1.0 if FINISH.search(last) or GLAD.search(last) else 0.5 if felt or FINISH.search(tail) else 0.0
    return {
        "an opening": float(bool(OPENING.search(" ".join(story.sentences[:2])))),
        "a problem or wish": float(bool(TROUBLE.search(middle))),
        "a turn": float(bool(TURN.search(later))),
        "an ending": ended if story.text.endswith(CLOSED) else 0.0,
        "a close of its own": 0.5 * stopped + 0.5 * story.text.endswith(CLOSED),
    }


def _length(count: int) -> float:
    """1 within the bounds; falls in proportion outside them."""
    return min(1.0, count / SHORTEST, LONGEST / max(count, 1))


def plot(story: Story, *, stopped: bool) -> Verdict:
    """Weighted share of the parts, times a factor each for length and loops."""
    parts, count, loops = _parts(story, stopped), len(story.sentences), loop_share(story)
    quality = sum(WEIGHTS[name] * there for name, there in parts.items())
    quality *= _length(count) * (1 - min(0.9, 2 * max(0.0, loops - 0.03)))
    has = [name for name, there in parts.items() if there == 1]
    lacks = [name for name, there in parts.items() if there < 1]
    evidence = ["has " + ", ".join(has)] if has else []
    evidence += ["lacks " + ", ".join(lacks)] if lacks else []
    evidence += [f"{count} sentences"] + ([f"{loops:.0%} loops"] if loops > 0.03 else [])
    return graded(quality, evidence + ([] if stopped else ["did not stop by itself"]))
