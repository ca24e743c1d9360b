"""The parser of every command: argparse with errors that name the flag and suggest the right one.

All commands share these rules:

- An unknown flag is an error that suggests a similar one, and flags are never abbreviated.
- A flag given twice is an error, unless a launcher puts it there (``repeatable``).
- A switch is on, off, true or false; the flag alone means on.
- All wrong flags and values are reported at once.
- ``--version`` prints the version of megabert.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megabert import __version__
from megabert.common.errors import UserError
from megabert.config.values import (
    SWITCH_WORDS,
    ValueReader,
    WrongValue,
    one_of,
    read,
    shown_value,
    suggestion,
)

_FLAG = re.compile(r"(--?[A-Za-z][\w-]*)(=.*)?", re.DOTALL)


class CommandParser(argparse.ArgumentParser):
    """An argparse parser that follows the rules above.

    A flag's ``type`` (:class:`ValueReader` or any function that raises ``ValueError``) and ``choices`` are
    applied after argparse is done, so that one run reports every wrong value.

    Attributes:
        repeatable: flags that may be given more than once.
    """

    repeatable: typing.ClassVar = ("--local_rank", "--local-rank")

    def __init__(self, prog: str, description: str | None, epilog: str | None = None) -> None:
        self._readers: list[_Reader] = []
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.register("action", "store_true", SwitchAction)
        self.register("action", "store_false", _OppositeSwitchAction)
        self.add_argument(
            "--version", action="version", version=f"{prog} (megabert {__version__})",
            help="show the version and exit",
        )  # fmt: skip

    def error(self, message: str) -> typing.NoReturn:
        """Raise argparse's error as a :class:`UserError`."""
        message = message.removeprefix("argument ").replace(
            "expected one argument", "expected a value"
        )
        message = message.replace("not allowed with argument", "not allowed with")
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The values of ``args`` (default: the command line).

        Raises:
            UserError: one line with every wrong flag and value.
        """
        found, problems = self.parse_all(args, namespace)
        self.report(problems)
        return found

    def report(self, problems: Sequence[str]) -> None:
        """Raise UserError if there are problems."""
        if problems:
            raise UserError(f"{'; '.join(problems)} (see {self.prog} --help)")

    def parse_all(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """The values of ``args``, and what is wrong with them.

        Raises:
            UserError: argparse gives no values.
        """
        argv = [str(arg) for arg in (sys.argv[1:] if args is None else args)]
        helps = "-h" in argv or "--help" in argv
        self._take_readers(keep_required=helps)
        problems = self._wrong_flags(argv)
        unknown = bool(problems)
        try:
            found, rest = super().parse_known_args(self._with_switch_values(argv), namespace)
        except UserError as error:
            raise UserError("; ".join([*problems, str(error)])) from error
        if not unknown:
            problems += [f"unexpected argument {word!r}{self._meant(word)}" for word in rest]
        missing = [
            reader.name
            for reader in self._readers
            if reader.required and getattr(found, reader.action.dest, None) is None
        ]
        if missing:
            problems.append(f"the following arguments are required: {', '.join(missing)}")
        return found, problems + _read_values(found, self._readers)

    def _take_readers(self, *, keep_required: bool) -> None:
        """Take over from argparse: types, choices, and which flags are required.

        ``keep_required``: argparse prints its help, which marks required flags.
        """
        for action in self._actions[len(self._readers) :]:
            required = action.required and bool(action.option_strings)
            self._readers.append(
                _Reader(action, action.type, tuple(action.choices or ()), required)
            )
            if action.metavar is None and action.choices:
                action.metavar = "|".join(map(str, action.choices))
            action.type = action.choices = None
        for reader in self._readers:
            if reader.required:
                reader.action.required = keep_required

    def _meant(self, word: str) -> str:
        flag = f"--{word}"
        return f"; did you mean {flag}?" if flag in self._option_string_actions else ""

    def _wrong_flags(self, argv: Sequence[str]) -> list[str]:
        """What is wrong with the flags of a command line, whatever their values."""
        problems: list[str] = []
        given: dict[int, str] = {}
        for word in argv:
            if word == "--":
                break
            match = _FLAG.fullmatch(word)
            if match is None:
                continue
            flag = match[1]
            action = self._option_string_actions.get(flag)
            if action is None:
                problems.append(f"unknown flag {flag}{self._similar(flag)}")
            elif id(action) in given and flag not in self.repeatable:
                first = given[id(action)]
                same = "" if first == flag else f" (the same as {first})"
                cure = f"give all values after one {flag}" if action.nargs == "+" else "keep one"
                problems.append(f"{flag}{same} is given twice; {cure}")
            else:
                given[id(action)] = flag
        return list(dict.fromkeys(problems))

    def _similar(self, flag: str) -> str:
        shown = [
            name
            for name, action in self._option_string_actions.items()
            if action.help != argparse.SUPPRESS
        ]
        return suggestion(flag.replace("_", "-"), shown).replace("'", "")

    @property
    def _takes_positionals(self) -> bool:
        return any(not action.option_strings for action in self._actions)

    def _with_switch_values(self, argv: Sequence[str]) -> list[str]:
        """``--verify DIR`` as ``--verify=on DIR``, and ``--verify off`` as ``--verify=off``."""
        made: list[str] = []
        words_left = list(argv)
        while words_left:
            word = words_left.pop(0)
            if word == "--":
                return [*made, word, *words_left]
            if isinstance(self._option_string_actions.get(word), SwitchAction):
                following = words_left[0] if words_left else "-"
                is_value = following.lower() in SWITCH_WORDS or (
                    not self._takes_positionals and not following.startswith("-")
                )
                word += "=" + (words_left.pop(0) if is_value else "on")
            made.append(word)
        return made


class SwitchAction(argparse.Action):
    """A switch, as ``action="store_true"`` makes it: ``--verify``, ``--verify on``, ``--verify=off``.

    ``action="store_false"`` makes one that stores the opposite. With ``keep_text`` the value stays the
    text that was given.
    """

    stored: typing.ClassVar = True

    def __init__(
        self, option_strings: Sequence[str], dest: str, *, keep_text: bool = False, **given: Any
    ) -> None:
        given.setdefault("default", not self.stored)
        given.setdefault("metavar", "[on|off]")
        super().__init__(option_strings, dest, type=None if keep_text else self._read, **given)

    def _read(self, text: str) -> bool:
        return bool(read(bool, text)) is self.stored

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        """Store the text; it is read with all other values."""
        setattr(namespace, self.dest, _SwitchText(values, self))


class _SwitchText(str):
    """The text given for a switch, and the switch: two of them may have one destination."""

    action: SwitchAction

    def __new__(cls, text: str, action: SwitchAction) -> _SwitchText:
        made = super().__new__(cls, text)
        made.action = action
        return made


class _OppositeSwitchAction(SwitchAction):
    stored = False


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps names such as ``nezha-base`` on one line."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def require_path(flag: str, path: Path) -> None:
    """Raise UserError if ``path``, the value of ``flag``, does not exist."""
    if not path.exists():
        raise UserError(f"{flag} {path}: no such file or folder")


class _Reader(typing.NamedTuple):
    """How the text of a flag is read."""

    action: argparse.Action
    type: Any
    choices: tuple[Any, ...]
    required: bool

    @property
    def name(self) -> str:
        """As a message names it: the first long flag, or a positional argument's name."""
        long = [flag for flag in self.action.option_strings if flag.startswith("--")]
        return long[0] if long else str(self.action.metavar or self.action.dest)

    def read(self, text: Any) -> Any:
        """The value of one text; anything else is a default and stays as it is.

        Raises:
            WrongValue: it does not have the type, or is not one of the choices.
        """
        if not isinstance(text, str):
            return text
        convert = ValueReader(self.type) if self.type in (int, float, Path) else self.type
        try:
            value = text if convert is None else convert(text)
        except WrongValue:
            raise
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise WrongValue(str(error)) from error
        if self.choices and value not in self.choices:
            raise WrongValue(one_of(value, self.choices))
        return value


def _read_values(found: argparse.Namespace, readers: Sequence[_Reader]) -> list[str]:
    """Read every text in ``found``; what is wrong with them."""
    problems = []
    for reader in readers:
        name = reader.action.dest
        given = getattr(found, name, None)
        if given is None or given is reader.action.default:
            continue
        if isinstance(given, _SwitchText) and given.action is not reader.action:
            continue
        texts = given if isinstance(given, list) else [given]
        made = []
        for text in texts:
            try:
                made.append(reader.read(text))
            except WrongValue as error:
                problems.append(f"{reader.name} {shown_value(text)}: {error}")
        if made:
            setattr(found, name, made if isinstance(given, list) else made[0])
    return problems


def add_device_flags(group: argparse._ArgumentGroup, precision: str) -> None:
    """Add ``--device`` and ``--precision``; the latter's help begins with ``precision``."""
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device to compute on; auto is a GPU if there is one (default: auto)",
    )
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help=f"{precision} (default: fp32)",
    )
