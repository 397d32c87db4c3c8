# SPDX-License-Identifier: Apache-2.0
"""A mathematical answer taken apart: the expression itself, its unit, percent sign and name, its value if a number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from .markup import boxed, strip_edges, strip_markup


@dataclass(frozen=True)
class Expression:
    """One answer in canonical LaTeX."""

    text: str
    """LaTeX without markup, unit, percent sign and name."""
    percent: bool = False
    unit: str | None = None
    """Canonical name of a known unit ("cm2"); "" for an unknown word after a number; None without a unit."""
    name: str | None = None
    """What stood before the first equals sign when it is only a name (x, angle ABC)."""
    steps: tuple[str, ...] = ()
    """Sides of a chain of equations before the last one that are made of numbers only."""

    @property
    def latex(self) -> str:
        """The value with its percent sign spelled as a division; a bare list as a set."""
        text = f"\\{{{self.text}\\}}" if self.is_list and not re.search(r"[(\[]|\\\{", self.text) else self.text
        return f"\\frac{{{text}}}{{100}}" if self.percent else text

    @property
    def is_list(self) -> bool:
        """Several values: a set, a tuple, an interval, "1 and 2"."""
        return "," in self.text

    @property
    def number(self) -> Fraction | None:
        """Its exact value when it is written as a plain number, fraction or power of ten; else None."""
        value = _number(self.text)
        return value / 100 if self.percent and value is not None else value


_CHARACTERS = {
    "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ",
    "\u00f7": "/", "\u03c0": "\\pi ", "\u00b2": "^{2}", "\u00b3": "^{3}", "\u00bd": "\\frac{1}{2}",
    "\u00bc": "\\frac{1}{4}", "\u00be": "\\frac{3}{4}", "\u2218": "\\circ", "\u00ba": "^{\\circ}",
    "\u00b0": "^{\\circ}", "\u2220": "\\angle ", "\u25b3": "\\triangle ", "\u00b1": "\\pm ", "\u221e": "\\infty ",
    "\u2248": "\\approx ", "\u2264": "\\le ", "\u2265": "\\ge ", "\u221a": "\\sqrt ", "\u222a": "\\cup ",
}  # fmt: skip
_TRANSLATION = str.maketrans({**_CHARACTERS, **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}})

_LENGTHS = {
    "mm": "mm millimeter millimeters millimetre millimetres \u6beb\u7c73",
    "cm": "cm centimeter centimeters centimetre centimetres \u5398\u7c73",
    "dm": "dm decimeter decimeters \u5206\u7c73",
    "m": "m meter meters metre metres \u7c73",
    "km": "km kilometer kilometers kilometre kilometres \u5343\u7c73 \u516c\u91cc",
    "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles",
    "nmi": "nmi \u6d77\u91cc",
}  # fmt: skip
_OTHERS = {
    "deg": "deg degs degree degrees \u5ea6", "rad": "rad rads radian radians",
    "s": "s sec secs second seconds \u79d2", "min": "min mins minute minutes \u5206\u949f",
    "h": "h hr hrs hour hours \u5c0f\u65f6", "day": "day days \u5929",
    "g": "g gram grams \u514b", "kg": "kg kgs kilogram kilograms \u5343\u514b", "mg": "mg milligram milligrams",
    "l": "l liter liters litre litres \u5347", "ml": "ml milliliter milliliters \u6beb\u5347",
    "km/h": "km/h kph kmh", "m/s": "m/s", "unit": "unit units \u4e2a", "dollar": "dollar dollars usd \u5143",
    "cent": "cent cents", "n": "newton newtons", "v": "volt volts", "w": "watt watts", "j": "joule joules",
}  # fmt: skip
_UNITS = {word: unit for table in (_LENGTHS, _OTHERS) for unit, words in table.items() for word in words.split()}
_NOT_UNITS = frozenset(
    "and or not to than times plus minus over divided by between sqrt root squared cubed per half percent hundred "
    "thousand million billion trillion dozen pi sin cos tan log exp minus negative if but is are the".split()
)
_UNIT = re.compile(
    r"(?P<rest>.*?(?:[\d)}\]]|\\pi))(?P<gap>\s{0,8})"
    r"(?P<unit>[A-Za-z\u4e00-\u9fff](?:[A-Za-z\u4e00-\u9fff ./]|-(?=[A-Za-z])){0,40})"
    r"(?P<power>\s{0,4}\^\{?\s?[23]\s?\}?\^?|[23])?"
)
_DEGREE = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|\\deg(?![a-z]))(?:\s?[CF](?![A-Za-z]))?")
_ANSWER_IS = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s)?(?:the\s)?(?:final\s|correct\s)?(?:answer|result|value)"
    r"(?:\sis|:|\s?=)\s?:?\s?",
    re.I,
)
_NAME = re.compile(r"\\?[A-Za-z](?:[A-Za-z\\'\s]|_\{?[A-Za-z0-9]{1,4}\}?|[A-Za-z]_\d)*(?:\([A-Za-z]\))?")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3}){1,12}(?![\d,])")


def read(text: str) -> Expression | None:
    """Take an answer apart; None when it holds several different boxes or alternatives that are no list."""
    contents = {re.sub(r"\s", "", content) for content in boxed(text)}
    if len(contents) > 1:
        return None
    text = _canonical(text)
    if re.search(r"\bor\b", text):
        alternatives = [part for part in re.split(r",?\s*\bor\b\s*|,", text) if part.strip()]
        text = ", ".join(alternatives)
    elif re.fullmatch(r"[^A-Za-z]*\band\b[^A-Za-z]*|[^,]{1,40}=[^,]{1,40}\band\b[^,]{1,40}=[^,]{1,40}", text):
        text = re.sub(r",?\s*\band\b\s*", ", ", text)
    if "," in text and "=" in text:
        text = _list_without_names(text)
    name, steps, text = _sides(text)
    text, percent = _without_percent(text)
    text, unit = _without_unit(text)
    return Expression(_plain_parentheses(strip_edges(text)), percent, unit, name, steps)


def _canonical(text: str) -> str:
    """One spelling for roots, fractions, thousands separators and what unicode offers."""
    text = strip_markup(text).translate(_TRANSLATION)
    text = _ANSWER_IS.sub("", text, count=1) if _ANSWER_IS.match(text) else text
    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text)
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s?\(", r"\\sqrt(", text)
    text = re.sub(r"(?<![\\A-Za-z])sqrt(?=\s?\d)", r"\\sqrt", text)
    text = re.sub(r"\\sqrt\s*\(([^()]{1,40})\)", r"\\sqrt{\1}", text)
    text = re.sub(r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text)
    text = re.sub(r"\\sqrt\s+\{", r"\\sqrt{", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", text)
    text = text.replace("\\%", "%").replace("**", "^").replace(";", ",")
    if not re.search(r"[(\[]|\\\{", text):
        text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    return strip_edges(re.sub(r"\s+", " ", text))


def _list_without_names(text: str) -> str:
    """Turn "x=1, x=2" into "1, 2"; different names ("x=1, y=2") stay."""
    sides = [part.split("=") for part in text.split(",")]
    if all(len(side) == 2 for side in sides) and len({side[0].strip() for side in sides}) == 1:
        return ", ".join(side[1].strip() for side in sides)
    return text


def _sides(text: str) -> tuple[str | None, tuple[str, ...], str]:
    """Split "x = 2 + 3 = 5" into its name, its numeric steps and its last side; an equation proper stays whole."""
    if "," in text:
        return None, (), text
    sides = [side.strip() for side in re.split(r"\\approx\b|(?<![<>!:])=", text)]
    if len(sides) == 1:
        return None, (), text
    if not sides[0]:  # "= 5", "\approx 5"
        return (None, (), sides[-1]) if len(sides) == 2 else (None, (), text)
    has_name = _NAME.fullmatch(sides[0]) is not None and _number(sides[0]) is None
    name = re.sub(r"\\?(?:angle|triangle)|\s", "", sides[0]).casefold() if has_name else None
    middle = sides[1:-1] if has_name else sides[:-1]
    lettered = [side for side in middle if re.search(r"(?<![\\A-Za-z])[A-Za-z]", side)]
    if not has_name and lettered:
        return None, (), text
    return name, tuple(side for side in middle if side not in lettered), sides[-1]


def _without_percent(text: str) -> tuple[str, bool]:
    match = re.fullmatch(r"(.*\S)\s*(?:%|(?:percent|per cent|\u767e\u5206\u4e4b))", text)
    return (match.group(1), True) if match else (text, False)


def _without_unit(text: str) -> tuple[str, str | None]:
    """Remove a degree sign, a currency or a unit after a number; algebra such as 2x or 5ab keeps its letters."""
    degrees = _DEGREE.search(text)
    if degrees and degrees.end() == len(text):
        return text[: degrees.start()], "deg"
    match = _UNIT.fullmatch(text)
    if match is None or re.search(r"(?<![\\A-Za-z])[A-Za-z]", _macros_removed(match.group("rest"))):
        return text, None
    unit = _unit_name(match.group("unit").strip(), bool(match.group("gap")))
    if unit is None or (match.group("power") and unit == ""):
        return text, None
    power = re.search(r"[23]", match.group("power") or "")
    return match.group("rest"), unit + (power.group() if power else "")


def _unit_name(phrase: str, apart: bool) -> str | None:
    """Canonical name of a unit phrase, "" for other nouns after a number ("5 apples"), None for no unit."""
    phrase = phrase.strip(". ")
    power = ""
    for prefix, exponent in (("square ", "2"), ("sq ", "2"), ("sq. ", "2"), ("cubic ", "3"), ("\u5e73\u65b9", "2")):
        if phrase.lower().startswith(prefix):
            phrase, power = phrase[len(prefix) :], exponent
    known = _UNITS.get(phrase) or _UNITS.get(phrase.lower() if len(phrase) > 1 else phrase)
    if known and (apart or len(phrase) > 1 or known == "m" or not phrase.isascii()):
        return known + power
    words = phrase.lower().split()
    are_nouns = words and all(len(word) > 2 and word.isalpha() and set(word) & set("aeiou") for word in words)
    return "" if apart and are_nouns and len(words) <= 4 and not set(words) & _NOT_UNITS else None


def _macros_removed(text: str) -> str:
    return re.sub(r"\\[A-Za-z]+", "", text)


def _plain_parentheses(text: str) -> str:
    """Remove parentheses around the whole of a single value."""
    while re.fullmatch(r"\([^(),]*\)", text) or re.fullmatch(r"(?<!\\)\{[^{},]*\}", text):
        text = text[1:-1].strip()
    return text


_DECIMAL = r"(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})"
_SIGNED = rf"[-+]?\s*{_DECIMAL}"
_POWER = r"10\s*\^\s*(?:\{\s*([-+]?\s*\d{1,3})\s*\}|(\d{1,3}))"
_FORMS = {
    "fraction": re.compile(rf"({_SIGNED})(?:\s*[/:]\s*({_SIGNED}))?"),
    "latex": re.compile(rf"([-+]?)\s*(?:(\d{{1,40}})\s*)?\\frac\s*\{{\s*({_SIGNED})\s*\}}\s*\{{\s*({_SIGNED})\s*\}}"),
    "power": re.compile(rf"([-+]?)\s*(?:({_DECIMAL})\s*(?:\\times|\\cdot|\*)\s*)?{_POWER}"),
    "exponent": re.compile(rf"({_SIGNED})[eE]([-+]?\d{{1,3}})"),
    "mixed": re.compile(r"([-+]?)\s*(\d{1,40})\s+(\d{1,40})\s*/\s*(\d{1,40})"),
}


def _number(text: str) -> Fraction | None:
    text = text.strip()
    if match := _FORMS["fraction"].fullmatch(text):
        return _ratio(match.group(1), match.group(2) or "1")
    if match := _FORMS["latex"].fullmatch(text):
        sign, whole, top, bottom = match.groups()
        value = _ratio(top, bottom)
        return None if value is None else _with_sign(sign, int(whole or 0) + value)
    if match := _FORMS["power"].fullmatch(text):
        sign, factor, braced, bare = match.groups()
        exponent = int((braced or bare).replace(" ", ""))
        return _with_sign(sign, _exact(factor or "1") * Fraction(10) ** exponent)
    if match := _FORMS["exponent"].fullmatch(text):
        return _exact(match.group(1)) * Fraction(10) ** int(match.group(2))
    if match := _FORMS["mixed"].fullmatch(text):
        part = _ratio(match.group(3), match.group(4))
        return None if part is None else _with_sign(match.group(1), int(match.group(2)) + part)
    return None


def _ratio(top: str, bottom: str) -> Fraction | None:
    divisor = _exact(bottom)
    return _exact(top) / divisor if divisor else None


def _exact(decimal: str) -> Fraction:
    return Fraction(decimal.replace(" ", "").rstrip("."))


def _with_sign(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
