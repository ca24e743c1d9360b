"""Templates of Arabic Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("إنج|bridge", "(بالإنجليزية: bridge)"),
    ("إنج|bridge|x", None),
    ("ألمانية|Brücke", "(بالألمانية: Brücke)"),
    ("لغة-أل|Brücke", "(بالألمانية: Brücke)"),
    ("lang-fr|pont", "بالفرنسية: pont"),
    ("lang-xx|pont", "pont"),
    ("لغ|de|Brücke", "Brücke"),
    ("lang|de|Brücke", "Brücke"),
    ("أيقونة ألمانية", "(بالألمانية)"),
    ("وإو|عر=الجسر الكبير|تر=Big bridge|لغ=en", "الجسر الكبير"),
    ("وإو|عر=الجسر الكبير|تر=Big bridge|لغ=en|نص=الجسر", "الجسر"),
    ("وإو|الجسر الكبير|Big bridge", "الجسر الكبير"),
    ("وإو|الجسر|Bridge|x=1", None),
    ("بحاجة لمصدر|تاريخ=2010", ""),
    ("متى", ""),
    ("ملا|حاشية", ""),
    ("sfn|Ali|2000", ""),
    ("رمز علم|مصر", ""),
    ("علم|مصر", "مصر"),
    ("علم|EGY", "مصر"),
    ("علم|XYZ", None),
    ("EGY", "مصر"),
    ("تاريخ الميلاد|1973|10|17", "17 أكتوبر 1973"),
    ("تاريخ الميلاد|1973|13|17", None),
    ("formatnum:6000", "6000"),
    ("كسر|1|2", "1/2"),
    ("لون|red|أحمر", "أحمر"),
    ("convert|12|km|mi|abbr=on", "12 كم"),
    ("convert|12|km", None),
    ("اقتباس|قام الجسر.|الباني", "\n\nقام الجسر.\n\n"),
    ("IPA-fr|pɔ̃|", "[pɔ̃]"),
    ("circa|1500", None),
    ("sup|16", "<sup>16</sup>"),
    ("قالب غير معروف|1", None),
]


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls_of_arabic(body: str, shown: str | None) -> None:
    assert template_table("ar").text_of(body) == shown
