"""What goes wrong with Redis, in words: what happened, and which setting or permission it is about."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from stream_cache.errors import StreamCacheError

#: What Redis wraps around an error of a script: 7.0's tail, 6.2's head.
_SCRIPT_TRACE = re.compile(r"^Error running script \(call to \w+\): (?:@user_script: ?\d+: )*-?| script: \w+, on @.*$")
_ABOUT_DB = re.compile("DB index|SELECT|.*'select'")
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class UnfitServer(StreamCacheError):
    """What stands at the address is not what the settings say, too old, or holds foreign data. Waiting won't help."""


def is_wrong_type(reply: object) -> bool:
    """Tell whether a command met a key of another type. Source: Redis' shared.wrongtypeerr."""
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def is_read_only(error: object) -> bool:
    """Tell whether a replica refused to write; Redis 6.2 wraps what a script is refused."""
    return isinstance(error, ReadOnlyError) or "-READONLY" in str(error)


def is_refused_for_good(error: BaseException | None) -> bool:
    """Tell whether waiting won't help: a wrong login, or a certificate that is not trusted."""
    while error is not None:
        if isinstance(error, AuthenticationError | ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def cause_of(error: BaseException) -> str:
    """Say what an exception of redis-py or of a socket means; no secret is in it."""
    text = str(error) or type(error).__name__
    if isinstance(error, ResponseError | AuthenticationError | BusyLoadingError):
        return _refusal(error, text)
    if isinstance(error, InvalidResponse):
        return f"what answers there is not Redis: {text}"
    link: BaseException | None = error
    while link is not None:
        if words := _words_of_socket(link):
            return words
        link = link.__cause__ or link.__context__
    return text


def _words_of_socket(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not trusted: {error.verify_message} (REDIS_TLS_CA_FILE)"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error} (REDIS_TLS, REDIS_TLS_CERT_FILE; does it speak TLS there?)"
    if isinstance(error, socket.gaierror):
        return "name not known" if error.errno in _NO_SUCH_NAME else f"name lookup failed: {error.strerror}"
    return _system_words(error) if isinstance(error, OSError) else ""


def _system_words(error: OSError) -> str:
    number = error.errno
    if number is None and (found := re.search(r"\[Errno (\d+)\]", str(error))):  # of the first of several addresses
        number = int(found[1])
    return os.strerror(number).lower() if number is not None and number in errno.errorcode else ""


def _refusal(error: Exception, text: str) -> str:
    if isinstance(error, AuthenticationError):
        words = f"it refuses the login: {text} (REDIS_USERNAME, REDIS_PASSWORD)"
    elif isinstance(error, NoPermissionError):
        words = f"the user lacks a permission: {text} (docs/redis.md has the rules it needs)"
    elif is_read_only(error):
        words = "it is a replica and takes no writes (READONLY)"
    elif isinstance(error, OutOfMemoryError) or "-OOM" in text:
        words = "it is out of memory (its maxmemory)"
    elif isinstance(error, BusyLoadingError):
        words = "it is loading its data set"
    elif _ABOUT_DB.match(text):
        words = f"{text} (REDIS_DB)"
    else:
        words = f"it answers: {_own_words(error, text):.300}"
    return words


def _own_words(error: Exception, text: str) -> str:
    """Return Redis' own text, with its code and without the trace of a script."""
    words = _SCRIPT_TRACE.sub("", text).rstrip(".")
    code = getattr(error, "status_code", None)
    return words if code in {None, "ERR"} or words.startswith(code) else f"{code} {words}"
