"""The pages in a headless browser as wide as a phone: they render, fit, log no error, and the filter filters."""

from pathlib import Path

import numpy as np
import pytest

from rbft_trl import check
from rbft_trl.evidence.report import build_report
from rbft_trl.evidence.stats import summarise
from tests.browser import headless, needs_browser
from tests.helpers import toy_recipe
from tests.test_report import EVIL, many_arms, predictions


@pytest.fixture
def report(tmp_path: Path) -> Path:
    from rbft_trl.data.jsonl import write_jsonl
    from rbft_trl.evidence.metrics import compute_metrics

    names = ["cat", "a very long name of a class that goes on and on", EVIL]
    arms = {}
    for arm, right in (("direct", 0.5), ("rbft", 0.7)):
        rows = predictions(names, right)
        write_jsonl(tmp_path / f"{arm}.jsonl", rows)
        metrics = compute_metrics(rows, names)
        cell = {"draw": 0, "predictions": str(tmp_path / f"{arm}.jsonl"), "metrics": metrics, "steps": 3}
        cell |= {"presentations": 9, "seconds": 1.0, "curves": [], "kept": None, "rationales": None}
        arms[arm] = {"description": arm, "draws": [cell]}
    comparison = {"task": "t", "created": "now", "note": "", "arms": arms}
    comparison |= summarise(comparison, names=names)
    clip = {"id": "clip/1.mp4", "why": "confident and wrong", "text": "words " * 80, "concludes": None}
    clip |= {"frames": np.zeros((8, 56, 56, 3), np.uint8), "scores": [(name, 0.3) for name in names]}
    mistakes = [clip | {"label": names[0], "prediction": names[1]}, clip | {"label": names[1], "prediction": names[2]}]
    build_report(comparison, tmp_path / "report.html", strips=[], mistakes=mistakes, note="")
    return tmp_path / "report.html"


def fits(browser: object) -> bool:
    return browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth + 1")


@needs_browser
def test_the_report_fits_a_phone_and_filters_its_mistakes(report: Path) -> None:
    from selenium.webdriver.common.by import By

    with headless() as browser:
        browser.get(report.as_uri())
        looks = browser.find_elements(By.CSS_SELECTOR, ".look")
        assert len(looks) == 2 and all(look.is_displayed() for look in looks) and fits(browser)
        words = [label.text for label in browser.find_elements(By.CSS_SELECTOR, ".filter label")]
        browser.find_elements(By.CSS_SELECTOR, ".filter input")[words.index("cat")].click()
        assert [look.is_displayed() for look in looks] == [True, False]
        browser.find_elements(By.CSS_SELECTOR, ".filter input")[0].click()
        assert all(look.is_displayed() for look in looks)
        assert not browser.get_log("browser")


@needs_browser
def test_twenty_arms_and_thirty_classes_fit_a_narrow_phone(tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    made = many_arms(tmp_path, num_arms=20, num_classes=30)
    counts = {"rbft": {"n": 50, "same": 40, "other": 5, "none": 3, "bare": 2}}
    build_report(made, tmp_path / "report.html", strips=[], agreement=counts, note="")
    with headless(360) as browser:
        browser.get((tmp_path / "report.html").as_uri())
        assert browser.execute_script("return window.innerWidth") == 360 and fits(browser)
        wide = browser.find_elements(By.CSS_SELECTOR, ".wide")
        overflow = "return arguments[0].scrollWidth > arguments[0].clientWidth"
        assert any(browser.execute_script(overflow, e) for e in wide), "wide tables scroll in their own frame"
        charts = browser.find_elements(By.CSS_SELECTOR, "figure svg")
        assert len(charts) > 20 and all(0 < e.rect["width"] <= 360 for e in charts if e.is_displayed())
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert fits(browser) and not browser.get_log("browser")
        paper = "return getComputedStyle(document.body).backgroundColor"
        light = browser.execute_script(paper)
        feature = [{"name": "prefers-color-scheme", "value": "dark"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
        assert browser.execute_script(paper) != light


@needs_browser
def test_the_page_of_the_check_fits_a_phone(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "out")
    check.main([recipe, "--report_dir", str(tmp_path / "r")])
    with headless() as browser:
        browser.get((tmp_path / "r/check.html").as_uri())
        assert fits(browser) and not browser.get_log("browser")
        assert browser.execute_script("return document.images[0].naturalWidth") > 100
