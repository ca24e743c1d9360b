"""Formulas of a few symbols as plain text; longer ones have no words and leave a hole."""

import re

_LONGEST = 40  # characters of TeX
_SYMBOLS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε",
    "zeta": "ζ", "eta": "η", "theta": "θ", "vartheta": "ϑ", "iota": "ι", "kappa": "κ",
    "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ",
    "upsilon": "υ", "phi": "φ", "varphi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω",
    "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π", "Sigma": "Σ",
    "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω", "times": "×", "cdot": "·", "pm": "±", "mp": "∓",
    "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥", "neq": "≠", "ne": "≠", "approx": "≈",
    "sim": "~", "equiv": "≡", "propto": "∝", "to": "→", "rightarrow": "→", "leftarrow": "←",
    "Rightarrow": "⇒", "infty": "∞", "in": "∈", "notin": "∉", "subset": "⊂", "subseteq": "⊆",
    "cup": "∪", "cap": "∩", "emptyset": "∅", "varnothing": "∅", "forall": "∀", "exists": "∃",
    "neg": "¬", "lnot": "¬", "land": "∧", "wedge": "∧", "lor": "∨", "vee": "∨", "circ": "∘",
    "partial": "∂", "nabla": "∇", "hbar": "ħ", "ell": "ℓ", "ldots": "…", "dots": "…", "dotsc": "…",
    "cdots": "⋯", "dotsb": "⋯", "dotsm": "⋯", "degree": "°", "quad": " ", "sin": "sin", "cos": "cos", "tan": "tan",
    "log": "log", "ln": "ln", "exp": "exp", "lim": "lim", "max": "max", "min": "min", "det": "det",
    "dim": "dim", "ker": "ker", "gcd": "gcd", "mod": "mod", "aleph": "ℵ", "prime": "′",
    "langle": "⟨", "rangle": "⟩", "mid": "|", "angle": "∠",
    "perp": "⊥", "parallel": "∥", "oplus": "⊕", "otimes": "⊗", "ast": "*", "star": "⋆",
}  # fmt: skip
_DOUBLE = {"R": "ℝ", "N": "ℕ", "Z": "ℤ", "Q": "ℚ", "C": "ℂ", "P": "ℙ", "H": "ℍ", "F": "𝔽"}
_FONT = re.compile(
    r"\\(?:mathrm|mathit|mathbf|boldsymbol|text|textrm|operatorname|mathcal)\s*\{([^{}\\]*)\}"
)
_BOARD = re.compile(r"\\mathbb\s*(?:\{([A-Z])\}|([A-Z]))")
_SPACE = re.compile(r"\\[,;:! ]|\\displaystyle\b|\\textstyle\b|~")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SCRIPT = re.compile(r"([_^])\s*(?:\{([^{}^_]*)\}|([^\s{}^_\\]))")
_PLAIN = re.compile(r"(?:[^\\{}&$%#\n]|\\[{}] )*")
_GROUP = re.compile(r"\{[^{}\\]*\}")
_BRACE = re.compile(r"\\(?:([{}])|(l)brace\b|(r)brace\b)")


def formula_text(tex: str) -> str | None:
    """The formula as text (``x_1^2 \\leq \\alpha`` becomes "x_1^2 ≤ α"), None if it is too long or
    has a fraction, a root, a matrix or anything else that a line of text does not have."""
    tex = tex.strip()
    if not tex or len(tex) > _LONGEST:
        return None
    if _GROUP.fullmatch(tex):
        tex = tex[1:-1]
    text = _FONT.sub(r"\1", _SPACE.sub(" ", _BRACE.sub(_brace, tex)))
    text = _BOARD.sub(lambda match: _DOUBLE.get(match.group(1) or match.group(2), "\\"), text)
    text = _COMMAND.sub(_symbol, text)
    text = _SCRIPT.sub(_script, text)
    if not _PLAIN.fullmatch(text):
        return None
    return " ".join(text.replace(r"\{ ", "{").replace(r"\} ", "}").split())


def _brace(match: re.Match[str]) -> str:
    """A brace that is printed, until the end as ``\\{`` and a space."""
    mark, left, _ = match.groups()
    return f"\\{mark or ('{' if left else '}')} "


def _symbol(match: re.Match[str]) -> str:
    # of an unknown command the backslash remains, and the formula is not understood
    shown = _SYMBOLS.get(match.group(1), match.group())
    if len(shown) < 2 or not (shown.isascii() and shown.isalpha()):
        return shown
    # a function's name is a word: "n log n", "2 sin θ"
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    left = " " if before.isalnum() or before in (")", "}") else ""
    return left + shown + (" " if after == "\\" or after.isdigit() else "")


def _script(match: re.Match[str]) -> str:
    mark, group, single = match.groups()
    inside = (group if group is not None else single).strip()
    if not (len(inside) <= 1 or inside.isalnum() or re.fullmatch(r"[-+−]\w+", inside)):
        inside = f"({inside})"
    after = match.string[match.end() :][:1]
    return f"{mark}{inside}" + (" " if after.isalnum() else "")  # 2^3 5^2, not 2^35^2
