"""report.html as a browser shows it: no part is wider than the screen, in both colour schemes, and no error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import NAMES, PROGRAM, Browser
from test_report import findings, measured

from stepwise.evaluation.measures import IN_TABLE, MEMORIZATION
from stepwise.training.quality import Result
from stepwise.training.quality_report import write_all

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no browser on the PATH ({', '.join(NAMES)})")
LONG = "a_name_that_is_long_and_has_no_space_in_it_0001"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    browser = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of four sets with every measure, and with words that cannot be broken at a space."""
    folder = tmp_path_factory.mktemp("report")
    found = findings(**{name: [1, 0] * 10 for name in ("per-class", "unified", "class-conditional", LONG)})
    judged = [*found.results.values(), *(one for one in vars(found).values() if isinstance(one, Result))]
    for result in judged:
        result.figures |= {key: measured(0.5) for key in (*IN_TABLE, *MEMORIZATION)}
    found.notes, found.settings = [f"/{LONG * 4}.png: zero bytes"], [("--train-dir", f"/{LONG * 4}")]
    write_all(folder, found, "How good are the generated images?", "today", seed=0)
    return folder / "report.html"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 28)")])
def test_report_fits_the_screen(browser: Browser, page: Path, width: int, scheme: str, background: str) -> None:
    browser.show(page, width, scheme)
    assert browser.value("getComputedStyle(document.body).backgroundColor") == background
    assert browser.value("[...document.images].filter(image => image.naturalWidth > 0).length") > 10
    assert browser.value("innerWidth") == width, "a phone would show a wider page in small print"
    assert browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert browser.complaints == []


def test_a_page_that_does_not_fit_or_has_errors_is_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "wide.html"
    page.write_text('<p style="width: 2000px">wide</p><script>absent()</script><img src="absent.png">')
    browser.show(page, 1280, "light")
    assert browser.value("document.documentElement.scrollWidth") > 1280
    assert len(browser.complaints) == 2, browser.complaints
