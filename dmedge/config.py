"""TOML tables to frozen dataclasses: defaults live in the dataclass, an unknown key is an error."""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dmedge.errors import ConfigError

C = TypeVar("C")

RECIPES = Path(__file__).parent / "recipes"


def near_match(found: str, expected: Sequence[str]) -> str:
    """A hint to put after a message: the nearest expected name, or all of them."""
    return did_you_mean(found, expected) or f"; expected one of {list(expected)}"


def did_you_mean(found: str, expected: Sequence[str]) -> str:
    """A hint to put after a message: the nearest expected name, or nothing."""
    close = get_close_matches(found, expected, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def load_config(cls: type[C], table: Mapping[str, Any], *, where: str = "") -> C:
    """Build the dataclass `cls` from one TOML or JSON table, checking every key and type.

    Args:
        table: the settings; nested tables become nested dataclasses, arrays become tuples.
        where: name of the table in messages [default: the name of `cls`].

    Raises:
        ConfigError: a key is unknown, missing, of the wrong type or out of range; all such
            keys of the table are named in one message.
    """
    where = where or cls.__name__
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    problems = [f"missing key {name!r}" for name, f in known.items() if name not in table and _is_required(f)]
    for key, value in table.items():
        if key not in known:
            problems.append(f"unknown key {key!r}{near_match(key, list(known))}")
            continue
        try:
            values[key] = _convert(value, hints[key], f"{where}.{key}")
        except ConfigError as error:
            problems.append(str(error).removeprefix(f"{where}: "))
    if problems:
        words = "; ".join(problems)
        raise ConfigError(words if words.startswith(f"{where}.") else f"{where}: {words}")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotation `hint` asks, or a ConfigError that names `where`."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in (Any, object):
        return value
    if origin in (Union, UnionType):
        return _convert_union(value, args, where)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where}: {value!r}{near_match(str(value), [str(arg) for arg in args])}")
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else load_config(hint, _table(value, where), where=where)
    if origin in (tuple, list, Sequence):
        return _convert_items(value, hint, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {
            _convert(key, args[0], where): _convert(item, args[1], f"{where}.{key}")
            for key, item in _table(value, where).items()
        }
    return _convert_scalar(value, hint, where)


def _convert_scalar(value: Any, hint: Any, where: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and isinstance(value, int):
        return value
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint in (bool, str, NoneType) and isinstance(value, hint):
        return value
    if hint not in (bool, int, float, str, Path, NoneType):
        raise TypeError(f"{where}: settings of type {hint} cannot be read from a table")
    raise ConfigError(f"{where}: found {value!r}; expected {hint.__name__}")


def _convert_union(value: Any, hints: Sequence[Any], where: str) -> Any:
    problems = []
    for hint in hints:
        try:
            return _convert(value, hint, where)
        except ConfigError as error:
            problems.append(str(error).removeprefix(f"{where}: "))
    raise ConfigError(f"{where}: {' or '.join(problems)}")


def _convert_items(value: Any, hint: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: found {value!r}; expected an array")
    origin, args = get_origin(hint), get_args(hint)
    if origin is not tuple or args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    elif len(args) != len(value):
        raise ConfigError(f"{where}: found {len(value)} items; expected {len(args)}")
    items = [_convert(item, arg, f"{where}[{i}]") for i, (item, arg) in enumerate(zip(value, args, strict=True))]
    return items if origin is list else tuple(items)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: found {value!r}; expected a table")
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read one TOML file.

    Raises:
        ConfigError: the file is missing, not UTF-8, or not TOML; the message says where.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a TOML file") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def find_recipe(name_or_path: str | Path) -> Path:
    """Path of a recipe: a bare name is one that ships with dmedge, anything else is a file.

    Raises:
        ConfigError: there is no such recipe; a near match is named.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.name != str(name_or_path):
        if path.is_file():
            return path
        raise ConfigError(f"{path}: no such recipe file; name a .toml file or one of {recipe_names()}")
    if path.name not in recipe_names():
        raise ConfigError(f"no recipe {path.name!r}{near_match(path.name, recipe_names())}")
    return RECIPES / f"{path.name}.toml"


def recipe_names() -> list[str]:
    """Names of the recipes that ship with dmedge, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def apply_overrides(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A deep copy of `table` with settings such as "stage.0.steps=200" put in.

    Args:
        overrides: "path=value" each; a path is dotted, a number in it counts an array from 0,
            a value is TOML and, where it is not, a plain string.

    Raises:
        ConfigError: no "=", a path through something that is no table, or an index past the end.
    """
    result = copy.deepcopy(dict(table))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise ConfigError(f"found {override!r}; expected key=value, such as stage.0.steps=200")
        *parents, last = path.strip().split(".")
        place: Any = result
        for key in parents:
            if isinstance(place, dict):
                place.setdefault(key, {})
            place = place[_key(place, key, override)]
        place[_key(place, last, override)] = _parse_value(text.strip())
    return result


def _key(place: Any, key: str, override: str) -> str | int:
    if isinstance(place, dict):
        return key
    if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
        return int(key)
    found = f"an array of {len(place)}" if isinstance(place, list) else repr(place)
    raise ConfigError(f"--set {override}: cannot reach {key!r} in {found}; expected a table, or an index into an array")


def _parse_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text
