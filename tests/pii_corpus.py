"""A seeded corpus to measure a scanner of personal data on: what it must find, and what only looks like it.

All numbers are made up by chance; check digits are computed here, by other formulas than the scanner's.
"""

import random
import string
from collections.abc import Callable, Iterator
from typing import NamedTuple

FIRST = "anna bob chloe dmitri élodie fatima george hiro ines jürgen kofi lena marta nils olga pedro".split()
LAST = "smith garcía müller nowak o'neill rossi sato silva dubois kim jansen patel".split()
DOMAINS = (
    "gmail.com example.org mail.example.co.uk uni-köln.de sub.dept.agency.gov web.de acme-tools.io xn--bcher-kva.ch"
)
CONTEXTS = [  # § is the place
    "Please write to § before Friday.", "§", "Contact: §", "My details (§) are below.", "name,value\nAnn,§\nBob,-",
    '{"value": "§", "ok": true}', "<p>§</p>", "- **§**\n- next", "Es gilt ab sofort: §, bitte beachten!", "IT'S §!",
    "He sent this: §. Then he left.", "| a | § |\n|---|---|", 'The old one was lost, so use "§" now.', "voici (§);",
    "see:\t§\nthanks", "[§]", "ask Tom; §; or Kim", "Mañana: §…", "Once upon a time, there was a fox. Its § was new.",
]  # fmt: skip
CALLS = [
    "call §", "Tel.: §", "phone number is §", "Telefon §", "My number is §.", "WhatsApp: §", "text me at § please",
    "tél : §", "Fax §", "Call me on § or ring him", "mobile=§", "Ring §!",
]  # fmt: skip
LETTERS, ALNUM = string.ascii_uppercase, string.ascii_letters + string.digits
IBAN_FORMS = {  # A: a letter, 9: a digit, C: either
    "DE": "9" * 18, "GB": "AAAA" + "9" * 14, "FR": "9" * 10 + "C" * 11 + "99", "NL": "AAAA" + "9" * 10, "ES": "9" * 20,
    "IT": "A" + "9" * 10 + "C" * 12, "PL": "9" * 24, "CH": "99999" + "C" * 12, "NO": "9" * 11, "SE": "9" * 20,
    "MT": "AAAA99999" + "C" * 18, "AT": "9" * 16, "BE": "9" * 12, "PT": "9" * 21, "IE": "AAAA" + "9" * 14,
    "SA": "99" + "C" * 18,
}  # fmt: skip
BRANDS = {"4": 16, "51": 16, "2345": 16, "34": 15, "37": 15, "6011": 16, "3056": 14, "3530": 16, "622": 16, "5018": 16}
PHONES = """+49 30 ######|+49 (0)30 #######|+49-171-#######|0049 30 #######|00493########0|030/#######|0171 #######
0#7#/#######|+44 20 79## ####|+44 (0)20 79## ####|020 79## ####|07700 9#####|(020) 79## ####|01632 960###
+44(0)1632-960-###|+33 6 ## ## ## ##|06 ## ## ## ##|06.##.##.##.##|+336########|01-##-##-##-##|+1 (212) 555-01##
212-555-01##|212.555.01##|1-800-555-01##|+1-415-555-####|+14155550###|415 555 01##|+34 612 ## ## ##|+39 06 #### ####
06 #### ####|+91 98765 #####|98765 #####|+81 3-####-####|03-####-####|090-####-####|+61 4## ### ###|0412 ### ###
(02) 9### ####|+55 11 9####-####|(11) 9####-####|+86 138 #### ####|138 #### ####|+48 601 ### ###|+7 495 ###-##-##
+31 6 ########|06-########|+41 44 ### ## ##|044 ### ## ##|+353 1 ### ####|+972-54-###-####|+971 50 ### ####
+27 82 ### ####"""
BARE = "0171#######|07700900###|2125550###|612######|5550###|9876543###|06########|612 ### ###|555-0###|91 ### ## ##"


class Planted(NamedTuple):
    """A text with personal data at `text[start:end]`."""

    kind: str
    text: str
    start: int
    end: int


def positives(seed: int, each: int) -> Iterator[Planted]:
    """`each` texts of every kind, in many forms, settings and disguises."""
    for kind, make in MAKERS.items():
        for index in range(each):
            rng = random.Random(f"{kind}/{seed}/{index}")
            context, value, inner = make(rng)
            if inner == value and rng.random() < 0.15:
                value = inner = disguised(rng, value)
            start = context.index("§") + value.index(inner)
            yield Planted(kind, context.replace("§", value), start, start + len(inner))


def disguised(rng: random.Random, value: str) -> str:
    """The same to a reader: digits full-width or of another script, dashes and spaces of another kind, or a split."""
    way = rng.randrange(4)
    if way == 0:
        return "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isdigit() else c for c in value)
    if way == 1:
        return value.replace("-", "\u2011").replace(" ", "\u00a0")
    if way == 2:
        return "".join(chr(0x660 + int(c)) if c.isascii() and c.isdigit() else c for c in value)
    cut = rng.randrange(1, len(value))
    return value[:cut] + rng.choice("\u200b\u2060\u00ad\ufeff") + value[cut:]


def chance(rng: random.Random, letters: str, length: int) -> str:
    return "".join(rng.choices(letters, k=length))


def email(rng: random.Random) -> tuple[str, str, str]:
    first, last, year = rng.choice(FIRST), rng.choice(LAST), rng.randrange(60, 99)
    local = rng.choice(
        [f"{first}.{last}", f"{first[0]}{last}", f"{first}{year}", f"{first}_{last}", f"{first}+news", first]
    )
    local = rng.choice([local, local, local.upper(), local.title()])
    domain = rng.choice(DOMAINS.split())
    forms = [f"{local}@{domain}"] * 6 + [f"{local}(at){domain}", f"{local} [at] {domain.replace('.', ' [dot] ')}"]
    value = rng.choice([*forms, f"{local} @ {domain}", f"{first} at gmail dot com", f'"{first} {last}"@{domain}'])
    return rng.choice(CONTEXTS), value, value


def phone(rng: random.Random) -> tuple[str, str, str]:
    bare = rng.random() < 0.2
    form = rng.choice((BARE if bare else PHONES).replace("\n", "|").split("|"))
    value = "".join(rng.choice("23456789") if c == "#" else c for c in form)
    return rng.choice(CALLS if bare else CONTEXTS + CALLS), value, value


def iban(rng: random.Random) -> tuple[str, str, str]:
    country = rng.choice(list(IBAN_FORMS))
    letters = {"A": LETTERS, "9": string.digits, "C": LETTERS + string.digits}
    account = "".join(rng.choice(letters[c]) for c in IBAN_FORMS[country])
    number = country + f"{98 - remainder_97(account + country + '00'):02d}" + account
    value = grouped(rng, number, (4,) * 8, ("", " ", " ", "-"))
    value = value.lower() if rng.random() < 0.1 else value
    return rng.choice(CONTEXTS), value, value


def remainder_97(text: str) -> int:
    """Digit by digit, letters as two digits."""
    remainder = 0
    for digit in "".join(str(ord(c) - 55) if c.isalpha() else c for c in text):
        remainder = (remainder * 10 + int(digit)) % 97
    return remainder


def card(rng: random.Random) -> tuple[str, str, str]:
    prefix = rng.choice(list(BRANDS))
    body = prefix + chance(rng, string.digits, BRANDS[prefix] - len(prefix) - 1)
    number = body + luhn_digit(body)
    groups = {14: (4, 6, 4), 15: (4, 6, 5), 16: (4, 4, 4, 4)}[len(number)]
    value = grouped(rng, number, groups, ("", " ", "-", "."))
    return rng.choice(CONTEXTS), value, value


def luhn_digit(body: str) -> str:
    """The digit that makes it pass, from the table of doubled digits."""
    doubled = "0246813579"
    total = sum(int(doubled[int(c)] if place % 2 == 0 else c) for place, c in enumerate(reversed(body)))
    return str(-total % 10)


def grouped(rng: random.Random, number: str, groups: tuple[int, ...], separators: tuple[str, ...]) -> str:
    """The number cut into groups with one of the separators between."""
    parts, rest = [], number
    for length in groups:
        parts.append(rest[:length])
        rest = rest[length:]
    return rng.choice(separators).join(part for part in [*parts, rest] if part)


def key(rng: random.Random) -> tuple[str, str, str]:
    def run(length: int) -> str:
        return chance(rng, ALNUM, length - 2) + "a7"

    pem = f"-----BEGIN RSA PRIVATE KEY-----\nMIIE{run(60)}\n{run(44)}==\n-----END RSA PRIVATE KEY-----"
    value = rng.choice(
        [f"sk-{run(48)}", f"sk-proj-{run(80)}", f"sk-ant-api03-{run(60)}", f"hf_{chance(rng, ALNUM, 34)}",
         "AKIA" + chance(rng, LETTERS + "234567", 16), "ASIA" + chance(rng, LETTERS + "234567", 16), f"ghp_{run(36)}",
         f"gho_{run(36)}", f"github_pat_{run(22)}_{run(59)}", f"xoxb-{chance(rng, string.digits, 12)}-{run(24)}",
         f"xoxp-{chance(rng, string.digits, 12)}-{run(32)}", f"glpat-{run(20)}", f"AIza{run(35)}", f"sk_live_{run(24)}",
         f"npm_{run(36)}", f"SG.{run(22)}.{run(43)}", f"eyJ{run(20)}.eyJ{run(60)}.{run(43)}", pem,
         pem.replace("RSA ", "OPENSSH "), pem.replace("RSA ", ""), f"Bearer {run(40)}"]
    )  # fmt: skip
    return rng.choice(CONTEXTS), value, value


def password(rng: random.Random) -> tuple[str, str, str]:
    word = rng.choice(["hunter", "Tr0ub4dor&", "sunshine", "P@ssw0rd", "qwerty", "geheim", "correct-horse"])
    secret, plain = word + str(rng.randrange(10, 9999)) + rng.choice(["", "!", "#x", "$"]), word
    name = rng.choice(["password", "Password", "passwd", "pwd", "api_key", "API-Key", "client_secret", "access_token"])
    forms = [
        f'{name}="{secret}"',
        f"{name}: {secret}",
        f'"{name}": "{secret}"',
        f"{name} = '{plain}'",
        f"{name}={plain}",
    ]
    forms += [f"export DB_{name.upper()}={secret}", f"The {name} is {secret}", f"postgres://app:{secret}@db.internal/x"]
    value = rng.choice(forms)
    return (
        rng.choice(["§", "Log in with § today.", "# settings\n§\n", "`§`"]),
        value,
        secret if secret in value else plain,
    )


Maker = Callable[[random.Random], tuple[str, str, str]]  # a context with a place for it, the value, what of it is told
MAKERS: dict[str, Maker] = {
    "email": email,
    "phone": phone,
    "iban": iban,
    "card": card,
    "key": key,
    "password": password,
}


def negatives(seed: int, each: int) -> Iterator[str]:
    """`each` texts of every form that looks like personal data and is none."""
    for index in range(each):
        rng = random.Random(f"negative/{seed}/{index}")
        for form in NEGATIVES.strip().split("\n"):
            digits = {"#": string.digits, "%": string.digits[1:]}
            yield "".join(rng.choice(digits[c]) if c in digits else c for c in form)
        body = "4" + chance(rng, string.digits, 14)
        wrong = body + str((int(luhn_digit(body)) + rng.randrange(1, 10)) % 10)
        yield f"order {wrong} was sent"
        yield "part no. " + grouped(rng, wrong, (4, 4, 4, 4), (" ", "-"))
        account = chance(rng, string.digits, 18)
        check = (98 - remainder_97(account + "DE00") + rng.randrange(1, 97)) % 97
        yield grouped(rng, f"DE{check:02d}{account}", (4,) * 5, ("", " "))
        yield f"commit {chance(rng, '0123456789abcdef', 40)}, sha256 {chance(rng, '0123456789abcdef', 64)}"
        yield "-".join(chance(rng, "0123456789abcdef", length) for length in (8, 4, 4, 4, 12))


NEGATIVES = """
It costs $%,###.## or €%.###,## now.
on 0%.1#.20## at 09:##, or 20##-0%-1#T1#:##:##Z
born 0%/1#/19##, died 1#-0%-20##, 20##.0%.1# 1#:##
open 09.30-12.00 and 14.00-18.##
a score of 10/10, then 6-3 6-4, 3:2 and 10-9
ISBN 978-0-306-#####-#, 0-306-#####-2, 97803064####2, ISSN 0317-####
order 48########, invoice 000########, ticket #INC0######
version 1.2#.0-rc.1, v20##.1#.#, Python 3.1#.#, 10.0.19041.####
the machine at 192.168.#.#, mask 255.255.255.0, ::1, port 80##
between %##,### and %,###,### people, %.#e-0%, about %## ### ### of them
at 51.50##, -0.12## and 48° 51' ##" N, 2° 17' ##" E
3.14159265358979%#, 0.333333333%##, 12345 + 67890 = 80235
model XJ-%##-#### and part 12-%##-A, size 10 x 20 x 30
draw: 04 08 15 16 23 42, bonus %
scale 1:25000, sum 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
save image@2x.png, @property, a @ b, x@y, user@localhost and @john
unix time 17########, in ms 17###########
password: , api_key=<your key>, password=${DB_PASSWORD}, token="%s", secret=*** and password=None
password = getpass(), api_key = os.environ["KEY"], passwd=config.passwd()
The secret password is a word. "What is the password?" asked the fox. Password: please!
tracking 1Z 999 AA1 01 234# 5678, flight BA 2490, route 66, room 101, gate B12
call 911 or 112, dial 0 for help, he called 3 friends, text 80085
He ran 100 m, 1500 m and 42195 m; call 10 000 000 a lot
ring on 12/05/20## or phone on 20##-05-12
sk-learn-contrib-estimators-and-more, hf_hub_download, eyJust.a.word, AKIAsmall
DE, GB 12, at 12 or 13, as 2020 ended and in 1999 or 10 years later it began
"""
