"""Settings from flags, a YAML file and other layers, into checked dataclasses.

A command's settings are a tree of two levels: a frozen dataclass whose fields are sections, each a
frozen dataclass of settings made with :func:`setting`. From that tree come the flags (one per setting,
grouped by section), the reader of ``--config FILE.yaml``, and the file written into a run's folder,
which is itself a valid ``--config``.

A setting whose type is ``tuple[X, ...]`` is a list: ``--lrs 1e-5 2e-5`` or ``--lrs 1e-5,2e-5``, and a
list in YAML. Types, switches and messages: :mod:`megabert.config.values`.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from megabert.common.errors import UserError
from megabert.config import values as types
from megabert.config.command_line import CommandParser, SwitchAction
from megabert.config.values import WrongValue, suggestion

Settings = TypeVar("Settings")
Values = dict[str, dict[str, Any]]
"""Section name -> setting name -> value; only what a layer sets."""
Choices = Callable[[], Iterable[str]]
"""Names that a registry knows, read when a parser or the settings are made."""
Resume = Literal["must_match", "free", "changes_results"]


def setting(
    default: Any,
    help: str,
    *,
    flags: tuple[str, ...] = (),
    choices: Choices | None = None,
    metavar: str = "",
    resume: Resume = "changes_results",
) -> Any:
    """A dataclass field with its help text; ``--help`` adds the default, if it is not None.

    Args:
        flags: replaces the flag made from the field's name. Messages use the first one.
        choices: names that the value must be one of, for names that a registry holds (models,
            tasks, optimizers, formats). It is called when the parser or the settings are made, so
            that names registered after the import of this field count. It must not import torch:
            ``--help`` and every error of the command line come from it. The field's type is then
            ``str`` (``str | None``). Names that are fixed are a ``Literal`` type instead.
        metavar: what is expected, in capitals, where the type does not say it: FILE, DIR, SECONDS.
        resume: what another value means for a run that is resumed. "must_match": the run cannot be
            resumed with it, because the data position or the weights would mean something else.
            "free": it changes no result. "changes_results": pretraining may resume with it; results
            of finished fine-tuning runs are not reused.
    """
    metadata = {
        "help": help, "flags": flags, "choices": choices, "metavar": metavar, "resume": resume,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def sections(cls: type) -> dict[str, type]:
    """Section name -> dataclass of its settings."""
    hints = typing.get_type_hints(cls)
    return {name: kind for name, kind in hints.items() if hasattr(kind, "__dataclass_fields__")}


def resume_rules(cls: type) -> dict[tuple[str, str], Resume]:
    """(section, setting) -> what its ``resume`` says."""
    return {
        (name, field.name): field.metadata["resume"]
        for name, section in sections(cls).items()
        for field in dataclasses.fields(section)
    }


def flag_of(field: dataclasses.Field[Any]) -> str:
    """The flag that messages name."""
    return _flags_of(field)[0]


def _flags_of(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    return field.metadata["flags"] or ("--" + field.name.replace("_", "-"),)


@dataclasses.dataclass(frozen=True)
class SettingsLayer:
    """Settings from one source.

    Attributes:
        values: what the source sets. None means "not set".
        file: the file they come from; "" for flags.
        names: (section, setting) -> its name in the file, where that differs from ``section.setting``.
    """

    values: Values = dataclasses.field(default_factory=dict)
    file: str = ""
    names: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def sets(self, section: str, name: str) -> bool:
        """Whether this layer has a value for the setting."""
        return self.values.get(section, {}).get(name) is not None

    def without(self, *places: tuple[str, str]) -> SettingsLayer:
        """The layer without these (section, setting)."""
        left = {section: dict(body) for section, body in self.values.items()}
        for section, name in places:
            left.get(section, {}).pop(name, None)
        return dataclasses.replace(self, values=left)

    def name(self, section: str, field: dataclasses.Field[Any]) -> str:
        """The setting as its user knows it: ``--lr``, or ``run.yaml: optimizer.lr``."""
        if not self.file:
            return flag_of(field)
        return f"{self.file}: {self.names.get((section, field.name), f'{section}.{field.name}')}"


@dataclasses.dataclass(frozen=True)
class Given:
    """What a command line gives.

    Attributes:
        flags: the settings set by flags.
        file: the settings of ``--config``.
        print_config: whether to print the resolved settings instead of running.
        options: values of the command's flags that are not settings.
    """

    flags: SettingsLayer = SettingsLayer()
    file: SettingsLayer = SettingsLayer()
    print_config: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def plain_parser(prog: str, description: str | None, epilog: str | None = None) -> CommandParser:
    """The parser of a command without a tree of settings."""
    return CommandParser(prog, description, epilog)


def make_parser(
    cls: type,
    prog: str,
    description: str,
    *,
    hidden: Iterable[str] = (),
    config_flags: tuple[str, ...] = ("--config",),
) -> CommandParser:
    """A parser with one flag per setting of ``cls``; values stay texts, :func:`build` reads them.

    Args:
        hidden: settings whose flags are accepted and not listed by ``--help``.
        config_flags: the names of ``--config``, which is the first.
    """
    parser = CommandParser(prog, description)
    parser.usage = f"{prog} [--FLAG VALUE]..."
    known = ", ".join(named_files(cls))
    parser.add_argument(
        *config_flags,
        metavar="FILE",
        help="YAML file with any of the settings below"
        + (f"; or the name of a recipe in launch/recipes: {known}" if known else ""),
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved settings as YAML and exit"
    )
    for dest in parser.repeatable:  # launchers put one of these in front
        parser.add_argument(dest, dest="_local_rank", help=argparse.SUPPRESS)
    for name, section in sections(cls).items():
        group = parser.add_argument_group((section.__doc__ or name).strip().splitlines()[0])
        hints = types.hints(section)
        for field in dataclasses.fields(section):
            _add_flag(group, f"{name}.{field.name}", field, hints[field.name], field.name in hidden)
    return parser


def _add_flag(
    group: Any, dest: str, field: dataclasses.Field[Any], kind: Any, hidden: bool
) -> None:
    more: dict[str, Any] = {}
    if types.is_switch(kind):
        more |= {"action": SwitchAction, "keep_text": True}
    elif types.list_item(kind) is not None:
        more["nargs"] = "+"
    group.add_argument(
        *_flags_of(field),
        dest=dest,
        default=argparse.SUPPRESS,
        metavar=_metavar(field, kind),
        help=argparse.SUPPRESS if hidden else _help(field, kind).replace("%", "%%"),
        **more,
    )


def _metavar(field: dataclasses.Field[Any], kind: Any) -> str:
    if field.metadata["metavar"]:
        return str(field.metadata["metavar"])
    return "NAME" if field.metadata["choices"] is not None else types.metavar(kind)


def _help(field: dataclasses.Field[Any], kind: Any) -> str:
    text = str(field.metadata["help"])
    if field.metadata["choices"] is not None:
        text += f": {', '.join(field.metadata['choices']())}"
    default = _shown(field.default)
    return f"{text} (default: {default})" if default else text


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return "" if value is None else str(value)


def named_files(cls: type) -> Mapping[str, Path]:
    """Files that ``--config`` takes by name: what the tree's ``named_files`` returns, if it has any."""
    found: Mapping[str, Path] = getattr(cls, "named_files", dict)()
    return found


def read_yaml(path: Path, cls: type) -> SettingsLayer:
    """Settings of a YAML file; an unknown section or setting is an error that names it."""
    from megabert.common.yaml_text import read_yaml_value

    named = named_files(cls)
    try:
        if str(path) in named and not path.exists():
            path = named[str(path)]
        return layer_of(read_yaml_value(path), cls, str(path))
    except FileNotFoundError as error:
        others = f", or a recipe ({', '.join(named)})" if named else ""
        raise UserError(
            f"--config {path}: no such file; name a YAML file{others}{suggestion(path, named)}"
        ) from error
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}; name a readable YAML file") from error
    except UserError as error:
        raise UserError(f"--config {error}") from error


def layer_of(content: object, cls: type, file: str) -> SettingsLayer:
    """The settings that a file has as sections; an unknown section or setting is an error that names it."""
    known_sections = sections(cls)
    if not isinstance(content, Mapping):
        raise UserError(f"{file}: expected sections {', '.join(known_sections)}")
    values: Values = {}
    problems: list[str] = []
    for name, body in content.items():
        if name not in known_sections:
            problems.append(f"unknown section {name!r}{suggestion(name, known_sections)}")
        elif not isinstance(body, Mapping):
            problems.append(f"section {name!r} is not a mapping of settings to values")
        else:
            known = [field.name for field in dataclasses.fields(known_sections[name])]
            problems += [
                f"unknown setting {name}.{key}"
                + (_section_of(key, known_sections) or suggestion(key, known))
                for key in body
                if key not in known
            ]
            values[str(name)] = dict(body)
    if problems:
        raise UserError(f"{file}: {'; '.join(problems)}")
    return SettingsLayer(values, file)


def _section_of(key: object, known: Mapping[str, Any]) -> str:
    """The section that has a setting, for a message; "" if none has it."""
    for name, section in known.items():
        if any(field.name == key for field in dataclasses.fields(section)):
            return f"; it belongs to the section {name!r}"
    return ""


def parse(cls: type, argv: Sequence[str] | None, prog: str, description: str) -> Given:
    """What the command line sets, by flags and by ``--config``; :func:`build` finds values that contradict.

    Raises:
        UserError: one line with every wrong flag and value, each named as its source names it.
    """
    return parse_with(make_parser(cls, prog, description), cls, argv)


def parse_with(parser: CommandParser, cls: type, argv: Sequence[str] | None) -> Given:
    """As :func:`parse`, with a parser of :func:`make_parser` to which a command has added flags."""
    namespace, problems = parser.parse_all(argv)
    options = vars(namespace)
    options.pop("_local_rank", None)
    config, print_config = options.pop("config"), options.pop("print_config")
    given: Values = {}
    for dest in [dest for dest in options if "." in dest]:
        section, name = dest.split(".", 1)
        given.setdefault(section, {})[name] = options.pop(dest)
    try:
        if config == "":
            raise UserError("--config is empty: name a YAML file, or leave the flag out")
        file = read_yaml(Path(config), cls) if config is not None else SettingsLayer()
        read_values(cls, file, SettingsLayer(given))
    except UserError as error:
        parser.report([*problems, str(error)])
    parser.report(problems)
    return Given(SettingsLayer(given), file, print_config, options)


def join(*layers: Values) -> Values:
    """Later layers win; a value of None sets nothing."""
    joined: Values = {}
    for layer in layers:
        for section, body in layer.items():
            set_here = {name: value for name, value in body.items() if value is not None}
            joined.setdefault(section, {}).update(set_here)
    return joined


def build(cls: type[Settings], *layers: SettingsLayer) -> Settings:
    """Check the values of the layers (later ones win) and make the settings.

    Raises:
        UserError: one line with every wrong value, each named as its source names it; or the first values of a
            section that contradict each other.
    """
    values = read_values(cls, *layers)
    return cls(**{name: kind(**values[name]) for name, kind in sections(cls).items()})


def read_values(cls: type, *layers: SettingsLayer) -> Values:
    """The checked values that the layers (later ones win) set, by section and setting.

    Raises:
        UserError: one line with every wrong value, each named as its source names it.
    """
    values = join(*(layer.values for layer in layers))
    problems: list[str] = []
    made: Values = {}
    for section, kind in sections(cls).items():
        hints = types.hints(kind)
        read: dict[str, Any] = {}
        for field in dataclasses.fields(kind):
            if field.name not in values.get(section, {}):
                continue
            value = values[section][field.name]
            try:
                read[field.name] = _read(field, hints[field.name], value)
            except WrongValue as error:
                source = next(one for one in layers[::-1] if one.sets(section, field.name))
                problems.append(f"{source.name(section, field)} {_as_given(value)}: {error}")
        made[section] = read
    if problems:
        raise UserError("; ".join(problems))
    return made


def _as_given(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(types.shown_value, value))
    return types.shown_value(str(value).lower() if isinstance(value, bool) else value)


def _read(field: dataclasses.Field[Any], kind: Any, value: Any) -> Any:
    """The setting's value; raises WrongValue."""
    made = types.read(kind, value)
    for path in made if isinstance(made, tuple) else (made,):
        if isinstance(path, Path):
            types.utf8_path(path)
    if field.metadata["choices"] is not None:
        known = list(field.metadata["choices"]())
        for word in made if isinstance(made, tuple) else (made,):
            if word not in known:
                raise WrongValue(types.one_of(word, known))
    return made


def narrow(cls: type[Settings], settings: Any, **more: Any) -> Settings:
    """A tree of settings as ``cls``, whose sections are subclasses in which fewer values may be None.

    Args:
        more: fields of ``cls`` that are not sections.
    """
    made: dict[str, Any] = {
        name: narrow_section(kind, getattr(settings, name))
        for name, kind in sections(cls).items()
        if name not in more
    }
    return cls(**made, **more)


def narrow_section(cls: type[Settings], section: Any, **more: Any) -> Settings:
    """One section's values as ``cls``, which may have fewer fields; ``more`` replaces some."""
    names = [field.name for field in dataclasses.fields(cls) if field.name not in more]  # type: ignore[arg-type]
    return cls(**{name: getattr(section, name) for name in names}, **more)


def to_values(settings: Any, *, absolute: bool = False) -> Values:
    """Plain values of a settings tree (paths as strings, lists as lists), ready for YAML.

    ``absolute``: paths do not depend on the working folder.

    A field that is a dictionary of sections counts as these sections.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        part = getattr(settings, field.name)
        found |= {
            name: section
            for name, section in (part if isinstance(part, dict) else {field.name: part}).items()
            if dataclasses.is_dataclass(section)
        }
    return {
        name: {key: _plain(value, absolute) for key, value in dataclasses.asdict(section).items()}
        for name, section in found.items()
    }


def _plain(value: Any, absolute: bool) -> Any:
    if isinstance(value, tuple):
        return [_plain(item, absolute) for item in value] or None
    if isinstance(value, Path):
        return str(value.absolute() if absolute else value)
    return value


def to_yaml(
    settings: Any, *, absolute: bool = False, derived: Iterable[tuple[str, str]] = ()
) -> str:
    """The settings as YAML, in the order of the dataclasses; a valid ``--config``.

    Args:
        absolute: as of :func:`to_values`.
        derived: (section, setting) of values that follow from other settings; the file does not set them.
    """
    import yaml

    values = to_values(settings, absolute=absolute)
    for section, name in derived:
        values[section][name] = None
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
