"""Reads structs of settings from the environment: types and bounds by msgspec, what people are told here.

The ground of `settings.py`, and of Faust's variables in `kafka/`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, inspect

from stream_cache.errors import InvalidSetting, hide_password

#: What Kubernetes puts into `<NAME>_PORT` for a Service called so.
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
#: A server with or without its port.
HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")
#: Where the port goes that is not part of an address.
_PORT_BESIDE = {"REDIS_HOST": "REDIS_PORT", "WEB_BIND": "WEB_PORT"}
_NUMBERS: Mapping[type, Callable[[str], object]] = {inspect.IntType: int, inspect.FloatType: float}
_FILE = "_FILE"
_T = TypeVar("_T")


class Variable(NamedTuple):
    """A variable of the environment, as its field defines it. `kind` is the field's type with its bounds."""

    name: str
    field: str
    kind: Any
    default: Any
    sentence: str
    is_secret: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The name and, of a secret, that of the variable which names a file instead."""
        return (self.name, self.name + _FILE) if self.is_secret else (self.name,)


class Area(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that belong together. `named` are the variables that the environment held. No repr shows a secret."""

    named: frozenset[str] = frozenset()

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the area's variables, without the white space around them; an empty one keeps its default.

        Raises: InvalidSetting.
        """
        values = {variable: _read(variable, environ) for variable in variables(cls)}
        found = {variable: value for variable, value in values.items() if value is not None}
        named = frozenset(variable.name for variable in found)
        return cls(named=named, **{variable.field: value for variable, value in found.items()})

    def __repr__(self) -> str:
        shown = {variable.field: self._shown(variable) for variable in variables(type(self))}
        return f"{type(self).__name__}({', '.join(f'{field}={text}' for field, text in shown.items())})"

    def _shown(self, variable: Variable) -> str:
        value = getattr(self, variable.field)
        if variable.is_secret and value:
            return "..."
        return repr(hide_password(value) if isinstance(value, str) else value)


def env(name: str, default: _T) -> _T:
    """Define a field of an area: the variable that it is read from, and what it is without."""
    field: _T = msgspec.field(default=default, name=name)
    return field


def says(sentence: str) -> Meta:
    """Annotate what a variable does."""
    return Meta(description=sentence)


def within(low: float, high: float) -> Meta:
    """Annotate a number's bounds; of a float, they are seconds."""
    return Meta(ge=low, le=high)


def parsed(parse: Callable[[str], str], expected: str = "") -> Meta:
    """Annotate a text that `parse` reads, or refuses with a ValueError; `expected` where the type doesn't say it."""
    return Meta(extra={"parse": parse, "expected": expected})


def matching(pattern: str, expected: str, *, is_secret: bool = False) -> Meta:
    """Annotate a text that matches a pattern as a whole."""
    return Meta(pattern=rf"\A(?:{pattern})\Z", extra={"expected": expected, "is_secret": is_secret})


@cache
def variables(area: type[Area]) -> tuple[Variable, ...]:
    """Return the variables of an area, in the order of its fields."""
    return tuple(
        Variable(
            name=field.encode_name,
            field=field.name,
            kind=field.type,
            default=field.default,
            sentence=(_form(field.type).extra_json_schema or {}).get("description", ""),
            is_secret=_extra(field.type).get("is_secret", False),
        )
        for field in msgspec.structs.fields(area)
        if field.name != "named"
    )


def convert(name: str, held: str, kind: Any) -> Any:
    """Read what a variable holds. Raises: InvalidSetting."""
    extra = _extra(kind)
    try:
        read = extra.get("parse") or _NUMBERS.get(type(_form(kind).type), str)
        return msgspec.convert(read(held), kind, strict=False)
    except (OSError, ValueError):  # msgspec's is one of these
        if extra.get("is_secret"):
            raise InvalidSetting(name, None, expected(kind)) from None
        raise InvalidSetting(name, held, expected(kind) + _hint(name, held)) from None


def expected(kind: Any) -> str:
    """Say what a value of this type and these bounds is."""
    if words := _extra(kind).get("expected"):
        return str(words)
    match _form(kind).type:
        case inspect.IntType(ge=low, le=high):
            return f"an integer from {low} to {high}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number of seconds from {low:.12g} to {high:.12g}"
        case inspect.LiteralType():  # whose own values are sorted
            literal = get_args(kind)[0] if get_origin(kind) is Annotated else kind
            return "one of " + ", ".join(get_args(literal))
        case _:
            return "true or false"


def _form(kind: Any) -> inspect.Metadata:
    form = inspect.type_info(kind)
    return form if isinstance(form, inspect.Metadata) else inspect.Metadata(form)


def _extra(kind: Any) -> dict[str, Any]:
    return _form(kind).extra or {}


def _read(variable: Variable, environ: Mapping[str, str]) -> Any:
    """Return what a variable, or the file of a secret, holds; None where neither is set."""
    held = environ.get(variable.name, "").strip()
    path = environ.get(variable.name + _FILE, "").strip() if variable.is_secret else ""
    if not path:
        return convert(variable.name, held, variable.kind) if held else None
    if held:
        raise InvalidSetting(variable.name + _FILE, path, f"nothing where {variable.name} is set")
    return convert(variable.name + _FILE, _read_secret(variable.name + _FILE, path), variable.kind)


def _read_secret(name: str, path: str) -> str:
    """Return a file's text without its last line break. An empty one is no way to have no password."""
    try:
        secret = Path(path).read_bytes().decode().removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InvalidSetting(name, path, f"the path of a file that can be read ({reason})") from None
    if not secret:
        raise InvalidSetting(name, path, "the path of a file that is not empty")
    return secret


def _hint(name: str, held: str) -> str:
    """Return what else to say of a known mistake."""
    if SERVICE_LINK.match(held) and name.endswith("_PORT"):
        service = name.removesuffix("_PORT").lower().replace("_", "-")
        return (
            f" (Kubernetes sets it so for a Service called {service!r}: "
            f"set enableServiceLinks: false in the pod's spec, or {name} yourself)"
        )
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+_.-]*://", held):
        return f" (without {scheme[0]})"
    address = HOST_PORT.fullmatch(held)
    if name in _PORT_BESIDE and address and address["port"]:
        return f" (what is meant is {name}={address['host']} and {_PORT_BESIDE[name]}={address['port']})"
    return ""
