"""Options of passes: the fields of a frozen dataclass, checked against their annotations.

    @dataclass(frozen=True)
    class FoldConstants(Pass):
        max_bytes: int = field(default=1 << 20, metadata={"minimum": 0})

A field may be annotated with `int`, `float`, `bool`, `str`, a tuple of those, a `Literal`, or any of them
`| None`. Its metadata may hold `minimum`, `maximum` (both included) and `help`. The check runs whenever a
pass is made, so an option given in Python and one given as text fail with the same words.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from graphopt.errors import PassOptionError
from graphopt.ir.attributes import Attribute, attribute_text, freeze_attribute
from graphopt.ir.dims import Expression

__all__ = ["check_options", "coerce_option", "describe_options", "make_pass", "option_table", "option_types"]


@cache
def option_types(cls: type) -> Mapping[str, Any]:
    """Resolved annotations of the fields of a pass class, by option name.

    Only the fields are resolved, so a class may annotate the rest of itself with names that exist for
    type checkers alone.
    """
    wanted = {field.name: field.type for field in dataclasses.fields(cls) if field.init}
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        own = {name: wanted[name] for name in inspect.get_annotations(base) if name in wanted}
        if own:
            holder = type("Options", (), {"__annotations__": own, "__module__": base.__module__})
            hints.update(typing.get_type_hints(holder))
    return {name: hints[name] for name in wanted}


def make_pass(cls: type, options: Mapping[str, Attribute]) -> Any:
    """An instance of a pass class with options as read from text.

    Raises:
        PassOptionError: an option is unknown, missing, of the wrong type or out of range.
    """
    known = option_types(cls)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise PassOptionError(f"{_name(cls)} has no option '{name}'", where=_name(cls), fix=hint + describe_options(cls))
    required = [
        f.name for f in dataclasses.fields(cls) if f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in options]
    if missing:
        raise PassOptionError(f"{_name(cls)} needs the option '{missing[0]}'", where=_name(cls), fix=describe_options(cls))
    values = {name: coerce_option(cls, name, value) for name, value in options.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise PassOptionError(f"{_name(cls)}: {error}", where=_name(cls), fix=describe_options(cls)) from error


def check_options(pass_: Any) -> None:
    """Check the option values of a pass object against annotations and ranges.

    Raises:
        PassOptionError: a value has the wrong type or is out of its range.
    """
    cls = type(pass_)
    for field in dataclasses.fields(pass_):
        hint = option_types(cls).get(field.name)
        if hint is None or not _supported(hint):
            continue
        coerced = coerce_option(cls, field.name, getattr(pass_, field.name))
        if type(coerced) is not type(getattr(pass_, field.name)):  # an int given for a float
            object.__setattr__(pass_, field.name, coerced)


def coerce_option(cls: type, name: str, value: Any) -> Any:
    """`value` as the option's annotation wants it: an int becomes a float where a float is needed.

    Raises:
        PassOptionError: it does not fit, or is out of range.
    """
    hint = option_types(cls)[name]
    if not _supported(hint):
        raise PassOptionError(
            f"option '{name}' of {_name(cls)} is a {_type_text(hint)} and can be set in Python only",
            where=_name(cls),
            fix=f"write {cls.__name__}({name}=...)",
        )
    fits, coerced = _fit(value, hint)
    if not fits:
        raise PassOptionError(
            f"option '{name}' of {_name(cls)} is {_value_text(value)}, needs {_type_text(hint)}",
            where=_name(cls),
            fix=describe_options(cls),
        )
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
    for number in coerced if isinstance(coerced, tuple) else (coerced,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if math.isnan(number) or (low is not None and number < low) or (high is not None and number > high):
            limits = " and ".join(
                text for text in (f">= {low}" if low is not None else "", f"<= {high}" if high is not None else "") if text
            )
            raise PassOptionError(
                f"option '{name}' of {_name(cls)} is {number}, needs a number {limits or 'that is not nan'}",
                where=_name(cls),
                fix=describe_options(cls),
            )
    return coerced


def describe_options(cls: type) -> str:
    """The options of a pass class with types, ranges and defaults, on one line."""
    parts: list[str] = []
    hints = option_types(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        text = f"{field.name}: {_type_text(hints[field.name])}"
        if field.default is not dataclasses.MISSING:
            text += f" = {_value_text(field.default)}"
        low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
        if low is not None or high is not None:
            text += f" in [{'-inf' if low is None else low}, {'inf' if high is None else high}]"
        parts.append(text)
    return f"options of {_name(cls)}: {', '.join(parts)}" if parts else f"{_name(cls)} has no options"


def option_table(cls: type) -> list[dict[str, str]]:
    """The options of a pass class for people: name, type, default (empty where one has to be given), help."""
    hints = option_types(cls)
    return [
        {
            "name": field.name,
            "type": _type_text(hints[field.name]),
            "default": "" if field.default is dataclasses.MISSING else _value_text(field.default),
            "help": str(field.metadata.get("help", "")),
        }
        for field in dataclasses.fields(cls)
        if field.init
    ]


def _name(cls: type) -> str:
    return getattr(cls, "name", cls.__name__)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _supported(hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint) or origin is tuple:
        return all(arg is Ellipsis or _supported(arg) for arg in args)
    return origin is Literal or hint in (int, float, bool, str, type(None))


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether `value` is of type `hint`, and the value to use."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return next((found for arg in args if (found := _fit(value, arg))[0]), (False, None))
    if origin is Literal:
        return value in args and any(type(value) is type(arg) for arg in args), value
    if origin is tuple:
        return _fit_tuple(value, args)
    if hint is type(None):
        return value is None, None
    if hint is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        return fits, float(value) if fits else None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, hint), value


def _fit_tuple(value: Any, args: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, tuple | list):
        return False, None
    items: tuple[Any, ...] = tuple(value)
    wanted = [args[0]] * len(items) if len(args) == 2 and args[1] is Ellipsis else list(args)
    if len(wanted) != len(items):
        return False, None
    fitted = [_fit(item, hint) for item, hint in zip(items, wanted, strict=True)]
    return all(fits for fits, _ in fitted), tuple(item for _, item in fitted)


def _type_text(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return " or ".join(_type_text(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(_value_text(arg) for arg in args)
    if origin is tuple:
        return f"tuple[{', '.join('...' if arg is Ellipsis else _type_text(arg) for arg in args)}]"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _value_text(value: Any) -> str:
    if isinstance(value, Expression):
        return f"the bare word {value.text} (strings go in double quotes)"
    return attribute_text(freeze_attribute(value)) if isinstance(value, None | bool | int | float | str | tuple | list) else repr(value)
