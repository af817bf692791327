"""Several answers of a model to each of many training prompts: what pairs are chosen from.

Prompts that the evaluation asks, or nearly, are never asked here. Answers that could stand on neither side of a pair
(empty, or with a control string, which would be other tokens in training) are left out and counted.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from posttrain.chain.paths import find_path
from posttrain.chain.stage import Metrics, StageContext
from posttrain.engines.transformers_engine import Prompt
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows
from posttrain.stages.leaks import REMOVED, Message, cleaned, without_asked
from posttrain.stages.teaching import (
    CONTROL,
    CUT,
    EMPTY,
    Sampled,
    SamplingSettings,
    control_strings,
    open_teacher,
    sample_answers,
)

if TYPE_CHECKING:
    from data_gen.pairing import Candidate
    from posttrain.engines.transformers_engine import Completion
    from posttrain.lm.chat import ChatFormat
    from posttrain.stages.pairs import PairsConfig

PROMPTS = 500  # asked when a recipe does not say how many
ASKED = ("words", "features", "first_sentence", "hero")  # what a row of the story world says of its request


class CandidateSampling(SamplingSettings):
    """How the model is sampled: at its own temperature, so that answers differ and are its own."""

    temperature: float = Field(1.0, gt=0, description="above 0, or all answers to a prompt would be the same")
    max_new_tokens: int = Field(512, ge=1, description="longest answer; a cut one is never chosen")


class Asked(NamedTuple):
    """A prompt: `messages` end with the user's; `row` is what a judge may know of it, {prompt, words, reference, …}."""

    id: str
    messages: list[Message]
    row: Row


class Answered(NamedTuple):
    """The prompts that were asked with the answers to each that can be used, still without scores.

    `counts` says why other prompts were not asked.
    """

    asked: list[Asked]
    answers: "list[list[Candidate]]"
    counts: dict[str, int]
    metrics: Metrics


def check_prompts(reference: str) -> None:
    """Refuse a local file of prompts that cannot be asked, before any step runs. What is no file may be a step."""
    path = find_path(reference)
    if path.is_file():
        read_prompts(path)


def read_prompts(path: Path) -> list[Asked]:
    """The prompts of a JSONL file, or of the train.jsonl of a step: `messages`, or a `prompt` (text or messages).

    An answer at the end is no part of what is asked.
    """
    file = path / "train.jsonl" if path.is_dir() else path
    found: dict[str, Asked] = {}
    for number, row in enumerate(read_rows(file), start=1):
        messages, answer = _messages(row)
        key = str(row.get("id", f"{number - 1:06d}"))
        if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip() or key in found:
            raise PosttrainError(
                f"{file}, row {number}: id {key[:40]!r}, {_found(row)}; an id of its own (or none) is needed, and "
                "a 'prompt' or 'messages' that end with a user's text (or the answer to it). Correct or delete the row."
            )
        about = {name: row[name] for name in ASKED if name in row}
        found[key] = Asked(key, messages, {**about, "prompt": as_text(messages), "reference": answer})
    return list(found.values())


def _messages(row: Row) -> tuple[list[Message], str | None]:
    """What is asked, and the answer that stands behind it, if any; nothing where it cannot be read."""
    found = row.get("prompt", row.get("messages"))
    if isinstance(found, str):
        return [{"role": "user", "content": found}], None
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        for one in found
    ):
        return [], None
    messages = [{"role": one["role"], "content": one["content"]} for one in found]
    if messages and messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]["content"]
    return messages, None


def _found(row: Row) -> str:
    return "prompt " + repr(row["prompt"])[:60] if "prompt" in row else "messages " + repr(row.get("messages"))[:60]


def as_text(messages: Sequence[Message]) -> str:
    """What a judge reads as the request: the user's words; of a longer conversation all turns with their speakers."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{one['role'].capitalize()}: {one['content']}" for one in messages)


def answer_prompts(config: "PairsConfig", ctx: StageContext) -> Answered:
    """Ask the model each prompt `samples` times; finished blocks of a killed run are kept."""
    from data_gen.pairing import spread
    from posttrain.lm.device import device
    from posttrain.lm.models import load_model

    source = open_teacher(ctx.inputs["model"])
    controls = control_strings(source.chat)
    asked, counts = _askable(config, read_prompts(ctx.inputs["prompts"].path), controls)
    model = load_model(source.path).to(device())
    context = model.config.get_text_config().max_position_embeddings
    rendered = {one.id: source.chat.render(one.messages, add_generation_prompt=True).ids for one in asked}
    fits = [one for one in asked if len(rendered[one.id]) < context]
    counts["longer than the model's context"] = len(asked) - len(fits)
    chosen = spread(fits, config.rows or PROMPTS)
    firsts = [Prompt(f"{one.id}/{nth}", rendered[one.id]) for one in chosen for nth in range(config.alone)]
    made = sample_answers(model, source.chat, firsts, config.sampling, config.seed, ctx)
    starts = {one.id: "" for one in chosen}
    if config.shared_start:
        starts = {
            one.id: start_of(made.completions[f"{one.id}/0"].text, one.id, config.seed, controls) for one in chosen
        }
        made = _continued(config, ctx, model, source.chat, chosen, starts, made)
    completions = [[made.completions[f"{one.id}/{nth}"] for nth in range(config.samples)] for one in chosen]
    answers, left_out = _usable(completions, [len(starts[one.id]) for one in chosen], controls, config.rejects_cut)
    metrics = {
        "prompts": len(chosen),
        "answers": len(chosen) * config.samples,
        "answers_left_out": left_out,
        "answer_tokens": made.tokens,
        "tokens_per_second": made.tokens_per_second,
    }
    return Answered(chosen, answers, counts, metrics)


def start_of(text: str, name: str, seed: int, controls: Collection[str]) -> str:
    """An answer up to one of its words, each as likely as the others; nothing of an answer with a control string."""
    from data_gen.story import stable_random
    from data_gen.strip import strip_control

    if strip_control(text, controls)[1]:
        return ""
    ends = [0, *(at for at in range(1, len(text) - 1) if text[at] == " " and not text[at + 1].isspace())]
    return text[: stable_random("start", seed, name).choice(ends)].rstrip()


def _continued(
    config: "PairsConfig",
    ctx: StageContext,
    model: Any,
    chat: "ChatFormat",
    chosen: Sequence[Asked],
    starts: dict[str, str],
    first: "Sampled",
) -> "Sampled":
    """The first answer to each prompt, and the others that go on from its start."""
    prompts = []
    for one in chosen:
        begun = chat.content_ids(starts[one.id])
        ids = chat.render(one.messages, add_generation_prompt=True).ids + begun
        prompts += [Prompt(f"{one.id}/{nth}", ids, len(begun)) for nth in range(1, config.samples)]
    made = sample_answers(model, chat, prompts, config.sampling, config.seed, ctx, "continued")
    rates = first.tokens_per_second, made.tokens_per_second
    seconds = first.tokens / rates[0] + made.tokens / rates[1] if rates[0] and rates[1] else None
    tokens = first.tokens + made.tokens
    return Sampled({**first.completions, **made.completions}, tokens, round(tokens / seconds, 1) if seconds else None)


def _askable(
    config: "PairsConfig", prompts: Sequence[Asked], controls: Collection[str]
) -> tuple[list[Asked], dict[str, int]]:
    """Prompts without control strings, each once, and none that the evaluation asks; what was dropped is counted."""
    from data_gen.dedup import normalised

    pairs = [_cleaned(one, controls) for one in prompts]
    left = [one for one, _ in pairs if one.messages[-1]["content"].strip()]
    distinct = {normalised(one.row["prompt"]): one for one in reversed(left)}
    known = {one.id for one in distinct.values()}
    once = [one for one in left if one.id in known]
    held_out = read_rows(config.hold_out) if config.hold_out else []
    asked, leaked = without_asked(once, [(one.messages, one.row) for one in once], held_out, config.near_duplicates)
    counts = {
        REMOVED: sum(removed for _, removed in pairs),
        "of control strings alone": len(pairs) - len(left),
        "repeated": len(left) - len(once),
    }
    return asked, counts | leaked


def _cleaned(one: Asked, controls: Collection[str]) -> tuple[Asked, int]:
    messages, removed = cleaned(one.messages, controls)
    return Asked(one.id, messages, {**one.row, "prompt": as_text(messages)}), removed


def _usable(
    completions: "Sequence[Sequence[Completion]]", starts: Sequence[int], controls: Collection[str], with_cut: bool
) -> "tuple[list[list[Candidate]], dict[str, int]]":
    """Of each prompt's answers those that can stand on a side, and how many others there are by their first fault."""
    from data_gen.pairing import Candidate

    faults: Counter[str] = Counter()
    kept = []
    for answers, start in zip(completions, starts, strict=True):
        found = [(answer, _fault(answer, controls, with_cut)) for answer in answers]
        faults.update(fault for _, fault in found if fault is not None)
        kept.append([Candidate(answer.text, None, answer.stopped, start) for answer, fault in found if fault is None])
    return kept, {fault: faults[fault] for fault in (CUT, EMPTY, CONTROL)}


def _fault(answer: "Completion", controls: Collection[str], with_cut: bool) -> str | None:
    from data_gen.strip import strip_control

    if not answer.stopped and not with_cut:
        return CUT
    if not answer.text.strip():
        return EMPTY
    return CONTROL if strip_control(answer.text, controls)[1] else None
