"""Talking to the hub: names, the login, and one clear line for whatever goes wrong."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from headstart._errors import HubError, OptionError
from headstart._runtime import say, shows_progress
from headstart._share._files import printable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

_OF_THE_DISK = (errno.ENOSPC, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC))


_MAY_RAISE = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)
"""What the hub library raises besides its own errors: the last three for answers that are none of a hub."""


class Unreachable(HubError):
    """The hub does not answer, or only with an error of its own."""


def check_name(name: str) -> str:
    """``name`` if it is ``user/name`` as hubs allow it. Raises OptionError."""
    from huggingface_hub.errors import HFValidationError

    try:
        _hub_utils().validate_repo_id(name)
        user, _, short = name.partition("/")
        if user and short:
            return name
        reason = "the part before or behind the / is missing"
    except HFValidationError as error:
        reason = str(error).splitlines()[0].removesuffix(f": '{name}'.")
    raise OptionError(f"{printable(str(name))!r} is no name on a hub ({printable(reason)}); write it as user/name")


def endpoint() -> str:
    """The hub's address as it may be shown: ``HF_ENDPOINT`` without user and password in it."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def login() -> str | None:
    """The token of the hub library's own login; None without. It goes into request headers and nowhere else."""
    from huggingface_hub import get_token

    with plain_errors("the login", None):
        token = get_token()
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise HubError("the access token holds characters that cannot be sent; set HF_TOKEN again, or `hf auth login`")
    return token


def client(token: str | None = None) -> HfApi:
    """The hub's client for the configured address; without ``token`` it logs in as the hub library is set to."""
    from importlib.metadata import version

    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="headstart", library_version=version("headstart"))


@contextmanager
def bars() -> Iterator[None]:
    """The hub library's progress bars where someone is watching, else none; its log speaks of errors only."""
    utils, log = _hub_utils(), logging.getLogger("huggingface_hub")
    level, shown = log.level, shows_progress() or utils.are_progress_bars_disabled()
    log.setLevel(logging.ERROR)
    if not shown:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if not shown:
            utils.enable_progress_bars()


def without_xet_if_need_be(action: Callable[[], T]) -> T:
    """``action``, and once more over plain HTTP if it fails on Xet storage, which private hubs do not have and some
    networks do not let through.
    """
    from huggingface_hub import constants

    try:
        return action()
    except (OSError, RuntimeError) as error:
        if "xet" not in str(error).lower() or _response(error) is not None or constants.HF_HUB_DISABLE_XET:
            raise
    say("the hub's Xet storage does not answer; going on over plain HTTP (HF_HUB_DISABLE_XET=1 does so at once)")
    constants.HF_HUB_DISABLE_XET = True
    try:
        return action()
    finally:
        constants.HF_HUB_DISABLE_XET = False


def _hub_utils() -> Any:
    """The hub library's ``utils``, whose names are public but not typed as exported."""
    import huggingface_hub.utils

    return huggingface_hub.utils


@contextmanager
def plain_errors(name: str, token: str | None, *, sending: bool = False) -> Iterator[None]:
    """Whatever the hub library raises becomes one HubError. Errors of this machine's disk pass through."""
    from huggingface_hub import errors

    http_error = getattr(errors, "HTTPError", OSError)  # the hub library changed its HTTP client between versions
    try:
        yield
    except (http_error, errors.HfHubHTTPError, errors.EntryNotFoundError, *_MAY_RAISE) as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        line = _line(error, name, token, sending)
        kind = Unreachable if _unreachable(error) else HubError
        # without the cause: its text is the server's or the transport's, and could repeat the request's headers
        raise kind(_without_secrets(line, token)) from None


def _without_secrets(line: str, token: str | None) -> str:
    """The line without the token, and without user and password of an address."""
    line = re.sub(r"//[^/@\s]+@", "//", line)
    return line.replace(token, "…") if token else line


def _line(error: BaseException, name: str, token: str | None, sending: bool) -> str:
    """Cause, place, way out."""
    from huggingface_hub import constants, errors

    response = _response(error)
    said, hub = _said(error), endpoint()
    status = None if response is None else int(response.status_code)
    if any(isinstance(e, errors.RevisionNotFoundError) for e in _chain(error)):
        return f"{name} on {hub} has no such revision; leave --revision out, or look at {hub}/{name}/commits/main"
    if any(isinstance(e, errors.GatedRepoError) for e in _chain(error)):
        return f"access to {name} must be asked for first: open {hub}/{name}, then run the same command again"
    if status == 401 and (sending or token):
        return f"{hub} does not accept your access token (401); `hf auth login` again, or set a valid HF_TOKEN"
    if status in (401, 404):
        hidden = "" if token else ", or it is private: `hf auth login`, or set HF_TOKEN"
        return f"there is no model {name} on {hub} ({status}); look at the spelling{hidden}"
    if status == 403:
        may = f"write to {name}; use a token with write access, or a name of your own" if sending else f"read {name}"
        return f"your access token may not {may} (403{said})"
    if status in (409, 412):
        return f"{name} was changed by someone else at the same moment ({status}{said}); run the same command again"
    if status == 429:
        return f"{hub} asks for a pause: too many requests (429); wait some minutes and run the same command again"
    if status is not None and status >= 500:
        return f"{hub} has trouble of its own ({status}{said}); run the same command again later"
    if status is not None:
        return f"{hub} refused the request for {name} ({status}{said})"
    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set, so that {hub} is not asked for {name}; unset it to go online"
    strange = (TypeError, LookupError, AttributeError)
    if isinstance(error, strange) or any(type(e).__name__ == "FileMetadataError" for e in _chain(error)):
        return f"{hub} does not answer as a hub does ({_first_line(str(error))}); look at HF_ENDPOINT"
    if _unreachable(error):
        return f"{hub} cannot be reached ({type(_chain(error)[-1]).__name__}); go online, or look at HF_ENDPOINT"
    return f"{name} on {hub}: {_first_line(str(error)) or type(error).__name__}"


def _unreachable(error: BaseException) -> bool:
    from huggingface_hub import errors

    http_error = getattr(errors, "HTTPError", OSError)
    response = _response(error)
    if response is not None:
        return int(response.status_code) >= 500
    return any(isinstance(e, (http_error, OSError)) for e in _chain(error))


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes, as far as six steps down."""
    found = [error]
    while len(found) < 6 and (cause := found[-1].__cause__) is not None:
        found.append(cause)
    return found


def _response(error: BaseException) -> Any:
    return next((r for e in _chain(error) if (r := getattr(e, "response", None)) is not None), None)


def _said(error: BaseException) -> str:
    message = next((m for e in _chain(error) if (m := getattr(e, "server_message", None))), None)
    return f": {_first_line(str(message))}" if message else ""


def _first_line(text: str) -> str:
    return printable(next((line.strip() for line in text.splitlines() if line.strip()), ""))[:200]
