"""Dumps whose head or pages lack something: namespaces, language, redirects, revisions, texts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.text.input.segments import inspect_file
from megabert.data.text.input.sources import iter_pages
from megabert.data.text.namespaces import assumed_names, is_redirect, local_names
from megabert.data.text.pages import Page, Site

# what a title is without <ns>, by the dump's xml:lang
TITLES = {
    "en": {
        "Template:Infobox": 10, "template:infobox": 10, "Template talk:Box": 11, "User_talk:Ann": 3,
        "TALK:Gold": 1, "Image:X.png": 6, "Media:X.ogg": -2, "Special:Export": -1, "Module:Math": 828,
        "WP:NPOV": 4, "Wikipedia talk:Help": 5, "Portal:Music": 100, "Draft:Gold": 118,
        "MediaWiki:Sidebar": 8, "Category: Minerals": 14, "TimedText:X.srt": 710,
        "Star Wars: Episode IV": 0, "Portal: Prelude": 0, "Gold": 0, "Category:": 0, ":Gold": 0,
        "Help": 0, "User Friendly: The Strip": 0, "Datei:X.png": 0, "Mission: Impossible": 0,
    },
    "de": {
        "Datei:X.png": 6, "Bild:X.png": 6, "Vorlage:Kasten": 10, "vorlage Diskussion:Kasten": 11,
        "Diskussion:Gold": 1, "Benutzerin:Ann": 2, "Kategorie:Gold": 14, "Hilfe:Text": 12,
        "Template:Box": 10, "Spezial:Suche": -1, "Modul:Zahl": 828, "WP:Grundsatz": 4,
        "Portal:Musik": 100, "Modul: ein Roman": 0, "Plantilla:Caja": 0,
    },
    "fr": {"Modèle:Boîte": 10, "Fichier:X.png": 6, "Discussion utilisateur:Ann": 3, "Portail:Or": 100},
    "es": {"Plantilla:Caja": 10, "Usuario discusión:Ana": 3, "Categoría:Oro": 14, "Archivo:X.png": 6},
    "it": {"Utente:Ann": 2, "Discussione:Oro": 1, "Categoria:Oro": 14},
    "pt": {"Predefinição:Caixa": 10, "Ficheiro:X.png": 6, "Usuário(a) Discussão:Ana": 3, "Anexo:Lista": 102},
    "ru": {"Шаблон:Карточка": 10, "Участник:Анна": 2, "Обсуждение:Золото": 1, "файл:X.png": 6},
    "pl": {"Szablon:Pole": 10, "Wikipedysta:Ann": 2, "Użytkownik:Jan": 2, "Dyskusja:Złoto": 1, "Plik:X.png": 6},
    "ja": {"利用者:花子": 2, "ノート:金": 1, "ファイル:X.png": 6, "Template‐ノート:箱": 11},
    "zh": {"模板:框": 10, "分类:金": 14, "分類:金": 14, "讨论:金": 1, "文件:X.png": 6, "用户讨论:安": 3},
    "ko": {"틀:상자": 10, "사용자:안": 2, "토론:금": 1, "분류:금": 14, "파일:X.png": 6},
    "ar": {"قالب:صندوق": 10, "نقاش:ذهب": 1, "تصنيف:ذهب": 14, "ملف:X.png": 6},
    "nl": {"Sjabloon:Vak": 10, "Overleg:Goud": 1, "Bestand:X.png": 6, "Gebruiker:Ann": 2},
    "sv": {"Mall:Ruta": 10, "Diskussion:Guld": 1, "Fil:X.png": 6, "Användare:Ann": 2},
    "uk": {"Шаблон:Картка": 10, "Обговорення:Золото": 1},
    "no": {"Mal:Boks": 10, "Kategori:Gull": 14},
    "als": {"Vorlage:Chaschte": 10},
    "simple": {"WP:Rules": 4, "Talk:Gold": 1},
    "": {"Kategorie:Gold": 14, "Modèle:Boîte": 10, "模板:框": 10, "Talk:Gold": 1, "WP:NPOV": 4, "Gold": 0},
}  # fmt: skip
SUBJECTS = {0: "", 1: "Talk", 2: "User", 4: "Atlas", 6: "File", 8: "MediaWiki", 10: "Template"}


def write(
    tmp_path: Path, pages: str, siteinfo: str = "", language: str = "en", name: str = "d.xml"
) -> Path:
    path = tmp_path / name
    lang = f' xml:lang="{language}"' if language else ""
    path.write_text(f"<mediawiki{lang}>{siteinfo}{pages}</mediawiki>", encoding="utf-8")
    return path


def titled(title: str, text: str = "Some words.", inside: str = "") -> str:
    return (
        f"<page><title>{title}</title>{inside}<revision><id>1</id><text>{text}</text></revision>"
        "</page>"
    )


def listed(names: dict[int, str], rest: str = "") -> str:
    spaces = "".join(f'<namespace key="{k}">{v}</namespace>' for k, v in names.items())
    return f"<siteinfo>{rest}<namespaces>{spaces}</namespaces></siteinfo>"


@pytest.mark.parametrize("language", TITLES)
def test_titles_without_siteinfo(tmp_path: Path, language: str) -> None:
    path = write(tmp_path, "".join(map(titled, TITLES[language])), language=language)
    assert {p.title: p.namespace for p in iter_pages(path)} == TITLES[language]


def test_the_public_case(shared_faults: Path) -> None:
    path = shared_faults / "no-siteinfo.xml"
    spaces = [p.namespace for p in iter_pages(path)]
    assert (spaces.count(0), len(spaces)) == (2, 9)


@given(
    st.sampled_from(sorted(assumed_names("en").items())),
    st.sampled_from([str, str.lower, str.upper, str.swapcase]),
    st.sampled_from([" ", "_"]),
)
def test_case_and_underscores_do_not_count(name: tuple[str, int], case: object, gap: str) -> None:
    assert callable(case)
    title = f"{case(name[0]).replace(' ', gap)}:Gold"
    site = Site(language="en")
    assert site.title_namespace(title) == name[1]
    assert site.title_namespace(f"The {title}") == 0


def test_some_namespaces_are_listed(tmp_path: Path) -> None:
    """The dump's own names count first, then the English ones and those of its language."""
    site = listed({0: "", 10: "Kasten", 3000: "Lied"}, "<sitename>Atlas</sitename>")
    titles = {
        "Kasten:A": 10,
        "Vorlage:A": 10,
        "Lied: Das Meer": 3000,
        "Kategorie:A": 14,
        "Atlas:A": 4,
    }
    path = write(tmp_path, "".join(map(titled, titles)), site, "de")
    assert {p.title: p.namespace for p in iter_pages(path)} == titles


def test_a_complete_list_is_the_truth(tmp_path: Path) -> None:
    """Names of Wikimedia's wikis or of the language are articles, if a wiki does not have them."""
    names = SUBJECTS | {12: "Help", 14: "Category"}
    titles = {
        "Portal:A": 0,
        "Vorlage:A": 0,
        "WP:A": 0,
        "Wikipedia:A": 0,
        "Atlas:A": 4,
        "category:A": 14,
    }
    path = write(tmp_path, "".join(map(titled, titles)), listed(names), "de")
    assert {p.title: p.namespace for p in iter_pages(path)} == titles
    assert Site(tuple(names.items()), "de").file_prefixes == ("file",)


def test_a_number_given_with_the_page_is_the_truth(tmp_path: Path) -> None:
    pages = titled("Template:A", inside="<ns>0</ns>") + titled("A", inside="<ns>10</ns>")
    pages += titled("Template:B", inside="<ns></ns>") + titled("Talk:B", inside="<ns> 1 </ns>")
    assert [p.namespace for p in iter_pages(write(tmp_path, pages))] == [0, 10, 10, 1]


def test_a_comment_before_the_dump(tmp_path: Path) -> None:
    path = write(tmp_path, titled("A"))
    path.write_text("<!-- made by hand -->\n" + path.read_text())
    assert [page.title for page in iter_pages(path)] == ["A"]
    assert inspect_file(path).kind == "bytes"


def test_prefixes_of_links_follow(tmp_path: Path) -> None:
    site = next(iter_pages(write(tmp_path, titled("A"), language="fr"))).site
    assert {"fichier", "file", "image"} <= set(site.file_prefixes)
    assert "catégorie" in site.category_prefixes
    assert local_names("zh-tw") == local_names("zh")


@pytest.mark.parametrize(
    "text",
    [
        "#REDIRECT [[Gold]]", "#redirect: [[Gold|x]] rest", "\n # redirect[[Gold]]", "#WEITERLEITUNG [[G]]",
        "#REDIRECTION [[Or]]", "#重定向 [[金]]", "#перенаправление [[Золото]]", "#पुनर्प्रेषित [[सोना]]",
        "＃転送 [[金]]", "#DOORVERWIJZING [[Goud]]", "#تحويل [[ذهب]]", "#넘겨주기 [[금]]", "#PATRZ[[Złoto]]",
        "#Přesměruj [[Zlato]]", "#İSTİQAMƏTLƏNDİR [[Qızıl]]", "#redirect [[Gold]]\n{{R from move}}",
    ],
)  # fmt: skip
def test_redirects_by_their_text(tmp_path: Path, text: str) -> None:
    assert is_redirect(text)
    [page] = iter_pages(write(tmp_path, titled("A", text)))
    assert page.redirect


@pytest.mark.parametrize(
    "text",
    ["#Berlin [[Spree]] is a river.", "# first\n# [[second]]", "#REDIRECT Gold", "See #REDIRECT [[G]]",
     "#REDIRECT [[Gold", "A #redirect", "", "#"],
)  # fmt: skip
def test_lists_are_not_redirects(text: str) -> None:
    assert not is_redirect(text)


def revision(stamp: str, text: str, number: int | None = None, model: str = "") -> str:
    number_ = "" if number is None else f"<id>{number}</id>"
    stamp = f"<timestamp>{stamp}</timestamp>" if stamp else ""
    model = f"<model>{model}</model>" if model else ""
    return f"<revision>{number_}{stamp}{model}<text>{text}</text></revision>"


def paged(*revisions: str) -> str:
    return f"<page><title>A</title><ns>0</ns><id>7</id>{''.join(revisions)}</page>"


def newest(tmp_path: Path, *revisions: str) -> Page:
    [page] = iter_pages(write(tmp_path, paged(*revisions)))
    return page


def test_the_newest_revision_in_any_order(tmp_path: Path) -> None:
    history = [revision(f"20{n:02d}-03-04T05:06:07Z", f"text {n}", 100 - n) for n in range(12)]
    for order in (history, history[::-1], random.Random(1).sample(history, 12)):
        assert newest(tmp_path, *order).text == "text 11"
        assert inspect_file(write(tmp_path, paged(*order))).head.history  # type: ignore[union-attr]
    same = "2012-01-01T00:00:00Z"
    assert newest(tmp_path, revision(same, "b", 9), revision(same, "a", 8)).text == "b"
    assert newest(tmp_path, revision("", "b", 9), revision("", "a", 8)).text == "b"
    assert newest(tmp_path, revision("", "a"), revision("", "b")).text == "b"


def test_model_and_text_are_of_one_revision(tmp_path: Path) -> None:
    old = revision("2010-01-01T00:00:00Z", "{}", 1, "json")
    new = revision("2011-01-01T00:00:00Z", "words", 2)
    for order in ((old, new), (new, old)):
        assert (newest(tmp_path, *order).model, newest(tmp_path, *order).text) == (
            "wikitext",
            "words",
        )
    assert not inspect_file(write(tmp_path, paged(new))).head.history  # type: ignore[union-attr]


STUB = (
    "<page><title>A{n}</title><ns>0</ns><id>{n}</id><revision><id>{n}</id>"
    '<text bytes="94" sha1="x" location="tt:{n}" id="{n}" /></revision></page>'
)


@pytest.mark.parametrize("count", [1, 3, 70])
def test_a_stub_dump(tmp_path: Path, count: int) -> None:
    path = write(tmp_path, "".join(STUB.format(n=n) for n in range(1, count + 1)))
    for read in (lambda: list(iter_pages(path)), lambda: inspect_file(path)):
        with pytest.raises(UserError, match=r"a stub dump.*pages-articles"):
            read()


@pytest.mark.parametrize("kept", ['bytes="94" sha1="x"', 'id="7"', 'location="tt:7"', 'bytes="9"'])
def test_attributes_of_stubs(tmp_path: Path, kept: str) -> None:
    blank = STUB.format(n=1).replace('bytes="94" sha1="x" location="tt:1" id="1"', 'bytes="0"')
    stub = STUB.format(n=2).replace('bytes="94" sha1="x" location="tt:2" id="2"', kept)
    with pytest.raises(UserError, match="a stub dump"):
        list(iter_pages(write(tmp_path, blank + stub)))


def test_some_missing_texts_are_no_stub_dump(tmp_path: Path) -> None:
    hidden = STUB.format(n=5).replace("sha1", 'deleted="deleted" sha1')
    pages = STUB.format(n=1) * 3 + titled("B") + hidden
    assert len(list(iter_pages(write(tmp_path, pages)))) == 5
    assert len(list(iter_pages(write(tmp_path, hidden)))) == 1
    empty = titled("C", "").replace("<text>", '<text bytes="0">')
    assert [p.text for p in iter_pages(write(tmp_path, empty))] == [""]


@pytest.mark.parametrize(
    ("language", "database", "expected"),
    [
        ("de", "dewiki", "de"), ("de", "", "de"), ("", "dewiki", "de"), ("", "", ""), ("no", "nowiki", "nb"),
        ("en-simple", "simplewiki", "en"), ("qqx", "frwiki", "fr"), ("", "zh_yuewiki", "yue"),
        ("", "commonswiki", ""), ("zh-min-nan", "", "nan"), ("de", "enwiki", "de"),
    ],
)  # fmt: skip
def test_the_language_that_a_dump_names(
    tmp_path: Path, language: str, database: str, expected: str
) -> None:
    site = f"<siteinfo><dbname>{database}</dbname></siteinfo>" if database else ""
    path = write(tmp_path, titled("A"), site, language)
    head = inspect_file(path).head
    assert head is not None
    assert (head.site.language, head.declared, head.database) == (expected, language, database)
    assert next(iter_pages(path)).site.language == expected


@pytest.mark.parametrize("value", ["abc", "0.0", "²", "1" * 5000, "1_0", "--1"])
def test_a_namespace_that_is_not_a_number(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.xml"
    page = f"<page><title>T</title><ns>{value}</ns><revision><text>A.</text></revision></page>"
    path.write_text(f"<mediawiki>{page}</mediawiki>")
    with pytest.raises(
        UserError, match=r"a\.xml: the <ns> of page 'T' is '.{1,40}', not a number; the dump"
    ):
        list(iter_pages(path))
    names = f'<siteinfo><namespaces><namespace key="{value}">N</namespace></namespaces></siteinfo>'
    path.write_text(f"<mediawiki>{names}{page.replace(value, '0')}</mediawiki>")
    with pytest.raises(UserError, match=r"the key of a <namespace> is '.{1,40}', not a number"):
        list(iter_pages(path))


@pytest.mark.parametrize("value", ["²", "1" * 5000, "x"])
def test_a_page_number_that_is_none(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.xml"
    page = f"<page><title>T</title><ns>0</ns><id>{value}</id><revision><id>{value}</id></revision></page>"
    path.write_text(f"<mediawiki>{page * 2}</mediawiki>")
    assert [page.page_id for page in iter_pages(path)] == [1, 2]


@pytest.mark.parametrize("encoding", ["shift_jis", "ISO-8859-1", "klingon"])
def test_another_declared_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.xml"
    page = "<page><title>T</title><ns>0</ns><revision><text>A.</text></revision></page>"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?><mediawiki>{page}</mediawiki>')
    with pytest.raises(UserError, match=f"declares the encoding '{encoding}'.*UTF-8"):
        list(iter_pages(path))
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?><mediawiki>{page}</mediawiki>')
    assert [page.title for page in iter_pages(path)] == ["T"]
