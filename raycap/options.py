"""The options of a dataclass: the flag, type, default and help of each; and a dataclass from values for some of them.

The dataclass is the one source: its fields, their types, and the docstring below each. Command lines, help pages,
configuration files and completion scripts are made from these. Knows neither commands nor files.
"""

import ast
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar

from raycap.errors import InputError
from raycap.locations import join

Path = tuple[str, ...]
"""Names of fields, the outermost first: `("workers", "num_gpus")`."""

_Config = TypeVar("_Config")
_METAVARS: Final = {str: "TEXT", int: "INT", float: "NUMBER", bool: ""}
_NAMED: Final = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_BOOLS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Marker(Enum):
    """What `Annotated` says of a field."""

    POSITIONAL = "given without a flag"
    PREFIXED = "a dataclass the flags of whose options begin with the field's name"


Positional: Final = Marker.POSITIONAL
Prefixed: Final = Marker.PREFIXED


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    Attributes:
        path: of its field.
        flag: `--num-gpus`, or `--extract.num-gpus` inside a dataclass that is marked `Prefixed`; for one that is
            positional, `PHOTOS`.
        kind: of its value, or of each of its values.
        choices: what the value may be; empty where that is not limited.
        many: whether it takes several values.
        nullable: whether None is a value.
        default: `MISSING` for one that must be given.
        derived: what the default is made of, for people: `OUT/prepared`.
        help: the field's docstring.
        positional: whether it is given without its flag.
    """

    path: Path
    flag: str
    kind: type
    choices: tuple[str, ...]
    many: bool
    nullable: bool
    default: Any
    derived: str | None
    help: str
    positional: bool

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING and self.derived is None

    @property
    def metavar(self) -> str:
        """What stands for its value in help: `TEXT`, `{a,b}`, nothing for a switch."""
        metavar = f"{{{','.join(self.choices)}}}" if self.choices else _METAVARS[self.kind]
        return f"{metavar} ..." if self.many else metavar

    def from_words(self, words: Sequence[str]) -> Any:
        """Return the value that words of a command line, or of an environment, stand for.

        Raises:
            ValueError: if they stand for none; its message begins with `takes`.
        """
        values = tuple(self._from_word(word) for word in words)
        if self.many:
            return values
        if len(values) != 1:
            raise ValueError(f"takes one value, not {len(values)}")
        return values[0]

    def from_toml(self, value: Any) -> Any:
        """Return the value that one in a TOML file stands for.

        Raises:
            ValueError: if it stands for none; its message begins with `takes`.
        """
        if not self.many:
            return self._checked(value)
        if not isinstance(value, list):
            raise ValueError(f"takes a list, not {_shown(value)}")
        return tuple(self._checked(each) for each in value)

    def _from_word(self, word: str) -> Any:
        if self.nullable and word.lower() == "none":
            return None
        try:
            value = _BOOLS[word.lower()] if self.kind is bool else self.kind(word)
        except (ValueError, KeyError):
            raise ValueError(f"takes {_NAMED[self.kind]}, not {_shown(word)}") from None
        return self._checked(value)

    def _checked(self, value: Any) -> Any:
        if self.kind is float and type(value) is int:
            value = float(value)
        if value is None and self.nullable:
            return None
        if type(value) is not self.kind:
            raise ValueError(f"takes {_NAMED[self.kind]}, not {_shown(value)}")
        if self.choices and value not in self.choices:
            raise ValueError(f"takes {_either(self.choices)}, not {_shown(value)}")
        return value


@dataclass(frozen=True, kw_only=True)
class Group:
    """The options of one dataclass inside another.

    Attributes:
        path: of the field that holds it; empty for the outermost.
        help: the first paragraph of its docstring.
        options: its own, without those of dataclasses inside it.
    """

    path: Path
    help: str
    options: tuple[Option, ...]


@cache
def groups_of(config: type) -> tuple[Group, ...]:
    """Return the options of a dataclass and of those inside it, a group each, the outermost first."""
    return tuple(_groups(config, (), "", derived_of(config), _defaults(config)))


def options_of(config: type) -> tuple[Option, ...]:
    """Return all options of a dataclass."""
    return tuple(option for group in groups_of(config) for option in group.options)


def negated(flag: str) -> str:
    """Return the flag that says no to a switch: `--no-report`, `--train.no-use-gpu`."""
    prefix, dot, last = flag[2:].rpartition(".")
    return f"--{prefix}{dot}no-{last}"


def derived_of(config: type) -> Mapping[Path, tuple[str, ...]]:
    """Return which options have a default that is made of another one: a folder, and what is in it.

    A dataclass says so in `DERIVED`: the option's path, to the other's name (dotted) and the names in that folder.
    """
    derived: Mapping[Path, tuple[str, ...]] = getattr(config, "DERIVED", {})
    return derived


def build(config: type[_Config], values: Mapping[Path, Any]) -> _Config:
    """Return a dataclass with values for some of its options, by path, and defaults for the others.

    Raises:
        InputError: if one that must be given is not, or the dataclass refuses a value.
    """
    missing = [option for option in options_of(config) if option.required and option.path not in values]
    if len(missing) == 1:
        raise InputError(f"{missing[0].flag} is missing: {missing[0].help}")
    if missing:
        helps = "; ".join(f"{option.flag}: {option.help.rstrip('.')}" for option in missing)
        raise InputError(f"{_listed([option.flag for option in missing])} are missing\n{helps}.")
    return _build(config, {**_derive(config, values), **values}, ())


def _derive(config: type, values: Mapping[Path, Any]) -> dict[Path, Any]:
    defaults = {option.path: option.default for option in options_of(config)}
    found: dict[Path, Any] = {}
    for path, (base, *names) in derived_of(config).items():
        known = {**defaults, **found, **values}
        found[path] = join(known[tuple(base.split("."))], *names)
    return found


def _build(config: type[_Config], values: Mapping[Path, Any], at: Path) -> _Config:
    given: dict[str, Any] = {}
    for field, kind in _fields(config):
        path = (*at, field)
        if is_dataclass(kind):
            inner = _defaults(config)[field]
            own = {(*path, name): value for name, value in _defaults_of(inner).items()} if inner is not MISSING else {}
            given[field] = _build(typing.cast(type, kind), {**own, **values}, path)
        elif path in values:
            given[field] = values[path]
    return config(**given)


def _defaults(config: type) -> dict[str, Any]:
    """Return the default of each field, `MISSING` for one that must be given."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(config)
    }


def _defaults_of(whole: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that is the default of another's field."""
    return {field.name: getattr(whole, field.name) for field in fields(whole)}


def _groups(
    config: type, at: Path, prefix: str, derived: Mapping[Path, tuple[str, ...]], defaults: Mapping[str, Any]
) -> typing.Iterator[Group]:
    helps, own = _field_helps(config), []
    inner: list[tuple[type, Path, str]] = []
    for name, kind in _fields(config):
        path, markers = (*at, name), _markers(config, name)
        if is_dataclass(kind):
            inner.append((typing.cast(type, kind), path, f"{prefix}{name}." if Prefixed in markers else prefix))
            continue
        base, choices, many, nullable = _understood(kind)
        positional = Positional in markers
        option = Option(
            path=path,
            flag=name.upper() if positional else f"--{prefix}{name}".replace("_", "-"),
            kind=base,
            choices=choices,
            many=many,
            nullable=nullable,
            default=defaults[name],
            derived=_made_of(path, derived) if path in derived else None,
            help=helps.get(name, ""),
            positional=positional,
        )
        own.append(option)
    yield Group(path=at, help=_first_paragraph(config), options=tuple(own))
    for each, path, longer in inner:
        whole = defaults[path[-1]]
        yield from _groups(each, path, longer, derived, _defaults(each) if whole is MISSING else _defaults_of(whole))


def _made_of(path: Path, derived: Mapping[Path, tuple[str, ...]]) -> str:
    """Return what a default is made of, for people: `OUT/prepared`."""
    if path not in derived:
        return path[-1].upper()
    base, *names = derived[path]
    return "/".join([_made_of(tuple(base.split(".")), derived), *names])


@cache
def _hints(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config, include_extras=True)


def _fields(config: type) -> list[tuple[str, Any]]:
    """Return the name and the type, without what `Annotated` adds, of each field."""
    return [(field.name, _bare(_hints(config)[field.name])) for field in fields(config)]


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _markers(config: type, name: str) -> tuple[Any, ...]:
    return getattr(_hints(config)[name], "__metadata__", ())


def _understood(kind: Any) -> tuple[type, tuple[str, ...], bool, bool]:
    """Return the base type, the choices, whether there are many and whether None is one, of a field's type."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        [other] = [each for each in typing.get_args(kind) if each is not type(None)]
        return (*_understood(other)[:3], True)
    if typing.get_origin(kind) is tuple:
        return (*_understood(typing.get_args(kind)[0])[:2], True, False)
    if typing.get_origin(kind) is Literal:
        return str, typing.get_args(kind), False, False
    if kind not in _METAVARS:
        raise TypeError(f"no option can be a {kind}")
    return kind, (), False, False


@cache
def _field_helps(config: type) -> dict[str, str]:
    """Return the docstring below each field, its own and inherited, on one line."""
    helps = {name: text for base in config.__bases__ if base is not object for name, text in _field_helps(base).items()}
    tree = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    assert isinstance(tree, ast.ClassDef)  # noqa: S101 - the source of a class
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            helps[node.target.id] = re.sub(r"\s+", " ", str(ast.literal_eval(after.value))).strip()
    return helps


def _first_paragraph(config: type) -> str:
    return re.sub(r"\s+", " ", inspect.cleandoc(config.__doc__ or "").split("\n\n")[0])


def _either(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
