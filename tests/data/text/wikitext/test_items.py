"""Which list items are sentences, in every language and at every place of a page."""

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.data.text.counts import DROPPED_ITEMS, KEPT_ITEMS
from megabert.data.text.document import page_to_sentences
from megabert.data.text.pages import Page
from megabert.data.text.wikitext.items import ItemKind, Look, item_kind, look_at
from megabert.data.text.wikitext.sections import clean

SENTENCES = [
    ("en", "In [[1900]] the town was hit by a great storm"),
    ("en", "The [[Treaty of X|treaty]] is signed."),
    ("en", "John M. Smith (1871–1949) founded the first club of the town."),
    ("en", "Achilles is the main character in the novel ''Ransom'' (2009)."),
    ("en", "A new standard was approved on September 9, 2009."),
    ("en", "A list item that says something here"),
    ("en", "[[Ann Smith]] (born in 1950), a painter who lived in the town"),
    ("en", "''The House'' (1990) tells of two of them."),
    ("it", "Scoppia la [[Guerra dei Trent'anni]] in [[Boemia]]."),
    ("it", "Muore [[Napoleone]]."),
    ("it", "[[1821]] – Muore [[Bonaparte|Napoleone Bonaparte]]."),
    ("en", "[[Napoleon]] is crowned."),
    ("en", "1814: [[Bonaparte|Napoleon]] abdicates."),
    ("ru", "Умирает [[Наполеон]]."),
    ("de", "[[Napoleon]] dankt ab."),
    ("it", "Nel [[1958]] viene creato il primo chip"),
    ("it", "[[Leonardo da Vinci]] dipinge la [[Gioconda]]."),
    ("de", "Der [[Vertrag von Verdun]] wird unterzeichnet."),
    ("fr", "[[Charles X]] devient roi de [[France]] ;"),
    ("es", "Se funda la ciudad de [[Lima]] a orillas del río"),
    ("ru", "Начинается строительство новой [[крепость|крепости]] у реки"),
    ("ko", "새로운 [[다리]]가 강 위에 건설되었다."),
    ("ar", "تأسست المدينة على ضفة [[النهر]] الكبير"),
    ("zh", "[[1900年]]該鎮遭到一場可怕的大風暴襲擊"),
    ("ja", "[[1990年]]、[[東京]]に加盟した。"),
    ("it", "La costa, sito di interesse comunitario (S.I.C.), comprende le isole del 1900"),
    ("it", "Chiesa della SS. Annunziata, demolita dopo il terremoto del 1980"),
    ("en", "Road built by the U.S. 101st Division across the island"),
    ("en", "Aberdeen F.C. (1881), a football club based in the city"),
    ("en", "Washington D.C., where the law of the new state was signed"),
    ("en", "The town has a museum of its own, which [http://a.b shows] the history of the port"),
    ("es", "El templo del s. XIX fue reformado por los vecinos del pueblo"),
    ("de", "Sie nennt das „Neue Leben“ einen Text über die Stadt"),
    ("hi", "यह नगर नदी के किनारे बसा हुआ है"),
    ("zh", "該鎮於一九〇〇年遭到可怕的大風暴襲擊"),
    ("zh", "校长说：“学校明天开学。”"),
]
OTHERS = [
    ("fr", "[[Anne Martin]] (née en 1950), femme politique", ItemKind.NAME),
    ("it", "[[Marlene Dietrich]] (1901-1992), attrice e cantante", ItemKind.NAME),
    ("es", "''La casa vieja'' (1990), novela.", ItemKind.SOURCE),
    ("en", "[[List of towns that were hit by storms]]", ItemKind.NAME),
    ("en", "[[John Smith]] as [[Paul Brown]] of London", ItemKind.NAME),
    ("en", "Led Zeppelin, Rock Group Number One.", ItemKind.NAME),
    ("en", '"[[I Want to Hold Your Hand]]" by the two of them – 2:24', ItemKind.NAME),
    ("en", "Smith, J. A book about the old town of that name", ItemKind.SOURCE),
    ("en", "Smith, John, and Anna Jones. 1990. A book about the old town.", ItemKind.SOURCE),
    ("en", "John Smith, ''A book about the town'', New York: Wiley, 1990.", ItemKind.SOURCE),
    ("en", "A book about the old town of that name, Oxford University Press, 1990", ItemKind.SOURCE),
    ("en", "A book about the old town of that name, pp. 12–15, and so on.", ItemKind.SOURCE),
    ("it", "Anna Bianchi, Storia della città e del suo porto, Einaudi, Torino 1976.", ItemKind.SOURCE),
    ("it", "''Un film'', regia di [[Anna Bianchi]] (1990)", ItemKind.SOURCE),
    ("de", "Hans Müller (Hrsg.): ''Geschichte der Stadt und des Landes''. Berlin 2001.", ItemKind.SOURCE),
    ("de", "[[14. Juli]]: Anna Schmidt, deutsche Autorin von Büchern für Kinder († 1878)", ItemKind.NAME),
    ("ru", "''Иванов И. И.'' История города. — М.: Наука, 1990. — 300 с.", ItemKind.SOURCE),
    ("zh", "王明：《城市的歷史》，上海出版社，1990年", ItemKind.SOURCE),
    ("ja", "[[田中太郎]] - [[歌手]]", ItemKind.NAME),
    ("it", "[[Gloria Gaynor]], cantante.", ItemKind.NAME),
    ("it", "[[Congresso di Berlino]].", ItemKind.NAME),
    ("it", "lo [[shofar]].", ItemKind.NAME),
    ("en", "[[Abae]] in [[Phocis]].", ItemKind.NAME),
    ("en", "Wimbledon [[1999]].", ItemKind.NAME),
    ("en", "''Leonardo'' da Vinci.", ItemKind.NAME),
    ("de", "Anna Schmidt: Eine Geschichte der Stadt und des Flusses, 1990, S. 12.", ItemKind.SOURCE),
    ("sv", "Anna Berg, En historia om staden och dess älv, 1990, s. 12.", ItemKind.SOURCE),
    ("fi", "Anna Virtanen: Kaupungin ja sen suuren joen historia. 1990. 320 s.", ItemKind.SOURCE),
    ("nl", "Anna de Vries, Een geschiedenis van de stad, 1990, blz. 12 en verder", ItemKind.SOURCE),
    ("hu", "Kovács Anna, A város és nagy folyója története, 1990, 12. o.", ItemKind.SOURCE),
    ("en", "A history of the town and of its river, 1990, pp 12–15 and so on", ItemKind.SOURCE),
    ("en", "Ross, Anna L., 1998, two short essays on the town and its river.", ItemKind.SOURCE),
    ("ru", "Иванова А. П. История города и его большой реки. Т. 2. С. 12 и далее", ItemKind.SOURCE),
    ("zh", "王明，城市與大河的歷史，北京，1990年，第12頁。", ItemKind.SOURCE),
    ("ar", "أحمد محمد، تاريخ المدينة ونهرها الكبير، القاهرة، 1990، ص 12.", ItemKind.SOURCE),
    ("ko", "김철수, 도시와 아주 큰 강의 역사, 서울, 1990, 12쪽.", ItemKind.SOURCE),
    ("en", "[http://a.b The town] has a museum of its own that shows the history of the port", ItemKind.SOURCE),
    ("en", "The town and its port, from [http://a.b their site], seen in May", ItemKind.SOURCE),
    ("en", "Town of [http://a.b a label with many words that are all quite small] today", ItemKind.SOURCE),
    ("de", "Hans Müller: „ein Lied von der See und vom Wind“", ItemKind.NAME),
    ("pl", "Jan Nowak: „pieśń o morzu i o wietrze”", ItemKind.NAME),
    ("ru", "Иван Петров: «песня о море и о ветре»", ItemKind.NAME),
    ("fr", "Jean Martin : « une chanson de la mer et du vent »", ItemKind.NAME),
    ("ja", "田中太郎「海と風の歌を歌う人々」", ItemKind.NAME),
    ("ja", "田中太郎、鈴木花子、佐藤次郎", ItemKind.NAME),
    ("th", "สมชาย ใจดี, สมหญิง รักไทย", ItemKind.NAME),
    ("ar", "محمد علي، أحمد حسن، محمود سامي، علي كامل", ItemKind.NAME),
    ("he", "דוד כהן, משה לוי, יעקב ישראל", ItemKind.NAME),
    ("hi", "राम कुमार, श्याम सिंह, मोहन लाल", ItemKind.NAME),
    ("ka", "ნინო ბერიძე, გიორგი მაისურაძე", ItemKind.NAME),
    ("ko", "김철수, 이영희, 박민수, 최지우", ItemKind.NAME),
    ("ml", "രാമൻ കൃഷ്ണൻ, മോഹൻ ലാൽ", ItemKind.NAME),
]  # fmt: skip


@pytest.mark.parametrize("place", ["* {}\nText.", "Text.\n\n# {}\n\nText.", "Text.\n== H ==\n* {}"])
@pytest.mark.parametrize(("language", "item"), SENTENCES)
def test_sentences_stay_at_every_place(language: str, item: str, place: str) -> None:
    counts: Counter[str] = Counter()
    found = clean(place.format(item), language=language, counts=counts)
    assert len([p for s in found for p in s.paragraphs if p.kind == "list"]) == 1
    assert (counts[KEPT_ITEMS], counts[DROPPED_ITEMS]) == (1, 0)


@pytest.mark.parametrize("place", ["* {}\nText.", "Text.\n\n# {}\n\nText.", "Text.\n== H ==\n* {}"])
@pytest.mark.parametrize(("language", "item", "kind"), OTHERS)
def test_names_and_sources_go_at_every_place(
    language: str, item: str, kind: ItemKind, place: str
) -> None:
    counts: Counter[str] = Counter()
    found = clean(place.format(item), language=language, counts=counts)
    assert not [p for s in found for p in s.paragraphs if p.kind == "list"]
    assert (counts[KEPT_ITEMS], counts[DROPPED_ITEMS]) == (0, 1)


def test_a_list_of_sources_keeps_none_of_its_items() -> None:
    sources = "* Smith, J. One book.\n* [http://a.b Another one] of them\n"
    sentence = "* It describes the history of the town.\n"
    counts: Counter[str] = Counter()
    assert not clean(sources + sentence, language="en", counts=counts)
    assert counts[DROPPED_ITEMS] == 3
    (section,) = clean(sources + 2 * sentence, language="en")
    assert len(section.paragraphs[0].lines) == 2


def test_short_sentences_among_names_go() -> None:
    names = "* [[Bode-Museum]]\n* Museum [[Berggruen]].\n* [[Berlin Wall]]"
    assert clean(names, language="de") == []
    dated = "* Im Jahr beginnt der Bau.\n* Stirbt [[Napoleon]].\n* [[Wien]]"
    found = [line for s in clean(dated, language="de") for p in s.paragraphs for line in p.lines]
    assert found == ["Im Jahr beginnt der Bau.", "Stirbt Napoleon."]


def test_a_page_of_lists_is_not_empty_and_counts_its_items() -> None:
    year = "* [[3 May]] – The [[bridge]] over the river is opened.\n* [[4 May]] – [[A. Smith]]\n"
    page = Page(
        1,
        "1900",
        0,
        False,
        "wikitext",
        f"== Events ==\n{year}== Births ==\n* [[B. Jones]]",
        "wikitext",
    )
    cleaned = page_to_sentences(page, "en")
    assert cleaned.paragraphs == [["3 May – The bridge over the river is opened."]]
    assert (cleaned.counts[KEPT_ITEMS], cleaned.counts[DROPPED_ITEMS]) == (1, 2)


def test_items_keep_their_place_if_the_section_has_other_lines() -> None:
    text = "<div>\n* [[A name of some words]]\n* The [[town]] was hit by a storm.\n</div>[[File:a.png|x\ny]]"
    (section,) = clean(text, language="en")
    assert [p.lines for p in section.paragraphs] == [("The town was hit by a storm.",)]


@pytest.mark.parametrize(
    "tag", ["<blockquote>A quotation.</blockquote>", "<p>", "<center>B</center>"]
)
def test_an_item_with_a_block_tag_is_judged_by_its_own_words(tag: str) -> None:
    item = f"* This item is a sentence of many words.{tag}\n"
    names = f"* [[A name of some words]]{tag}\n"
    counts: Counter[str] = Counter()
    clean(item * 3 + names * 2, language="en", counts=counts)
    assert (counts[KEPT_ITEMS], counts[DROPPED_ITEMS]) == (3, 2)


def test_lines_that_a_tag_adds_and_a_picture_takes_do_not_hide_each_other() -> None:
    text = "Text<p>\n* This is a sentence of many words\n* [[A name of some words]][[File:a.png|x\n\ny]]"
    (section,) = clean(text, language="en")
    assert section.paragraphs[-1].lines == ("This is a sentence of many words",)


def test_an_item_behind_a_block_tag_is_judged_by_its_own_words() -> None:
    text = "* [[A]]\nB<p>* This is a sentence of many words\n* [[A name of some words]]"
    (section,) = clean(text, language="en")
    assert [p.lines for p in section.paragraphs][1:] == [("This is a sentence of many words",)]


def test_short_sentences_stay_only_beside_longer_ones() -> None:
    short = "* Headlights of 60 W each.\n"
    long = "* The lights of the car take much power.\n"
    for others, kept in (
        ("", 0),
        (long, 4),
        ("* [[A]]\n" + 2 * long, 5),
        (7 * "* [[A]]\n" + long, 1),
    ):
        counts: Counter[str] = Counter()
        clean(3 * short + others, language="en", counts=counts)
        assert counts[KEPT_ITEMS] == kept
    assert clean(2 * short, language="en")


def test_an_item_that_is_all_hole_is_counted_as_dropped() -> None:
    text = (
        "* The value of it is {{unknown|5}} times as large.\n"
        "* This one is whole. The other is {{unknown|5}} times as large.\n"
        "* {{cite book|title=A book}}\n;A heading\n"
    )
    cleaned = page_to_sentences(Page(1, "A", 0, False, "wikitext", text, "wikitext"), "en")
    assert cleaned.paragraphs == [["This one is whole."]]
    assert (cleaned.counts[KEPT_ITEMS], cleaned.counts[DROPPED_ITEMS]) == (1, 1)


def test_what_is_counted_of_an_item() -> None:
    assert look_at("* [[a b c d]] ''e f'' (g H \"i j\" of", False) == (1, True, False)
    assert look_at("* [[甲乙]]丙丁戊己", True) == (2, False, True)
    assert look_at("* one two three four five", False) == (4, False, False)
    assert item_kind("– of a lost head of words", Look(4, False)) is ItemKind.NAME


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="*#:; []{}|'\"<>/()aB1,.–\n年", max_size=80))
def test_every_item_is_counted_once(text: str) -> None:
    counts: Counter[str] = Counter()
    sections = clean(text, language="en", counts=counts)
    kept = sum(len(p.lines) for s in sections for p in s.paragraphs if p.kind == "list")
    assert counts[KEPT_ITEMS] == kept


@pytest.mark.parametrize(
    "piece",
    [
        "''",
        '"a',
        "[[a",
        "(a 1990",
        "A, B. ",
        "“",
        "<",
        "p. ",
        "A. ",
        "«a ",
        "„",
        "「",
        "//",
        "[//a ",
    ],
)
def test_long_items_take_linear_time(piece: str) -> None:
    start = time.process_time()
    clean("\n* " + piece * 30_000, language="en")
    assert time.process_time() - start < 2
