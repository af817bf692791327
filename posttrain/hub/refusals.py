"""What goes wrong at the hub, said plainly: what was asked for, what the hub answered, and the way out."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from posttrain.errors import PosttrainError

DATA_SETS = "datasets/"  # a data set's id begins with this, as its address on the hub does
NO_STEP = "no step and no directory of this name"


@contextmanager
def plain_hub_errors(reference: str) -> Iterator[None]:
    """Turn the errors of the hub's client, and a full disk, into PosttrainError; `reference` is `org/name@revision`."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise PosttrainError(
            f"{reference}: gated, its authors ask you to accept their terms first. Accept them at {_page(reference)} "
            "while logged in, then run 'hf auth login' with a token of that account."
        ) from None
    except errors.RevisionNotFoundError:
        raise PosttrainError(
            f"{reference}: the hub has no such revision of it; a branch, a tag or a commit is allowed. "
            f"Choose one of {_page(reference)}/commits/main, or leave out what follows the @."
        ) from None
    except errors.RepositoryNotFoundError:
        raise PosttrainError(
            f"{reference}: {NO_STEP}, and the hub gives no such {_kind(reference)}. Check the spelling; if it is "
            "private, run 'hf auth login' with a token that may read it."
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise _not_here(reference, error) from None
    except errors.HfHubHTTPError as error:
        raise _answered(reference, error.response.status_code) from None
    except (errors.HTTPError, ConnectionError, errors.DryRunError) as error:  # type: ignore[attr-defined]
        raise _not_here(reference, error) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(reference) from None
        raise


def no_space(reference: str, needed: int | None = None, free: int | None = None) -> PosttrainError:
    """The error of a cache that has no room, with bytes where they are known."""
    from huggingface_hub import constants

    short = "" if needed is None or free is None else f" ({needed / 1e6:,.1f} MB to come, {free / 1e6:,.1f} MB free)"
    return PosttrainError(
        f"{reference}: no space left in {constants.HF_HUB_CACHE}{short}. Make room there, or set HF_HOME to a "
        "directory on a larger disk and run the same command again; what has come so far is kept."
    )


def _not_here(reference: str, error: BaseException) -> PosttrainError:
    """Neither in the cache nor to be had: the network is off on purpose, or away, or the hub is ill."""
    from huggingface_hub import constants, errors

    cause = error.__cause__ or error
    if isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code < 500:
        return _answered(reference, cause.response.status_code)
    why = f"the hub cannot be reached ({type(cause).__name__})"
    way = "Check the spelling and the network, then run the same command again; what has come so far is kept."
    if constants.HF_HUB_OFFLINE:
        why = "the hub cannot be reached, as HF_HUB_OFFLINE is set"
        way = "Check the spelling, or unset HF_HUB_OFFLINE and run 'posttrain fetch RECIPE' once."
    return PosttrainError(
        f"{reference}: {NO_STEP}, {why}, and it is not in the local cache, or not all of it "
        f"({constants.HF_HUB_CACHE}). {way}"
    )


def _answered(reference: str, status: int) -> PosttrainError:
    if status == 401:
        return PosttrainError(
            f"{reference}: the hub does not accept your token (401). Run 'hf auth login' with a new one, or unset "
            "HF_TOKEN: what is public needs none."
        )
    if status == 403:
        return PosttrainError(
            f"{reference}: your token may not read it (403). Give the token that right in the hub's settings, or run "
            "'hf auth login' with another one."
        )
    return PosttrainError(f"{reference}: the hub answered {status}. Wait a little, and run the same command again.")


def _kind(reference: str) -> str:
    return "data set" if reference.startswith(DATA_SETS) else "model"


def _page(reference: str) -> str:
    """Where people see it."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{reference.partition('@')[0]}"
