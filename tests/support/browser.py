"""Headless Chromium driven over the WebDriver protocol with the standard library only.

Needs the Debian packages ``chromium`` and ``chromium-driver``; tests skip with a reason where they are absent.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
MISSING = "needs chromium and chromedriver (apt-get install chromium chromium-driver)"

_FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars", "--disable-dev-shm-usage",
]  # fmt: skip


class Browser:
    """One browser session; every method is one WebDriver command."""

    def __init__(self, port: int, session: str = "") -> None:
        self._root = f"http://127.0.0.1:{port}"
        self._session = session

    def command(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one command and return its value; a WebDriver error becomes RuntimeError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._root + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()[:2000]) from error

    def start(self, profile: Path) -> None:
        """Open the session with console and network logs on."""
        flags = [*_FLAGS, f"--user-data-dir={profile}"]
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": CHROMIUM, "args": flags},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        value = self.command("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{value['sessionId']}"

    def reset(self, blank: Path, size: tuple[int, int]) -> None:
        """A window of this size that prefers nothing; what pages stored and logged is forgotten.

        ``blank`` is any page on disk: storage of one file is storage of all files.
        """
        self.devtools("Emulation.clearDeviceMetricsOverride")
        self.devtools("Emulation.setEmulatedMedia", features=[])
        self.command("POST", f"{self._session}/window/rect", {"width": size[0], "height": size[1]})
        self.open(blank)
        self.run("localStorage.clear()")
        self.console(), self.requests()

    def answers(self) -> bool:
        """Whether neither the driver nor the browser has ended."""
        try:
            return self.run("return 1") == 1
        except (OSError, RuntimeError):
            return False

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a local file, from an empty page, and wait for its load event."""
        self.command("POST", f"{self._session}/url", {"url": "about:blank"})
        self.command("POST", f"{self._session}/url", {"url": path.resolve().as_uri() + fragment})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """One command of the DevTools protocol."""
        body = {"cmd": command, "params": parameters}
        return self.command("POST", f"{self._session}/goog/cdp/execute", body)

    def prefer(self, scheme: str) -> None:
        """Let pages see ``prefers-color-scheme: light`` or ``dark`` from now on."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def resize(self, width: int, height: int) -> None:
        """Give pages a window of this many CSS pixels inside."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def run(self, script: str, *args: Any) -> Any:
        """Run JavaScript in the page: ``return ...`` gives the value back."""
        return self.command("POST", f"{self._session}/execute/sync", {"script": script, "args": list(args)})

    def wait(self, expression: str, seconds: float = 60.0) -> None:
        """Poll until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"page never reached: {expression}; console: {self.console()}")
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        """Save what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.command("GET", f"{self._session}/screenshot")))

    def _log(self, kind: str) -> list[dict[str, Any]]:
        return self.command("POST", f"{self._session}/se/log", {"type": kind})

    def console(self) -> list[str]:
        """Warnings and errors on the console since the last call, but for the software renderer's slowness."""
        entries = [e for e in self._log("browser") if e["level"] in ("WARNING", "SEVERE")]
        return [e["message"] for e in entries if "GL Driver Message" not in e["message"]]

    def requests(self) -> list[str]:
        """URLs of all requests since the last call, but for data:, blob: and the browser's own start page."""
        messages = [json.loads(e["message"])["message"] for e in self._log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "blob:", "chrome", "about:"))]

    def stop(self) -> None:
        """Close the session."""
        if self._session:
            self.command("DELETE", self._session)


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A running browser; both processes end with the block."""
    driver, port = _start_driver()
    try:
        browser = Browser(port)
        browser.start(profile)
        try:
            yield browser
        finally:
            with suppress(OSError, RuntimeError):  # it has ended before
                browser.stop()
    finally:
        driver.terminate()
        driver.wait(timeout=10)


@contextmanager
def shared_browser(new_folder: Callable[[], Path]) -> Iterator[Callable[[tuple[int, int]], Browser]]:
    """Hands out one browser again and again, reset to a window of the size asked for; another one after a crash."""
    with ExitStack() as running:
        browser: Browser | None = None

        def reset(size: tuple[int, int]) -> Browser:
            nonlocal browser
            if browser is None or not browser.answers():
                running.close()
                browser = running.enter_context(open_browser(new_folder()))
            blank = new_folder() / "blank.html"
            blank.write_text("<!doctype html><title>blank</title>")
            browser.reset(blank, size)
            return browser

        yield reset


def _start_driver(attempts: int = 5) -> tuple[subprocess.Popen[str], int]:
    """A chromedriver that listens, and its port.

    The driver picks a free IPv6 port and ends when another process has the same one on IPv4, which parallel tests
    make likely; so it is started again.
    """
    assert CHROMEDRIVER is not None, MISSING
    said: list[str] = []
    for _ in range(attempts):
        driver = subprocess.Popen(
            [CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert driver.stdout is not None
        for line in driver.stdout:
            said.append(line)
            if "started successfully on port" in line:
                return driver, int(line.rsplit(" ", 1)[1].strip().rstrip("."))
        driver.wait(timeout=10)
    raise RuntimeError(f"{CHROMEDRIVER} ended {attempts} times before it listened:\n{''.join(said)}")
