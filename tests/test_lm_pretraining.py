"""Pretraining: a stopped run ends with the bytes of one that was never stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch

from posttrain.lm.pretraining import Architecture, Corpus, Pretraining, batch_at, new_model, nll, pack, pretrain
from posttrain.lm.tokenizer import train_tokenizer

SHAPE = Architecture(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
SETTINGS = Pretraining(steps=12, batch_size=2, sequence_length=16, checkpoint_every=5, warmup_steps=2)


def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    return Corpus(rng.integers(4, 60, size=4_000).astype(np.uint16), np.arange(0, 4_000, 40))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def trained(work: Path, stop_after: int | None = None, seed: int = 3) -> dict[str, torch.Tensor]:
    model = new_model(SHAPE, 64, 0, 3, seed=1)

    def tick(done: int, note: str = "", total: int | None = None) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    work.mkdir(exist_ok=True)
    try:
        pretrain(model, corpus(), SETTINGS, seed, work, tick)
    except KeyboardInterrupt:
        return {}
    return weights(model)


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    for stop in (3, 7, 11):
        trained(tmp_path / str(stop), stop_after=stop)
        resumed = trained(tmp_path / str(stop))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    other = trained(tmp_path / "other", seed=4)
    assert not all(torch.equal(whole[name], other[name]) for name in whole)


def test_a_batch_depends_on_seed_and_step_alone_and_starts_with_its_document() -> None:
    data = corpus()
    assert torch.equal(batch_at(data, SETTINGS, 3, 5), batch_at(data, SETTINGS, 3, 5))
    assert not torch.equal(batch_at(data, SETTINGS, 3, 5), batch_at(data, SETTINGS, 3, 6))
    long = Corpus(data.ids, np.array([0]))
    firsts = [int(batch_at(long, SETTINGS, 3, step)[0, 0]) for step in range(20)]
    assert len(set(firsts)) > 5, "windows of a long document begin anywhere in it"


def test_documents_are_packed_with_the_end_token_after_each() -> None:
    bpe = train_tokenizer(["a b c"], 300)
    packed = pack(bpe, ["a b", "c"], end_id=0)
    assert packed.ids.dtype == np.uint16
    assert [int(packed.ids[start - 1]) for start in packed.starts[1:]] == [0]
    assert int(packed.ids[-1]) == 0
    assert bpe.decode([int(i) for i in packed.ids if i], skip_special_tokens=False) == "a bc"


def test_training_lowers_the_held_out_loss(tmp_path: Path) -> None:
    ids = np.tile(np.arange(4, 24, dtype=np.uint16), 200)
    data = Corpus(ids, np.arange(0, 4_000, 20))
    model = new_model(SHAPE, 64, 0, 3, seed=1)
    before = nll(model, ids, 16)
    pretrain(model, data, SETTINGS.model_copy(update={"steps": 60}), 1, tmp_path, lambda *_: None)
    assert nll(model, ids, 16) < before / 2
    assert before == pytest.approx(np.log(64), abs=1.0)
