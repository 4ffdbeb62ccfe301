"""Opens a page in headless Chromium, without a network, and tells what its console said."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WHY = "no Chromium: apt-get install chromium, or set CHROMIUM to its path"


def chromium() -> str:
    """Its path; skips the test where there is none."""
    found = os.environ.get("CHROMIUM") or next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(WHY)
    return found


def opened(page: Path, probe: str, folder: Path, width: int = 1280, dark: bool = False) -> tuple[str, list[str]]:
    """What `probe` (an expression) is in the page, after all of its own scripts, and the lines of its console.

    Chromium resolves no name, so that what a page fetches is an error of its console.
    """
    copy = folder / f"probed-{width}-{dark}.html"
    script = f"<script>document.body.dataset.probe = JSON.stringify({probe});</script>"
    copy.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", f"--window-size={width},900"]
    flags += [f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run(
        [chromium(), *flags, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    told = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return ("" if found is None else found.group(1).replace("&quot;", '"').replace("&amp;", "&")), told
