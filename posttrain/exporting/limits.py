"""What an exported file may lose and still count as the same model: beyond it, it is no export of it."""

from typing import TYPE_CHECKING

from pydantic import Field

from posttrain.chain.stage import Config

if TYPE_CHECKING:
    from posttrain.exporting.compare import Figures


class Limits(Config):
    """The limits of one file's figures, against the fp32 model."""

    d_nll_share: float = Field(0.005, gt=0, description="of the held-out loss that a file may add")
    kl: float = Field(0.01, gt=0, description="mean KL(fp32 || file) in nats")
    top1: float = Field(0.95, ge=0, le=1, description="same likeliest token; near-ties may fall the other way")
    top1_clear: float = Field(0.98, ge=0, le=1, description="the same where fp32 leads by 0.1 nat and more")
    tokenizer: float = Field(1.0, ge=0, le=1, description="texts and conversations with the same ids")


def losses(figures: "Figures", limits: Limits) -> list[str]:
    """What is beyond the limits, in words; nothing for a file that is the same model."""
    clear = 1.0 if figures.top1_clear is None else figures.top1_clear
    found = (
        ("d_nll_share", figures.d_nll_share > limits.d_nll_share, f"NLL {figures.d_nll_share:+.2%}"),
        ("kl", figures.kl.mean > limits.kl, f"KL {figures.kl.mean:.4f} nat"),
        ("top1", figures.top1 < limits.top1, f"top-1 agreement {figures.top1:.1%}"),
        ("top1_clear", clear < limits.top1_clear, f"top-1 agreement where fp32 is clear {clear:.1%}"),
        ("tokenizer", figures.tokenizer < limits.tokenizer, f"tokenizer agreement {figures.tokenizer:.1%}"),
    )
    return [f"{what} (limit {key}: {getattr(limits, key):g})" for key, beyond, what in found if beyond]
