"""The rule judge: five axes for a short story, from checks that need no model, no network and no key.

It is a proxy. It sees what can be counted (words used, mistakes, names, loops, cue phrases) and nothing of
meaning; its use is to notice a step that damaged a model, offline and for free. Deterministic and
independent of row order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.consistency import consistency
from eval.creativity import Gram, Known, creativity, grams, share
from eval.grammar import grammar
from eval.instruct import instruct
from eval.novelty import Training
from eval.plot import plot
from eval.prose import Story, parse
from eval.verdict import LOW, Judge, Verdict, unscored
from eval.words import accepted, tokens

AXES = ("grammar", "creativity", "consistency", "instruct", "plot")
# Noise is new, too: what is creative is new and makes sense (Runco and Jaeger 2012), so creativity stands at most this
# far above the lower one of grammar and consistency.
NOVELTY_ALLOWANCE = 2.0


def _all(verdict: Verdict) -> dict[str, Verdict]:
    return dict.fromkeys(AXES, verdict)


def _allowed(prompt: Mapping[str, Any]) -> frozenset[str]:
    """Words of the prompt, in all forms, which are never called non-words."""
    asked = [*(prompt.get("words") or ()), prompt.get("first_sentence") or "", prompt.get("prompt") or ""]
    return frozenset().union(*(accepted(word) for text in asked for word in tokens(text)))


def _judge(prompt: Mapping[str, Any], story: Story, stopped: bool, known: Known) -> dict[str, Verdict]:
    if not story.words:
        return _all(Verdict(LOW, "no words" if story.text else "empty"))
    correct, holds = grammar(story, _allowed(prompt)), consistency(story)
    return {
        "grammar": correct,
        "creativity": _held_down(creativity(story, known), correct, holds),
        "consistency": holds,
        "instruct": instruct(prompt, story),
        "plot": plot(story, stopped=stopped),
    }


def _held_down(novel: Verdict, correct: Verdict, holds: Verdict) -> Verdict:
    """Creativity, held down by grammar or consistency where they are much lower."""
    (low, by), own = min((correct.score or LOW, "grammar"), (holds.score or LOW, "consistency")), novel.score or LOW
    if own <= low + NOVELTY_ALLOWANCE:
        return novel
    return Verdict(round(low + NOVELTY_ALLOWANCE, 2), f"{novel.reason}; held down by {by}")


def judge_story(
    prompt: Mapping[str, Any], text: str, *, stopped: bool, others: Sequence[str] = ()
) -> dict[str, Verdict]:
    """Judge one story; `others` are answers to other prompts, each counted as a prompt of its own."""
    shared = share({str(number): grams(parse(other)) for number, other in enumerate(others)})
    return _judge(prompt, parse(text), stopped, Known("", shared, None))


def _text(row: Mapping[str, Any]) -> str | None:
    text = row.get("text")
    return text if isinstance(text, str) else None


def rule_judge(
    prompts: Mapping[str, Mapping[str, Any]],
    completions: Sequence[Mapping[str, Any]],
    training: Sequence[str] = (),
) -> Judge:
    """A judge that knows the answers of a batch and the stories the model was trained on.

    Whatever rows it is given, each is judged alone: rows that are mixed in change no other row's verdict. A row
    without text, or for a prompt that is not there, is unscored on every axis.
    """
    answers: dict[str, set[Gram]] = {}
    for row in completions:
        if found := grams(parse(_text(row) or "")):
            answers.setdefault(str(row.get("id")), set()).update(found)
    shared, rows = share(answers), Training(training) if training else None

    def judge(judged: Sequence[Mapping[str, Any]]) -> list[dict[str, Verdict]]:
        return [_judge_row(prompts, row, Known(str(row.get("id")), shared, rows)) for row in judged]

    return judge


def judge_batch(
    prompts: Mapping[str, Mapping[str, Any]],
    completions: Sequence[Mapping[str, Any]],
    training: Sequence[str] = (),
) -> list[dict[str, Verdict]]:
    """Judge completions against each other and the training rows, in their order."""
    return rule_judge(prompts, completions, training)(completions)


def _judge_row(prompts: Mapping[str, Mapping[str, Any]], row: Mapping[str, Any], known: Known) -> dict[str, Verdict]:
    prompt, text = prompts.get(str(row.get("id"))), _text(row)
    if not prompt:
        return _all(unscored(f"no prompt with id '{row.get('id')}'"))
    if text is None:
        return _all(unscored("the completion has no text"))
    if not isinstance(row.get("stopped"), bool):
        return _all(unscored("the completion does not say whether it stopped"))
    return _judge(prompt, parse(text), row["stopped"], known)
