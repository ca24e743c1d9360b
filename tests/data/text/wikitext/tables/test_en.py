"""Templates of English Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("coord|13|19|N|169|9|W|type:event|name=x", "13°19′N 169°9′W"),
    ("coord|13|19|5|N|169|9|7|W", "13°19′5″N 169°9′7″W"),
    ("coord|13|19|N|169|9|W|display=title", ""),
    ("coord|13.5|169.1", None),
    ("nihongo|''Mizu''|水|mizu", "''Mizu'' (水, mizu)"),
    ("nihongo|Water|水|mizu|a drink|lead=yes", "Water (Japanese: 水, Hepburn: mizu, a drink)"),
    ("nihongo||水|mizu", "mizu (水)"),
    ("nihongo3|water|水|mizu", "mizu (水, water)"),
    ("nihongo|Water|水|mizu|other=x", None),
    ("zh|s=水|t=水|p=shuǐ", "simplified Chinese: 水; traditional Chinese: 水; pinyin: shuǐ"),
    ("zh|c=水|first=t", None),
    ("IPA|/a/", "/a/"),
    ("IPA|de|a|lang", ""),
    ("IPAc-en|b|ɜːr", ""),
    ("IPAslink|ʃ", "/ʃ/"),
    ("angbr|a", "⟨a⟩"),
    ("birth date|1879|3|14|df=y", "14 March 1879"),
    ("birth date|1879|03|14", "March 14, 1879"),
    ("birth date and age|1979|3|14", "March 14, 1979"),
    ("OldStyleDate|2 February|1905|20 January", "2 February [O.S. 20 January] 1905"),
    ("birth date|1879|13|14", None),
    ("reign|1016|1035", "r. 1016–1035"),
    ("height|ft=6|in=2", "6 ft 2 in"),
    ("height|m=1.88", "1.88 m"),
    ("height|6|ft", None),
    ("INRConvert|5|c", "₹5 crore"),
    ("HK$|5", "HK$5"),
    ("USS|Hornet|CV-12|6", "USS Hornet"),
    ("USS|Hornet|CV-12|2", "Hornet"),
    ("USS|Hornet|CV-12", "USS Hornet (CV-12)"),
    ("USS|Hornet|CV-12|9", None),
    ("ship|Japanese battleship|Yamato||2", "Yamato"),
    ("ship|HMS|Ajax|22", "HMS Ajax (22)"),
    ("sclass|Iowa|battleship", "Iowa-class battleship"),
    ("sclass|Iowa|battleship|5", None),
    ("ill|Title|de|Titel|lt=label", "label"),
    ("ill|de|Titel|Title|label", "label"),
    ("ill|Title|de", "Title"),
    ("harvtxt|Miller|Moore|1974", "Miller & Moore (1974)"),
    ("harvnb|Miller|1974|p=5", "Miller 1974, p. 5"),
    ("bibleverse||John|3:16|KJV", "John 3:16"),
    ("bibleref|Mark|3:25|9", "Mark 3:25"),
    ("sic", "[sic]"),
    ("sic|teh", "teh [sic]"),
    ("sic|hide=y|teh", "teh"),
    ("linktext|水|曜", "水曜"),
    ("hlist|a|b", "a · b"),
    ("quote|Water is wet.|A. Miller", "\n\nWater is wet.\n\n"),
    ("clarify span|in the past|date=May 2010", "in the past"),
    ("citation need|date=May 2010", ""),
    ("by|1995", "1995"),
    ("by|1995|x", None),
    ("en icon", ""),
    ("flagcountry|FRA", None),
    ("gaps|1.234|567", "1.234567"),
    ("1/2", "1/2"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls(body: str, shown: str | None) -> None:
    assert template_table("en").text_of(body) == shown
