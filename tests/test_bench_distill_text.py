"""The distillation benchmark on text: its figure is what a plain loop finds, and unequal runs are not compared."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import bench.distill_text as benchmark
from bench.plain_text import Document, Openings, bits_per_byte, border_quality, document_nats, split, tidy, windows
from bench.text_runs import differing, encode, run
from data_gen.story import tell
from eval.statistics import Interval
from posttrain.lm.models import load_model, load_tokenizer
from posttrain.lm.pretraining import Architecture, new_model

LENGTH = 48
STORIES = [tidy(f"{tell(3, i).text}\nCafé {i} was happy.") for i in range(40)]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    """A random teacher with BOS and EOS, training documents as rows, held-out ones as a text without borders."""
    folder = tmp_path_factory.mktemp("text")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(STORIES, trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    shape = Architecture(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    teacher = new_model(shape, 300, 1, None, seed=3)  # type: ignore[arg-type]
    torch.nn.init.normal_(teacher.get_input_embeddings().weight, std=0.5)  # far from a flat distribution
    teacher.save_pretrained(folder)
    (folder / "valid.txt").write_text("\n\n".join(story.replace("\n", "\n\n") for story in STORIES[20:23]))
    flags = ["--hidden", "8", "--layers", "1", "--heads", "1", "--intermediate", "8", "--max-length", str(LENGTH)]
    paths = ["--teacher", str(folder), "--train", str(rows_in(folder / "train.jsonl", STORIES[:5]))]
    return benchmark.arguments([*flags, *paths, "--valid", str(folder / "valid.txt"), "--seeds", "7"])


def rows_in(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def naive_bits_per_byte(model: Any, documents: list[Document]) -> float:
    """Each token on its own, from what its window shows of the tokens before it."""
    bits = 0.0
    for document in documents:
        for at in range(1, len(document.ids)):
            start = 0 if at < LENGTH else (LENGTH // 2) * ((at - LENGTH) // (LENGTH // 2) + 1)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([document.ids[start:at]])).logits[0, -1].double()
            bits -= float(torch.log_softmax(logits, -1)[document.ids[at]]) / math.log(2)
    return bits / sum(document.size for document in documents)


def test_bits_per_byte_are_those_of_a_loop_over_single_tokens(given: argparse.Namespace) -> None:
    teacher, tokenizer = load_model(given.teacher).eval(), load_tokenizer(given.teacher)
    texts = [story[-160:] for story in STORIES[20:22]]
    documents = [encode(tokenizer, text) for text in texts]
    assert min(len(document.ids) for document in documents) > LENGTH * 1.5
    nats, sizes = document_nats(teacher, documents, LENGTH), [document.size for document in documents]
    expected = pytest.approx(naive_bits_per_byte(teacher, documents), rel=1e-5)
    assert bits_per_byte(nats, sizes).mean == expected
    firsts = [Document(document.ids[:LENGTH], document.size) for document in documents]
    assert bits_per_byte(document_nats(teacher, firsts, LENGTH), sizes).mean != expected  # the rest dropped
    assert bits_per_byte(document_nats(teacher, documents, LENGTH // 2), sizes).mean != expected  # another context
    assert bits_per_byte(nats, [len(text) for text in texts]).mean != expected  # characters, not bytes


def test_a_document_weighs_by_its_bytes() -> None:
    found = bits_per_byte([math.log(2), 300 * math.log(2)], [1, 100])
    assert found.mean == pytest.approx(301 / 101)
    assert found.mean != pytest.approx((1 + 3) / 2)


def predicted(count: int, length: int, context: int) -> list[int]:
    """The tokens that the windows of `count` tokens predict, each from another one in its row."""
    ids = list(range(count))
    rows = windows("d", ids, length, context)
    assert all(len(row.input_ids) <= length for row in rows)
    return [token for row in rows for token, on in list(zip(row.input_ids, row.supervised, strict=True))[1:] if on]


@pytest.mark.parametrize(
    ("count", "length", "context"), [(9, 10, 1), (10, 10, 5), (11, 10, 1), (57, 10, 5), (57, 8, 7)]
)
def test_every_token_after_the_first_is_predicted_once(count: int, length: int, context: int) -> None:
    assert predicted(count, length, context) == list(range(1, count))


def test_windows_without_context_would_lose_a_token_each() -> None:
    assert predicted(57, 10, 0) != list(range(1, 57))


def test_borders_are_found_where_documents_begin_and_nothing_is_lost() -> None:
    told = [f"Once there was a {i}.\nThen it {i}.\nThe end came." for i in range(20)]
    text = "\n\n".join(document.replace("\n", "\n\n") for document in told[:4])
    assert split(text, Openings(told)) == told[:4]
    assert border_quality(told) == (1.0, 1.0)
    shuffled = ["\n".join(document.split("\n")[:: -1 if i % 3 else 1]) for i, document in enumerate(told)]
    assert border_quality(shuffled).recall < 1  # openings that open every third document only
    assert split("Never seen.\n\n" + text, Openings(told))[0] == "Never seen."


def test_methods_of_a_seed_start_and_read_alike(
    given: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, *others = (run(given, method, 7, 1e-2) for method in ("control", "logits", "cached"))
    assert differing([control, *others]) == []
    assert control["steps"] > 1
    assert len({tuple(figures["valid"]) for figures in (control, *others)}) == 3  # and yet they learn differently
    assert differing([control, run(given, "logits", 8, 1e-2)]) == ["start", "order"]
    backwards = argparse.Namespace(**vars(given) | {"train": rows_in(tmp_path / "rows.jsonl", STORIES[:5][::-1])})
    unlike = run(backwards, "logits", 7, 1e-2)
    assert {"rows", "order"} <= set(differing([control, unlike])) and unlike["start"] == control["start"]

    monkeypatch.setattr(benchmark, "measured", lambda args, method, seed, rate: control)
    assert list(benchmark.checked(given, 1e-2)) == ["control", "logits", "cached"]
    runs = {"control": control, "logits": unlike, "cached": control}
    monkeypatch.setattr(benchmark, "measured", lambda args, method, seed, rate: runs[method])
    with pytest.raises(SystemExit, match=r"differ in .*order"):
        benchmark.checked(given, 1e-2)


def test_only_an_interval_below_zero_beats_the_control() -> None:
    assert benchmark.verdict(Interval(-0.2, -0.3, -0.1)) == "beats the control"
    assert benchmark.verdict(Interval(-0.1, -0.3, 0.1)) == "does not beat the control"
    assert benchmark.verdict(Interval(0.2, 0.1, 0.3)) == "does not beat the control: it is worse"
