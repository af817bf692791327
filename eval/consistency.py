"""Do the people and things of a story stay who and what they are?

Checked: the hero is still there at the end, names are introduced before they are used and not dropped in
once, a hero with a known gender keeps his or her pronouns, "the dog" comes after "a dog", the opening and
the end stand where they belong, and nothing loops. Each finding takes a share of what is left, and so does
a story that leaves its subject.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from eval.cohesion import FEWEST, cohesion
from eval.lexicons import word_class
from eval.loops import loop_share, repeated_sentences
from eval.prose import FUNCTION, KIN, Story
from eval.reference import grams, lean, reference
from eval.verdict import Verdict, graded, ramp
from eval.words import GRADABLE

HE, SHE = frozenset(["he", "him", "his", "himself"]), frozenset(["she", "her", "hers", "herself"])
THEY = frozenset(["they", "them", "their"])
MALE = word_class("male")
FEMALE = word_class("female")
BEINGS = MALE | FEMALE | KIN
INTRODUCED = re.compile(r"\b(?:named|called|name (?:was|is))\s+\"?([A-Z][\w]+)")
OPENER = re.compile(r"^\W*(?:once upon a time|once,? there (?:was|were|lived)|long ago)\b", re.IGNORECASE)
ONE_DAY = re.compile(r"^\W*(?:one (?:\w+ )?(?:day|morning|night|evening|afternoon)|once)\b", re.IGNORECASE)
ENDER = re.compile(
    r"^\W*(?:the end\b|the moral of|and they (?:all )?lived happily|from that day (?:on|forward))"
    r"|happily ever after",
    re.IGNORECASE,
)
INDEFINITE, DEFINITE = frozenset({"a", "an", "another"}), frozenset({"the"})
GENERIC = word_class("generic")


# What comes back in a long story is full about one standard deviation under the mean of real stories (0.37
# and 0.27); shorter ones have less to come back to and are asked for less in proportion.
FULL_AGAIN, FULL_LINK, LONG = 0.28, 0.2, 12
# Of real stories one in seventy names somebody in one sentence only, and one in forty has more than two names.
ENOUGH, CAST = 8, 3
FEW_SUDDEN, MANY_SUDDEN = 0.35, 0.8  # of real stories one in ten has more than the first, of noise half
OPENS, OPENS_NOT = (
    -0.25,
    -1.0,
)  # lean of a first sentence (eval.reference): one real story in twenty has less than the first


class Finding(NamedTuple):
    """Something inconsistent: the share of the quality it takes, in [0, 1], and the words for it."""

    cost: float
    evidence: str


def hero(story: Story) -> str | None:
    """The name told most often; the earlier one of equals; None when nobody is named."""
    if not story.names:
        return None
    return min(story.names, key=lambda name: (-len(story.names[name]), story.names[name][0], name))


def _hero_stays(story: Story) -> Iterator[Finding]:
    name, count = hero(story), len(story.sentences)
    if name is None or count < 4:
        return
    tail = " ".join(story.sentences[-max(3, count // 3) :])
    people = HE | SHE | THEY | {"everyone", "friends", "i", "we"}
    words = set(re.findall(r"\w+", tail.lower()))
    if name not in tail and not words & people:
        yield Finding(0.3, f"{name} is gone at the end")
    elif story.names[name][0] > max(4, count // 2):
        yield Finding(0.3, f"{name} first appears in sentence {story.names[name][0] + 1}")


def _names(story: Story) -> Iterator[Finding]:
    count, main = len(story.sentences), hero(story)
    for match in INTRODUCED.finditer(story.text):
        name = match.group(1)
        first = story.text.find(name)
        if first < match.start(1) - 40 and name.lower() not in FUNCTION | KIN:
            yield Finding(0.35, f"{name} is introduced after being there")
    once = [name for name, where in story.names.items() if len(where) == 1 and name != main]
    if count >= ENOUGH:
        for name in once[:3]:
            yield Finding(0.2, f"{name} is named once, in sentence {story.names[name][0] + 1}")
    if len(story.names) > CAST:
        yield Finding(min(0.5, 0.1 * (len(story.names) - CAST)), f"{len(story.names)} names")


def _gender(name: str, story: Story) -> frozenset[str] | None:
    """The pronouns of a name, from what it is called ("a girl named Lily") or from well-known names."""
    called = re.search(
        rf"\b(boy|man|king|prince|girl|woman|queen|princess|mother|father)\b[^.]{{0,25}}\b{name}\b",
        story.text,
    )
    sign = called.group(1).lower() if called else name.lower()
    return HE if sign in MALE else SHE if sign in FEMALE else None


def _pronouns(story: Story) -> Iterator[Finding]:
    """Wrong pronouns in narrated sentences that name the hero and no other being."""
    name = hero(story)
    pronouns = _gender(name, story) if name else None
    if name is None or pronouns is None:
        return
    wrong = SHE if pronouns is HE else HE
    others = (set(story.names) | {"Mom", "Dad"}) - {name}
    hits = 0
    for sentence in re.split(r"[.!?\n]+", story.narration):
        words = re.findall(r"[A-Za-z]+", sentence)
        low = {word.lower() for word in words}
        alone = not others & set(words) and not low & ((BEINGS | {"a", "an", "the"}) - {name.lower()})
        hits += words[:1] == [name] and alone and bool(low & wrong) and not low & pronouns
    if hits:
        yield Finding(min(0.5, 0.25 * hits), f"{name} changes gender in {hits} sentences")


def _told_too_late(story: Story) -> list[str]:
    """Nouns told first as "the X" and only later as "a X"."""
    known: set[str] = set()
    late: list[str] = []
    words = story.words
    for left, word, after in zip(words, words[1:], (*words[2:], ""), strict=False):
        noun = after if word in GRADABLE else word
        if left not in INDEFINITE | DEFINITE or noun in GENERIC or noun in FUNCTION:
            continue
        if left in INDEFINITE and f"the {noun}" in known and f"a {noun}" not in known:
            late.append(noun)
        known.add(f"the {noun}" if left in DEFINITE else f"a {noun}")
    return late


def _things(story: Story) -> Iterator[Finding]:
    for noun in _told_too_late(story)[:3]:
        yield Finding(0.15, f"'the {noun}' before 'a {noun}'")


def _order(story: Story) -> Iterator[Finding]:
    sentences = story.sentences
    for number, sentence in enumerate(sentences):
        if number > 0 and OPENER.match(sentence):
            yield Finding(0.4, f"opens again in sentence {number + 1}")
        if number < 0.7 * (len(sentences) - 1) and ENDER.search(sentence):
            yield Finding(0.3, f"ends already in sentence {number + 1}")
    if len(sentences) < FEWEST:
        return
    leans = lean(grams(story.tokens[0], story), reference().places.opening)
    if leans < OPENS:
        yield Finding(0.5 * ramp(leans, OPENS, OPENS_NOT), f"its first sentence is no opening ({leans:.1f})")
    late = next((number for number, sentence in enumerate(sentences) if ONE_DAY.match(sentence)), 0)
    if late >= 0.5 * len(sentences):
        yield Finding(0.3, f"begins only in sentence {late + 1}")


def _loops(story: Story) -> Iterator[Finding]:
    again, share = repeated_sentences(story), loop_share(story)
    if again:
        yield Finding(min(0.6, 0.2 * again), f"{again} sentences told again")
    if share > 0.05:
        yield Finding(min(0.9, 1.5 * (share - 0.05)), f"{share:.0%} of the text loops")


def findings(story: Story) -> list[Finding]:
    """Everything inconsistent that the rules see."""
    checks = (_hero_stays, _names, _pronouns, _things, _order, _loops)
    return [finding for check in checks for finding in check(story)]


def _subject(story: Story) -> tuple[float, list[str]]:
    """How well the story stays with its subject, from 0.2 to 1, and the evidence where it does not."""
    held = cohesion(story)
    if held is None:
        return 1.0, []
    size = min(1.0, len(story.sentences) / LONG)
    again = min(1.0, held.again / (size * FULL_AGAIN))
    link = min(1.0, held.link / (size * FULL_LINK))
    sudden = ramp(held.sudden, FEW_SUDDEN, MANY_SUDDEN)
    told = [f"{held.again:.0%} of its things come back, its end shares {held.link:.0%} with its start"]
    evidence = told if min(again, link) < 0.8 else []
    evidence += [f"{held.sudden:.0%} of what it calls 'the' is new"] if sudden > 0.1 else []
    return (0.35 + 0.4 * again + 0.25 * link) * (1 - 0.4 * sudden), evidence


def consistency(story: Story) -> Verdict:
    """What the findings and the change of subject leave of the quality, 1 to 10."""
    found = findings(story)
    left, evidence = _subject(story)
    if (count := len(story.sentences)) < FEWEST:
        left *= count / FEWEST
        evidence = [f"only {count} sentences to be consistent in"]
    for finding in found:
        left *= 1 - finding.cost
    return graded(left, [finding.evidence for finding in found] + evidence or ["nothing inconsistent found"])
