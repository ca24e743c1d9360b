"""Settings from flags, a YAML file and other layers, into checked dataclasses.

A command's settings are a tree of two levels: a frozen dataclass whose fields are sections, each a
frozen dataclass of settings made with :func:`setting`. From that tree come the flags (one a setting,
grouped by section), the reader of ``--config FILE.yaml``, and the file written into a run's folder,
which is itself a valid ``--config``.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError

from megabert.common.errors import UserError

Settings = TypeVar("Settings")
Values = dict[str, dict[str, Any]]
"""Section name -> setting name -> value; only what a layer sets."""


Choices = Callable[[], Iterable[str]]
"""Names that a registry knows, asked for when a parser or the settings are made."""


def setting(
    default: Any, help: str, *, flags: tuple[str, ...] = (), choices: Choices | None = None
) -> Any:
    """A dataclass field with its help text.

    Args:
        flags: replaces the flag made from the field's name.
        choices: names that the value must be one of, for names that a registry holds (models,
            tasks, optimizers, formats). It is called when the parser or the settings are made, so
            that names registered after the import of this field count. It must not import torch:
            ``--help`` and every error of the command line come from it. The field's type is then
            ``str`` (``str | None``). Names that are fixed are a ``Literal`` type instead.
    """
    metadata = {"help": help, "flags": flags, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def _sections(cls: type) -> dict[str, type]:
    return dict(typing.get_type_hints(cls))


def _section_hints(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section)


class _Parser(argparse.ArgumentParser):
    """argparse that raises our one-line error."""

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def plain_parser(
    prog: str, description: str | None, epilog: str | None = None
) -> argparse.ArgumentParser:
    """An argparse parser whose errors are one :class:`UserError` line."""
    return _Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def make_parser(cls: type, prog: str, description: str) -> argparse.ArgumentParser:
    """A parser with one flag a setting of ``cls``; values stay strings, pydantic reads them."""
    parser = plain_parser(prog, description)
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the settings below")
    for dest in ("--local_rank", "--local-rank"):  # launchers put one of these in front
        parser.add_argument(dest, dest="_local_rank", help=argparse.SUPPRESS)
    for name, section in _sections(cls).items():
        group = parser.add_argument_group((section.__doc__ or name).strip().splitlines()[0])
        hints = _section_hints(section)
        for field in dataclasses.fields(section):
            names = field.metadata["flags"] or ("--" + field.name.replace("_", "-"),)
            choices = _choices(field, hints[field.name])
            default = "" if field.default is None else f" [{_shown(field.default)}]"
            group.add_argument(
                *names,
                dest=f"{name}.{field.name}",
                default=argparse.SUPPRESS,
                type=type(choices[0]) if choices else str,
                choices=choices,
                metavar="|".join(map(str, choices)) if choices else _metavar(hints[field.name]),
                help=(field.metadata["help"] + default).replace("%", "%%"),
            )
    return parser


def _shown(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _choices(field: dataclasses.Field[Any], hint: Any) -> tuple[Any, ...] | None:
    if field.metadata["choices"] is not None:
        return tuple(field.metadata["choices"]())
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            return get_args(part)
    return ("on", "off") if hint is bool else None


def _metavar(hint: Any) -> str:
    text = str(hint)
    if "Path" in text:
        return "PATH"
    return "N" if "int" in text else "X" if "float" in text else "NAME"


def read_yaml(path: Path, cls: type) -> Values:
    """Settings of a YAML file; an unknown section or setting is an error that names it."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}; name a readable YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"--config {path}: expected sections {', '.join(_sections(cls))}")
    values: Values = {}
    sections = _sections(cls)
    problems = []
    for name, body in content.items():
        if name not in sections:
            problems.append(f"unknown section {name!r}")
        elif not isinstance(body, Mapping):
            problems.append(f"section {name!r} is not a mapping")
        else:
            known = {field.name for field in dataclasses.fields(sections[name])}
            problems += [f"unknown setting {name}.{key}" for key in body if key not in known]
            values[str(name)] = dict(body)
    if problems:
        raise UserError(f"--config {path}: {'; '.join(problems)}")
    return values


def parse(
    cls: type, argv: Sequence[str] | None, prog: str, description: str
) -> tuple[Values, Values]:
    """What the command line sets: (values of flags, values of ``--config``)."""
    namespace = vars(make_parser(cls, prog, description).parse_args(argv))
    namespace.pop("_local_rank", None)
    config = namespace.pop("config", None)
    given: Values = {}
    for dest, value in namespace.items():
        section, name = dest.split(".", 1)
        given.setdefault(section, {})[name] = value
    return given, read_yaml(Path(config), cls) if config else {}


def join(*layers: Values) -> Values:
    """Later layers win."""
    joined: Values = {}
    for layer in layers:
        for section, body in layer.items():
            joined.setdefault(section, {}).update(body)
    return joined


def build(cls: type[Settings], values: Values) -> Settings:
    """Check ``values`` and make the settings; all errors at once, each with its path."""
    sections = {name: values.get(name, {}) for name in _sections(cls)}
    problems = [
        f"{name}.{field.name} = {value!r}: expected one of {', '.join(choices)}"
        for name, section in _sections(cls).items()
        for field in dataclasses.fields(section)
        if field.metadata["choices"] is not None
        and (value := sections[name].get(field.name)) is not None
        and value not in (choices := tuple(field.metadata["choices"]()))
    ]
    if problems:
        raise UserError(f"wrong settings: {'; '.join(problems)}")
    try:
        return TypeAdapter(cls).validate_python(sections)
    except ValidationError as error:
        parts = []
        for item in error.errors():
            path = ".".join(str(part) for part in item["loc"][:2])
            parts.append(f"{path} = {item['input']!r}: {item['msg']}")
        raise UserError(f"wrong settings: {'; '.join(parts)}") from error


def to_values(settings: Any) -> Values:
    """Plain values of a settings tree (paths as strings), ready for YAML."""

    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    return {
        section.name: {
            key: plain(value)
            for key, value in dataclasses.asdict(getattr(settings, section.name)).items()
        }
        for section in dataclasses.fields(settings)
    }


def to_yaml(settings: Any) -> str:
    """The settings as YAML, in the order of the dataclasses; a valid ``--config``."""
    return yaml.safe_dump(to_values(settings), sort_keys=False, allow_unicode=True)
