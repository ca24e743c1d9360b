"""Sentence boundaries: rules, lists per language, quotations, scripts."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.data.text.sentence_rules.words import _sections, words_of
from megabert.data.text.sentences import split_sentences

# language, line with "|" where a sentence ends
LINES = [
    # never before a small letter, in any script
    ("en", "He works for Foo Inc. and for others. | She does too."),
    ("ru", "Он жил в г. орле и т. п. потом уехал. | Она нет."),
    ("pl", "W 1991 r. prezydent był tam. | Potem wyjechał."),
    ("en", "“Where is it?” he asked. | “Here!” | He left."),
    ("en", "Yahoo! is old. | It made $5. iPods sold well."),
    # a word that begins with a stop, and a figure with a sign
    ("en", "It began in 1972. | .NET was new. | .45 ACP is old. | The .txt file. .doc is another."),
    ("en", "It ended. | ...And Justice came. | It grew. | ~5000 came. | ≈20 left. | He was, vs. .NET, old."),
    ("en", "Wait. . . and go. .. or (see [...]. .) stay."),
    ("de", "Es war 1972. | .NET war neu, z. B. .NET 2 und Nr. .45 davon."),
    # ordinal numbers
    ("de", "Am 3. Oktober des 13. Jahrhunderts fiel die Burg. | Der Ort blieb."),
    ("de", "Er wurde am 24.12. Vater. | Das war 1990. | Danach zog er um."),
    ("de", "Der 100. Geburtstag von Wilhelm II. war 1959. | Es gab Feiern."),
    ("de", "Er gewann 1990. | 1992 verlor er."),
    ("de", "Er wurde der Große genannt. | Danach zog er um."),
    ("hu", "A szerző német. | Az apja orvos volt."),
    ("de", "Das sagte Prof. Dr. med. Müller. | Dr. rer. nat. Schmidt, Dr. h. c. mult. Kurz und Dr. iur. Alt kamen."),
    ("de", "Sie wohnt in der Hauptstr. 5 und in der Bahnhofstr. 17a, Hausnr. 7. | Er wohnt in der Ringstr. | Das Haus ist alt."),
    ("en", "It is Hauptstr. | 5 of them came."),
    ("da", "Den 4. maj 1945 kom de. | Krigen var slut."),
    ("nb", "Bygget er fra 17. århundre. | Det brant i 1890. | 30 år senere sto det igjen."),
    ("fi", "Hän syntyi 3. elokuuta. | Isä oli 2. Divisioonan komentaja."),
    ("cs", "Narodil se 12. 3. 1945 v Brně. | Zemřel v roce 1999. | Byl lékař."),
    ("hu", "A 20. században épült. | A II. Rákóczi út itt van."),
    ("tr", "20. yüzyılda kuruldu. | 2. Dünya Savaşı sürdü."),
    ("lv", "Dzimis 1901. gada 5. maijā. | Viņš bija ārsts."),
    ("en", "It closed in 1990. | The team came 13. | 12 players left."),
    # initials
    ("en", "J. R. R. Tolkien and H. G. Wells met C. S. Lewis. | They ate."),
    ("it", "I libri di J. R. R. Tolkien e di H. G. Wells. | Il primo è noto."),
    ("fr", "Il cite J.-P. Sartre et A. de Musset. | Elle lit."),
    ("ru", "А. С. Пушкин жил там. | Л. Н. Толстой тоже."),
    ("nl", "Het boek van J. De Vries. | De lezer wacht."),
    ("en", "It needs vitamin C. | The dose is small."),
    # abbreviations by kind
    ("en", "See no. 1347 and Vol. 40, pp. 5–6. | He said no. | They left."),
    ("en", "Dr. Smith of St. Paul met Mt. Rushmore's Gen. Lee. | He came."),
    ("en", "It was founded by the U.S. Army. | It left the U.S. | The end."),
    ("en", "Foo Ltd. Bar owns it. | It is sold by Foo Ltd. | It pays."),
    ("it", "Nacque nel 100 a. C. a Roma, morì nel 50 a.C. | Il sig. Rossi lo sa, cfr. Bianchi."),
    ("it", "Ai sensi dell'art. 13 della legge n. 270. | È in vigore."),
    ("de", "Er las z. B. Der Spiegel, d. h. Zeitungen. | Um 50 v. Chr. Kaiser. | Es war Krieg."),
    ("fr", "M. Dupont vit av. J.-C. | Le texte est p. 12."),
    ("es", "El Sr. López y la Dra. Ruiz fueron a EE. UU. ayer. | Volvieron."),
    ("pt", "O Dr. Silva mora na Av. Brasil, pág. 3. | A casa é nova."),
    ("pl", "Tzw. Dom stoi przy ul. Nowej. | W XX w. Kraków rósł. | Potem spłonął."),
    ("sv", "T.ex. Anna kom, s. 12. | Det var år 50 f.Kr. | Hon gick."),
    ("la", "Cn. Pompeius venit. | Vide vol. 3, p. 12. | Et abiit."),
    ("ltg", "Cīmu pīmiņ XX gs. pyrmajā pusē, 543 lpp. | Itys ir labs."),
    ("lv", "Tas notika XX gs. sākumā, sk. 5. lpp. | Tas beidzās."),
    ("is", "Hann kom t.d. Jóni, kl. 5. | Það var gott."),
    ("xx", "Foo bar. | Baz."),
    # quotations and brackets
    ("en", 'A board 12" wide fell. | It broke. | They left. | "Yes," she said. | He went.'),
    ("he", 'הוא שירת בצה"ל. | אחר כך חזר לארה"ב. | הוא גר שם.'),
    ("en", "He said “this is the end.” | Next day he left."),
    ("en", 'The song "Help! I Need It" is old. | (It is. | Really.) | So is he (b. 1950. Or so).'),
    ("en", "The play (an old one was lost. | It is found. | All like it."),
    ("de", "Er schrieb „Wer bin ich? Ein Buch“ allein. | Es war gut."),
    ("fr", "Il dit « C'est fini. » | Elle part."),
    ("da", "»Hvem er det?« spurgte han. | »Mig.« | Hun gik."),
    ("nl", "Hij zei: ,,Ga weg.'' | ,,Nee,'' zei ze. | Ze bleef."),
    ("en", "It ended.[3] | The next year (?) Smith came. | He [...] Left."),
    # scripts
    ("zh", "爆发战争。 | 1943年结束。 | 他说：“好。2人走。”"),
    ("zh", "“好。” | 他走了！ | ABC公司成立于3.5年前。 | information是英语。"),
    ("ja", "彼は「行け。」と言った。 | 『けいおん！』の話。 | 寒い。）とされる。 | 次。"),
    ("ko", '그는 "안녕." 하고 말했다. | "좋아!" 라고 했다. | "좋아!" | 그는 갔다.'), ("de", "Die Fa. Meier kam."),
    ("ru", "Сюда кн. Иван пришёл. | Потом кн. 5 была."),
    ("ja", "『ヘルプ!』に収録。 | K. I. T. T. と走る。"),
    ("ko", "그는 갔다. | 그녀도... | 끝."),
    ("ar", "ما هذا؟ | هو كتاب. | انتهى!"),
    ("ur", "یہ شہر ہے۔ | وہ گیا۔ | کب؟ | کل۔"),
    ("hi", "यह शहर है। | डॉ. वर्मा बी. ए. में थे। | कब?"),
    ("hy", "Նա ծնվել է 1990 թ. Երևանում։ | Նա բժիշկ է:"),
    ("el", "Τι είναι αυτό; | Ο κ. Παπαδόπουλος ήρθε. | Ναι."),
    ("my", "သူသွားသည်။ | သူပြန်လာသည်။"),
    ("am", "ይህ ከተማ ነው። | ትልቅ ነው።"),
    ("ka", "ეს ქალაქია. | ის დიდია."),
    # a hole begins a sentence only after a whole word
    ("en", "The town has \ue001 people. | It is old."),
    ("en", "It is by St. \ue001 and J. \ue001 of the U.S. \ue001, no. \ue001. | \ue001 was there."),
    ("en", "It costs \ue001. | He came... \ue001 left! | \ue001 did too."),
    ("de", "Am 3. \ue001 war es z. B. \ue001. | Er kam."),
    ("zh", "有\ue001人。 | \ue001是。 | 他走。"),
    # not the end of a word
    ("en", "Use Node.Js and e.g.The or System.Out. | It works."),
    ("en", "Use node.js or .NET. | See e.g. foo.Bar and 3.5 m. | It works."),
    ("hr", "Došao je iz NATO-a. | Tamo je vrh. | Bilo je lijepo."),
    # items of a list
    ("en", "1. Introduction to it. | 2. Results of it."),
]  # fmt: skip


@pytest.mark.parametrize(("language", "line"), LINES)
def test_boundaries(language: str, line: str) -> None:
    sentences = line.split(" | ")
    glue = "" if language in ("zh", "ja") else " "
    assert split_sentences(glue.join(sentences), language) == sentences


def test_sentences_without_a_space_between_them() -> None:
    assert split_sentences("It is old.The new one broke.Foo", "en") == [
        "It is old.",
        "The new one broke.Foo",
    ]


def test_a_line_without_a_word_gives_no_sentence() -> None:
    assert split_sentences(" — .", "en") == []
    assert split_sentences("", "en") == []
    assert split_sentences("Yes.", "en") == ["Yes."]


_PIECES = [
    *("ab", "Cd", "12", "3", "Dr", "St", "no", "vol", "a", "C", "J", "U.S", "z.", "B.", "é", "É"),
    *'.!?…,;:()[]"“”„«»’-–。！」「۔।一かのאا',
    *("..", "[1]", "\ue001"),
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(_PIECES), st.sampled_from(["", " "])), max_size=30),
    st.sampled_from(["en", "de", "it", "ja", "hi", "hy", "xx"]),
)
def test_no_text_is_lost(pieces: list[tuple[str, str]], language: str) -> None:
    line = "".join(piece + space for piece, space in pieces)
    sentences = split_sentences(line, language)
    if any(character.isalnum() for character in line):
        assert "".join("".join(sentences).split()) == "".join(line.split())
    assert all(sentence == sentence.strip() and sentence for sentence in sentences)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_kept(line: str) -> None:
    sentences = split_sentences(line, "en")
    assert not sentences or "".join("".join(sentences).split()) == "".join(line.split())


def test_lists_are_well_formed() -> None:
    names = {"like", "ordinals", "syllabic", "always", "figure", "last", "plain", "starters", "endings",
             "stops", "own", "continuation"}  # fmt: skip
    sections = _sections()
    for code, lists in sections.items():
        assert set(lists) <= names, code
        assert all(like in sections for like in lists.get("like", []))
        for name in ("always", "figure", "last", "plain"):
            words = lists.get(name, [])
            assert len(set(words)) == len(words), (code, name)
            assert not any(word.endswith(".") for word in words), (code, name)
            assert name != "figure" or all(len(word) > 1 for word in words), code


def test_languages_use_the_lists_of_related_ones() -> None:
    assert "bzw" in words_of("als").kinds
    assert "gs" in words_of("ltg").kinds
    assert "piem" in words_of("ltg").kinds
    assert words_of("pt_BR").kinds == words_of("pt").kinds
    assert words_of("de").ordinals == 3
    assert words_of("cs").ordinals == 2
    assert words_of("en").ordinals == 0


@pytest.mark.parametrize(
    "piece",
    [
        "(a. B) c, ",
        "J. ",
        "x.\tY",
        '[ "A. B" ',
        "。a",
        "(",
        ". ",
        "“A. b",
        "!?",
        "A.B",
        "1. ",
        "» ",
    ],
)
def test_time_is_linear_in_the_line(piece: str) -> None:
    line = "[“" + piece * (300_000 // len(piece))
    start = time.process_time()
    split_sentences(line, "hi")
    assert time.process_time() - start < 10
