"""Every sample, by name; a browser with the samples' pages in it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slimgraph.report import render
from tests.report import sample

Open = Callable[..., Any]
SAMPLES = sample.variants()
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
ARGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(params=SAMPLES)
def report(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One sample after the other."""
    return SAMPLES[request.param]


@pytest.fixture(scope="session")
def compressed() -> dict[str, Any]:
    """The sample that has everything: residuals, concats, a gate, scores, an exported file."""
    return SAMPLES["compressed"]


@pytest.fixture(scope="session")
def schema() -> dict[str, Any]:
    """The published JSON Schema."""
    path = Path(__file__).parents[2] / "docs" / "report.schema.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a report's page from a file; at the end nothing may have failed or left the file."""
    contexts: list[Any] = []
    complaints: list[str] = []
    requests: list[str] = []

    def open_(report: dict[str, Any], address: str = "", **options: Any) -> Any:
        path = tmp_path / f"report{len(contexts)}.html"
        path.write_text(render(report, "html"), encoding="utf-8")
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri() + address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
    assert all(request.startswith("file://") for request in requests)
