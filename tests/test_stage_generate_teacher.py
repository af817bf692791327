"""generate with a teacher: what it is asked, what of its answers is kept, and that a killed run repeats none."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stage_context import PROMPTS, checked, context, given, run

from data_gen.instructions import instruction_rows
from posttrain.chain.graph import build_graph
from posttrain.chain.recipe import parse_recipe
from posttrain.chain.stage import Input, StageContext, Tick
from posttrain.engines.transformers_engine import Completion
from posttrain.errors import PosttrainError
from posttrain.lm.chat import ChatFormat
from posttrain.lm.models import load_model, load_tokenizer, save_model
from posttrain.lm.tokenizer import CHAT_TOKENS
from posttrain.rows import Row, read_rows, write_rows
from posttrain.stages import STAGES, teaching

STORYTELLER = Path(__file__).parents[1] / "models" / "storyteller-1m"
SHORT = {"max_new_tokens": 20, "temperature": 1.0, "block_size": 10}
FEW: dict[str, Any] = {"rows": 40, "test_size": 4, "seed": 3, "sampling": SHORT, "require_words": False}


def saying(tiny: Path, path: Path, **likely: float) -> Path:
    """A model that says each of the tokens `likely` with its probability, and any other alike, whatever it is asked."""
    import torch

    tokenizer, model = load_tokenizer(tiny), load_model(tiny)
    tokenizer.add_tokens([token for token in likely if token not in tokenizer.get_vocab()])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    size, width = model.get_input_embeddings().weight.shape
    chances = torch.full((size,), (1 - sum(likely.values())) / (size - len(likely)))
    for token, chance in likely.items():
        chances[tokenizer.convert_tokens_to_ids(token)] = chance
    model.config.tie_word_embeddings = False
    head = torch.zeros(size, width)
    head[:, 0] = chances.log() / math.sqrt(width)  # the last norm leaves sqrt(width) where all of the state is
    model.lm_head.weight = torch.nn.Parameter(head)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 100.0
    save_model(model, tokenizer, path)
    return path


@pytest.fixture(scope="module")
def teacher(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saying(tiny_chat_model, tmp_path_factory.mktemp("teacher"), **{"<|end|>": 0.1, "<|user|>": 0.02})


def generated(folder: Path, teacher: Path, **settings: Any) -> dict[str, Any]:
    ctx = context(folder, teacher=given(teacher))
    return run("generate", ctx, **{**FEW, "teacher": "t", **settings})


def told(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "out" / "train.jsonl").read_bytes(), (folder / "out" / "test.jsonl").read_bytes()


def rows_of(folder: Path) -> list[Row]:
    return [row for name in ("train", "test") for row in read_rows(folder / "out" / f"{name}.jsonl")]


def written(folder: Path) -> dict[str, Row]:
    """All that a teacher wrote, kept or not, by row id."""
    blocks = sorted((folder / "out" / ".work" / "answers").glob("*.jsonl"))
    return {row["id"]: row for block in blocks for row in read_rows(block)}


def heard(ctx: StageContext, notes: list[str], stop_after: int | None = None) -> StageContext:
    """The context of a person who reads the notes beside the answers, and interrupts after so many of them."""

    @contextmanager
    def progress(total: int, unit: str) -> Iterator[Tick]:
        def tick(done: int, note: str = "", total: int | None = None) -> None:
            if unit == "answers":
                notes.append(note)
                if stop_after is not None and done >= stop_after:
                    raise KeyboardInterrupt

        yield tick

    return replace(ctx, progress=progress)


def test_the_same_seed_gives_the_same_bytes_and_another_teacher_or_seed_other_rows(
    tiny_chat_model: Path, teacher: Path, tmp_path: Path
) -> None:
    other = saying(tiny_chat_model, tmp_path / "other", **{"<|end|>": 0.1, "<|user|>": 0.03})
    for name, model, more in (("a", teacher, {}), ("b", teacher, {}), ("c", other, {}), ("d", teacher, {"seed": 4})):
        generated(tmp_path / name, model, **more)
    assert told(tmp_path / "a") == told(tmp_path / "b")
    answers = [{row["messages"][1]["content"] for row in rows_of(tmp_path / name)} for name in "acd"]
    assert answers[0] != answers[1] and answers[0] != answers[2]
    assert {row["provenance"]["teacher"] for row in rows_of(tmp_path / "a")} == {given(teacher).identity}


def test_a_kill_between_blocks_repeats_no_answer_and_ends_with_the_same_bytes(teacher: Path, tmp_path: Path) -> None:
    whole = generated(tmp_path / "whole", teacher)
    notes: list[str] = []
    ctx = context(tmp_path / "killed", teacher=given(teacher))
    with pytest.raises(KeyboardInterrupt):
        run("generate", heard(ctx, notes, stop_after=20), **FEW, teacher="t")
    assert len(notes) == 2 and all(note.endswith(" tokens/s") for note in notes)
    blocks = sorted((ctx.work / "answers").iterdir())
    assert len(blocks) == 2 and not (ctx.out / "train.jsonl").exists()
    before = [block.stat().st_mtime_ns for block in blocks]
    again = run("generate", heard(ctx, notes), **FEW, teacher="t")
    assert [block.stat().st_mtime_ns for block in blocks] == before
    assert told(tmp_path / "killed") == told(tmp_path / "whole")
    speed = "tokens_per_second"
    assert {key: again[key] for key in again if key != speed} == {key: whole[key] for key in whole if key != speed}
    assert run("generate", ctx, **FEW, teacher="t")[speed] is None, "all was written before: no speed is known"


def test_every_answer_that_is_not_kept_is_counted_by_its_fault(teacher: Path, tmp_path: Path) -> None:
    made = generated(tmp_path, teacher)
    answers, left = written(tmp_path), {row["id"]: row for row in rows_of(tmp_path)}
    assert len(answers) == made["answers"] == 40
    assert sum(row["tokens"] for row in answers.values()) == made["teacher_tokens"]
    cut = {key for key, row in answers.items() if not row["stopped"]}
    empty = {key for key, row in answers.items() if not row["text"].strip()} - cut
    speaking = {key for key, row in answers.items() if any(t in row["text"] for t in CHAT_TOKENS)} - cut - empty
    counts = made["counts"]
    assert [counts[name] for name in teaching.FAULTS] == [len(cut), len(empty), len(speaking), 0]
    assert cut and empty and speaking, "negative control: this teacher makes all three faults"
    same = counts["exact"] + counts["near"]  # an answer of one word is soon given twice
    assert left.keys() <= answers.keys() - cut - empty - speaking and made["share_kept"] == len(left) / 40
    assert len(left) == 40 - len(cut) - len(empty) - len(speaking) - same
    assert all(row["messages"][1]["content"] == answers[key]["text"] for key, row in left.items()), "none is repaired"
    assert not any("<|" in text.decode() for text in told(tmp_path))


def test_rows_keep_what_was_asked_and_say_who_answered(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.hub import fetch

    monkeypatch.setattr(fetch, "local_directory", lambda source: teacher)
    hub = Input(Path("org/name"), "hub:org/name@" + "0" * 40, "org/name@main")
    run("generate", context(tmp_path, teacher=hub), **FEW, teacher="org/name@main")
    asked = {row["id"]: row for row in instruction_rows(3, 0, 40)}
    for row in rows_of(tmp_path):
        same = asked[row["id"]]
        assert row.pop("provenance")["teacher"] == hub.identity
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row.pop("messages")[0] == same["messages"][0]
        assert row == {key: value for key, value in same.items() if key != "messages"}


def test_held_out_prompts_are_never_asked_and_their_answers_never_kept(teacher: Path, tmp_path: Path) -> None:
    generated(tmp_path / "all", teacher, hold_out=PROMPTS)
    asked = instruction_rows(3, 0, 40)
    assert written(tmp_path / "all").keys() == {row["id"] for row in asked}, "negative control: none of these is one"
    prompts = [{"id": row["id"], "prompt": row["messages"][0]["content"]} for row in (asked[5], asked[17])]
    prompts[0]["reference"] = asked[3]["messages"][1]["content"]  # the world's story is not the teacher's: it may ask
    write_rows(tmp_path / "p.jsonl", prompts)
    some = generated(tmp_path / "some", teacher, hold_out=tmp_path / "p.jsonl")
    assert written(tmp_path / "some").keys() == {row["id"] for row in asked} - {"000005", "000017"}
    assert some["answers"] == 38 and some["counts"]["equal to a held-out prompt"] == 2
    said = rows_of(tmp_path / "all")[0]["messages"][1]["content"]
    write_rows(tmp_path / "r.jsonl", [{"id": "r", "prompt": "Another.", "reference": said}])
    last = generated(tmp_path / "said", teacher, hold_out=tmp_path / "r.jsonl")
    assert last["answers"] == 40 and last["counts"]["equal to a held-out prompt"] == 1


def test_a_control_string_that_only_the_teacher_knows_does_not_survive(tiny_chat_model: Path, tmp_path: Path) -> None:
    odd = saying(tiny_chat_model, tmp_path / "t", **{"<|end|>": 0.1, "[[hush]]": 0.05, "  ": 0.01})
    made = generated(tmp_path, odd)
    stopped = [row["text"] for row in written(tmp_path).values() if row["stopped"]]
    faulty = sum(any(t in text for t in ("[[hush]]", *CHAT_TOKENS)) for text in stopped)
    assert any("[[hush]]" in text for text in stopped)
    assert faulty > 0 and made["counts"][teaching.CONTROL] == faulty
    assert not any("hush" in text.decode() for text in told(tmp_path))
    assert teaching.fault(Completion("[[hush]] a cat", True, 5), (), CHAT_TOKENS) is None  # negative control
    assert "  " not in teaching.control_strings(ChatFormat(load_tokenizer(odd), "t")), "white space is text"


@pytest.mark.parametrize(
    ("text", "stopped", "found"),
    [
        ("The key was found. They ran.", True, None),
        ("The keys were found. They were running.", True, None),
        ("The key was found. They ran.", False, "cut"),
        (" \n", True, "empty"),
        ("The key. They ran. <|us<|user|>er|>", True, "with a control string"),
        ("The key. They ran. ＜|im_end|＞", True, "with a control string"),
        ("The monkey ran.", True, "without a required word"),
    ],
)
def test_a_fault_is_named(text: str, stopped: bool, found: str | None) -> None:
    answer = Completion(text, stopped, 9)
    assert teaching.fault(answer, ("key", "run"), CHAT_TOKENS) == found
    assert teaching.fault(answer, (), CHAT_TOKENS) == (None if found == teaching.WORD else found)


def test_too_few_answers_are_an_error_that_says_why(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match=r"0 rows are left \(.*\d+ without a required word.*at least 8 are needed"):
        generated(tmp_path / "w", teacher, require_words=True)
    with pytest.raises(PosttrainError, match=r"\(.*\d+ cut.*at least 8 are needed"):
        generated(tmp_path / "c", teacher, sampling={"max_new_tokens": 1})


def test_a_teacher_without_a_chat_template_is_refused_before_any_compute(
    tiny_chat_model: Path, teacher: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_chat_model)
    tokenizer.chat_template = None
    save_model(load_model(tiny_chat_model), tokenizer, tmp_path / "mute")
    with pytest.raises(PosttrainError, match="no chat template"):
        generated(tmp_path / "run", tmp_path / "mute")
    assert not any((tmp_path / "run" / "out" / ".work").iterdir())
    with pytest.raises(PosttrainError, match=r"r\.yaml: steps\.x\.teacher: .*mute has no chat template"):
        checked("generate", teacher=str(tmp_path / "mute"))
    for good in (str(teacher), "mute", "org/name@main"):
        checked("generate", teacher=good)


def test_settings_that_nothing_would_read_are_refused() -> None:
    config = STAGES["generate"].config
    config.model_validate({"kind": "generate", "teacher": "t", "sampling": {"temperature": 0}})
    with pytest.raises(ValueError, match="sampling and require_words: for a teacher's answers"):
        config.model_validate({"kind": "generate", "sampling": {"temperature": 0}, "require_words": False})
    with pytest.raises(ValueError, match="has its answers already; delete 'teacher'"):
        config.model_validate(
            {"kind": "generate", "teacher": "t", "generator": "backtranslate", "source": str(PROMPTS)}
        )


def test_a_teacher_counts_by_what_it_is_and_not_by_its_name(teacher: Path, tiny_chat_model: Path) -> None:
    def identity(name: str | None, model: Path = teacher) -> str:
        steps = {
            "one": {"kind": "base", "model": str(model)},
            "two": {"kind": "base", "model": str(model)},
            "rows": {"kind": "generate", "teacher": name},
        }
        nodes = build_graph(parse_recipe({"name": "r", "steps": steps}, "r.yaml", STAGES), STAGES, "rows", str)
        return nodes[-1].identity

    assert identity("one") == identity("two") != identity("one", tiny_chat_model)
    assert len({identity(None), identity("one"), identity(str(teacher)), identity(str(tiny_chat_model))}) == 4
    with pytest.raises(PosttrainError, match=r"steps\.rows\.teacher: step 'rows' \(generate\) makes rows; model is"):
        identity("rows")


@pytest.mark.slow
def test_the_bundled_model_can_be_the_teacher(tmp_path: Path) -> None:
    made = generated(tmp_path, STORYTELLER, rows=10, test_size=2, sampling={"max_new_tokens": 300})
    assert made["answers"] == 10 and made["rows"] + made["rows_held_out"] >= 4
    assert made["tokens_per_second"] > 0 and made["teacher_tokens"] > 10
