"""Untrusted text inside a judge's prompt: one JSON string between two lines that carry a mark it cannot contain.

Three things keep it there. The text has no line of its own (line breaks are escaped), so no line of it can be a fence.
The mark is an HMAC of the very text that it encloses, so that a text would have to contain a hash of itself; a secret
salt makes it unpredictable even to somebody who may try texts, and the same text always gets the same mark, which is
what caches of answered calls need. And whatever a chat template or a tokenizer could take for a control token is
written as an escape, so that a server that parses `<|im_end|>` in a message finds nothing to parse.
"""

import hashlib
import hmac
import json
import re
import unicodedata

CONTROL = frozenset("<>|")  # what control tokens are made of, in any width
BRACKETED = re.compile(r"[\[［﹇](?=([^\s\[［﹇\]］﹈]+)[\]］﹈])")  # a word in square brackets, in any width
NAME = re.compile(r"[A-Z][^A-Za-z]*[A-Z]|_")  # of [INST], [gMASK] and their like; unseen characters may be between
DOUBTFUL = re.compile(r"[^ -;=?-{}~]")  # all that may need an escape: not plain ASCII, or one of < > |
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # categories of characters that nobody sees
MARK = 16  # hexadecimal digits


def mark(salt: str, *texts: str) -> str:
    """The mark of these texts: stable for the same salt and texts, and in none of them but by a chance of 2^-64."""
    content = json.dumps(texts).encode("ascii")  # lone surrogates included
    return hmac.new(salt.encode("utf-8"), content, hashlib.sha256).hexdigest()[:MARK]


def _escaped(found: re.Match[str]) -> str:
    char = found.group()
    hidden = unicodedata.category(char) in HIDDEN
    if not hidden and CONTROL.isdisjoint(unicodedata.normalize("NFKC", char)):
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 128 else json.dumps(char)[1:-1]


def _opened(found: re.Match[str]) -> str:
    is_name = NAME.search(unicodedata.normalize("NFKC", found[1]))
    return f"\\u{ord(found.group()):04x}" if is_name else found.group()


def quoted(text: str) -> str:
    """The text as a JSON string in one line; letters of all scripts stay readable, control tokens are broken up."""
    return BRACKETED.sub(_opened, DOUBTFUL.sub(_escaped, json.dumps(text, ensure_ascii=False)))


def fenced(label: str, text: str, key: str) -> str:
    """Three lines: BEGIN label key, the quoted text, END label key."""
    return f"BEGIN {label} {key}\n{quoted(text)}\nEND {label} {key}"
