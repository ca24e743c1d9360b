"""Templates of Chinese Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("le|大橋|Big bridge", "大橋"),
    ("le|大橋 (北方)|Big bridge|大橋", "大橋"),
    ("link-de|大橋|Brücke", "大橋"),
    ("link-en|大橋 (北方)|Bridge|大橋", "大橋"),
    ("link-en|大橋|Bridge|甲|乙", None),
    ("Internal link helper/fr|大橋|Pont", "大橋"),
    ("tsl|en|Big bridge|大橋", "大橋"),
    ("tsl|en|Big bridge|大橋 (北方)|大橋", "大橋"),
    ("ill|大橋|en|Bridge|lt=橋", "橋"),
    ("lang|de|Brücke", "Brücke"),
    ("lang|de|Brücke|甲", None),
    ("lang-de|Brücke", "Brücke"),
    ("bd|1900年|1月2日|1980年|3月4日|catIdx=D", "1900年1月2日－1980年3月4日"),
    ("bd|1900年||1980年||Da", "1900年－1980年"),
    ("bd|1970年|5月6日|||Da", "1970年5月6日－"),
    ("bd|1900年|1月2日|1980年|3月4日|Da|x=1", None),
    ("來源請求|time=2010-01-01", ""),
    ("fact|time=2010-01-01", ""),
    ("R|a|b", ""),
    ("notetag|註", ""),
    ("NoteTA|1=zh-hans:a;zh-hant:b", ""),
    ("NoteTA/IT", ""),
    ("ruby|橋|ㄑㄧㄠˊ", "橋（ㄑㄧㄠˊ）"),
    ("專名|長橋", "長橋"),
    ("僻字|𥺁|米+羔", "𥺁"),
    ("color|red|紅", "紅"),
    ("flagicon|JPN", ""),
    ("flag|JPN", "日本"),
    ("JPN", "日本"),
    ("FRA", "-{zh-hans:法国;zh-hant:法國}-"),
    ("flag|法國", "法國"),
    ("flag|XYZ", None),
    ("convert|12|km|mi|0", "12公里"),
    ("convert|12|km|mi|abbr=on", "12 km"),
    ("convert|6|ft|2|in|m", None),
    ("formatnum:6000", "6000"),
    ("birth date|1973|10|17", "1973年10月17日"),
    ("IPA-de|ˈbʁʏkə||De-a.ogg", "[ˈbʁʏkə]"),
    ("frac|3|1|2", "3 1/2"),
    ("circa|1500", None),
    ("sup|16", "<sup>16</sup>"),
    ("没有的模板|1", None),
]


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls_of_chinese(body: str, shown: str | None) -> None:
    assert template_table("zh").text_of(body) == shown
