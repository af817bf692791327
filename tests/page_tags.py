"""What stands on a page: its tags, its text, and whatever could run or reach out of it."""

import re
from html.parser import HTMLParser

NASTY = (
    '<script>alert("x")</script></script><img src=x onerror=alert(1)> '
    "\"quoted\" 'single' javascript:alert(1) &amp; {{ 7*7 }}"
)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""
        self.code = {"style": "", "script": ""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag if tag in self.code else self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.code[self.inside] += data
        else:
            self.text += data


def unsafe(text: str) -> list[str]:
    """Whatever on a page could run, or reach out of it."""
    tags = Tags(text)
    bad = [f"{tag} {name}" for tag, attributes in tags.found for name in attributes if name.startswith("on")]
    bad += [f"{tag} style" for tag, attributes in tags.found if "style" in attributes]
    bad += [tag for tag, _ in tags.found if tag in ("img", "iframe", "object", "embed", "base", "form", "link")]
    for tag, attributes in tags.found:
        for name in ("href", "src", "xlink:href", "action", "srcset"):
            value = attributes.get(name)
            bad += [f"{tag} {name} {value}"] if value is not None and not value.startswith("#") else []
    bad += ["url("] * len(re.findall(r"url\((?!#)|@import", tags.code["style"]))
    scripts = sum(tag == "script" for tag, _ in tags.found)
    return bad + ([f"{scripts} scripts"] if scripts != 1 else [])
