"""What goes wrong with Redis, in words: what happened, and which setting or permission it is about."""

from __future__ import annotations

import errno
import os
import ssl

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from stream_cache.errors import StreamCacheError


class UnfitServer(StreamCacheError):
    """What stands at the address is not what the settings say, too old, or holds foreign data. Waiting won't help."""


def is_wrong_type(reply: object) -> bool:
    """Tell whether a command met a key of another type. Source: Redis' shared.wrongtypeerr."""
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def is_read_only(error: object) -> bool:
    """Tell whether a replica refused to write; Redis 6.2 wraps what a script is refused."""
    return isinstance(error, ReadOnlyError) or "-READONLY" in str(error)


def cause_of(error: BaseException) -> str:
    """Say what an exception of redis-py or of a socket means; no secret is in it."""
    text = str(error) or type(error).__name__
    if isinstance(error, ResponseError | AuthenticationError | BusyLoadingError):
        return _refusal(error, text)
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            return f"its TLS certificate is not trusted: {link.verify_message} (REDIS_TLS_CA_FILE)"
        if isinstance(link, ssl.SSLError):
            return f"TLS failed: {link.reason or link} (REDIS_TLS, REDIS_TLS_CERT_FILE; does it speak TLS there?)"
        if isinstance(link, OSError) and link.errno is not None and link.errno in errno.errorcode:
            return f"cannot connect: {os.strerror(link.errno)}"
        link = link.__cause__ or link.__context__
    return text


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
    else:
        words = f"it answers {text!r:.300}"
    return words
