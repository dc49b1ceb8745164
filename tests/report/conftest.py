"""Every sample, by name; a browser with the samples' pages in it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report import sample

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
