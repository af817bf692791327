"""What a run of preference training is told, and which losses there are, checked before anything starts.

TRL's trainers look at the names of losses only in the first step, after the model is loaded and the reference is
scored; and they pass over settings that the chosen loss does not read. Both are refused here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches

from posttrain.errors import PosttrainError
from posttrain.lm.sft import SFTSettings

# Losses over a pair and a reference, by TRL's names; they can be summed with `loss_weights`.
DPO_LOSSES = (
    "sigmoid",  # Rafailov et al. 2023, DPO, arXiv 2305.18290
    "hinge",  # Liu et al. 2023, RSO, arXiv 2309.06657
    "ipo",  # Azar et al. 2023, arXiv 2310.12036, a token
    "exo_pair",  # Ji et al. 2024, arXiv 2402.00856
    "nca_pair",  # Chen et al. 2024, arXiv 2402.05369
    "robust",  # Chowdhury et al. 2024, arXiv 2403.00409
    "bco_pair",  # Jung et al. 2024, arXiv 2404.04656
    "sppo_hard",  # Wu et al. 2024, arXiv 2405.00675
    "aot",  # Melnyk et al. 2024, arXiv 2406.05882
    "aot_unpaired",
    "apo_zero",  # D'Oosterlinck et al. 2024, arXiv 2408.06266
    "apo_down",
    "discopop",  # Lu et al. 2024, arXiv 2406.08414; as published, small margins are first driven below 0
    "sft",  # cross entropy of the chosen answer: beside another loss it holds the answer up (RPO, arXiv 2404.19733)
    "sigmoid_norm",  # DPO a token
)
REFERENCE_FREE = (
    "orpo",  # Hong et al. 2024, arXiv 2403.07691
    "cpo",  # Xu et al. 2024, arXiv 2401.08417
    "simpo",  # Meng et al. 2024, arXiv 2405.14734
)
UNPAIRED = (
    "kto",  # Ethayarajh et al. 2024, arXiv 2402.01306
    "apo_zero_unpaired",
)
LOSSES = DPO_LOSSES + REFERENCE_FREE + UNPAIRED

READ_BY = {  # settings that not every loss reads
    "label_smoothing": ("exo_pair", "robust", "aot", "aot_unpaired", "cpo", "simpo"),
    "precompute_ref_log_probs": DPO_LOSSES,
    "loss_weights": DPO_LOSSES,
    "simpo_gamma": ("simpo",),
    "cpo_alpha": ("cpo", "simpo"),
    "desirable_weight": UNPAIRED,
    "undesirable_weight": UNPAIRED,
}


@dataclass(frozen=True)
class PreferenceSettings:
    """TRL's names. `training` holds the knobs of every trainer; `beta` is the strength of the pull to the reference."""

    training: SFTSettings
    loss_type: tuple[str, ...] = ("sigmoid",)
    loss_weights: tuple[float, ...] | None = None  # None: each loss weighs 1
    beta: float = 0.1
    label_smoothing: float = 0.0  # share of pairs believed to be labelled the wrong way round
    precompute_ref_log_probs: bool = False  # True: score the reference once, and keep no copy of the model
    simpo_gamma: float = 0.5  # margin that SimPO asks for
    cpo_alpha: float | None = None  # weight of the chosen answer's cross entropy; None: 1 in CPO, 0 in SimPO
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    max_chosen_drop: float | None = 1.0  # nats a token below the start at which the run is stopped; None: never


def check_losses(names: Sequence[str]) -> None:
    """Refuse unknown names, with near ones, and sums of losses that are not TRL's DPO losses."""
    if not names:
        raise PosttrainError("loss_type: no name; at least one is needed. The usual one is sigmoid, which is DPO.")
    for name in names:
        if name not in LOSSES:
            near = get_close_matches(name, LOSSES, n=3)
            hint = f"Did you mean {' or '.join(near)}?" if near else "The usual one is sigmoid, which is DPO."
            raise PosttrainError(f"loss_type: '{name}'; {', '.join(LOSSES)} are allowed. {hint}")
    alone = [name for name in names if name not in DPO_LOSSES]
    if alone and len(names) > 1:
        raise PosttrainError(
            f"loss_type: {', '.join(names)}; {alone[0]} has a trainer of its own and stands alone, only these are "
            f"summed: {', '.join(DPO_LOSSES)}. Leave {alone[0]} out, or keep it alone."
        )
    if len(set(names)) < len(names):
        raise PosttrainError(
            f"loss_type: {', '.join(names)}; each loss once is allowed. Use loss_weights to weigh one."
        )


def check_settings(settings: PreferenceSettings) -> None:
    """Refuse losses and values that cannot be trained with, and settings that the chosen loss does not read."""
    check_losses(settings.loss_type)
    defaults = {f.name: f.default for f in fields(PreferenceSettings)}
    for name, readers in READ_BY.items():
        if vars(settings)[name] != defaults[name] and not set(settings.loss_type) & set(readers):
            raise PosttrainError(
                f"{name}: is set, and the loss {' + '.join(settings.loss_type)} does not read it; {', '.join(readers)} "
                f"do. Leave {name} out, or choose another loss_type."
            )
    weights = settings.loss_weights
    if weights is not None and len(weights) != len(settings.loss_type):
        raise PosttrainError(
            f"loss_weights: {len(weights)} values for {len(settings.loss_type)} losses; one for each is allowed. "
            "Give as many."
        )
    if not settings.beta > 0:
        raise PosttrainError(f"beta: {settings.beta}; more than 0 is allowed. The usual value is 0.1.")
    _check_smoothing(settings)
    if set(settings.loss_type) & set(UNPAIRED[:1]) and settings.training.batch_size < 2:
        raise PosttrainError(
            "batch_size: 1 with loss kto; at least 2 is allowed, because its estimate of the divergence swaps the "
            "answers of a batch. Raise it."
        )


def _check_smoothing(settings: PreferenceSettings) -> None:
    found, losses = settings.label_smoothing, settings.loss_type
    least, most = (0.0, 0.5) if "exo_pair" not in losses else (1e-6, 0.5)
    if not least <= found < most:
        raise PosttrainError(
            f"label_smoothing: {found} with loss {' + '.join(losses)}; from {least:g} to below {most:g} is allowed"
            + (" (exo_pair needs some, 1e-3 in its paper)." if least else ".")
            + " Correct it."
        )
