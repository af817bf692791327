"""Intermediate matching, TinyBERT's first phase: a student's hidden states and attention maps follow its teacher's.

The second phase is any loss over logits; the training loop switches. The projections that this phase needs live in
a module of their own: they are trained and checkpointed beside the student and are not part of it.
Source: Jiao et al. 2020, arXiv 1909.10351: MSE(E^S W_e, E^T) for embeddings, MSE(H^S W_h, H^T) for layers and
MSE(A^S, A^T) for attention. Their A are scores before the softmax; transformers hands out the maps after it, so
those are compared here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from posttrain.errors import PosttrainError
from posttrain.lm.losses import causal_parts


class LayerPair(NamedTuple):
    """A student's layer and the teacher's that it follows; 0 is the embedding, 1 the first decoder layer."""

    student: int
    teacher: int


class States(NamedTuple):
    """What a decoder computed on the way: M + 1 hidden states [batch, length, size], the embedding's first and the
    last one after the final norm; and M attention maps [batch, heads, length, length], or none."""

    hidden: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...]


def uniform_layer_map(student_layers: int, teacher_layers: int) -> list[LayerPair]:
    """g(m) = m * N / M, rounded down, for m = 0 to M: embedding to embedding, last layer to last layer."""
    return [LayerPair(m, m * teacher_layers // student_layers) for m in range(student_layers + 1)]


def states_of(model: Any, input_ids: Tensor, attention_mask: Tensor | None = None, attentions: bool = False) -> States:
    """The states of a causal LM, its output head not run; ids and mask are [batch, length].

    Rows padded on the right need no mask. Attention maps need a model with attn_implementation="eager".
    """
    if attentions and model.config._attn_implementation != "eager":
        raise PosttrainError(
            f"attention: the model computes attention with {model.config._attn_implementation}, which keeps no maps; "
            'eager is allowed. Call model.set_attn_implementation("eager"), or match hidden states alone.'
        )
    found = causal_parts(model).backbone(
        input_ids=input_ids,
        attention_mask=attention_mask,
        use_cache=False,
        output_hidden_states=True,
        output_attentions=attentions,
    )
    return States(found.hidden_states, found.attentions if attentions else ())


class IntermediateMatching(nn.Module):
    """The loss between mapped layers, and the projections W_e (embedding) and W_h (layers) that it learns.

    Where both models have one hidden size there is nothing to project and no parameter: a student made of its
    teacher's layers already lives in the teacher's space, and a loss of zero means equal states. Where sizes differ,
    both are [teacher size, student size] and start as a random orthogonal map drawn from `seed`.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        layer_map: Sequence[tuple[int, int]] | None = None,
        attention: bool = False,
        seed: int = 0,
    ) -> None:
        """`student` and `teacher` are the configs. The map is uniform unless given; (0, 0) is the embeddings'."""
        super().__init__()
        layers = (student.num_hidden_layers, teacher.num_hidden_layers)
        self.layer_map = uniform_layer_map(*layers) if layer_map is None else [LayerPair(*pair) for pair in layer_map]
        self.attention = attention
        self.embedding, self.layer = (
            _projection(student.hidden_size, teacher.hidden_size, seed + place) for place in range(2)
        )
        _check_map(self.layer_map, *layers)

    def forward(
        self, student: States, teacher: States, real: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The sum over pairs and real positions of (mean squared errors), divided by `num_items_in_batch`.

        `real` is bool [batch, length], False at padding; `num_items_in_batch` defaults to how many are real, and a
        trainer that accumulates gradients passes the count of the whole step. Of hidden states, the mean is over the
        teacher's hidden size; of attention maps, over the keys that a position sees and over heads, which are
        compared one by one where both have as many and averaged first where not. Rows are not packed into one.
        """
        if not real.any():
            raise PosttrainError(f"batch of {len(real)} rows: no real token; at least one is needed. Check the mask.")
        total = torch.zeros((), device=real.device)
        for m, n in self.layer_map:
            project = self.layer if m else self.embedding
            total = total + _hidden_error(project(student.hidden[m][real]), teacher.hidden[n][real])
            if self.attention and m:
                total = total + _attention_error(student.attentions[m - 1], teacher.attentions[n - 1], real)
        count = real.sum() if num_items_in_batch is None else num_items_in_batch
        return total / count


def intermediate_loss(
    matching: IntermediateMatching,
    student: Any,
    teacher: Any,
    input_ids: Tensor,
    real: Tensor,
    attention_mask: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """`matching` over what both models compute on the same ids [batch, length]; no gradient reaches the teacher.

    `real` marks the tokens that are no padding. Rows padded on the right need no `attention_mask`. The teacher must
    be in eval mode.
    """
    if teacher.training:
        raise PosttrainError("teacher: it is in training mode; eval mode is needed. Call teacher.eval() first.")
    with torch.no_grad():
        followed = states_of(teacher, input_ids, attention_mask, matching.attention)
    states = states_of(student, input_ids, attention_mask, matching.attention)
    loss: Tensor = matching(states, followed, real, num_items_in_batch)
    return loss


def _projection(student_size: int, teacher_size: int, seed: int) -> nn.Module:
    if student_size == teacher_size:
        return nn.Identity()
    projection = nn.Linear(student_size, teacher_size, bias=False, device="meta").to_empty(device="cpu")
    nn.init.orthogonal_(projection.weight, generator=torch.Generator().manual_seed(seed))
    return projection


def _hidden_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over positions of the mean squared error of [positions, size]."""
    return (student.float() - teacher.float()).square().mean(-1).sum()


def _attention_error(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Sum over real positions of the mean squared error of their rows of maps [batch, heads, length, length].

    A position sees itself and the real tokens before it. A mean over the whole width would change with the padding.
    """
    student, teacher = (maps.transpose(1, 2)[real].float() for maps in (student, teacher))  # [positions, heads, keys]
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    seen = real.cumsum(1)[real]
    return ((student - teacher).square().sum(-1).mean(-1) / seen).sum()


def _check_map(layer_map: Sequence[LayerPair], student_layers: int, teacher_layers: int) -> None:
    for m, n in layer_map:
        if not (0 <= m <= student_layers and 0 <= n <= teacher_layers and (m == 0) == (n == 0)):
            raise PosttrainError(
                f"layer_map: layer {m} follows layer {n}; the student's layers 1 to {student_layers} may follow the "
                f"teacher's 1 to {teacher_layers}, and its embedding (0) the embedding (0). Correct that pair."
            )
    if not layer_map:
        raise PosttrainError("layer_map: no pairs; at least one is needed. Leave it out for a uniform map.")
