"""The stages as the chain calls them: what they write, what they refuse, what an interruption keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
from stage_context import PROMPTS, RUBRIC, checked, context, given, run

from data_gen.story import tell
from posttrain.chain.stage import Input
from posttrain.errors import PosttrainError
from posttrain.rows import read_rows, write_rows
from posttrain.stages import STAGES


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    run("generate", context(folder), rows=80, test_size=8, hold_out=PROMPTS, seed=3)
    return folder / "out"


def test_generate_counts_every_row_and_holds_out_the_prompts(tmp_path: Path) -> None:
    prompts = read_rows(PROMPTS)
    made = run("generate", context(tmp_path), rows=300, test_size=20, hold_out=PROMPTS, seed=3)
    train, test = read_rows(tmp_path / "out" / "train.jsonl"), read_rows(tmp_path / "out" / "test.jsonl")
    counts = made["counts"]
    assert len(train) + len(test) + counts["exact"] + counts["near"] + counts["equal to a held-out prompt"] == 300
    asked = {tuple(sorted(prompt["words"])) for prompt in prompts}
    assert asked.isdisjoint(tuple(sorted(row["words"])) for row in train + test)
    target = train[0]
    write_rows(tmp_path / "p.jsonl", [{"id": "x", "prompt": "y", **{k: target[k] for k in ("words", "features")},
                                       "first_sentence": None, "hero": None, "reference": "z"}])  # fmt: skip
    (tmp_path / "again").mkdir()
    again = run("generate", context(tmp_path / "again"), rows=300, test_size=20, hold_out=tmp_path / "p.jsonl", seed=3)
    assert again["counts"]["equal to a held-out prompt"] >= (1 if len(target["words"]) == 3 else 0)


def test_an_interrupted_generate_repeats_no_finished_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import data_gen.instructions as instructions
    from posttrain.stages import drafting

    monkeypatch.setattr(drafting, "CHUNK", 50)
    real, asked = instructions.instruction_rows, []

    def counted(seed: int, start: int, stop: int) -> list[dict[str, Any]]:
        asked.append(start)
        return real(seed, start, stop)

    monkeypatch.setattr(instructions, "instruction_rows", counted)
    with pytest.raises(KeyboardInterrupt):
        run("generate", context(tmp_path, stop_after=100), rows=200, test_size=10, seed=3)
    assert asked == [0, 50]
    run("generate", context(tmp_path), rows=200, test_size=10, seed=3)
    assert asked == [0, 50, 100, 150]
    (tmp_path / "w").mkdir()
    run("generate", context(tmp_path / "w"), rows=200, test_size=10, seed=3)
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "w" / "out" / name).read_bytes()


def test_generate_strips_control_strings_of_a_corpus(tmp_path: Path) -> None:
    stories = [tell(5, index).text.replace(". ", ".<|us<|user|>er|> ", 1) for index in range(40)]
    write_rows(tmp_path / "s.jsonl", [{"text": story} for story in stories])
    ctx = context(tmp_path, source=given(tmp_path / "s.jsonl"))
    made = run("generate", ctx, generator="backtranslate", source="s.jsonl", rows=40, test_size=2)
    assert made["counts"]["control strings removed"] > 0
    assert "<|" not in (tmp_path / "out" / "train.jsonl").read_text()


def test_skipped_rows_are_those_of_another_step(tmp_path: Path) -> None:
    texts = [{"text": tell(5, index).text} for index in range(60)]
    write_rows(tmp_path / "s.jsonl", texts)
    corpus = {"generator": "backtranslate", "source": "s.jsonl"}

    def ids(name: str, **how: Any) -> set[str]:
        (tmp_path / name).mkdir()
        run("generate", context(tmp_path / name, source=given(tmp_path / "s.jsonl")), test_size=2, seed=3, **how)
        return {row["id"] for part in ("train", "test") for row in read_rows(tmp_path / name / "out" / f"{part}.jsonl")}

    for name, how in {"world": {}, "corpus": corpus}.items():
        whole, first = ids(f"{name} whole", rows=40, **how), ids(f"{name} first", rows=20, **how)
        rest = ids(f"{name} rest", rows=20, skip=20, **how)
        assert len(whole) == 40 and rest == whole - first
        assert first & ids(f"{name} again", rows=20, **how)  # the control: nothing skipped
    with pytest.raises(PosttrainError, match=r"60 texts can be used .*; more than 60, those that are skipped"):
        ids("none", rows=20, skip=60, **corpus)


def test_generate_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs 'source'"):
        run("generate", context(tmp_path), generator="backtranslate")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(PosttrainError, match=r"bad\.jsonl, line 2: not JSON"):
        checked("generate", generator="backtranslate", source=str(tmp_path / "bad.jsonl"))
    write_rows(tmp_path / "no.jsonl", [{"story": "a"}])
    with pytest.raises(PosttrainError, match="row 1: no 'text'"):
        checked("generate", generator="backtranslate", source=str(tmp_path / "no.jsonl"))


def test_sft_writes_an_adapter_that_names_its_base_and_reproduces_the_model(
    tiny_chat_model: Path, rows: Path, tmp_path: Path
) -> None:
    from posttrain.lm.models import load_model

    made = run(
        "sft",
        context(tmp_path, model=given(tiny_chat_model), data=given(rows)),
        model="m",
        data="d",
        learning_rate=1e-2,
    )
    out = tmp_path / "out"
    held = made["held_out_nll"]
    assert held["after"] < held["before"] and held["change"]["high"] < 0
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_chat_model)
    names = {path.name for path in out.iterdir()} - {".work"}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pth", ".md"))}
    assert load_model(out).get_input_embeddings().weight.shape == load_model(tiny_chat_model).lm_head.weight.shape


def test_sft_on_an_adapter_takes_its_merged_model_along(tiny_chat_model: Path, rows: Path, tmp_path: Path) -> None:
    first = context(tmp_path / "1", model=given(tiny_chat_model), data=given(rows))
    run("sft", first, model="m", data="d")
    second = context(tmp_path / "2", model=given(first.out), data=given(rows))
    run("sft", second, model="m", data="d")
    assert json.loads((second.out / "adapter_config.json").read_text())["base_model_name_or_path"].endswith("/base")
    assert (second.out / "base" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"id": "1", "messages": [{"role": "user", "content": "a"}]}, "no assistant text"),
        (
            {"id": "1", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]},
            "no assist",
        ),
        ({"id": "1", "text": "a"}, "no list of messages"),
        ({"id": "1", "messages": ["a"]}, "no list of messages"),
    ],
)
def test_sft_refuses_rows_that_teach_nothing(
    tiny_chat_model: Path, tmp_path: Path, row: dict[str, Any], problem: str
) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        write_rows(tmp_path / name, [row])
    with pytest.raises(PosttrainError, match=problem):
        run("sft", context(tmp_path, model=given(tiny_chat_model), data=given(tmp_path)), model="m", data="d")


def test_sft_fails_when_too_many_rows_are_too_long(tiny_chat_model: Path, rows: Path, tmp_path: Path) -> None:
    ctx = context(tmp_path, model=given(tiny_chat_model), data=given(rows))
    with pytest.raises(PosttrainError, match="longer than max_length 64"):
        run("sft", ctx, model="m", data="d", max_length=64)


def test_a_lora_target_that_matches_nothing_is_refused(tiny_chat_model: Path, rows: Path, tmp_path: Path) -> None:
    ctx = context(tmp_path, model=given(tiny_chat_model), data=given(rows))
    with pytest.raises(PosttrainError, match=r"'c_attn' matches no module"):
        run("sft", ctx, model="m", data="d", lora={"target_modules": ["c_attn"]})


def test_base_makes_a_real_model_ready_to_chat(stories260k: Path, tmp_path: Path) -> None:
    made = run("base", context(tmp_path, model=given(stories260k)), model="m")
    assert made["new_token_ids"] == [512, 513, 514, 515]
    assert "chat_template" in (tmp_path / "out" / "tokenizer_config.json").read_text() or list(
        (tmp_path / "out").glob("*.jinja")
    )


def test_base_copies_a_model_that_can_chat_byte_for_byte(tiny_chat_model: Path, tmp_path: Path) -> None:
    run("base", context(tmp_path, model=given(tiny_chat_model)), model="m")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tiny_chat_model / name).read_bytes()


def test_an_adapter_of_a_hub_model_names_a_directory_that_can_be_loaded(
    tiny_chat_model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.hub import fetch
    from posttrain.lm.models import load_model

    hub = Input(Path("org/name"), "hub:org/name@" + "0" * 40, "org/name@main")
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "local_directory", lambda source: tiny_chat_model)
        base = context(tmp_path / "base", model=hub)
        metrics = run("base", base, model="org/name@main")
    tuned = context(tmp_path / "sft", model=given(base.out, **metrics), data=given(rows))
    run("sft", tuned, model="m", data="d")
    named = json.loads((tuned.out / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named != "org/name@main" and load_model(tuned.out).config.vocab_size
    local = run("base", context(tmp_path / "local", model=given(tiny_chat_model)), model="m")
    assert local["reference"] == str(tiny_chat_model), "a local directory left as it was is named itself"


def test_a_base_is_either_named_or_new(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exactly one of"):
        run("base", context(tmp_path))
    with pytest.raises(ValueError, match="exactly one of"):
        run("base", context(tmp_path), model="m", architecture={})


def test_a_small_corpus_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "c.jsonl", [{"text": f"a story {i}"} for i in range(50)])
    with pytest.raises(PosttrainError, match="at least"):
        run("base", context(tmp_path), architecture={}, corpus={"source": tmp_path / "c.jsonl"})


def test_what_can_be_refused_is_refused_before_any_compute(tmp_path: Path) -> None:
    checked("judge", judged="s", rubric=RUBRIC, prompts=PROMPTS)
    with pytest.raises(PosttrainError, match="'beauty' is no axis"):
        checked("judge", judged="s", rubric=RUBRIC, prompts=PROMPTS, axis="beauty")
    (tmp_path / "r.md").write_text("no title")
    with pytest.raises(PosttrainError, match=r"r\.md"):
        checked("judge", judged="s", rubric=tmp_path / "r.md", prompts=PROMPTS)
    checked("sft", model="m", data="d", trainer={"adam_beta2": 0.99})
    with pytest.raises(PosttrainError, match=r"steps\.x\.trainer\.adam_beta_2: no such field.*adam_beta2"):
        checked("sft", model="m", data="d", trainer={"adam_beta_2": 0.99})
    with pytest.raises(ValueError, match="weights of story, tagged, sentence"):
        STAGES["base"].config.model_validate({"kind": "base", "architecture": {}, "corpus": {"mixture": {"poem": 1}}})


def test_prompts_of_ones_own_need_no_more_than_an_id_and_a_text(tmp_path: Path) -> None:
    write_rows(tmp_path / "p.jsonl", [{"id": "a", "prompt": "Tell me a story."}])
    made = run("generate", context(tmp_path), rows=60, test_size=5, hold_out=tmp_path / "p.jsonl", seed=3)
    assert made["counts"]["equal to a held-out prompt"] == 0
    folder = tmp_path / "samples"
    folder.mkdir()
    text = tell(1, 1).text
    write_rows(folder / "completions.jsonl", [{"id": "a", "sample": 0, "text": text, "stopped": True, "tokens": 9}])
    (tmp_path / "j").mkdir()
    ctx = context(tmp_path / "j", judged=given(folder))
    found = run("judge", ctx, judged="s", rubric=RUBRIC, prompts=tmp_path / "p.jsonl", axis="plot")
    assert found["axes"]["instruct"]["score"] is None, "nothing was asked: unscored, not zero"
    assert found["axes"]["plot"]["score"] > 5 and found["words_used"] is None


def test_an_axis_of_ones_own_is_refused_by_the_rule_judge(tmp_path: Path) -> None:
    (tmp_path / "r.md").write_text(RUBRIC.read_text() + "\n## beauty\n\nIs it beautiful?\n")
    with pytest.raises(PosttrainError, match="'beauty' is unknown to the rule judge"):
        checked("judge", judged="s", rubric=tmp_path / "r.md", prompts=PROMPTS)


def test_a_source_with_a_broken_line_is_refused_before_any_compute(tmp_path: Path) -> None:
    write_rows(tmp_path / "s.jsonl", [{"text": "a"}])
    checked("generate", generator="backtranslate", source=str(tmp_path / "s.jsonl"))
    (tmp_path / "s.jsonl").write_text('{"text": "a"}\n{"text"\n')
    with pytest.raises(PosttrainError, match=r"s\.jsonl, line 2"):
        checked("generate", generator="backtranslate", source=str(tmp_path / "s.jsonl"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"architecture": {"num_attention_heads": 3}}, "multiple of twice num_attention_heads"),
        ({"architecture": {"hidden_size": 0}}, "greater than or equal to 2"),
        ({"architecture": {}, "training": {"sequence_length": 1024}}, "must be at most"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(change: dict[str, Any], problem: str) -> None:
    STAGES["base"].config.model_validate({"kind": "base", "architecture": {}})
    with pytest.raises(ValueError, match=problem):
        STAGES["base"].config.model_validate({"kind": "base", **change})


def test_a_bad_value_of_a_trainer_field_names_the_step_and_the_value() -> None:
    with pytest.raises(PosttrainError, match=r"steps\.x\.trainer: .*nope"):
        checked("sft", model="m", data="d", trainer={"optim": "nope"})
