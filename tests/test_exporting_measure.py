"""A file measured in its own runtime says what transformers says, in a clean process as in this one."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from exporting_corpus import STORYTELLER, corpus_of, here

from posttrain.errors import PosttrainError
from posttrain.exporting.formats import EXPORTS, FORMATS, format_of, write_format
from posttrain.exporting.gguf_file import write
from posttrain.exporting.llamacpp_runtime import LlamaCpp
from posttrain.exporting.measure import Corpus, Timed, measure, memory_mb
from posttrain.exporting.runtime import Decoded, Runtime
from posttrain.exporting.transformers_runtime import TransformersRuntime
from posttrain.lm.gguf import write_gguf
from posttrain.lm.models import add_chat_tokens, load_model, load_tokenizer, save_model

EXACT, IN_F16 = 1e-3, 5e-2  # nats: rounding of fp32 sums; weights and activations in f16


def exactly(path: Path) -> LlamaCpp:
    return LlamaCpp(path, threads=1, context=512, cache="f32")


def reference(path: Path) -> TransformersRuntime:
    return TransformersRuntime(path, threads=1, merged=True)


@pytest.fixture(params=["byte-level", "SentencePiece-like"])
def chat_model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A trained model of either kind of vocabulary, with chat tokens."""
    if request.param == "byte-level":
        return STORYTELLER
    path: Path = request.getfixturevalue("stories260k")
    model, tokenizer = load_model(path), load_tokenizer(path)
    add_chat_tokens(model, tokenizer)
    save_model(model, tokenizer, tmp_path / "chat")
    return tmp_path / "chat"


def furthest(one: Runtime, other: Runtime, corpus: Corpus) -> float:
    """The largest difference in the log-probability of an answer's token or of one of the likeliest."""
    found = 0.0
    for row in corpus.rows:
        for a, b in zip(*(each.score(row.prompt, row.answer, 20) for each in (one, other)), strict=True):
            theirs = dict(b.top)
            both = [(logprob, theirs[token]) for token, logprob in a.top if token in theirs]
            assert len(a.top) == len(b.top) == 20 and len(both) >= 10
            found = max(found, abs(a.logprob - b.logprob), *(abs(x - y) for x, y in both))
    return found


def greedy(runtime: Runtime, prompts: Sequence[Sequence[int]]) -> list[tuple[list[int], bool]]:
    return [(made.ids, made.stopped) for made in runtime.complete(prompts, 40, 0.0, [0] * len(prompts))]


def test_llamacpp_and_transformers_agree_on_everything(chat_model: Path, tmp_path: Path) -> None:
    corpus = corpus_of(chat_model, 3)
    write_gguf(chat_model, tmp_path / "m.gguf", "f32")
    with reference(chat_model) as ours, exactly(tmp_path / "m.gguf") as theirs:
        assert furthest(ours, theirs, corpus) < EXACT
        assert greedy(ours, corpus.prompts) == greedy(theirs, corpus.prompts)
        assert [ours.encode(text) for text in corpus.texts] == [theirs.encode(text) for text in corpus.texts]
        for chat in corpus.conversations:
            assert ours.render(chat) == theirs.render(chat) != []


def test_an_f16_file_is_as_exact_as_its_cast(tmp_path: Path) -> None:
    corpus = corpus_of(STORYTELLER, 2)
    write_gguf(STORYTELLER, tmp_path / "f16.gguf", "f16")
    write_gguf(STORYTELLER, tmp_path / "q8_0.gguf", "q8_0")
    with reference(STORYTELLER) as ours:
        with exactly(tmp_path / "f16.gguf") as half:
            assert furthest(ours, half, corpus) < IN_F16
        with exactly(tmp_path / "q8_0.gguf") as coarse:
            assert furthest(ours, coarse, corpus) > IN_F16


def test_half_a_character_and_a_stop_token_are_scored_as_any_other(tmp_path: Path) -> None:
    write_gguf(STORYTELLER, tmp_path / "m.gguf", "f32")
    with reference(STORYTELLER) as ours, exactly(tmp_path / "m.gguf") as theirs:
        prompt, answer = ours.encode("Once"), ours.encode(" \U0001f642 \u65e5<|end|> upon")
        assert len(answer) > 8  # bytes of characters
        scores = [[one.logprob for one in each.score(prompt, answer, 5)] for each in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=EXACT)


def test_sampling_is_plain_and_repeats_itself(tiny_chat_model: Path, tmp_path: Path) -> None:
    write_gguf(tiny_chat_model, tmp_path / "m.gguf", "f32")
    with reference(tiny_chat_model) as ours, exactly(tmp_path / "m.gguf") as theirs:
        prompt = ours.encode("Once upon a time")
        for runtime in (ours, theirs):
            many = _ids(runtime.complete([prompt, prompt[:2], prompt], 8, 1.0, [5, 6, 7]))
            assert _ids(runtime.complete([prompt], 8, 1.0, [7])) == many[2:] != many[:1]
        first = [ids[0] for ids in _ids(theirs.complete([prompt] * 300, 1, 1.0, range(300))) if ids]
        likely = dict(ours.score(prompt, [5], 600)[0].top)
    # A random model is nearly uniform over 600 ids: cuts (top-k 40, top-p, min-p) would leave few of them.
    expected = sum(1 - (1 - float(torch.tensor(logprob).exp())) ** 300 for logprob in likely.values())
    assert abs(len(set(first)) - expected) < 40


def _ids(made: Sequence[Decoded]) -> list[list[int]]:
    return [one.ids for one in made]


def test_a_clean_process_measures_the_same(tmp_path: Path) -> None:
    corpus = corpus_of(STORYTELLER, 2)
    write(STORYTELLER, tmp_path / "out", "m", "q8_0")
    clean = measure("gguf-q8_0", tmp_path / "out", corpus, threads=1, top=50, new_tokens=24)
    mine = here("gguf-q8_0", tmp_path / "out", corpus)
    assert clean.rows == mine.rows and clean.greedy == mine.greedy
    assert (clean.encoded, clean.rendered) == (mine.encoded, mine.rendered)
    assert clean.size_bytes == (tmp_path / "out" / "m-Q8_0.gguf").stat().st_size
    write(STORYTELLER, tmp_path / "other", "m", "f16")
    assert here("gguf-f16", tmp_path / "other", corpus).rows != mine.rows


def test_memory_is_that_of_the_file_and_its_runtime(tmp_path: Path) -> None:
    corpus = corpus_of(STORYTELLER, 1)
    write(STORYTELLER, tmp_path / "out", "m", "q8_0")
    clean = measure("gguf-q8_0", tmp_path / "out", corpus, threads=1, top=5)
    assert clean.idle_mb < clean.peak_mb < memory_mb("VmRSS")  # this process has torch in it
    assert clean.peak_mb - clean.idle_mb > clean.size_bytes / 1e6
    assert clean.prefill.tokens == len(corpus.prompts[0]) and clean.decode.tokens == 63
    assert clean.prefill.milliseconds > 0 and clean.decode.milliseconds > 0


@pytest.mark.slow
def test_a_saved_model_gives_the_same_logits_in_a_fresh_process() -> None:
    corpus = corpus_of(STORYTELLER, 2)
    clean, mine = (
        measure("fp32", STORYTELLER, corpus, threads=1, top=50, new_tokens=24),
        here("fp32", STORYTELLER, corpus),
    )
    assert clean.rows == mine.rows and clean.greedy == mine.greedy


def test_a_file_that_cannot_be_measured_is_a_plain_error(tmp_path: Path) -> None:
    corpus = corpus_of(STORYTELLER, 1)
    (tmp_path / "m-Q8_0.gguf").write_text("no GGUF" * 100)
    with pytest.raises(PosttrainError, match=r"m-Q8_0.gguf: llama.cpp cannot open it .* magic"):
        measure("gguf-q8_0", tmp_path, corpus, threads=1, top=5)
    with pytest.raises(PosttrainError, match=r"0 files \*-F16.gguf; one is needed"):
        measure("gguf-f16", tmp_path, corpus, threads=1, top=5)


def test_a_process_that_dies_is_a_plain_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "xllamacpp.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(PosttrainError, match=r"gguf-q8_0 .* ended with -9 \(no word\)"):
        measure("gguf-q8_0", tmp_path, corpus_of(STORYTELLER, 1), threads=1, top=5)


def test_broken_weights_are_refused_not_scored(tmp_path: Path) -> None:
    corpus = corpus_of(STORYTELLER, 1)
    write_gguf(STORYTELLER, tmp_path / "m.gguf", "f32")
    whole = (tmp_path / "m.gguf").read_bytes()
    weights = load_model(STORYTELLER).model.norm.weight.detach().numpy().tobytes()
    assert whole.count(weights) == 1
    nan = torch.full((len(weights) // 4,), float("nan")).numpy().tobytes()
    (tmp_path / "nan.gguf").write_bytes(whole.replace(weights, nan))
    with (
        exactly(tmp_path / "nan.gguf") as runtime,
        pytest.raises(PosttrainError, match=r"nan.gguf: .*(finite|answers)"),
    ):
        runtime.score(corpus.rows[0].prompt, corpus.rows[0].answer[:3], 5)


def test_time_a_token_is_the_inverse_of_tokens_a_second() -> None:
    assert Timed(500.0, 100).ms_per_token == 5.0 and Timed(500.0, 100).tokens_per_second == 200.0
    assert Timed(0.0, 0).ms_per_token == Timed(0.0, 0).tokens_per_second == 0.0
    assert [Decoded([1, 2], stopped, 0, 0).steps for stopped in (False, True)] == [1, 2]


def test_formats_are_known_by_name(tmp_path: Path) -> None:
    assert EXPORTS == ("gguf-q8_0", "gguf-f16", "bnb-int8", "onnx-int8", "safetensors")
    with pytest.raises(PosttrainError, match="format gguf-q4: unknown; gguf-q8_0, "):
        format_of("gguf-q4")
    with pytest.raises(PosttrainError, match="format fp32: only a reference"):
        write_format("fp32", STORYTELLER, tmp_path, "m")
    stored = sum(4 * weight.numel() for weight in load_model(STORYTELLER).parameters())
    assert FORMATS["fp32"].size(STORYTELLER) == stored
