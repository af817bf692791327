"""A block's file has one form for one content, in small types, and no byte of it changes unnoticed."""

import numpy as np
import pytest
import torch

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.sampled_targets import Draws
from posttrain.lm.distillation.target_block import Block, compact, decoded, encoded

KEPT = np.array([2, 1, 3], dtype=np.uint8)
BLOCK = Block(KEPT, np.array([5, 900, 7, 1, 2, 4000], dtype=np.uint16), np.array([4, 2, 6, 1, 1, 4], dtype=np.uint8))
ABOUT = {"teacher": "a teacher", "tokenizer": 'a "tokenizer"', "temperature": 1.0, "block": 3}
DATA = encoded(BLOCK, ABOUT)


def test_a_block_comes_back_with_what_it_was_made_from() -> None:
    found = decoded(DATA)
    assert found is not None
    assert found[1] == ABOUT
    for ours, theirs in zip(BLOCK, found[0], strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def test_a_block_about_something_else_is_another_block() -> None:
    text = DATA.replace(b"a teacher", b"b teacher")
    assert text != DATA and decoded(text) is None, "changed by hand it is damaged"
    found = decoded(encoded(BLOCK, {**ABOUT, "teacher": "b teacher"}))
    assert found is not None and found[1]["teacher"] == "b teacher"


def test_one_block_has_one_text_of_bytes() -> None:
    found = decoded(DATA)
    assert found is not None
    assert {encoded(*found) for _ in range(30)} == {DATA}


def test_every_flipped_bit_is_noticed() -> None:
    data = DATA
    assert decoded(data) is not None
    missed = []
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            if decoded(bytes(flipped)) is not None:
                missed.append((at, bit))
    assert missed == []


def test_every_cut_and_whatever_is_added_is_noticed() -> None:
    data = DATA
    assert [length for length in range(len(data)) if decoded(data[:length]) is not None] == []
    assert decoded(data + b"\0") is None
    assert decoded(bytes(len(data))) is None


def draws_of(ids: list[int], weights: list[float]) -> Draws:
    return Draws(torch.tensor([ids]), torch.tensor([[1] * len(ids)]), torch.tensor([weights]))


def test_ids_and_weights_take_the_smallest_types_that_hold_them() -> None:
    small, large = compact(draws_of([65_535], [1.0]), 65_536, True), compact(draws_of([65_536], [1.0]), 65_537, True)
    assert (small.ids.dtype, small.ids.tolist()) == (np.uint16, [65_535])
    assert (large.ids.dtype, large.ids.tolist()) == (np.uint32, [65_536])
    assert small.weights.dtype == np.uint8
    assert compact(draws_of([1], [0.3]), 100, False).weights.dtype == np.float16


def test_a_weight_too_large_to_store_is_refused() -> None:
    assert compact(draws_of([1], [65_504.0]), 100, False).weights.tolist() == [65_504.0]
    with pytest.raises(PosttrainError, match="proposal: a weight is above 65,504"):
        compact(draws_of([1], [70_000.0]), 100, False)
