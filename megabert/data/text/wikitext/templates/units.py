"""Units and ranges of ``{{convert}}`` and English months, as data.

The codes are those of ``Module:Convert`` of English Wikipedia.
"""

# printed as they are
_SAME = frozenset((
    "mi", "ft", "yd", "in", "nmi", "AU", "ly", "kly", "Mly", "thou", "mil", "li", "ri", "lb", "oz", "st",
    "cwt", "gr", "dwt", "slug", "Da", "kDa", "min", "h", "d", "wk", "mph", "kn", "rpm", "kt", "hp", "PS",
    "CV", "bhp", "shp", "ihp", "whp", "dbhp", "K", "atm", "psi", "ksi", "inHg", "mmHg", "torr", "Torr",
    "mb", "lbf", "kgf", "gf", "kp", "ozf", "tf", "dyn", "pdl", "Cal", "BTU", "Btu", "ha", "a", "daa",
    "dunam", "rai", "tsubo", "pyeong", "tatami", "bbl", "gal", "pt", "qt", "bsh", "cc", "byte", "bit",
    "KiB", "MiB", "GiB", "TiB", "lm", "cd", "lx", "Ci", "mCi", "rad", "rem", "gauss", "G", "Oe", "ppm",
    "ppb", "%", "mol", "FLOPS", "t", "Mt", "Gt",
))  # fmt: skip
_SHOWN = {
    "C": "°C", "F": "°F", "R": "°R", "C-change": "°C", "F-change": "°F", "K-change": "K", "°C": "°C", "°F": "°F",
    "Celsius": "°C", "celsius": "°C", "Fahrenheit": "°F", "fahrenheit": "°F",
    "angstrom": "Å", "Å": "Å", "pc": "pc", "parsec": "pc", "light-year": "ly",
    "inch": "in", "inches": "in", "foot": "ft", "feet": "ft", "yard": "yd",
    "yards": "yd", "mile": "mi", "miles": "mi", "metre": "m", "metres": "m", "meter": "m",
    "meters": "m", "kilometre": "km", "kilometres": "km", "kilometer": "km", "kilometers": "km",
    "centimetre": "cm", "centimetres": "cm", "centimeter": "cm", "centimeters": "cm",
    "millimetre": "mm", "millimetres": "mm", "millimeter": "mm", "millimeters": "mm",
    "fathom": "fathoms", "fathoms": "fathoms", "furlong": "furlongs", "fur": "furlongs", "hand": "hands", "furlongs": "furlongs", "chain": "chains",
    "ch": "chains", "chains": "chains", "league": "leagues", "rd": "rods", "rod": "rods", "perch": "perches",
    "nautical mile": "nmi", "nautical miles": "nmi", "verst": "versts",
    "pound": "lb", "pounds": "lb", "lbs": "lb", "ounce": "oz", "ounces": "oz", "kilogram": "kg",
    "kilograms": "kg", "gram": "g", "grams": "g", "stone": "st", "tonne": "t", "tonnes": "t", "metric ton": "t",
    "metric tons": "t", "MT": "t", "ton": "tons", "tons": "tons", "LT": "long tons", "ST": "short tons",
    "LTON": "long tons", "long ton": "long tons", "long tons": "long tons", "short ton": "short tons",
    "short tons": "short tons", "ozt": "troy oz", "troyoz": "troy oz", "lbt": "troy lb", "carat": "carats",
    "long cwt": "long cwt", "short cwt": "short cwt", "lcwt": "long cwt", "scwt": "short cwt", "qtr": "qtr",
    "acre": "acres", "acres": "acres", "hectare": "ha", "hectares": "ha", "rood": "roods",
    "sqmi": "sq mi", "sqft": "sq ft", "sqyd": "sq yd", "sqin": "sq in", "sqkm": "km2", "sqfoot": "sq ft",
    "sqm": "m2", "mi2": "sq mi", "ft2": "sq ft", "in2": "sq in", "yd2": "sq yd", "sqcm": "cm2", "sqmm": "mm2",
    "nmi2": "sq nmi", "sqnmi": "sq nmi", "square mile": "sq mi", "square miles": "sq mi", "sq mi": "sq mi",
    "square kilometre": "km2", "square kilometres": "km2", "square kilometer": "km2", "square kilometers": "km2",
    "square metre": "m2", "square metres": "m2", "square meter": "m2", "square meters": "m2",
    "square foot": "sq ft", "square feet": "sq ft", "sq ft": "sq ft", "square yard": "sq yd", "square yards": "sq yd",
    "cuft": "cu ft", "cufoot": "cu ft", "cuin": "cu in", "cuyd": "cu yd", "cumi": "cu mi", "ft3": "cu ft",
    "in3": "cu in", "yd3": "cu yd", "mi3": "cu mi", "cum": "m3", "cc": "cc", "ccm": "cm3", "cubic foot": "cu ft",
    "cubic feet": "cu ft", "cubic metre": "m3", "cubic metres": "m3", "cubic meters": "m3", "cubic inch": "cu in",
    "acre.ft": "acre-feet", "acre.foot": "acre-feet", "acre-ft": "acre-feet", "acreft": "acre-feet",
    "acre-foot": "acre-feet", "acre feet": "acre-feet", "acre-feet": "acre-feet",
    "litre": "L", "litres": "L", "liter": "L", "liters": "L", "USgal": "US gal", "U.S.gal": "US gal", "usgal": "US gal",
    "impgal": "imp gal", "USdrygal": "US dry gal", "USoz": "US fl oz", "usoz": "US fl oz", "USfloz": "US fl oz",
    "usfloz": "US fl oz", "impoz": "imp fl oz", "impfloz": "imp fl oz", "USbbl": "US bbl", "impbbl": "imp bbl",
    "oilbbl": "bbl", "USpt": "US pt", "imppt": "imp pt", "USqt": "US qt", "impqt": "imp qt", "USbsh": "US bsh",
    "impbsh": "imp bsh", "USbeerbbl": "US bbl", "board feet": "board feet", "cord": "cords",
    "kph": "km/h", "mi/h": "mph", "knot": "knots", "knots": "knots",
    "cuft/s": "cu ft/s", "g-force": "g", "g0": "g", "PD": "inhabitants",
    "Nm": "N⋅m", "lbft": "lb⋅ft", "ftlb": "ft⋅lb", "ftlbf": "ft⋅lbf", "kgm": "kg⋅m", "lbin": "lb⋅in",
    "hp-metric": "hp", "hp-mechanical": "hp", "hp-electrical": "hp", "horsepower": "hp", "kilowatt": "kW",
    "kilowatts": "kW", "pound-force": "lbf", "lb-f": "lbf", "LTf": "long tons-force", "STf": "short tons-force",
    "tonTNT": "tons of TNT", "kilotonTNT": "kilotons of TNT", "ktonTNT": "kilotons of TNT",
    "megatonTNT": "megatons of TNT", "MtonTNT": "megatons of TNT",
    "mpgus": "mpg-US", "mpgUS": "mpg-US", "mpgimp": "mpg-imp", "mpgu.s.": "mpg-US", "mpg": "mpg",
    "L/100 km": "L/100 km", "L/100km": "L/100 km", "l/100 km": "L/100 km", "l/100km": "L/100 km",
    "hour": "hours", "hours": "hours", "day": "days", "days": "days", "week": "weeks", "weeks": "weeks",
    "year": "years", "years": "years", "yr": "years", "month": "months", "months": "months", "minutes": "minutes",
    "seconds": "seconds", "second": "seconds", "minute": "minutes", "decade": "decades",
}  # fmt: skip
# units that take prefixes of the SI
_PREFIXED = ("m", "g", "s", "W", "Hz", "Pa", "J", "N", "V", "A", "L", "l", "eV", "B", "Wh", "cal", "bar", "pc", "T", "Bq",
             "Sv", "Gy")  # fmt: skip
_PREFIXES = "npfμµumcdhkMGTPE"
_METRIC_POWERS = frozenset(
    ["mm", "cm", "dm", "m", "dam", "hm", "km", "Mm", "nm", "μm", "µm", "um", "s"]
)
# units of which "M" means a million
_COUNTED = frozenset(["oilbbl", "cuft", "cuyd", "USgal", "impgal", "acre", "ha", "ton", "tonTNT"])
_THOUSANDS = {"k": "thousand", "M": "million", "G": "billion", "T": "trillion"}
WORDS = {
    "acres": "acre", "hours": "hour", "days": "day", "weeks": "week", "months": "month", "years": "year",
    "minutes": "minute", "seconds": "second", "decades": "decade", "tons": "ton", "long tons": "long ton",
    "short tons": "short ton", "carats": "carat", "roods": "rood", "fathoms": "fathom", "furlongs": "furlong",
    "chains": "chain", "leagues": "league", "rods": "rod", "hands": "hand", "perches": "perch", "versts": "verst", "cords": "cord",
    "acre-feet": "acre-foot", "board feet": "board foot", "knots": "knot", "inhabitants": "inhabitant",
    "long tons-force": "long ton-force", "short tons-force": "short ton-force", "tons of TNT": "ton of TNT",
    "kilotons of TNT": "kiloton of TNT", "megatons of TNT": "megaton of TNT",
}  # fmt: skip
"""Units that are printed as a word, and one of them: 40 acres, but 1 acre, and a 40-acre farm."""
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_POWERS = {"e3": "thousand", "e6": "million", "e9": "billion", "e12": "trillion"}
RANGES = {
    "to": "to", "-": "–", "–": "–", "to(-)": "to", "and": "and", "and(-)": "and", "or": "or",
    "by": "by", "x": "×", "×": "×", "xx": "×", "*": "×", "+/-": "±", "±": "±", "to about": "to about",
}  # fmt: skip
LARGE_PARTS = frozenset(
    ["ft", "foot", "feet", "mi", "mile", "yd", "lb", "pound", "st", "stone", "LT", "ton"]
)
"""Units that a smaller one may follow: 6 ft 2 in."""
SMALL_PARTS = frozenset(
    [
        "in",
        "inch",
        "inches",
        "ft",
        "foot",
        "feet",
        "yd",
        "furlong",
        "chain",
        "oz",
        "ounce",
        "lb",
        "pound",
        "lbs",
        "cwt",
        "qtr",
    ]
)


def shown_unit(code: str) -> str | None:
    """What ``{{convert}}`` prints for the code of a unit, as a symbol; None if it is not known.

    Units that are printed as a word are in the plural (:data:`WORDS`).
    """
    for power, word in _POWERS.items():
        if code.startswith(power):
            unit = _symbol(code[len(power) :]) or _combined(code[len(power) :])
            return None if unit is None else f"{word} {unit}"
    return _symbol(code) or _combined(code)


def _symbol(code: str) -> str | None:
    """The symbol of one unit, which may have a prefix or an exponent."""
    if code in _SHOWN:
        return _SHOWN[code]
    if (
        code in _SAME
        or code in _PREFIXED
        or code in _METRIC_POWERS
        or (code[-1:] in ("2", "3") and code[:-1] in _METRIC_POWERS)
        or (code[:1] in _PREFIXES and code[1:] in _PREFIXED)
    ):
        return f"μ{code[1:]}" if code[0] in "uµ" else code
    if code[:1] in _THOUSANDS and code[1:] in _COUNTED:
        return f"{_THOUSANDS[code[0]]} {_symbol(code[1:])}"
    return None


def _combined(code: str) -> str | None:
    """Units per another ("kg/m3", "/km2", "km/h/s"), or the product of two ("lbf.in")."""
    sign = "/" if "/" in code else "."
    first, *rest = code.split(sign)
    if not 1 <= len(rest) <= 2 or (sign == "." and len(rest) > 1):
        return None
    shown = "" if not first and sign == "/" else _symbol(first)
    for part in rest:
        unit = _symbol(part)
        if shown is None or unit is None:
            return None
        joint = " per " if first == "PD" else "/" if sign == "/" else "⋅"
        shown += joint + WORDS.get(unit, unit)
    return shown
