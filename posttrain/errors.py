"""The errors people see: `<where>: <what was found>; <what is allowed>. <what to do>.`"""


class PosttrainError(Exception):
    """Bad input or a bad machine state. Printed without a traceback; the process exits 2."""


class GateFailed(PosttrainError):
    """A judge found that a step made things worse. The process exits 3."""
