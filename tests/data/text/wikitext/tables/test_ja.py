"""Templates of Japanese Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("仮リンク|議会選挙|en|Election 2016", "議会選挙"),
    ("仮リンク|議会選挙 (2016年)|en|Election|de|Wahl|label=選挙", "選挙"),
    ("ill2|鉄橋|en|Bridge", "鉄橋"),
    ("lang|fr|pont", "pont"),
    ("lang|fr|pont|橋|x", None),
    ("lang-fr|pont", "フランス語: pont"),
    ("lang-fr|pont|links=no", "フランス語: pont"),
    ("lang-fr|pont|橋", None),
    ("lang-xx|pont", "pont"),
    ("Lang-en-short|bridge", "英: bridge"),
    ("lang-en-short", "英: "),
    ("en|bridge", "bridge"),
    ("en icon", "(英語)"),
    ("xx icon", None),
    ("読み仮名|'''鉄橋'''|てっきょう|{}", "'''鉄橋'''（てっきょう、{}）"),
    ("読み仮名_ruby不使用|鉄橋|てっきょう", "鉄橋（てっきょう）"),
    ("読み仮名|鉄橋", None),
    ("ルビ|鉄橋|てっきょう", "鉄橋（てっきょう）"),
    ("要出典範囲|最長である|date=2020年5月", "最長である"),
    ("要出典範囲|date=2020年5月|最長である", "最長である"),
    ("要出典|date=2020年5月", ""),
    ("Sfn|山田|1990|p=3", ""),
    ("R|a|b", ""),
    ("efn|注", ""),
    ("IPA|a", "[a]"),
    ("IPA2|/a/", "/a/"),
    ("IPA-fr|pɔ̃|lang|a.ogg", "[pɔ̃]"),
    ("color|red|赤い", "赤い"),
    ("ilq|そうです", "「そうです」"),
    ("JPN", "日本"),
    ("jpn", None),
    ("JPN|x", None),
    ("flag|JPN", "日本"),
    ("flag|XYZ", None),
    ("flagicon|JPN", ""),
    ("uk|міст", "міст"),
    ("UK", "イギリス"),
    ("ウィキ座標度分秒|33|17|3|N|44|15|22|E", None),
    ("convert|12|km|mi", "12キロメートル"),
    ("convert|12|km|mi|abbr=on", "12 km"),
    ("convert|12|to|14|km", None),
    ("convert|6|ft|2|in|m", None),
    ("convert|12|parrots", None),
    ("formatnum:6000", "6000"),
    ("as of|2010|6", "2010年6月現在"),
    ("生年月日|1973|10|17", "1973年10月17日"),
    ("生年月日|1973|10|17|18", None),
    ("circa|1500", None),
    ("sup|16", "<sup>16</sup>"),
    ("没年齢|1949|12|21|2022|10|30", None),
    ("読み人知らず|1", None),
]


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls_of_japanese(body: str, shown: str | None) -> None:
    assert template_table("ja").text_of(body) == shown
