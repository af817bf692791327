"""Models: chat tokens are added with the tie kept, adapters load onto the base that they name."""

import json
from pathlib import Path

import pytest
import torch

from posttrain.errors import PosttrainError
from posttrain.lm.models import ADAPTER, add_chat_tokens, load_model, load_tokenizer, root_of, save_model
from posttrain.lm.nll import row_nll
from posttrain.lm.token_row import TokenRow


def test_chat_tokens_are_added_with_the_tie_kept(stories260k: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(stories260k), load_tokenizer(stories260k)
    old = model.get_input_embeddings().weight.detach().clone()
    new_ids = add_chat_tokens(model, tokenizer)
    assert new_ids == [512, 513, 514, 515]
    save_model(model, tokenizer, tmp_path)
    again, tokens = load_model(tmp_path), load_tokenizer(tmp_path)
    weight = again.get_input_embeddings().weight
    assert weight.data_ptr() == again.get_output_embeddings().weight.data_ptr()
    assert torch.equal(weight[:512], old)
    assert torch.allclose(weight[512:], old.mean(dim=0).expand(4, -1))
    assert (tokens.eos_token, tokens.pad_token) == ("<|end|>", "<|pad|>")
    assert again.generation_config.eos_token_id == tokens.eos_token_id


def test_old_text_keeps_its_ids_and_logits_when_chat_tokens_are_added(stories260k: Path) -> None:
    model, tokenizer = load_model(stories260k), load_tokenizer(stories260k)
    ids = tokenizer("Once upon a time, there was a dog.", return_tensors="pt").input_ids
    before = model(ids).logits
    add_chat_tokens(model, tokenizer)
    assert torch.equal(tokenizer("Once upon a time, there was a dog.", return_tensors="pt").input_ids, ids)
    assert torch.allclose(model(ids).logits[..., :512], before, atol=1e-5)


def test_a_directory_without_a_model_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match="no model can be loaded"):
        load_model(tmp_path)
    with pytest.raises(PosttrainError, match="no tokenizer can be loaded"):
        load_tokenizer(tmp_path)


def test_pickled_weights_are_never_read(tiny_chat_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_chat_model / "config.json").read_text())
    torch.save(load_model(tiny_chat_model).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(PosttrainError, match="safetensors"):
        load_model(tmp_path)


def test_the_root_of_adapters_is_the_model_below_them_all(tmp_path: Path) -> None:
    for name, base in (("first", "model"), ("second", "first")):
        (tmp_path / name).mkdir()
        (tmp_path / name / ADAPTER).write_text(json.dumps({"base_model_name_or_path": str(tmp_path / base)}))
    (tmp_path / "model").mkdir()
    assert [root_of(tmp_path / name) for name in ("model", "first", "second")] == 3 * [tmp_path / "model"]
    (tmp_path / "model").rmdir()
    with pytest.raises(PosttrainError, match=r"first: its base model .*model is not here"):
        root_of(tmp_path / "second")


def test_row_nll_is_the_mean_over_supervised_tokens_alone(tiny_chat_model: Path) -> None:
    model = load_model(tiny_chat_model).eval()
    rows = [
        TokenRow("a", [5, 6, 7, 8, 9], [False, False, True, True, False]),
        TokenRow("b", [9, 8, 7], [False, True, True]),
    ]
    found = row_nll(model, rows, batch_size=2)
    for row, value in zip(rows, found, strict=True):
        logits = model(torch.tensor([row.input_ids])).logits[0, :-1].log_softmax(-1)
        kept = [(at, token) for at, token in enumerate(row.input_ids[1:]) if row.supervised[at + 1]]
        assert value == pytest.approx(-sum(logits[at, token].item() for at, token in kept) / len(kept), abs=1e-5)
    shifted = [row._replace(supervised=[True] * len(row.input_ids)) for row in rows]
    assert row_nll(model, shifted) != pytest.approx(found, abs=1e-3)
