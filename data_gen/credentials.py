"""What keys, tokens and passwords look like: the forms that their issuers publish, and assignments of a secret.

The forms of issuers are those that secret scanners look for (GitHub's secret scanning, gitleaks). A value that stands
for one, such as `password=<yours>` or `api_key=$KEY`, is no secret.
"""

import re

_NAMED = r"""
    sk-(?:proj-|ant-|svcacct-|admin-|or-)?(?=[\w-]*\d)[\w-]{20,}        # OpenAI, Anthropic, OpenRouter
  | hf_[A-Za-z0-9]{30,} | api_org_[A-Za-z0-9]{30,}                      # Hugging Face
  | (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}                                 # AWS, the key's id
  | gh[pousr]_[A-Za-z0-9]{36,} | github_pat_\w{22,} | glpat-[\w-]{20,}  # GitHub, GitLab
  | xox[abeoprs]-[\w-]{10,} | xapp-[\w-]{10,}                           # Slack
  | hooks\.slack\.com/services/T\w+/B\w+/\w+
  | AIza[\w-]{35} | ya29\.[\w-]{20,}                                    # Google
  | [rsp]k_(?:live|test)_[A-Za-z0-9]{16,}                               # Stripe
  | npm_[A-Za-z0-9]{36} | pypi-[\w-]{50,} | SG\.[\w-]{20,}\.[\w-]{20,}  # npm, PyPI, SendGrid
  | \d{8,10}:AA[\w-]{33}                                                # Telegram bots
  | eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*                                  # JSON web tokens (RFC 7519)
"""
_HEADER = r"Bearer\s+(?=[\w.~+/-]*\d)[\w.~+/-]{16,}=* | Basic\s+[A-Za-z0-9+/]{16,}={0,2}"
KEY = re.compile(rf"(?<![\w-]) (?: {_NAMED} | {_HEADER} )", re.VERBOSE)
PRIVATE_KEY = re.compile(
    r"-----BEGIN (?P<name>[A-Z ]*PRIVATE KEY(?: BLOCK)?)-----(?:.*?-----END (?P=name)-----|[\w\s+/=:,-]*)", re.DOTALL
)
URL_PASSWORD = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{0,64}:(?![<{$%*])[^\s/]{1,128}@", re.IGNORECASE)

_SECRET = r"""
    pass(?:word|wd|phrase|code) | pwd | kennwort | passwort | mot\ de\ passe | contrasena | senha
  | (?:api|access|auth|secret|private|client|account|encryption|signing|master|refresh|bearer)[_\ -]?(?:access[_\ -]?)?
    (?:key|token|secret)
"""
_STAND_IN = r"[<{$%\[*.(]|your|my_|xxx|change|none\b|null\b|true\b|false\b|str\b|os\.|env\b"
# A bare word is a secret where `=` alone joins it to its name, as in a URL or an .env file; else it needs a digit.
PASSWORD = re.compile(
    rf"""(?: {_SECRET} ) ["']? (?:
        \s*(?:=>|:=|[:=])\s* (?P<quote>["'`]) (?!{_STAND_IN}) (?P<quoted>[^\s"'`]{{4,}}) (?P=quote)
      | = (?!{_STAND_IN}) (?P<joined>(?:[^\s"'`,;&()\[\]{{}}]|&(?!\w+=)){{4,}}+) (?![(\[])
      | \s*(?:=>|:=|[:=]|\ is\ |\ ist\ |\ es\ |\ est\ )\s*
        ["'`]?(?!{_STAND_IN}) (?P<spaced>(?=[^\s"'`,;]*\d)[^\s"'`,;()\[\]{{}}]{{4,}}+) (?![(\[])
    )""",
    re.VERBOSE | re.IGNORECASE,
)
