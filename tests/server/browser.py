"""Headless Chromium, driven through its DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.report.browser import _OPTIONS, CHROMIUM

# it reads from file 3 and writes to file 4, which the pipes may have themselves: through copies with higher numbers
_START = """
import fcntl, os, sys
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, copy in zip((3, 4), copies):
    os.dup2(copy, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
__all__ = ["CHROMIUM", "Browser", "Page"]


class Browser:
    """A browser in a process of its own; a context manager."""

    def __enter__(self) -> Browser:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        reads, self._out = os.pipe()
        self._in, writes = os.pipe()
        options = ("--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "about:blank")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(reads), str(writes), CHROMIUM, *_OPTIONS, *options],
            pass_fds=(reads, writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._number, self._rest, self.events = 0, b"", []
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict:
        """The result of a command; what happens meanwhile is added to ``events``."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(
            self._out, json.dumps(message if session is None else {**message, "sessionId": session}).encode() + b"\0"
        )
        while True:
            received = self._receive()
            if received.get("id") == self._number:
                assert "error" not in received, received
                return received["result"]
            self.events.append(received)

    def _receive(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def page(self, width: int = 1280, dark: bool = False) -> Page:
        """An empty page of a profile of its own."""
        return Page(self, width, dark)


class Page:
    """A page, its requests and its errors."""

    def __init__(self, browser: Browser, width: int, dark: bool) -> None:
        self._browser = browser
        context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{part}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def _call(self, method: str, **parameters: Any) -> dict:
        return self._browser.call(method, self._session, **parameters)

    def _events(self, method: str) -> list[dict]:
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event.get("method") == method
        ]

    @property
    def requests(self) -> list[str]:
        """Addresses that it has asked for."""
        return [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]

    @property
    def errors(self) -> list[str]:
        """Exceptions of its scripts, and what the browser has blocked or complained about."""
        thrown = [json.dumps(event["exceptionDetails"]) for event in self._events("Runtime.exceptionThrown")]
        logged = [event["entry"] for event in self._events("Log.entryAdded")]
        return thrown + [f"{entry['text']} {entry.get('url', '')}" for entry in logged if entry["level"] == "error"]

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(f"!!({condition})"):
            assert time.monotonic() < deadline, f"{condition} is false in {self.run('document.body.innerText')}"
            time.sleep(0.01)

    def go(self, address: str) -> None:
        """Open an address, and wait until it has loaded."""
        self._call("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(address)})")

    def type(self, text: str) -> None:
        """Type where the focus is."""
        self._call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key: Tab, Enter, or Space."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " ")}[key]
        pressed = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **pressed)
        self._call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def picture(self, file: Path) -> None:
        """A PNG of what is visible."""
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))
