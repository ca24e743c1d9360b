"""Arguments in an order or a range that does not give a date leave a hole."""

import pytest

from megabert.data.text.wikitext.templates.calendar import Date, is_date
from megabert.data.text.wikitext.templates.table import template_table


@pytest.mark.parametrize(
    ("language", "call", "shown"),
    [
        ("es", "fecha|1999|3|5", None), ("es", "fecha|31|2|1999", None), ("es", "fecha|5|3|1999", "5 de marzo de 1999"),
        ("es", "fecha|5|marzo|44 a. C.", "5 de marzo de 44 a. C."),
        ("pt", "dtlink|1999|3|5", None), ("pt", "dtlink|30|2", None), ("pt", "dtlink|5|3|1999", "5 de março de 1999"),
        ("pt", "dtlink||3|1999", "março de 1999"),
        ("en", "birth date|5|6|1970", None), ("en", "birth date|1970|6|31", None), ("en", "birth date|1970|13|3", None),
        ("en", "birth date|5|6|12", None), ("en", "birth date|1970|6|5", "June 5, 1970"),
        ("en", "birth date and age|5|6|1970|df=y", None), ("en", "death date|1970|6|5|df=y", "5 June 1970"),
        ("en", "start date|1970", "1970"), ("en", "start date|5 June", None), ("en", "as of|2010|6|31", None),
        ("en", "as of|5|6|1970", None), ("en", "as of|2010|6|30", "As of 30 June 2010"),
        ("en", "oldstyledate|22 April|1870|10 April", "22 April [O.S. 10 April] 1870"), ("en", "oldstyledate|1870|4|22", None),
        ("ja", "生年月日|5|6|1970", None), ("ja", "生年月日|1970|6|5", "1970年6月5日"), ("ja", "as of|2010|6|31", None),
        ("zh", "bd|5|6|1970", None), ("zh", "bd|1970年|6月31日", None), ("zh", "bd|1970年|6月5日|2000年|2月29日", "1970年6月5日－2000年2月29日"),
        ("zh", "bd|||1970年", "－1970年"), ("zh", "birth date|1970|6|31", None), ("zh", "birth date|1970|6|30", "1970年6月30日"),
        ("fr", "date|31|2|1999", None), ("fr", "date|29|février|1999", None), ("fr", "date|29|2|2000", "29 février 2000"),
        ("fr", "date|15|mars|44 av. J.-C.", "15 mars 44 av. J.-C."), ("fr", "date|1999|3|5", None),
        ("ko", "출생일|1970|6|31", None), ("ko", "출생일|1970|6|30", "1970년 6월 30일"), ("ko", "출생일|5|6|1970", None),
        ("ru", "дата|31|2|1999", None), ("ru", "дата|5|3|1999", "5 марта 1999"), ("ru", "дата|1999|3|5", None),
        ("ar", "تاريخ الميلاد|1970|6|31", None), ("ar", "تاريخ الميلاد|1970|6|30", "30 يونيو 1970"),
    ],
)  # fmt: skip
def test_dates(language: str, call: str, shown: str | None) -> None:
    assert template_table(language).text_of(call) == shown


@pytest.mark.parametrize(
    ("day", "shown"),
    [("31 febbraio", None), ("febbraio 5 6", None), ("1º febbraio", "1º febbraio"), ("[[5 marzo]]", "[[5 marzo]]"), ("marzo", "marzo")],
)  # fmt: skip
def test_dates_of_italian_biographies(day: str, shown: str | None) -> None:
    call = f"Bio|Nome=Anna|Sesso=F|GiornoMeseNascita={day}|AnnoNascita=1950|Attività=pittrice|Nazionalità=italiana"
    text = template_table("it").text_of(call)
    assert text == (
        None if shown is None else f"'''Anna''' ({shown} 1950) è una pittrice italiana."
    )


def test_leap_days_of_both_calendars() -> None:
    years = [
        y for y in ("1600", "1700", "1900", "1999", "2000", "2100", "") if is_date(Date(29, 2, y))
    ]
    assert years == ["1600", "1700", "1900", "2000", ""]
    assert not is_date(Date(30, 2))
    assert not is_date(Date(5, None, "1999"))
    assert not is_date(Date(5, 3, "12"))
    assert is_date(Date(5, 3, "12 a. C."))
