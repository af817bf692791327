"""Find personal data in text: addresses, phone numbers, bank accounts, cards, keys and passwords.

Numbers with a check digit are found by it. A phone number has none: it is known by its form (+49 30 …, (020) 7946 …,
0171/…, 212-555-…), and a bare run of digits only beside a word that says so ("call 5550123"). Matching is done on a
view of the text in which invisible characters are left out and digits, dashes and spaces of any script are the plain
ones, so that full-width digits and zero-width splits hide nothing. Not looked for: names, postal addresses, numbers of
identity cards, and phone numbers of fewer than seven digits.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from data_gen.credentials import KEY, PASSWORD, PRIVATE_KEY, URL_PASSWORD
from data_gen.generator import Row
from data_gen.strip import VIEW

KINDS = ("password", "key", "email", "iban", "card", "phone")  # where two overlap, the first is told


class Found(NamedTuple):
    """A place of the text, `text[start:end]`, and what of `KINDS` stands there."""

    kind: str
    start: int
    end: int


def find(text: str) -> list[Found]:
    """What personal data there is, by place; no two overlap."""
    view = text.translate(_PLAIN)
    taken = bytearray(len(view))
    spans = []
    for kind, start, end in _candidates(view):
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            spans.append(Found(kind, start, end))
    if spans and view != text:
        places = [place for place, character in enumerate(text) for _ in character.translate(_PLAIN)]
        spans = [Found(kind, places[start], places[end - 1] + 1) for kind, start, end in spans]
    return sorted(spans, key=lambda found: found.start)


def masked(text: str, found: Found) -> str:
    """A finding as it may be shown: "j…@…", "+…", never enough to use it."""
    first = text[found.start]
    return {"email": f"{first}…@…", "password": "…"}.get(found.kind, f"{first}…")


def without_pii(rows: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    """The rows in none of whose texts anything is found, and the counts: `kept`, and one for each kind."""
    kinds = [next((found[0].kind for text in _texts(row) if (found := find(text))), "kept") for row in rows]
    kept = [row for row, kind in zip(rows, kinds, strict=True) if kind == "kept"]
    return kept, {"kept": 0, **Counter(kinds)}


def _texts(value: Any) -> Iterator[str]:
    """All strings of a row, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


class _Plain(dict[int, str]):
    """The view of `strip`, with any script's digits as 0-9, any dash as a hyphen, and letters without their accents."""

    def __missing__(self, code: int) -> str:
        seen = [c for c in unicodedata.normalize("NFKD", VIEW[code]) if unicodedata.category(c) != "Mn"]
        self[code] = "".join(
            str(unicodedata.decimal(c)) if c.isdecimal() else "-" if unicodedata.category(c) == "Pd" else c
            for c in seen
        )
        return self[code]


_PLAIN = _Plain()


def _candidates(view: str) -> Iterator[Found]:
    """What may be personal data, in the order of `KINDS`."""
    numbers = any(digit in view for digit in "0123456789")
    if numbers or "=" in view or ":" in view:
        for match in [*PASSWORD.finditer(view), *URL_PASSWORD.finditer(view)]:
            yield Found("password", *match.span(match.lastgroup or 0))
    for match in [*PRIVATE_KEY.finditer(view), *KEY.finditer(view)]:
        yield Found("key", *match.span())
    if _EMAIL_HINT.search(view):
        for match in _EMAIL.finditer(view):
            yield Found("email", *match.span())
    if not numbers:
        return
    for match in _IBAN_START.finditer(view):
        if end := iban_end(view, match.start()):
            yield Found("iban", match.start(), end)
    for match in _CARD.finditer(view):
        if is_card(digits(match[0])):
            yield Found("card", *match.span())
    for match in _DIALLED.finditer(view):
        if _TOLD.search(view[max(0, match.start() - 40) : match.start()]) and is_phone(match[0], told=True):
            yield Found("phone", *match.span())
    for match in _PHONE.finditer(view):
        if is_phone(match[0]):
            yield Found("phone", *match.span())


_DOMAIN = r"(?!\dx\.)(?:\w[\w-]{0,62}\.){1,8}(?:xn--[\w-]+|[^\W\d_]{2,24})\b"  # image@2x.png is a file
_AT = r"\s?[\[({<]\s?(?:at|@|arroba)\s?[\])}>]\s?"
_DOT = r"(?:\.|\s?[\[({<]\s?(?:dot|punto|punkt|\.)\s?[\])}>]\s?)"
_EMAIL_HINT = re.compile(r"@|[\[({<]\s?(?:at|arroba)\b|\sdot\s", re.IGNORECASE)
_EMAIL = re.compile(
    rf"""
    (?<![\w.%+-]) \w[\w.%+'&/=!\#$*?^`{{|}}~-]{{0,63}} [ ]?@[ ]? {_DOMAIN}
  | "[^"\n]{{1,64}}"@{_DOMAIN}                                   # "a quoted name"@…
  | \w[\w.%+-]{{0,63}} @ \[(?:\d+\.){{3}}\d+\]                    # …@[10.0.0.1]
  | \w[\w.%+'-]{{0,63}} {_AT} \w[\w-]* (?:{_DOT} \w[\w-]*)+        # … (at) … (dot) …
  | \w[\w.%+'-]{{0,63}} \ at\  \w[\w-]* \ dot\  (?:com|org|net|edu|gov|io|co|de|fr|uk|eu)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)

_IBAN_LENGTHS = {  # the registry of SWIFT (ISO 13616)
    entry[:2]: int(entry[2:])
    for entry in """AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18
    DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30
    KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28
    PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20
    YE30""".split()
}
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[ -]?\d[ -]?\d")


def iban_end(text: str, start: int) -> int | None:
    """Where the bank account number that starts here ends, if it is one: length of its country, 1 modulo 97."""
    wanted = _IBAN_LENGTHS.get(text[start : start + 2].upper(), 0)
    match = re.compile(rf"[A-Za-z0-9](?:[ .-]?[A-Za-z0-9]){{{wanted - 1}}}(?![A-Za-z0-9])").match(text, start)
    if not wanted or not match:
        return None
    number = re.sub(r"[ .-]", "", match[0])
    return match.end() if passes_mod_97(number) else None


def passes_mod_97(number: str) -> bool:
    """ISO 7064, MOD 97-10: the country and check digits moved to the end, letters as 10 to 35."""
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


_CARD = re.compile(r"(?<![\w.-])(?<!\d[ /])\d{4,6}(?:[ .-]?\d{3,13}){1,4}(?![\w]|[ .-]\d)")
_BRANDS = re.compile(
    r"""4(?:\d{12}|\d{15}|\d{18})                                               # Visa
      | (?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}        # Mastercard
      | 3[47]\d{13} | 3(?:0[0-5]|[689]\d)\d{11} | 35(?:2[89]|[3-8]\d)\d{12}     # American Express, Diners, JCB
      | (?:6011|65\d\d|64[4-9]\d)\d{12} | 62\d{14,17}                           # Discover, UnionPay
      | (?:50|5[6-9]|6\d)\d{10,17}                                              # Maestro""",
    re.VERBOSE,
)


def is_card(number: str) -> bool:
    """Whether digits are those of a payment card: the form of a brand and the check digit of Luhn (ISO/IEC 7812)."""
    return bool(_BRANDS.fullmatch(number)) and passes_luhn(number)


def passes_luhn(number: str) -> bool:
    """Every second digit from the right doubled, with its own digits added, the sum is a multiple of ten."""
    doubled = [int(digit) * 2 for digit in number[-2::-2]]
    return (sum(map(int, number[-1::-2])) + sum(value - 9 * (value > 9) for value in doubled)) % 10 == 0


_DIALLED = re.compile(r"[+(]{0,2}(?<!\w)\d(?:[ ./()-]{0,2}\d){6,14}(?!\d)")
_TOLD = re.compile(  # what stands before a number that is dialled; letters have lost their accents
    r"""\b(?: tele(?:ph|f)on[eo]? | tel | phone | mobile? | cell(?:phone|ular)? | celular | movil | handy | portable
      | fax | whats\ ?app | sms | call(?:ing)? | ring | dial | text | hotline | rufnummer
      | (?:my|his|her|our|their|your)\ number )\b
    (?: [\s.:=#-] | \b(?:number|nummer|numero|no|nr|me|us|him|her|them|at|on|is|now|under|unter|au|al
      |anytime)\b ){0,8} $
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PHONE = re.compile(
    r"""(?=[+(\d]) (?:
    (?<![\w+]) \+ \(?[1-9] (?:[ ./()-]{0,2}\d){6,14} (?!\d)                       # +49 (0)30 901820
  | (?<![\w+.-])(?<!\d[ ]) 00[ .-]?[1-9]\d{0,2} (?:[ ./()-]{1,2}\d{1,9}){1,6} (?!\d)         # 0049 30 901820
  | (?<![\w+.-])(?<!\d[ ]) 00(?:1[2-9]\d{9}|[2-9]\d{9,12}) (?!\w)                            # 004930901820
  | (?<![\w+.-])(?<!\d[ ]) (?:                                                   # in the form of a country:
      (?:1[ .-]?)? (?:\([2-9]\d\d\)[ ]?|[2-9]\d\d[ .-]) [2-9]\d\d[ .-]\d{4}        # 212-555-0123
    | \((?!(?:19|20)\d\d\)) 0?\d{2,4} \)[ ]?\d{2,5}(?:[ .-]?\d{2,5}){1,3}          # (020) 7946 0958, no (2019)
    | 0[1-9]\d{0,3} (?:[ ./-]\d{2,9}){1,4}                                        # 0171/1234567, 01 23 45 67 89
    | 1[3-9]\d[ -]\d{4}[ -]\d{4} | 0?[6-9]\d{4}[ -]\d{5}                          # China, India
    ) (?![\w]|[ .-]\d) )""",
    re.VERBOSE,
)
_DATE = re.compile(r"\d{1,2}[ ./-]\d{1,2}[ ./-](?:19|20)\d\d|(?:19|20)\d\d[./-]\d\d[./-]\d\d")
_AMOUNT = re.compile(r"\d{1,3}(?:[. ]\d{3})*[. ]000")


def is_phone(number: str, told: bool = False) -> bool:
    """Whether it has as many digits as a phone number (ITU-T E.164: at most 15), and is no date and no amount.

    `told`: a word before it says that it is one.
    """
    count = len(digits(number))
    if _DATE.match(number) or _AMOUNT.fullmatch(number):
        return False
    if number.startswith("+"):
        north_american = digits(number).startswith("1")
        return count == 11 and digits(number)[1] in "23456789" if north_american else 7 <= count <= 15
    return 7 <= count <= 17 if told or number.startswith("00") else 9 <= count <= 12


def digits(text: str) -> str:
    """The digits of a text."""
    return "".join(c for c in text if c.isdecimal())
