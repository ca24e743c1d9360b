"""Names of the templates whose text is part of the sentence, as data.

The names are those of English Wikipedia and of the wikis that adopted them, plus the most common of
Chinese Wikipedia and one of Latgalian; all are lower case, with "_" for a space in lists.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(name.replace("_", " ") for name in text.split())


# the first argument is shown
FIRST = _names(
    "nowrap nobr nobold nobreak small smaller big larger large mvar math em strong abbr tooltip "
    "ill link-interwiki interlanguage_link interlanguage_link_multi le internal_link_helper "
    "internal_link nhlink link-en link-ja link-de link-fr link-ru link-es link-it link-ko "
    "flag flagcountry flagu noitalic no_italic italic_correction unbulleted nihongo nihongo2 "
    "nihongo3 korean linktext sic sup sub var code samp kbd tt mono keypress key_press char "
    "angbr angle_bracket angbr_ipa not_a_typo typo proper_name nbsp-text keep_together "
    "as_written quote blockquote cquote quotation quote_box_text bquote poemquote "
    "centered_text center visible_anchor anchor_text vanchor lc uc lcfirst ucfirst formatnum "
    "lang-zh-hans lang-zh-hant transl-text iast unicode polytonic allow_wrap okina-text sc "
    "smallcaps vr railgauge track_gauge script/hebrew script/arabic née nee née2 overline "
    "underline strikethrough del ins not_italic normal nts ordinal_word ws gloss crossref"
)
# the last argument is shown; the first one says how
LAST = _names(
    "lang langx transl transliteration translit rtl-lang lang-rtl tsl tslink script wikt-lang "
    "resize font color fontcolor colored_text"
)
# argument "text" or the first, as a separate paragraph
QUOTES = _names("quote blockquote cquote quotation bquote poemquote")
# "USS Enterprise"; the name is the prefix
SHIPS = _names("uss hms rms ss hmas hmcs sms mv ins rmv ms gts hnlms")
PAGE_NAMES = _names("pagename fullpagename basepagename subst:pagename")
# "lang-fr" and "link-fr" everywhere; "vol-fr" is the Latgalian name of "lang-fr"
LANGUAGE_FORMS = ("lang-", "link-", "vol-")
FUNCTIONS = ("lc", "uc", "lcfirst", "ucfirst", "formatnum", "nowrap")

# without arguments; a soft hyphen marks a place inside a word and is removed later
LITERAL = {
    "ndash": "–", "endash": "–", "en dash": "–", "mdash": "—", "emdash": "—", "em dash": "—",
    "snd": " – ", "spnd": " – ", "sndash": " – ", "spaced ndash": " – ", "spaced en dash": " – ",
    "spaced mdash": " — ", "nbsp": " ", "space": " ", "spaces": " ", "thinsp": " ",
    "thin space": " ", "hair space": " ", "shy": "\u00ad", "wbr": "\u00ad", "zwsp": "\u00ad",
    "zwj": "\u00ad", "zwnj": "\u200c", "'": "'", "'s": "'s", '"': '"', "=": "=", "!": "|",
    "·": " · ", "•": " • ", "dot": " · ", "middot": " · ", "bullet": " • ", "okina": "ʻ",
    "hamza": "ʼ", "ayin": "ʽ", "pi": "π", "minus": "−", "times": "×", "x": "×", "sharp": "♯",
    "flat": "♭", "natural": "♮", "degree": "°", "numero": "№", "apos": "'", "sup2": "²",
    "dash": " – ", "--": "—", "mdashb": "—", "ndashb": "–", "' \"": "'\"", "\" '": "\"'",
    "-\"": "\"", "lb": "[", "rb": "]", "(": "(", ")": ")", "half": "1⁄2", "euro": "€",
    "gbp": "£", "eqm": "⇌",
}  # fmt: skip
CURRENCY = {
    "us$": "US$", "usd": "US$", "gbp": "£", "inr": "₹", "euro": "€", "eur": "€", "aud": "A$",
    "cad": "C$", "jpy": "¥", "yen": "¥", "pound sterling": "£", "inrconvert": "₹",
}  # fmt: skip
# units as {{convert}} writes them
UNITS = {
    "C": "°C", "F": "°F", "C-change": "°C", "F-change": "°F", "sqmi": "sq mi", "sqkm": "km2",
    "sqft": "sq ft", "sqm": "m2", "acre": "acres", "impgal": "gallons",
}  # fmt: skip
RANGES = {
    "to": "to", "-": "–", "–": "–", "and": "and", "or": "or", "by": "by", "x": "×", "×": "×",
    "+/-": "±", "±": "±", "to(-)": "to", "and(-)": "and", "xx": "×",
}  # fmt: skip
ACCIDENTALS = {"flat": "♭", "sharp": "♯", "natural": "♮"}
