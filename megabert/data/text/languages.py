"""Language codes: which are known, what wikis call them, and the language of a page.

A code is known if it is in ``_LISTED`` or ``_ALIASES``. Subtags may follow.
They count for languages that are written in several ways ("zh-tw", "sr-el"), and not for others
("en-GB" is "en").
Source of the codes: MediaWiki's list of language names, and the list of Wikipedias.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from megabert.common.errors import UserError

AUTO = "auto"
"""Decide by the input: the language that a dump names, else ``DEFAULT``."""
DEFAULT = "en"
SEVERAL = "mul"
"""ISO 639-2 code for several languages, in the record of a job whose inputs differ."""

_LISTED = """
    aa aae ab abs ace acf acm ady ae aeb af aii ak aln als alt am ami an ang ann anp apc ar arc arn arq
    ary arz as ase ast atj av avk awa ay az azb ba ban bar bbc bcc bci bcl bdr be bew bg bgc bgn bho bi
    bjn blk bm bn bo bpy bqi br brh bs btm bto bug bxr ca ccp cdo ce ceb ch chn cho chr chy ckb co cop
    cps cpx cr crh cs csb cu cv cy da dag de dga din diq dsb dtp dty dua dv dz ee efi egl el en eo es
    et eu ext fa fat ff fi fit fj fo fon fr frc frp frr fur fy ga gaa gag gan gcf gcr gd gl gld glk gn
    gom gor got gpe grc gsw gu guc gur guw gv ha hak haw he hi hif hil hke hno ho hr hrx hsb hsn ht hu
    hy hyw hz ia iba ibb id ie ig igl ii ik ike ilo inh io is isv it iu ja jam jbo jut jv ka kaa kab kai
    kbd kbp kcg kea kg kge khw ki kiu kj kjh kjp kk kl km kn knc ko koi kr krc kri krj krl ks ksh ksw
    ku kum kus kv kw ky la lad lb lbe lez lfn lg li lij liv ljp lki lld lmo ln lo loz lrc lt ltg lu lua
    lus luz lv lzh lzz mad mag mai mdf mg mh mhr mi min mk ml mn mnc mni mnw mo mos mr mrh mrj ms mt
    mui mus mwl my myv mzn na nah nan nap nb nd nds ne new ng nia nit niu nl nmz nn nod nog nov nqo nr
    nrf nso nup nv ny nyn nyo nys oc oj ojb olo om or os pa pag pam pap pcd pcm pdc pdt pfl pi pih pl
    pms pnb pnt prg ps pt pwn qu qug rgn rif rki rm rmc rmy rn ro rsk ru rue rup ruq rut rw ryu sa sah
    sat sc scn sco sd sdc sdh se sei ses sg sgs sh shi shn shy si sjd sje sk skr sl sli sm sma smn sms
    sn so sq sr srn sro ss st stq sty su sv sw syl szl szy ta tay tcy tdd te tet tg th ti tk tl tly tn
    to tok tpi tr tru trv ts tt ttj tum tw ty tyv tzm udm ug uk ur uz ve vec vep vi vls vmf vmw vo vot
    vro wa wal war wls wo wuu xal xh xmf xsy yi yo yrl yue za zea zgh zh zu
    """
_CODES = frozenset(_LISTED.split()) - {"als"}
# what wikis, their databases and other lists call a language: our code for it
_ALIASES = {
    "simple": "en", "als": "gsw", "no": "nb", "bh": "bho", "bat-smg": "sgs", "be-x-old": "be-tarask",
    "cbk-zam": "cbk-zam", "cbk": "cbk-zam", "eml": "egl", "fiu-vro": "vro", "map-bms": "map-bms",
    "nds-nl": "nds-nl", "nrm": "nrf", "roa-rup": "rup", "roa-tara": "roa-tara", "be-tarask":
    "be-tarask", "zh-classical": "lzh", "zh-min-nan": "nan", "zh-yue": "yue", "cmn": "zh",
    "zho": "zh", "chi": "zh", "eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr",
    "spa": "es", "ita": "it", "por": "pt", "rus": "ru", "pol": "pl", "jpn": "ja", "kor": "ko",
    "ara": "ar", "nld": "nl", "dut": "nl", "swe": "sv", "ukr": "uk", "fas": "fa", "per": "fa",
    "heb": "he", "hin": "hi", "tur": "tr", "vie": "vi", "ind": "id", "ces": "cs", "cze": "cs",
    "nob": "nb", "nno": "nn", "dan": "da", "fin": "fi", "ell": "el", "gre": "el", "hun": "hu",
    "ron": "ro", "rum": "ro", "iw": "he", "ji": "yi", "in": "id",
}  # fmt: skip
# codes of countries and names, often given for a language
_MEANT = {
    "jp": "ja", "cn": "zh", "tw": "zh-tw", "hk": "zh-hk", "cz": "cs", "gr": "el", "dk": "da",
    "ua": "uk", "rs": "sr", "ir": "fa", "il": "he", "us": "en", "gb": "en", "at": "de",
    "english": "en", "german": "de", "deutsch": "de", "french": "fr", "spanish": "es",
    "italian": "it", "portuguese": "pt", "russian": "ru", "polish": "pl", "chinese": "zh",
    "japanese": "ja", "korean": "ko", "arabic": "ar", "dutch": "nl", "swedish": "sv",
}  # fmt: skip
# written in several ways, which are chosen by a subtag
_WITH_VARIANTS = "zh gan wuu yue sr sh kk ku tg tt ug uz crh iu shi hif gom ks ms nan hak cdo pt"
_VARIED = frozenset(_WITH_VARIANTS.split())
_CHINESE_REGIONS = ("tw", "hk", "mo", "cn", "sg", "my")
_SHAPE = re.compile(r"[a-z]{2,12}(?:-[a-z0-9]{1,12}){0,5}")
_PROJECTS = re.compile(r"wik(?:i|tionary|iquote|ibooks|inews|isource|iversity|ivoyage)$")
# databases of wikis that belong to no language: xml:lang of these is "en"
_NO_LANGUAGE = {"commons", "meta", "species", "wikidata", "mediawiki", "incubator", "test", "test2"}


def normal_code(code: str) -> str | None:
    """The code as megabert uses it: "zh_TW" is "zh-tw", "simple" is "en"; None if it is unknown."""
    code = code.strip().lower().replace("_", "-")
    if not _SHAPE.fullmatch(code):
        return None
    parts = code.split("-")
    for count in range(len(parts), 0, -1):
        start = "-".join(parts[:count])
        known = _ALIASES.get(start) or (start if start in _CODES else None)
        if known is not None:
            return _with_variant(known, parts[count:])
    return None


def _with_variant(base: str, subtags: list[str]) -> str:
    if base not in _VARIED or not subtags:
        return base
    regions = [tag for tag in subtags if base == "zh" and tag in _CHINESE_REGIONS]
    return "-".join([base, *(regions[:1] or subtags)])


def check_language(flag: str) -> str:
    """The value of ``--language``: "auto" or a code.

    Raises:
        UserError: the code is unknown.
    """
    if flag.strip().lower() == AUTO:
        return AUTO
    code = normal_code(flag)
    if code is not None:
        return code
    meant = _MEANT.get(flag.strip().lower())
    hint = f"did you mean {meant}? " if meant else ""
    raise UserError(
        f"--language {flag}: not a language code that is known here; {hint}use the code in the "
        "wiki's address (en, zh, de), or that of a related language written alike"
    )


def database_language(database: str) -> str | None:
    """The language in a wiki's database name ("dewiktionary" is "de"); None without one."""
    start = _PROJECTS.sub("", database.strip().lower())
    if start == database.strip().lower() or not start or start in _NO_LANGUAGE:
        return None
    return normal_code(start)


def same_language(one: str, other: str) -> bool:
    """Whether two codes differ at most in script, region or variant ("zh", "zh-tw")."""
    return _base(one) == _base(other)


def _base(code: str) -> str:
    composed = ("be-tarask", "cbk-zam", "map-bms", "nds-nl", "roa-tara")
    return code if code in composed else code.split("-")[0]


def page_language(choice: str, named: str) -> str:
    """The language by which a page is read.

    Args:
        choice: "auto", or the code that the user chose.
        named: the code that the page's source names, or "".
    """
    return choice if choice != AUTO else named or DEFAULT


def joint_language(codes: Iterable[str]) -> str:
    """The one language of all, or "mul"; the default if there is none."""
    different = set(codes)
    return different.pop() if len(different) == 1 else SEVERAL if different else DEFAULT
