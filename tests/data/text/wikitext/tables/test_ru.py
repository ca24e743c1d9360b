"""Templates of Russian Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("s|2000 м", "2000 м"),
    ("nobr|2000 м|x", None),
    ("число|77006", "77006"),
    ("num|77006|экземпляров", "77006 экземпляров"),
    ("num|77006|экземпляров|x", None),
    ("formatnum:6000", "6000"),
    ("date|17|10|1973", "17 октября 1973"),
    ("date|01|3|1973", "1 марта 1973"),
    ("date|1973|10|17", None),
    ("date|17|13|1973", None),
    ("OldStyleDate|6|июня|1799|26|мая", "26 мая [6 июня] 1799"),
    ("OldStyleDate|28|ноября|1917|15", "15 [28] ноября 1917"),
    ("OldStyleDate|4|января|1915|22|декабря|1914", "22 декабря 1914 [4 января 1915]"),
    ("OldStyleDate|28 ноября|1917|15", None),
    ("lang-de|Brücke", "нем. Brücke"),
    ("lang-de|Brücke|мост", None),
    ("lang-xx|Brücke", "Brücke"),
    ("lang|de|Brücke", "Brücke"),
    ("lang-en2|bridge", "bridge"),
    ("ref-en", "(англ.)"),
    ("нп5|Северный мост|Северного моста|de|Nordbrücke", "Северного моста"),
    ("iw|Северный мост|||Nordbrücke", "Северный мост"),
    ("не переведено|есть=:en:North Bridge|надо=Северный мост|текст=моста", "моста"),
    ("нп5|||de|Nordbrücke", None),
    ("Нет АИ|3|01|2018", ""),
    ("нет АИ 2|самый длинный|3|01|2018", "самый длинный"),
    ("sfn|Иванов|2002|с=66", ""),
    ("кто?|2010", ""),
    ("comment|ГЭС|гидроэлектростанция", "ГЭС"),
    ("нихонго|'''Мост'''|橋|хаси", "'''Мост''' (яп. 橋 хаси)"),
    ("нихонго|Мост|橋|хаси|«мост»", "Мост (яп. 橋 хаси, «мост»)"),
    ("китайский|橋|桥|qiáo|цяо", "кит. трад. 橋, упр. 桥, пиньинь qiáo, палл. цяо"),
    ("флаг России", ""),
    ("флаг|Россия", ""),
    ("RUS", "Россия"),
    ("флагификация|Россия", "Россия"),
    ("IPA|[bʲ]", "[bʲ]"),
    ("'", "\u0301"),
    ("цвет|red|красный", "красный"),
    ("дробь|3|1|2", "3 1/2"),
    ("convert|12|km|mi", "12 км"),
    ("convert|6|ft|2|in|m", None),
    ("цитата|Мост готов.|Строитель", "\n\nМост готов.\n\n"),
    ("as of|2010", None),
    ("sup|16", "<sup>16</sup>"),
    ("неведомый шаблон|1", None),
]


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls_of_russian(body: str, shown: str | None) -> None:
    assert template_table("ru").text_of(body) == shown
