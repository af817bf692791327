"""A full disk while weights are written: safetensors, torch and tokenizers raise errors of their own making.

The chain knows OSError, and says a full disk plainly. What those writers say of it is known by its words.
"""

import errno
from pathlib import Path
from types import TracebackType

FULL = ("no space left", "quota exceeded", "unexpected pos", "pytorchstreamwriter failed")


class disk_full_as_oserror:
    """Raise OSError(ENOSPC) for a full disk below `folder`; any other error stays what it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and not isinstance(error, OSError) and any(sign in str(error).lower() for sign in FULL):
            raise OSError(errno.ENOSPC, "no space left on the device", str(self.folder)) from error
