"""A rendered training row: token ids and which of them are supervised. What rendering hands to training."""

from typing import NamedTuple


class TokenRow(NamedTuple):
    """`supervised[i]` says whether the model is trained to produce `input_ids[i]`; both have one length."""

    id: str
    input_ids: list[int]
    supervised: list[bool]
