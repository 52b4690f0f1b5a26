"""The page at `/`: what it shows, asks and looks like, in a browser, and what it must not do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import accessibility
import browser
import lowbit
import serving
import serving_calls
from lowbit.serve import page

TEXT = page.html().decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    folder = tmp_path_factory.mktemp("page")
    files = serving_calls.models(folder)
    (folder / "token").write_text("secret")
    options = [f"--token-file={folder / 'token'}", str(files["linear"]), str(files["widths"])]
    with serving.running(folder / "log", *options) as found:
        yield found


def test_it_loads_nothing_from_elsewhere() -> None:
    """Nor may it: the policy that is sent with it names its own script and style by their hashes."""
    assert not re.search(r"(src|href)=|url\(|@import|https?://", TEXT)
    policy = dict(page.HEADERS)[b"content-security-policy"].decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2


def test_it_can_be_read_by_all() -> None:
    """Contrast of all colours in both themes, headings, tables and names."""
    style = re.search(r"<style>(.*?)</style>", TEXT, re.S)
    assert style is not None
    assert accessibility.Page(TEXT).problems == []
    assert [each for each in accessibility.faint(style[1]) if "--on " not in each] == []
    for colours in accessibility.themes(style[1]).values():  # the button's text
        assert accessibility.contrast(colours["--on"], colours["--accent"]) >= accessibility.TEXT


@pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no chromium")
def test_it_works(server: serving.Server, tmp_path: Path) -> None:
    """A person gives the token, sees models, limits and figures, asks, and reads the answer or what was wrong."""
    right = lowbit.Predictor(server.log.with_name("linear.lowbit"))({"input": np.ones((1, 8), np.float32)})["output"]
    with browser.open_browser(tmp_path / "profile") as tab:
        tab.call("Page.navigate", url=f"http://{server.address()}/")
        tab.until("document.readyState === 'complete' && !document.getElementById('login').hidden")
        assert tab.value("document.getElementById('shown').hidden")
        tab.value("document.getElementById('token').value = 'secret'; document.querySelector('#login button').click()")
        tab.until("!document.getElementById('shown').hidden")
        assert tab.value("document.getElementById('state').textContent") == "ready"
        shown = tab.value("document.getElementById('models').innerText")
        for text in ("linear", "input: FP32 [-1, 8]", "keep: BOOL [-1, -1]", "output.4: BOOL [-1, -1]"):
            assert text in shown
        assert "67,108,864" in tab.value("document.getElementById('limits').innerText")

        def ask(model: str, **inputs: str) -> str:
            tab.value(f"document.getElementById('model').value = '{model}';"
                      "document.getElementById('model').dispatchEvent(new Event('change'))")  # fmt: skip
            for name, text in inputs.items():
                tab.value(f"document.getElementById('input-{name}').value = {text!r}")
            tab.value("document.getElementById('answer').hidden = true; document.getElementById('ask').click()")
            tab.until("!document.getElementById('answer').hidden")
            return str(tab.value("document.getElementById('answer').textContent"))

        found = ask("linear", input="[[1,1,1,1,1,1,1,1]]")
        assert found.startswith("output: FP32 [1, 4]\n")
        numbers = [float(number) for number in found.splitlines()[1].split(", ")]
        assert np.array_equal(np.array(numbers, np.float32), right[0])
        assert "output.4: BOOL [1, 1]\ntrue" in ask("widths")
        assert ask("linear", input="[[1,2]]").startswith("400: input 'input' has the shape [-1, 8]")
        assert "JSON" in ask("linear", input="[[1,")
        tab.until("/^[3-9]$/.test(document.querySelector('#tiles b').textContent)")
        assert all("401" in problem or "400" in problem for problem in tab.problems), tab.problems
        for theme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(15, 19, 24)")):
            tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
            assert tab.value("getComputedStyle(document.body).backgroundColor") == ground
            tab.call("Emulation.setDeviceMetricsOverride", width=380, height=800, deviceScaleFactor=1, mobile=True)
            assert tab.value("document.documentElement.scrollWidth <= innerWidth")
            tab.call("Emulation.clearDeviceMetricsOverride")
