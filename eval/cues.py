"""The phrases that show a feature or a part of a plot: a documented lexicon, not an understanding of the
story.

Each cue is a regular expression over text with straight quotes, case ignored. They are kept general: they
were read off many short stories and name what a story says of itself ("learned that", "it turned out").
"""

import re

from eval.lexicons import expressions
from eval.prose import Story

FEATURES = ("dialogue", "moral value", "plot twist", "bad ending", "foreshadowing", "conflict")


def _cue(name: str) -> re.Pattern[str]:
    """One pattern from a list of expressions."""
    return re.compile(r"\b(?:" + "|".join(expressions(name)) + r")", re.IGNORECASE)


MORAL = _cue("moral")
SAD = _cue("sad")
GLAD = _cue("glad")
NOT_GLAD = _cue("not_glad")
TWIST = _cue("twist")
HINT = _cue("hint")
CONFLICT = _cue("conflict")
OPENING = _cue("opening")
TROUBLE = _cue("trouble")
TURN = _cue("turn")
FINISH = _cue("finish")
LEARNED = re.compile(r"\blearn(?:ed|t)\b|\bmoral of\b", re.IGNORECASE)


def closing(story: Story, count: int) -> str:
    """The last sentences of a story, without a bare "The end."."""
    told = [sentence for sentence in story.sentences if sentence.strip("\"'.! ").lower() != "the end"]
    return " ".join(told[-count:])


def ends_badly(story: Story) -> bool:
    """Whether the close is sad: a sad cue late and no undenied glad one last. A moral is passed over."""
    told = [sentence for sentence in story.sentences if not LEARNED.search(sentence)]
    last, tail = (NOT_GLAD.sub("sad", " ".join(told[-count:])) for count in (1, 3))
    return bool(SAD.search(tail)) and not GLAD.search(last)


def shows(story: Story, feature: str) -> bool:
    """Whether a story has one of the six FEATURES, by its cues; KeyError for an unknown feature."""
    if feature == "dialogue":
        return any(len(speech.split()) >= 2 for speech in story.speeches)
    if feature == "bad ending":
        return ends_badly(story)
    if feature == "moral value":
        return bool(MORAL.search(closing(story, 3)))
    if feature == "foreshadowing":
        early = " ".join(story.sentences[: max(1, round(0.7 * len(story.sentences)))])
        return bool(HINT.search(early))
    return bool({"plot twist": TWIST, "conflict": CONFLICT}[feature].search(story.text))
