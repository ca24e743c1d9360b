"""One small document of each MediaWiki export schema, 0.3 to 0.11, as its XSD orders the elements.

Source: https://www.mediawiki.org/xml/export-0.3.xsd to export-0.11.xsd. What differs for a reader:
0.4 brings ``<redirect>``, 0.6 ``<ns>``, 0.8 ``<model>`` and ``<format>`` behind the text, 0.10
puts them in front of it, 0.11 adds ``<origin>`` and one ``<content>`` for each slot other than
the main one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from megabert.data.text.input.sources import iter_pages
from megabert.data.text.pages import Page

VERSIONS = range(3, 12)
REDIRECT_TEXT = "#REDIRECT [[Kettle]]"


def siteinfo(version: int) -> str:
    case = ' case="first-letter"' if version >= 4 else ""
    names = {-2: "Media", 0: "", 1: "Talk", 10: "Template"}
    spaces = "".join(f'<namespace key="{k}"{case}>{v}</namespace>' for k, v in names.items())
    database = "<dbname>testwiki</dbname>" if version >= 9 else ""
    return (
        f"<siteinfo><sitename>Test</sitename>{database}<base>http://localhost/Main</base>"
        f"<generator>MediaWiki</generator><case>first-letter</case>"
        f"<namespaces>{spaces}</namespaces></siteinfo>"
    )


def revision(version: int, number: int, text: str, model: str = "wikitext", slots: str = "") -> str:
    parts = [f"<id>{number}</id>"]
    if version >= 7:
        parts.append(f"<parentid>{number - 1}</parentid>")
    parts.append("<timestamp>2012-03-04T05:06:07Z</timestamp>")
    parts.append("<contributor><username>Writer</username><id>99</id></contributor>")
    parts.append("<minor /><comment>about the text</comment>")
    kind = f"<model>{model}</model><format>text/x-wiki</format>" if version >= 8 else ""
    size = f' bytes="{len(text)}"' if version >= 5 else ""
    body = f'<text xml:space="preserve"{size}>{text}</text>'
    digest = "<sha1>2jmj7l5rSw0yVb/vlWAYkK/YBwk</sha1>" if version >= 6 else ""
    if version >= 11:
        parts.append(f"<origin>{number}</origin>")
    if version == 6:
        parts += [digest, body]
    elif version in (8, 9):
        parts += [body, digest, kind]
    else:
        parts += [kind, body, slots if version >= 11 else "", digest]
    return f"<revision>{''.join(parts)}</revision>"


def page(version: int, number: int, title: str, namespace: int, body: str, target: str = "") -> str:
    space = f"<ns>{namespace}</ns>" if version >= 6 else ""
    redirect = ""
    if target and version >= 4:
        redirect = f'<redirect title="{target}" />' if version >= 6 else "<redirect />"
    return (
        f"<page><title>{title}</title>{space}<id>{number}</id>{redirect}"
        f"<restrictions>edit=sysop</restrictions>{body}</page>"
    )


def read(tmp_path: Path, version: int, *pages: str) -> list[Page]:
    name = f"0.{version}"
    path = tmp_path / "dump.xml"
    path.write_text(
        f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-{name}/" version="{name}" '
        f'xml:lang="en">{siteinfo(version)}{"".join(pages)}</mediawiki>',
        encoding="utf-8",
    )
    return list(iter_pages(path))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version(version: int, tmp_path: Path) -> None:
    upload = (
        "<upload><timestamp>2012-03-04T05:06:07Z</timestamp><contributor><ip>::1</ip>"
        "</contributor><comment>c</comment><filename>Kettle.png</filename>"
        "<src>http://localhost/Kettle.png</src><size>12</size></upload>"
    )
    old, new = revision(version, 5, "Old text."), revision(version, 6, "A '''kettle''' &amp; lid.")
    seen = read(
        tmp_path,
        version,
        page(version, 11, "Kettle", 0, old + new + upload),
        page(version, 12, "Pot", 0, revision(version, 7, REDIRECT_TEXT), target="Kettle"),
        page(version, 13, "Template:Lid", 10, revision(version, 8, "lid")),
        page(version, 14, "Alien: a film", 0, revision(version, 9, "It is a film.")),
    )
    assert [(p.page_id, p.title, p.namespace, p.redirect) for p in seen] == [
        (11, "Kettle", 0, False),
        (12, "Pot", 0, True),
        (13, "Template:Lid", 10, False),
        (14, "Alien: a film", 0, False),
    ]
    assert seen[0].text == "A '''kettle''' & lid."
    assert {p.model for p in seen} == {"wikitext"}
    assert seen[0].site.number("template") == 10
    assert seen[0].site.language == "en"


@pytest.mark.parametrize("version", [v for v in VERSIONS if v >= 8])
def test_content_model(version: int, tmp_path: Path) -> None:
    body = revision(version, 5, "{}", model="json")
    assert [p.model for p in read(tmp_path, version, page(version, 11, "Data", 0, body))] == [
        "json"
    ]


def test_other_slots_are_not_the_text(tmp_path: Path) -> None:
    """Schema 0.11: ``<content>`` holds the slots other than the main one."""
    slot = (
        "<content><role>mediainfo</role><origin>5</origin><model>wikibase-mediainfo</model>"
        '<format>application/json</format><text bytes="2" xml:space="preserve">{}</text></content>'
    )
    body = revision(11, 5, "The text of the page.", slots=slot)
    (seen,) = read(tmp_path, 11, page(11, 3, "Kettle", 0, body))
    assert (seen.model, seen.text) == ("wikitext", "The text of the page.")


def test_hidden_text(tmp_path: Path) -> None:
    """A revision whose text was hidden has an empty ``<text deleted="deleted" />``."""
    body = revision(10, 5, "x").replace('bytes="1">x</text>', 'deleted="deleted" />')
    (seen,) = read(tmp_path, 10, page(10, 3, "Kettle", 0, body))
    assert seen.text == ""
