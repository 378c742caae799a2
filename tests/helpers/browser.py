"""Headless Chromium through chromedriver's own protocol; no package is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
WHY = "apt-get install chromium chromium-driver"
_FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
# Without these the browser asks its maker for news.
_QUIET = ["--disable-background-networking", "--disable-component-update", "--no-first-run"]


class Browser:
    """One window."""

    def __init__(self, url: str) -> None:
        options = {"binary": shutil.which("chromium"), "args": [*_FLAGS, *_QUIET]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options}
        wanted["goog:loggingPrefs"] = {"browser": "ALL"}
        self._url = url
        made = self._call("session", {"capabilities": {"alwaysMatch": wanted}})
        self._url += f"/session/{made['sessionId']}"

    def _call(self, path: str, data: Any, method: str = "POST") -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self._url}/{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def open(self, file: Path, width: int = 1600, dark: bool = False, grey: bool = False) -> None:
        """From disk, in a window of that width."""
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})
        kind = "achromatopsia" if grey else "none"
        self._devtools("Emulation.setEmulatedVisionDeficiency", {"type": kind})
        self._call("url", {"url": file.absolute().as_uri()})

    def _devtools(self, command: str, params: dict[str, Any]) -> Any:
        return self._call("goog/cdp/execute", {"cmd": command, "params": params})

    def run(self, script: str, *args: Any) -> Any:
        """What a script returns."""
        return self._call("execute/sync", {"script": script, "args": list(args)})

    def click(self, selector: str, place: int = 0) -> None:
        """As a mouse would: fails where something lies above it."""
        found = self._call("elements", {"using": "css selector", "value": selector})[place]
        self._call(f"element/{next(iter(found.values()))}/click", {})

    def choose(self, name: str, value: str) -> None:
        """Of a select by its id."""
        self.run(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input', {bubbles: true}));"
            "e.dispatchEvent(new Event('change', {bubbles: true}));",
            *(name, value),
        )

    def complaints(self) -> list[str]:
        """All that stands in the console, once."""
        return [entry["message"] for entry in self._call("se/log", {"type": "browser"})]

    def photograph(self, file: Path) -> None:
        """What the window shows."""
        file.write_bytes(base64.b64decode(self._call("screenshot", None, "GET")))

    def close(self) -> None:
        request = urllib.request.Request(self._url, method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Started, and ended afterwards."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert driver.stdout is not None
        port = next(
            m[1] for line in driver.stdout if (m := re.search(r"successfully on port (\d+)", line))
        )
        window = Browser(f"http://127.0.0.1:{port}")
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait()
