"""Words that look like markup stay, what removed markup leaves goes, apostrophes and figures."""

from pathlib import Path

import pytest

from megabert.data.text.input.sources import iter_pages
from megabert.data.text.wikitext.links import LinkRules, strip_links
from megabert.data.text.wikitext.quotes import strip_quotes
from megabert.data.text.wikitext.sections import clean
from megabert.data.text.wikitext.wiki_words import language_codes, switch_pattern


def text_of(wikitext: str, language: str = "en") -> str:
    sections = clean(wikitext, language=language, title="T")
    return "\n".join(line for s in sections for p in s.paragraphs for line in p.lines)


@pytest.mark.parametrize(
    "line",
    [
        ".NET is a framework.", ".45 ACP is a cartridge.", "...And Justice for All is an album.",
        "The macros __FILE__, __LINE__ and __DATE__ are replaced.", "Python calls __init__ and __INIT__.",
        "__index__ and __NAME__ are names.", "An empty list [] and a tuple ( ) and f() and {}.",
        "A std::vector<int> and #include <stdio.h> and <T, U>.", "Er sagte ,,Guten Tag“ und ging.",
        "Matrix [1, 2] and a[i] , b ; c.", "The list ( , ) has a comma.", "a , b . c",
        "Il dit : « oui ; non » !", "[news: the latest] and [tel: none] and [svn:x y].",
        "the < sign and 3 < 4 > 2 and a <- b.", "if a<b and b>c and x <i c> y", "The <source> tag, the <section> tag and <math>.", "1,,2 and ..5 and ;) here",
    ],
)  # fmt: skip
def test_words_that_look_like_markup_stay(line: str) -> None:
    assert text_of(line) == line
    assert text_of(f"{{{{Infobox|a=b}}}}\n'''{line[:1]}'''{line[1:]}") == line


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", "__NOTOC__ __toc__ __NOEDITSECTION__ __DISAMBIG__ __NoGallery__"),
        ("de", "__KEIN_INHALTSVERZEICHNIS__ __INHALTSVERZEICHNIS__ __NOTOC__"),
        ("fr", "__AUCUNSOMMAIRE__ __SOMMAIRE__"), ("es", "__SIN_TDC__"), ("it", "__NOINDICE__"),
        ("pt", "__SEMSUMÁRIO__"), ("ru", "__БЕЗ_ОГЛАВЛЕНИЯ__ __оглавление__"), ("pl", "__BEZSPISU__"),
        ("ja", "__目次__ ＿＿目次強制＿＿"), ("zh", "__目录__ __目錄__"), ("zh-tw", "__無目錄__"),
        ("ko", "__목차__"), ("ar", "__لافهرس__"), ("nl", "__GEENINHOUD__"), ("lv", "__NOTOC__"),
        ("ltg", "__NOTOC__"), ("als", "__KEIN_INHALTSVERZEICHNIS__"), ("simple", "__NOTOC__"),
    ],
)  # fmt: skip
def test_behaviour_switches_go(language: str, words: str) -> None:
    assert text_of(f"One {words} two.", language) == "One two."


def test_a_switch_of_another_language_is_a_word() -> None:
    assert text_of("The __INHALT__ and __目录__ stay.") == "The __INHALT__ and __目录__ stay."
    assert not switch_pattern("en").search("__index__ __FILE__ __SUPER_PRIVATE__ NOTOC")


def test_links_to_other_languages() -> None:
    assert text_of("[[re:publica]] and [[c:x]] [[de:Hund]][[zh-min-nan:Káu]][[Simple:Dog]]") == (
        "re:publica and c:x"
    )
    assert text_of("[[doi:10.1/x]] [[xyz:a]] [[en:Dog]] here") == "doi:10.1/x xyz:a en:Dog here"
    assert text_of("Text [[en:Dog]]", "de") == "Text"
    assert (
        text_of("[[Law: a.jpg]] [[Datei:a.jpg]][[Bild:b]] [[Files:c]]", "de")
        == "Law: a.jpg Files:c"
    )
    assert {"en", "zh-yue", "be-x-old"} <= language_codes("de")
    assert not {"re", "doi", "voy", "de"} & language_codes("de")


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[[Faidhle:a.jpg|250px|right|x]]", ""), ("[[Picha: b.svg|thumb|y [[z]]]]", ""),
        ("[[Faidhle:a.jpg|a]]", "a"), ("[[Faidhle:a|thumb]]", "thumb"), ("[[Faidhle:a.jpg|thumb|b", ""),
        ("[[Categoria:Berlin|*]]", ""), ("[[:Categoria:Berlin|b]]", "b"), ("[[Categoria: b]]", "Categoria: b"),
    ],
)  # fmt: skip
def test_names_of_namespaces_that_a_dump_does_not_list(link: str, shown: str) -> None:
    rules = LinkRules(frozenset(["file"]), frozenset(["category"]))
    assert strip_links(link, rules) == shown


@pytest.mark.parametrize(
    ("wikitext", "shown"),
    [
        ("X ({{cn}}, {{cn}}) is Y.", "X is Y."), ("X ([[File:a.ogg]]) is f(x) and ().", "X is f(x) and ()."),
        ("X ({{cn}}; born 1950) is", "X (born 1950) is"), ("X (born 1950, {{cn}}) is", "X (born 1950) is"),
        ("a, {{cn}}, and {{cn}}.", "a, and."), ("({{cn}}/{{cn}}) [{{cn}}] “{{cn}}” x", "x"),
        ("{{cn}}, he said.", "he said."), ("{{cn}}. He said.", "He said."), ("[[File:a.png|x]].NET is", ".NET is"),
        ("{{cn}}...And so", "...And so"), ("{{cn}}: text", "text"), ("{{cn}},,Zitat“ hier", ",,Zitat“ hier"),
        ("The members are: {{cn}}", "The members are:"), ("A dog, {{cn}}", "A dog"),
        ("word {{cn}}. Next {{cn}}, and {{cn}}!", "word. Next, and!"), ("mot {{cn}} ! Oui", "mot ! Oui"),
        ("(see [http://a.b]) and ([http://a.b c])", "(see) and (c)"), ("({{cn}} [[de:x]]) y", "y"),
        ("甲（{{cn}}，乙）。{{cn}}，丙{{cn}}、{{cn}}、丁", "甲（乙）。丙、丁"), ("{{cn}}。{{cn}}，丙", "丙"),
        ("\"{{cn}}\" x ''{{cn}}'' y '''{{cn}}''' z", "x y z"), ("'{{cn}}' and {{cn}}'s", "'' and 's"),
        ("a{{cn}} , b {{cn}} . C<ref>d</ref> , e ({{cn}} f<ref>g</ref> ) h.", "a, b. C, e (f) h."),
        ("a{{cn}} .NET and b <ref>c</ref> ,d; e , f .", "a .NET and b ,d; e , f ."),
        ("a{{cn|{}}} , b.", "a, b."),
        ("It is old.<ref>a</ref>. It is big.<ref>b</ref>.", "It is old. It is big."),
        ("a.{{cn}}.NET and so..<ref>b</ref>. c", "a..NET and so... c"),
        ("See it (http://a.b/c_(d)), please.", "See it, please."),
    ],
)  # fmt: skip
def test_what_removed_markup_leaves_goes(wikitext: str, shown: str) -> None:
    assert text_of(wikitext) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("''''x''''", "'x'"), ("'''''x'''''''", "x''"), ("''Foo'''s", "Foo's"),
        ("l'''amour'' et", "l'amour et"), ("''''''x''''''", "'x'"), ("'''", ""), ("'''''", ""),
        # one bold and one italic mark are left: a word of one letter comes first,
        ("foo'''x'' a'''b '''c", "foox a'b c"),
        # but not at the beginning of a line, where MediaWiki sees no space, nor beyond ASCII
        ("R'''a'' '''b x'''c", "Ra b x'c"), ("foo'''x'' à'''b '''c", "foo'x àb c"),
        ("x '''y ''z", "x 'y z"), ("'''y ''z", "'y z"),
        # two in a line, where MediaWiki finds none
        ("''A'''s and ''B'''s", "A's and B's"), ("l'''a'' e dell'''o''", "l'a e dell'o"),
        ("''a '''so''' b'' all'''x''' ''y''", "a so b allx y"), ("''A'''s b '''c'''", "A's b c"), ("L''''x''' '''N''' (''y'')", "L'x N (y)"), ("'''S'''a ''y''", "Sa y"), ("''a''", "a"), ("'a' and ''' b", "'a' and  b"),
    ],
)  # fmt: skip
def test_quotes_follow_mediawiki(line: str, shown: str) -> None:
    assert strip_quotes(line) == shown


@pytest.mark.parametrize(
    ("wikitext", "shown"),
    [
        ("''Eagle''{{'s}} stage and ''Columbia''{{'}}s crew", "Eagle's stage and Columbia's crew"),
        ("[[E|''Eagle'']]'s stage and [[C|''Columbia'']]'s crew", "Eagle's stage and Columbia's crew"),
        ("''Eagle''<nowiki/>'s stage and ''Columbia''<nowiki />'s", "Eagle's stage and Columbia's"),
        ("''Eagle''<small>'s</small> and ''C''<span class='a'>'s</span>", "Eagle's and C's"),
        ("''[[Eagle]]''{{apos}}s and [http://a.b ''C'']'s crew of ''D''", "Eagle's and C's crew of D"),
        ("[[lista d''e paise]] and [[x|'tis]] ''[[y|'tis]]'' z", "lista d''e paise and 'tis 'tis z"),
        ("&lt;b> malns<'''span''' a='b'>x</'''span'''>", "<b> malns<span a='b'>x</span>"),
        ("The function ''f''<sup>'</sup>(''x'') and ''g''<sub>1</sub>'", "The function f'(x) and g1'"),
        ("''Foo''\nbar'''s ''x'' y", "Foo bars x y"),
    ],
)  # fmt: skip
def test_possessives_keep_their_apostrophes(wikitext: str, shown: str) -> None:
    assert text_of(wikitext) == shown


@pytest.mark.parametrize(
    ("wikitext", "shown"),
    [
        ("10<sup>16</sup>", "10^16"), ("10<SUP>−9</SUP> m", "10^−9 m"), ("m<sup>2</sup>", "m2"),
        ("5 km<sup>2</sup> and s<sup>−1</sup>", "5 km2 and s−1"), ("H<sub>2</sub>O", "H2O"),
        ("''x''<sub>1</sub>", "x1"), ("''E'' = ''mc''<sup>2</sup>", "E = mc^2"), ("2<sup>''n''</sup>", "2^n"),
        ("2<sup>n+1</sup>", "2^(n+1)"), ("101<sub>2</sub> = 5<sub>10</sub>", "101_2 = 5_10"),
        ("4<sup>th</sup> 1<sup>er</sup> XIX<sup>e</sup> 2<sup>e</sup>", "4th 1er XIXe 2e"),
        ("SO<sub>4</sub><sup>2−</sup>", "SO4^2−"), ("Ca<sup>2+</sup>", "Ca2+"), ("<sup>14</sup>C", "14C"),
        ("log<sub>2</sub>8", "log2 8"), ("1<sup>1</sup>/<sub>2</sub> miles", "1 1/2 miles"),
        ("(1+x)<sup>2</sup>", "(1+x)^2"), ("10<sup>[[power|16]]</sup>", "10^16"), ("10<sup>16", "10^16"),
        ("''a''<sub>''n''</sub>", "a_n"), ("12<sup>h</sup>30<sup>m</sup>", "12h30m"), ("e<sup>''x''</sup>", "e^x"),
        ("'''10'''<sup>'''6'''</sup>", "10^6"), ("1,000<sup>2</sup>", "1,000^2"), ("CO<sub>x</sub>", "COx"),
        ("C<sub>6</sub>H<sub>12</sub>O<sub>6</sub>", "C6H12O6"), ("(NO<sub>3</sub>)<sub>2</sub>", "(NO3)2"),
    ],
)  # fmt: skip
def test_superscripts_make_no_other_figure(wikitext: str, shown: str) -> None:
    assert text_of(f"So {wikitext} is") == f"So {shown} is"


@pytest.mark.parametrize(
    ("wikitext", "shown"),
    [
        ("y = [[1, 2], [3, 4]] here", "y = [[1, 2], [3, 4]] here"), ("arr[arr[i]] here", "arr[arr[i]] here"),
        ("a[b[c[0]]] and d", "a[b[c[0]]] and d"), ("Text }} goes ]] by", "Text goes by"), ("[[a [b]]] c", "a [b] c"),
    ],
)  # fmt: skip
def test_brackets_that_are_no_links_stay(wikitext: str, shown: str) -> None:
    assert text_of(wikitext) == shown


def test_scripts_take_linear_time() -> None:
    for piece in ("<sup>", "<sub>2</sub>", "1<sup>2", "</sup>", "<sup>''"):
        assert text_of(piece * 20_000) is not None


def test_leading_marks(root: Path) -> None:
    path = root.parent / "shared" / "faults" / "leading-marks.xml"
    if not path.exists():
        pytest.skip("the folder shared/ is not there")
    lines = "\n".join(text_of(page.text) for page in iter_pages(path)).split("\n")
    assert [line.split()[0] for line in lines] == [".NET", ".45", "...And", "The"]
    assert "__FILE__" in lines[-1]
    assert "__LINE__" in lines[-1]
    assert "__NOTOC__" not in lines[-1]
