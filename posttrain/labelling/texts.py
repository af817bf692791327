"""Files of labels and verdicts as text, with the errors of `eval` told as ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eval.labels import LabelError
from posttrain.errors import PosttrainError


def read_text(path: Path, needed: str) -> str:
    """The text of a file; `needed` says what it should hold."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PosttrainError(
            f"{path}: not UTF-8 text (byte {error.start}); UTF-8 is allowed. Convert the file."
        ) from None
    except OSError as error:
        raise PosttrainError(f"{path}: {error.strerror}; a file of {needed} is needed. Check the path.") from None


@contextmanager
def plain_label_errors() -> Iterator[None]:
    """What is wrong with a file of labels or verdicts is the user's to correct, and said without a traceback."""
    try:
        yield
    except LabelError as error:
        raise PosttrainError(str(error)) from None
