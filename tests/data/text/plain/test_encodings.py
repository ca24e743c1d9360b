"""Text that is not UTF-8 is named with its byte and its probable encoding."""

from __future__ import annotations

import quopri
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.data.text.input.sources import iter_pages
from megabert.data.text.plain.encodings import likely_encoding
from megabert.data.text.reading import ReadingRules

WESTERN = "The café is near the château; Müller and señor Núñez met there.\n"
CURLY = "“The café” – Müller’s own – is near the château…\n"
POLISH = "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi pod względem swej godności.\n"
TURKISH = "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. İnsanlar kardeştir.\n"
RUSSIAN = "Все люди рождаются свободными и равными в своём достоинстве и правах.\n"
GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.\n"
CHINESE = "人人生而自由，在尊严和权利上一律平等。他们有理性和良心，并应以兄弟关系的精神相对待。\n"
TAIWAN = "人人生而自由，在尊嚴和權利上一律平等。他們有理性和良心，並應以兄弟關係的精神相對待。\n"
JAPANESE = "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。\n"
KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n"
THAI = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ\n"
LITHUANIAN = (
    "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis. Jiems suteiktas protas ir sąžinė.\n"
)
HEBREW = "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.\n"
ARABIC = "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق.\n"


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [
        (WESTERN, "latin-1", "ISO-8859-1"),
        ("one é alone\n", "latin-1", "ISO-8859-1"),
        (CURLY, "cp1252", "WINDOWS-1252"),
        (POLISH, "cp1250", "WINDOWS-1250"),
        (TURKISH, "cp1254", "WINDOWS-1254"),
        (RUSSIAN, "cp1251", "WINDOWS-1251"),
        (RUSSIAN, "koi8_r", "KOI8-R"),
        (RUSSIAN, "cp866", "CP866"),
        (RUSSIAN, "iso8859_5", "ISO-8859-5"),
        (THAI, "cp874", "CP874"),
        (LITHUANIAN, "cp1257", "WINDOWS-1257"),
        (WESTERN, "mac_roman", "MACINTOSH"),
        (WESTERN, "cp850", "CP850"),
        (GREEK, "cp1253", "WINDOWS-1253"),
        (HEBREW, "cp1255", "WINDOWS-1255"),
        (ARABIC, "cp1256", "WINDOWS-1256"),
        (CHINESE, "gb18030", "GB18030"),
        (TAIWAN, "big5", "BIG5"),
        (JAPANESE, "shift_jis", "SHIFT_JIS"),
        (JAPANESE, "euc_jp", "EUC-JP"),
        (KOREAN, "euc_kr", "EUC-KR"),
        (WESTERN, "utf-16", "UTF-16"),
        (CHINESE, "utf-16", "UTF-16"),
        (WESTERN, "utf-16-le", "UTF-16LE"),
        (WESTERN, "utf-16-be", "UTF-16BE"),
        (CHINESE * 3, "utf-16-le", "UTF-16LE"),
        (WESTERN, "utf-32", "UTF-32"),
    ],
)
def test_encodings(tmp_path: Path, text: str, codec: str, name: str) -> None:
    data = ("An ASCII line comes first.\n" + text * 3).encode(codec)
    assert likely_encoding(data) == name
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    for rules in (ReadingRules(), ReadingRules("text")):
        with pytest.raises(UserError, match=f"iconv -f {name} -t UTF-8") as caught:
            list(iter_pages(path, rules))
        assert str(caught.value).startswith(f"{path}: line ")
    sure = name.startswith("UTF-")
    assert ("a guess from its letters" in str(caught.value)) is not sure
    iconv = data.decode(name.lower().replace("iso-8859-1", "latin-1"))
    assert text in iconv


def test_the_byte_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for before in (b"One line.\nA caf", b"A long line.\n" * 50_000 + b"A caf"):
        path.write_bytes(before + b"\xe9 is here.\n")
        with pytest.raises(UserError, match=f"byte {len(before):,} is 0xE9"):
            list(iter_pages(path))


def test_damaged_utf8_is_not_another_encoding(tmp_path: Path) -> None:
    data = (WESTERN * 3).encode() + b"A cut character: \xc3\n" + RUSSIAN.encode()
    assert likely_encoding(data) == "UTF-8"
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match="although most of the text is UTF-8; --bad-lines skip"):
        list(iter_pages(path))


def test_binary_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for data in (bytes(range(256)) * 40, b"\x7fELF" + bytes(400), b"text \0 " * 90):
        path.write_bytes(data)
        for rules in (ReadingRules(), ReadingRules(bad_lines="skip")):
            with pytest.raises(UserError, match="binary data"):
                list(iter_pages(path, rules))


def test_japanese_in_seven_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(JAPANESE.encode("iso2022_jp") * 3)
    with pytest.raises(UserError, match=r"ISO-2022-JP; convert it with iconv -f ISO-2022-JP"):
        list(iter_pages(path))
    path.write_bytes(b"A line with \x1b[31mcolour\x1b[0m and \x1b$ 5.\n" * 9)
    assert list(iter_pages(path))


def test_text_that_is_encoded_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text, codec in (
        (WESTERN, "cp1252"),
        (WESTERN, "latin-1"),
        (POLISH, "latin-1"),
        (CHINESE, "latin-1"),
    ):
        path.write_text((text * 3).encode().decode(codec))
        with pytest.raises(UserError, match="converted to UTF-8 a second time; iconv -f UTF-8 -t"):
            list(iter_pages(path))
    for text in (WESTERN, CURLY, POLISH, TURKISH, RUSSIAN, GREEK, CHINESE, THAI, HEBREW, ARABIC):
        path.write_text(text * 3)
        assert list(iter_pages(path))


def test_quoted_printable_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(quopri.encodestring((WESTERN.strip() * 9).encode()))
    with pytest.raises(UserError, match="quoted-printable"):
        list(iter_pages(path))
    path.write_text("The sum is a =\nand b = 4.\nIt is so.\n" * 2)
    assert list(iter_pages(path))
