"""Chromium without a window, driven through chromedriver's HTTP interface (W3C WebDriver): the standard library only.

    with Browser() as browser:
        browser.open(path); browser.run("return document.title"); browser.screenshot(png, width, height)

On Debian and Ubuntu: apt-get install chromium chromium-driver. WebGL is drawn in software (SwiftShader).
"""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "no chromium and chromedriver (apt-get install chromium chromium-driver)"
_SWITCHES = (
    "--headless=new",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--no-first-run",
    "--force-device-scale-factor=1",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


class Browser:
    """One browser in a profile of its own, that ends with the `with` block."""

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.driver = subprocess.Popen(
            [DRIVER, f"--port={self.port}", "--log-level=SEVERE"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.session = None

    def __enter__(self):
        try:
            self._wait_for_driver()
            switches = [*_SWITCHES, f"--user-data-dir={self.profile.name}"] + ["--no-sandbox"] * (os.geteuid() == 0)
            made = self._ask(
                "POST",
                "/session",
                {
                    "capabilities": {
                        "alwaysMatch": {
                            "browserName": "chrome",
                            "goog:chromeOptions": {"binary": CHROMIUM, "args": switches},
                            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                        }
                    }
                },
            )
            self.session = f"/session/{made['sessionId']}"
            self._ask("POST", self.session + "/timeouts", {"script": 60_000, "pageLoad": 120_000})
            self._ask("POST", self.session + "/url", {"url": "about:blank"})
            self.requests(), self.console()  # those of Chromium's own first page
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused):
        if self.session:
            with contextlib.suppress(OSError):
                self._ask("DELETE", self.session)
        self.driver.terminate()
        self.driver.wait()
        self.profile.cleanup()

    def _wait_for_driver(self):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if self._ask("GET", "/status")["ready"]:
                    return
            time.sleep(0.1)
        raise TimeoutError("chromedriver did not answer within a minute")

    def _ask(self, method, path, content=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if content is None else json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=180) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"].splitlines()[0]) from None

    def open(self, path):
        """Loads a file from disk."""
        self._ask("POST", self.session + "/url", {"url": Path(path).resolve().as_uri()})

    def run(self, script, *arguments):
        """What the JavaScript function body `script` returns; promises are waited for."""
        return self._ask("POST", self.session + "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition, seconds=60):
        """Until the JavaScript expression `condition` holds."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.05)

    def size(self, width, height):
        """Of the page's area, in CSS pixels (a window cannot be made narrower than 500)."""
        self._command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def screenshot(self, path, whole=False):
        """PNG of what is seen, or of the whole page."""
        size = "const e = document.documentElement; return {x: 0, y: 0, width: e.clientWidth, height: e.scrollHeight}"
        Path(path).write_bytes(self._capture(self.run(size) if whole else None))

    def picture(self, selector):
        """PNG (bytes) of the element that `selector` finds."""
        box = "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
        return self._capture(
            self.run(box + "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}", selector)
        )

    def settle(self, frames=4):
        """Waits for some frames to be drawn."""
        for _ in range(frames):
            self.run("return new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))")

    def _capture(self, clip):
        clip = {"clip": {"scale": 1, **clip}} if clip else {}
        taken = self._command("Page.captureScreenshot", format="png", captureBeyondViewport=bool(clip), **clip)
        return base64.b64decode(taken["data"])

    def move(self, x, y, down=False):
        """Moves the mouse to (x, y) of the area, whole CSS pixels; `down`: the left button down from where it was."""
        steps = [{"type": "pointerDown", "button": 0}] if down else []
        steps += [{"type": "pointerMove", "x": x, "y": y, "duration": 30}]
        steps += [{"type": "pointerUp", "button": 0}] if down else []
        self._ask(
            "POST",
            self.session + "/actions",
            {"actions": [{"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": steps}]},
        )

    def console(self):
        """What the page has said on the console since the last call: [text], errors and warnings only."""
        entries = self._ask("POST", self.session + "/se/log", {"type": "browser"})
        return [f"{e['level']}: {e['message']}" for e in entries if e["level"] in ("SEVERE", "WARNING")]

    def requests(self):
        """Addresses of all that was asked for since the last call, but for what the page itself carries."""
        events = [
            json.loads(e["message"])["message"]
            for e in self._ask("POST", self.session + "/se/log", {"type": "performance"})
        ]
        return [
            e["params"]["request"]["url"]
            for e in events
            if e["method"] == "Network.requestWillBeSent"
            and not e["params"]["request"]["url"].startswith(("data:", "blob:", "about:"))
        ]

    def _command(self, name, **parameters):
        return self._ask("POST", self.session + "/goog/cdp/execute", {"cmd": name, "params": parameters})
