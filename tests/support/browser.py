"""Open, use and observe a page in headless Chromium through its DevTools protocol."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*"),
)
_PATIENCE_S = 240


class Page:
    """One tab. errors: console messages and exceptions; requests: every address that it requested."""

    def __init__(self, socket: ClientConnection):
        self._socket = socket
        self._numbers = itertools.count(1)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command of the protocol and return its result. Records events that arrive meanwhile."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=_PATIENCE_S))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event["params"]
        match event["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.errors.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(params["entry"]["text"])
            case "Page.loadEventFired":
                self.loaded = True

    def open(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """Load a file in a window of the given size, and wait until it is completely loaded."""
        self.loaded = False
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + _PATIENCE_S
        while not self.loaded:
            assert time.monotonic() < deadline
            self.call("Runtime.evaluate", expression="1")
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """Evaluate a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """Press a key for the element with the focus."""
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **_KEYS[key])

    def click(self, x: float, y: float) -> None:
        """Click the left button at a position in the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG, including the part below the window."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


_KEYS: dict[str, dict[str, int]] = {
    "Tab": {"windowsVirtualKeyCode": 9},
    "Home": {"windowsVirtualKeyCode": 36},
    "End": {"windowsVirtualKeyCode": 35},
    "ArrowLeft": {"windowsVirtualKeyCode": 37},
    "ArrowRight": {"windowsVirtualKeyCode": 39},
}


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A new browser with an empty profile. It is closed at the end of the block."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    environment = {**os.environ, "HOME": str(profile)}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(profile / "DevToolsActivePort", running)
        # The browser's own socket lists its tabs. The first one is the tab opened above.
        with connect(f"ws://127.0.0.1:{port[0]}{port[1]}", max_size=None) as browser:
            browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            targets = json.loads(browser.recv(timeout=_PATIENCE_S))["result"]["targetInfos"]
            (tab,) = [target["targetId"] for target in targets if target["type"] == "page"]
            with connect(f"ws://127.0.0.1:{port[0]}/devtools/page/{tab}", max_size=None) as socket:
                yield Page(socket)
    finally:
        running.terminate()
        running.wait(60)


def _port(file: Path, running: "subprocess.Popen[bytes]") -> tuple[int, str]:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        lines = file.read_text(encoding="utf-8").split() if file.exists() else []
        if len(lines) == 2:
            return int(lines[0]), lines[1]
        assert running.poll() is None and time.monotonic() < deadline, "Chromium did not start"
        time.sleep(0.1)
