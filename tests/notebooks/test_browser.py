"""The walkthrough as a newcomer meets it: `make lab`, Run All, another user, a text of one's own, in a real browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.notebooks.conftest import ROOT, checkout

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = "--no-sandbox --disable-gpu --disable-quic --disable-background-networking --disable-component-update"
PICTURES = ".jp-OutputArea-output .widget-output img"  # the ranking that the controls draw
REQUIRED = os.environ.get("DPO4REC_BROWSER") == "required"  # CI: a test that is skipped there tests nothing
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (BROWSER or REQUIRED), reason="no browser: install Debian's chromium, or another Chromium"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that `make lab` has started in a checkout whose walkthrough is on `smoke`."""
    root = checkout(tmp_path_factory.mktemp("lab"))
    (root / "notebooks").unlink()  # Lab saves what it opens
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    walkthrough = root / "notebooks/00_walkthrough.ipynb"
    default = 'PROFILE = \\"ml-100k\\"'
    assert walkthrough.read_text().count(default) == 1
    walkthrough.write_text(walkthrough.read_text().replace(default, 'PROFILE = \\"smoke\\"'))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--no-browser --allow-root --port={port} --IdentityProvider.token= --ServerApp.root_dir={root}"
    with open(root / "lab.log", "w") as log:
        process = subprocess.Popen(
            ["make", "lab", f"LAB_FLAGS={flags}"],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield answering(f"http://127.0.0.1:{port}", process, root / "lab.log")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def answering(address: str, process: subprocess.Popen, log: Path) -> str:
    """The address once it answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api", timeout=5).read()
            return address
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def connected(lab: str) -> None:
    """Wait until the page talks to its kernel: one that still starts would not run what is asked of it. (The page
    itself says idle before it has connected.)"""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        kernels = json.load(urllib.request.urlopen(f"{lab}/api/kernels", timeout=5))
        if any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels):
            return
        time.sleep(0.5)
    raise AssertionError("no kernel answers")


@pytest.fixture
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=QUIET.split())
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(240_000)  # Run All asks the LLM
        yield page
        browser.close()


def changed(page, before: str) -> str:
    """The drawn ranking once it is another than `before`."""
    page.wait_for_function(
        "([pictures, before]) => { const all = document.querySelectorAll(pictures);"
        " return all.length && all[all.length - 1].src !== before; }",
        arg=[PICTURES, before],
    )
    return page.locator(PICTURES).last.get_attribute("src")


def test_run_all_then_another_user_and_a_text_of_yours(lab, page):
    page.goto(f"{lab}/lab/tree/notebooks/00_walkthrough.ipynb?reset")
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    connected(lab)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    first = changed(page, "")
    number = page.locator(".widget-text input[type=number]").last
    number.fill("0")
    number.press("Enter")
    second = changed(page, first)
    text = page.locator(".widget-textarea textarea")
    text.fill("musicals and romance, and nothing else at all.")
    text.blur()
    third = changed(page, second)
    assert len({first, second, third}) == 3
    assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr'] .ansi-red-fg").count()
