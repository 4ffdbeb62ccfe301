"""What a callable may be given: names, defaults and annotations of its arguments, and which plain values fit them."""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

NONE = inspect.Parameter.empty
# The default of an argument of a parent's `__init__`: a subclass that hands on its `**kwargs` may supply it itself.
SUPPLIED = object()
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
# Classes that take a word for their name, so that text may stand for them.
_NAMED = (pathlib.Path, pathlib.PurePath, torch.dtype, torch.device)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_PLURAL = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts"}


@dataclass(frozen=True)
class Argument:
    """One argument: its default (`NONE` where it has none) and its annotation (`Any` where it has none)."""

    name: str
    default: Any = NONE
    annotation: Any = Any


@dataclass(frozen=True)
class Arguments:
    """All arguments that may be given by name; `open` where others are taken too."""

    named: dict[str, Argument] = field(default_factory=dict)
    open: bool = False

    def __contains__(self, name: object) -> bool:
        return name in self.named or self.open

    def __iter__(self) -> Iterator[Argument]:
        return iter(self.named.values())


def arguments_of(target: Callable[..., Any]) -> Arguments:
    """The arguments of a function, of a class (its `__init__`), or of another callable.

    Where the `__init__` of a class takes `**kwargs` these are its parent's arguments.
    """
    functions = list(_initialisers(target)) if inspect.isclass(target) else [target]
    named: dict[str, Argument] = {}
    is_open = False
    for function in functions:
        signature = inspect.signature(function)
        names = _namespace(function)
        skips = 1 if inspect.isclass(target) and function is not target else 0
        is_open = False
        for parameter in list(signature.parameters.values())[skips:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                is_open = True
            elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                annotation = _resolved(parameter.annotation, names)
                default = parameter.default if function is functions[0] else SUPPLIED
                named.setdefault(parameter.name, Argument(parameter.name, default, annotation))
        if not is_open:
            break
    return Arguments(named, is_open)


def _initialisers(cls: type) -> Iterator[Callable[..., Any]]:
    ours = [base for base in cls.__mro__ if base.__module__.split(".")[0] not in ("builtins", "torch", "lightning")]
    found = [vars(base)["__init__"] for base in ours if inspect.isfunction(vars(base).get("__init__"))]
    return iter(found or [cls])


def _namespace(function: Callable[..., Any]) -> dict[str, Any]:
    plain: Any = inspect.unwrap(function)
    plain = getattr(plain, "__func__", plain)
    return getattr(plain, "__globals__", None) or getattr(type(plain).__call__, "__globals__", {})


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is NONE:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)
    except (NameError, AttributeError, TypeError, SyntaxError):
        # Imported for type checkers only, or a shape of jaxtyping's: nothing to check a plain value against.
        return Any


def fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value (or a mapping that names a `_target_`) may be given for `annotation`."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return fits(value, inner[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    part = isinstance(value, Mapping) and "_target_" in value
    if (origin or annotation) in _LISTS:
        return isinstance(value, list | tuple) and _items_fit(value, origin, inner)
    if (origin or annotation) in _MAPPINGS:
        if not isinstance(value, Mapping):
            return False
        return part or not inner or all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if _wants_part(annotation):
        return not (value is None or isinstance(value, bool | int | float | str))
    return True


def _items_fit(value: Iterable[Any], origin: Any, inner: tuple[Any, ...]) -> bool:
    items = list(value)
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return len(items) == len(inner) and all(fits(item, one) for item, one in zip(items, inner, strict=True))
    return not inner or all(fits(item, inner[0]) for item in items)


def _wants_part(annotation: Any) -> bool:
    if (typing.get_origin(annotation) or annotation) in (collections.abc.Callable, type):
        return True
    return inspect.isclass(annotation) and annotation not in (Any, object) and not issubclass(annotation, _NAMED)


def described(annotation: Any) -> str:
    """`annotation` in words: "a whole number", "one of 'sum', 'mean'", "a list of numbers or null"."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return described(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(described(one) for one in inner))
    if origin is Literal:
        return "one of " + ", ".join(repr(one) for one in inner)
    if (origin or annotation) in _LISTS:
        kinds = [one for one in inner if one is not Ellipsis]
        number = f"{len(inner)} " if origin is tuple and inner and inner[-1] is not Ellipsis else ""
        words = list(dict.fromkeys(_PLURAL.get(one) or f"items, each {described(one)}" for one in kinds))
        return f"a list of {number}{' and '.join(words)}" if words else "a list"
    if (origin or annotation) in _MAPPINGS:
        return "a mapping"
    if annotation is None:
        return "null"
    return _WORDS.get(annotation, "a part with a _target_" if _wants_part(annotation) else str(annotation))


def fitted(value: Any, annotation: Any) -> Any:
    """`value` with lists made tuples where only a tuple is annotated."""
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    kinds = {typing.get_origin(one) or one for one in options}
    return tuple(value) if isinstance(value, list) and tuple in kinds and list not in kinds else value


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def nearest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean 'x'?" with the nearest of `names`, or nothing where none is near."""
    known = list(names)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    # A path is also found by its last part: navigation for vmas/navigation, heads for model.encoder.heads.
    last = re.split("[./]", name)[-1]
    close = close or [one for one in known if re.split("[./]", one)[-1] == last][:3]
    return f"; did you mean {' or '.join(repr(one) for one in close)}?" if close else ""
