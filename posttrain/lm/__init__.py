"""Models, tokens and training: torch and transformers live here, imported inside functions where the CLI passes."""

import logging
import os

# oneDNN keeps a compiled kernel for each shape that it has met, 1,024 by default; batches of chat rows have
# hundreds of shapes. 64 saves 500 MB on a two-core training run and costs no time. Read when torch first needs it.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

# peft imports bitsandbytes wherever it is installed, which then says at once what 4-bit kernels it lacks.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
