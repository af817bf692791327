"""Libraries that draw bars and repeat warnings of their own would drown what a run says; they are asked to be quiet."""

import warnings
from functools import cache


@cache
def quiet_libraries() -> None:
    """No bars of transformers, and not its notes on its own renamed attributes."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
