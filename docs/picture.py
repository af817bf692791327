"""The README's picture: a report page in headless Chromium, from its top to the end of its first plot.

    python docs/picture.py runs/tinystories/report.html docs/report.png

Needs Debian's packages chromium and chromium-driver. With the font Inter (fonts-inter) it looks as in the README.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

WIDTH, SCALE = 1240, 2
LAST = "#scores figure"  # the picture ends below it
COLOURS = 128  # a page has few: a third of the bytes, and no difference to the eye


def picture(page: Path) -> bytes:
    """The upper part of the page as PNG."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(service=Service(shutil.which("chromedriver") or "chromedriver"), options=options)
    try:
        size = {"width": WIDTH, "height": 900, "deviceScaleFactor": SCALE, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.resolve().as_uri())
        end = browser.execute_script(f"return document.querySelector('{LAST}').getBoundingClientRect().bottom")
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size | {"height": round(end) + 28})
        return browser.get_screenshot_as_png()
    finally:
        browser.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("png", type=Path)
    options = parser.parse_args()
    image = Image.open(io.BytesIO(picture(options.page))).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(options.png, optimize=True)
    print(f"{options.png}: {options.png.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
