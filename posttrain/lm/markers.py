"""Chat templates without the marks of what is trained on: to whoever only asks, they mean nothing."""

import re

BEGIN = re.compile(r"\{%(-?)\s*generation\s*(-?)%\}")
END = re.compile(r"\{%(-?)\s*endgeneration\s*(-?)%\}")


def without_markers(template: str) -> str:
    """The same text for every conversation; the marks become blocks that keep the white space rules they have."""
    return END.sub(r"{%\1 endif \2%}", BEGIN.sub(r"{%\1 if true \2%}", template))
