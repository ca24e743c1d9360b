"""Names of built-in, registered and installed objects; what is imported, and when."""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from megabert.common import registry
from megabert.common.errors import UserError
from megabert.common.registry import Registry

BUILT_IN = {"month": "calendar:month_name", "broken": "calendar:no_such_thing"}


def made(monkeypatch: pytest.MonkeyPatch, **installed: str) -> Registry[object]:
    """A registry; ``installed``: entry points of other packages."""
    points = [EntryPoint(name, place, "things") for name, place in installed.items()]
    monkeypatch.setattr(registry, "_any_package_has", lambda group: group == "things")
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    return Registry("thing", BUILT_IN, "things")


def test_names_come_without_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    things = made(monkeypatch, far="nntplib_of_another_package:Thing")
    things.register("near", object())
    assert things.names() == ("month", "broken", "near", "far")
    assert things.own_names() == ("near", "far")
    assert "nntplib_of_another_package" not in sys.modules


def test_objects_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import calendar
    import colorsys

    things = made(monkeypatch, colour="colorsys:rgb_to_hls")
    assert things.get("month") is calendar.month_name
    assert things.get("colour") is colorsys.rgb_to_hls
    assert things.get("colour") is colorsys.rgb_to_hls  # registered by now


def test_two_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    things = made(monkeypatch)
    one = object()
    things.register("near", one)
    things.register("near", one)
    for name in ("near", "month"):
        with pytest.raises(UserError, match=f"two objects are registered as thing '{name}'"):
            things.register(name, object())


def test_what_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    things = made(monkeypatch, far="no_such_module:Thing")
    with pytest.raises(UserError, match="unknown thing 'x'; known: month, broken, far"):
        things.get("x")
    with pytest.raises(UserError, match=r"thing 'far' of the package .* cannot be imported"):
        things.get("far")


def test_files_of_a_folder_add_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "folder_of_things"
    package.mkdir()
    for name, text in (("__init__", ""), ("one_more", "REGISTERED = 'it'"), ("no_object", "")):
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    things: Registry[object] = Registry("thing", BUILT_IN, "things", folder="folder_of_things")
    assert things.names() == ("month", "broken", "no-object", "one-more")
    assert "folder_of_things.one_more" not in sys.modules
    assert things.get("one-more") == "it"
    with pytest.raises(
        UserError, match=r"no-object.*folder_of_things\.no_object:REGISTERED cannot"
    ):
        things.get("no-object")
