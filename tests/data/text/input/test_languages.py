"""Language codes, and texts that are not written as their language is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.text.languages import (
    check_language,
    database_language,
    normal_code,
    page_language,
    same_language,
)
from megabert.data.text.scripts import count_scripts, other_script, scripts_of

TEXTS = {
    "en": "The river rises in the hills and flows to the sea past three towns.",
    "ru": "Река берёт начало в горах и течёт мимо трёх городов к морю.",
    "ar": "ينبع النهر من الجبال ويجري إلى البحر مارا بثلاث مدن.",
    "he": "הנהר נובע בהרים וזורם אל הים דרך שלוש ערים.",
    "el": "Ο ποταμός πηγάζει από τα βουνά και κυλά προς τη θάλασσα.",
    "hi": "नदी पहाड़ों से निकलती है और तीन नगरों से होकर समुद्र तक जाती है।",
    "zh": "这条河发源于山区，流经三座城市，最后注入大海。沿岸的居民以捕鱼和种植水稻为生。",
    "ja": "この川は山地に源を発し、三つの町を通って海に注いでいる。人々は魚をとって暮らす。",
    "ko": "이 강은 산에서 시작하여 세 도시를 지나 바다로 흘러간다. 사람들은 물고기를 잡는다.",
    "th": "แม่น้ำสายนี้เริ่มต้นในภูเขาและไหลผ่านสามเมืองลงสู่ทะเล",
    "ka": "მდინარე სათავეს იღებს მთებში და მიედინება ზღვისკენ.",
}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("en", "en"), ("EN", "en"), ("en-GB", "en"), ("simple", "en"), ("als", "gsw"), ("no", "nb"),
        ("zh-yue", "yue"), ("zh-classical", "lzh"), ("zh_classical", "lzh"), ("zh-min-nan", "nan"),
        ("bat-smg", "sgs"), ("be-x-old", "be-tarask"), ("be-tarask", "be-tarask"), ("fiu-vro", "vro"),
        ("roa-rup", "rup"), ("nds-nl", "nds-nl"), ("zh_TW", "zh-tw"), ("zh-Hant-TW", "zh-tw"),
        ("zh-hant", "zh-hant"), ("sr-el", "sr-el"), ("pt-BR", "pt-br"), ("zho", "zh"), ("deu", "de"),
        ("aa", "aa"), ("ltg", "ltg"), ("xx", None), ("tlh", None), ("english", None), ("", None),
        ("e n", None), ("english-us", None), ("zz-top", None),
    ],
)  # fmt: skip
def test_codes(code: str, expected: str | None) -> None:
    assert normal_code(code) == expected


@given(
    st.sampled_from(
        [
            "en",
            "de",
            "simple",
            "als",
            "no",
            "zh",
            "zh-tw",
            "zh-yue",
            "sr-el",
            "be-x-old",
            "ltg",
            "xx",
        ]
    )
)
def test_a_normal_code_stays(code: str) -> None:
    once = normal_code(code)
    if once is not None:
        assert normal_code(once) == once


@given(st.text(max_size=12))
def test_any_text_is_a_code_or_none(code: str) -> None:
    assert normal_code(code) is None or same_language(
        normal_code(code) or "", normal_code(code) or ""
    )


@pytest.mark.parametrize(
    ("flag", "hint"),
    [("xx", "not a language code"), ("jp", "did you mean ja"), ("cn", "did you mean zh"),
     ("german", "did you mean de"), ("", "not a language code")],
)  # fmt: skip
def test_an_unknown_flag_is_refused(flag: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint) as caught:
        check_language(flag)
    assert "\n" not in str(caught.value)
    assert check_language("AUTO") == "auto"


def test_databases() -> None:
    assert database_language("dewiki") == database_language("dewikisource") == "de"
    assert database_language("simplewiki") == "en"
    assert [database_language(name) for name in ("commonswiki", "wiki", "mydb", "")] == [None] * 4


def test_choice_of_a_page() -> None:
    assert page_language("auto", "") == "en"
    assert page_language("auto", "zh") == "zh"
    assert page_language("fr", "zh") == "fr"
    assert same_language("zh-tw", "zh-cn")
    assert not same_language("nds", "nds-nl")


@pytest.mark.parametrize("written", TEXTS)
@pytest.mark.parametrize("language", TEXTS)
def test_every_script_by_every_language(written: str, language: str) -> None:
    what = other_script(count_scripts(TEXTS[written] * 4), language)
    assert (what is None) == (written == language), what
    if what is not None:
        assert f"--language {written}" in what


@pytest.mark.parametrize("language", ["sr", "uz", "kk", "tg", "ku"])
def test_languages_of_two_scripts(language: str) -> None:
    assert len(scripts_of(language)) >= 2


def test_a_third_of_ideographs() -> None:
    assert other_script({"Latin": 100, "Han": 49}, "en") is None
    assert "zh" in str(other_script({"Latin": 100, "Han": 50}, "en"))
    assert "ja" in str(other_script({"Latin": 100, "Han": 40, "Kana": 20}, "en"))
    assert "ko" in str(other_script({"Latin": 100, "Hangul": 60}, "de"))


def test_foreign_words_are_no_reason() -> None:
    assert other_script({"Latin": 60, "Han": 40}, "zh") is None
    assert other_script({"Latin": 60, "Cyrillic": 61}, "en") is not None
    assert other_script({"Latin": 61, "Cyrillic": 60}, "en") is None
    assert other_script({"Han": 10}, "en") is None  # too few letters
    assert other_script({"Latin": 500}, "got") is None  # its script is not counted
    assert other_script({"Cyrillic": 500}, "sr") is None
    assert other_script({"Latin": 500}, "sr-el") is None
