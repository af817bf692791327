"""A full disk while weights are written: safetensors and torch raise errors of their own, the chain knows OSError."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = 4_000_000  # bytes free below which torch's "unexpected pos" means a full disk


@contextmanager
def disk_full_as_oserror(folder: Path) -> Iterator[None]:
    """Raise OSError(ENOSPC) for a full disk below `folder`; any other error stays what it is."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if "No space left" in str(error) or shutil.disk_usage(folder).free < NO_ROOM:
            raise OSError(errno.ENOSPC, "no space left on the device", str(folder)) from error
        raise
