"""Templates of Korean Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("llang|de|Brücke", "독일어: Brücke"),
    ("llang|ja|鉄橋|뎃쿄", "일본어: 鉄橋 뎃쿄"),
    ("llang|xx|Brücke", "Brücke"),
    ("llang|de|Brücke|다리|x", None),
    ("lang|de|Brücke", "Brücke"),
    ("lang-de|Brücke", "독일어: Brücke"),
    ("언어링크|en", "(영어)"),
    ("언어링크|en|de", None),
    ("ill|큰 다리|en|Big bridge", "큰 다리"),
    ("ill|큰 다리|en|Big bridge|lt=다리", "다리"),
    ("국기|대한민국", "대한민국"),
    ("국기|KOR", "대한민국"),
    ("국기|XYZ|크기=20px", None),
    ("국기그림|대한민국", ""),
    ("USA", "미국"),
    ("출처|날짜=2010-01-01", ""),
    ("출처 필요", ""),
    ("언제", ""),
    ("R|a", ""),
    ("내용주|주", ""),
    ("ruby|橋|교", "橋(교)"),
    ("작게|다리", "다리"),
    ("색|red|붉은", "붉은"),
    ("출생일|1973|10|17", "1973년 10월 17일"),
    ("출생일|1973|13|17|1", None),
    ("formatnum:6000", "6000"),
    ("IPA-all|a|", "[a]"),
    ("소리|a.ogg|듣기", "듣기"),
    ("소리|a.ogg", None),
    ("분수|1|2", "1/2"),
    ("convert|12|km|mi", "12 km"),
    ("convert|6|ft|2|in|m", None),
    ("인용문|다리가 섰다.", "\n\n다리가 섰다.\n\n"),
    ("circa|1500", None),
    ("sup|16", "<sup>16</sup>"),
    ("없는 틀|1", None),
]


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls_of_korean(body: str, shown: str | None) -> None:
    assert template_table("ko").text_of(body) == shown
