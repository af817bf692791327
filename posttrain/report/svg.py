"""Makes matplotlib's SVG fit for the page: classes instead of colours and styles, a title and words for those who
do not see it, ids of its own.

The page's policy forbids style attributes, and the page's two colour schemes need colours by name, so a figure is
drawn in the placeholder colours of PAINT and every style becomes a class or an attribute here.
"""

import re
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"
PAINT = {name: f"#0000{number:02x}" for number, name in enumerate(("ink", "dim", "grid", "accent", "soft", "panel"), 1)}
CLASS_OF = {colour: name for name, colour in PAINT.items()}
PAINTED = {"fill": "f", "stroke": "s"}  # property -> prefix of its class
FONT = re.compile(r"^(?:(\d+|bold) )?([\d.]+)px ")
DROPPED = {"font-family", "font-style", "font-variant", "font-stretch"}  # the page has one font


def clean(text: str, name: str, title: str, words: str) -> str:
    """The `<svg>` element alone, without styles; `name` is a prefix that makes its ids unique in the page."""
    root = ElementTree.fromstring(text)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{SVG}metadata", f"{SVG}style"):
                parent.remove(child)
    for element in root.iter():
        _plain_attributes(element, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {
        "class": "plot", "role": "img", "aria-labelledby": f"{name}-title {name}-words", "stroke-linejoin": "round"
    }  # fmt: skip
    for at, (tag, content) in enumerate((("title", title), ("desc", words))):
        element = ElementTree.Element(f"{SVG}{tag}", {"id": f"{name}-{'words' if at else 'title'}"})
        element.text = content
        root.insert(at, element)
    ElementTree.register_namespace("", SVG.strip("{}"))
    return ElementTree.tostring(root, encoding="unicode")


def _plain_attributes(element: ElementTree.Element, name: str) -> None:
    found = {key.replace(XLINK, ""): value for key, value in element.attrib.items()}
    declared = (part.partition(":") for part in found.pop("style", "").split(";") if part.strip())
    found |= _unfolded({key.strip(): value.strip() for key, _, value in declared})
    classes = []
    for key, prefix in PAINTED.items():
        if found.get(key) in CLASS_OF:
            classes.append(f"{prefix}-{CLASS_OF[found.pop(key)]}")
    if classes:
        found["class"] = " ".join(classes)
    for key, value in found.items():
        found[key] = value.replace("url(#", f"url(#{name}-")
    if "id" in found:
        found["id"] = f"{name}-{found['id']}"
    if found.get("href", "").startswith("#"):
        found["href"] = f"#{name}-{found['href'][1:]}"
    element.attrib.clear()
    element.attrib.update(found)


def _unfolded(style: dict[str, str]) -> dict[str, str]:
    """`font` is no attribute of SVG: its size and weight are."""
    font = FONT.match(style.pop("font", ""))
    if font:
        style |= {"font-size": font[2]} | ({"font-weight": font[1]} if font[1] else {})
    return {key: value for key, value in style.items() if key not in DROPPED}
