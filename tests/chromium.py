"""A headless Chromium for tests of pages: Debian's own, by explicit paths, and what it noticed while a page ran.

Without Chromium the tests skip; POSTTRAIN_NEED_CHROMIUM=1 makes that a failure, so that a machine that checks changes
cannot skip them unseen. Debian: apt-get install chromium chromium-driver.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--force-prefers-reduced-motion",  # a click lands where the page stands, not where it is scrolling to
    "--force-device-scale-factor=1",
    "--window-size=1240,900",
)


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser with its logs switched on."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        why = "no chromium and chromedriver; install Debian's packages chromium and chromium-driver"
        if os.environ.get("POSTTRAIN_NEED_CHROMIUM") == "1":
            pytest.fail(why)
        pytest.skip(why)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(service=Service(driver), options=options)
    try:
        yield window
    finally:
        window.quit()


def faults(window: webdriver.Chrome, path: Path) -> list[str]:
    """Opens a page and says what it did wrong: console messages, requests that leave it, scripts not its own."""
    for log in ("browser", "performance"):
        window.get_log(log)  # what earlier pages did is forgotten
    window.get(path.as_uri())
    found = [f"console: {entry['message']}" for entry in window.get_log("browser")]
    found += [f"request: {url}" for url in requests(window) if not url.startswith((path.as_uri(), "data:"))]
    scripts = window.execute_script("return document.scripts.length")
    return found + ([f"{scripts} scripts"] if scripts != 1 else [])


def requests(window: webdriver.Chrome) -> list[str]:
    """Addresses that the page asked for since the last look."""
    events: list[Any] = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
