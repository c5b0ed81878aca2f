"""The page of `report` in a real browser, from the disk: it draws, switches, answers a pointer, and loads nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_case import build, certified, changed, renamed

from crbsvd_plugin.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.browser]

WIDTHS = {"desktop": 1280, "phone": 390}
_PATIENCE = 20  # s


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report of everything, page.html, and one whose names are HTML, evil.html."""
    found = build(tmp_path_factory.mktemp("results"))
    paths = [changed(found, "sweep", "certain", certified), *(str(found / name) for name in ("b", "study", "rank"))]
    assert main(["report", *paths, "-o", str(found / "page.html")]) == 0
    assert main(["report", changed(found, "sweep", "renamed", renamed), "-o", str(found / "evil.html")]) == 0
    return found


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """A browser without a screen or a network, that tells what it logs and asks for."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    # as root it has no sandbox, and a container may have little shared memory
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # the path is named, so that selenium looks for none to download
    with webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver"))) as found:
        found.execute_cdp_cmd("Network.enable", {})
        found.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
        )
        yield found


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, driver: Any, folder: Path) -> Callable[[str], Any]:
    """Open a page of a desktop's or a phone's width, and see to it that nothing is wrong with it afterwards."""

    def open_page(name: str) -> Any:
        phone = request.param == "phone"
        size = {"width": WIDTHS[request.param], "height": 844, "deviceScaleFactor": 1, "mobile": phone}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        for kind in ("browser", "performance"):
            driver.get_log(kind)  # what was before
        driver.get((folder / name).as_uri())
        until(lambda: driver.execute_script("return document.querySelectorAll('.plot .legend').length") > 0)
        return driver

    return open_page


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something holds, and return it."""
    end = time.monotonic() + _PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)
    return found


def check_quiet(driver: Any, page: Path) -> None:
    """Nothing was logged, and nothing but the page was asked for."""
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert {url.split("#")[0] for url in asked if not url.startswith("data:")} == {page.as_uri()}


def check_width(driver: Any) -> None:
    """Nothing makes the page wider than the screen, and every plot and table box is inside of it."""
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    edges = driver.execute_script(
        "return [...document.querySelectorAll('.main-svg, .scroll, select, pre, p, figcaption')]"
        ".filter(one => one.offsetParent !== null || one.ownerSVGElement === null)"
        ".map(one => one.getBoundingClientRect().right)"
    )
    assert len(edges) > 20
    assert max(edges) <= driver.execute_script("return window.innerWidth")


def figure(driver: Any, title: str) -> Any:
    """Return the figure below a heading."""
    return driver.find_element("xpath", f"//figure[h3[text()='{title}']]")


def curves(driver: Any, title: str) -> list[str]:
    """Return the paths that are drawn."""
    script = "return [...arguments[0].querySelectorAll('.scatterlayer path.js-line')].map(one => one.getAttribute('d'))"
    return driver.execute_script(script, figure(driver, title))


def choose(driver: Any, title: str, label: str, option: str) -> None:
    """Choose an option of a switch of the panel of a figure."""
    from selenium.webdriver.support.select import Select

    panel = figure(driver, title).find_element("xpath", "ancestor::div[@class='panel']")
    Select(panel.find_element("css selector", f"select[aria-label='{label}']")).select_by_visible_text(option)


def said(driver: Any, title: str) -> str:
    return figure(driver, title).find_element("css selector", ".said").text


def test_all_is_drawn(opened: Callable[[str], Any], folder: Path) -> None:
    driver = opened("page.html")
    titles = [one.text for one in driver.find_elements("css selector", "figure h3")]
    assert len(titles) == 11
    for title in titles:
        place = figure(driver, title).find_element("css selector", ".plot")
        assert place.size["height"] > 250
        assert place.size["width"] > 250
        drawn = place.find_elements("css selector", ".scatterlayer .trace path")
        assert len(drawn) >= 2
        # the space of the curves is not eaten by the legend
        inside = place.find_element("css selector", ".nsewdrag")
        assert float(inside.get_attribute("height")) > 150
        assert place.get_attribute("aria-label") == said(driver, title)
    check_width(driver)
    # tables that are opened scroll in their own box
    for one in driver.find_elements("css selector", "summary"):
        driver.execute_script("arguments[0].click()", one)
    assert all(one.is_displayed() for one in driver.find_elements("css selector", "table"))
    check_width(driver)
    check_quiet(driver, folder / "page.html")


def test_switches_change_the_curves(opened: Callable[[str], Any], folder: Path) -> None:
    driver = opened("page.html")
    rank, weight = "Against the rank", "Against the weight"
    rows = json.loads((folder / "sweep" / "sweep.json").read_text())["rows"]
    seen = []
    for label, option in (
        ("Parameter", "T2"), ("Tissue", "gm+wm"), ("Figure", "kept, B_u / B_ec"), ("Over the fingerprints", "median"),
    ):  # fmt: skip
        seen.append((curves(driver, rank), curves(driver, weight), said(driver, rank)))
        choose(driver, rank, label, option)
        until(lambda: curves(driver, rank) != seen[-1][0])
        until(lambda: curves(driver, weight) != seen[-1][1])
        assert said(driver, rank) != seen[-1][2]
    # what is drawn now is what was chosen
    drawn = driver.execute_script("return arguments[0].querySelector('.plot').data.map(d => d.y)", figure(driver, rank))
    for w, y in zip((0, 0.5), drawn, strict=True):
        for k, value in enumerate(y, 1):
            (row,) = (r for r in rows if tuple(r.values())[:5] == (w, k, "gm+wm", "T2", "retained"))
            assert abs(value - 100 * row["median"]) < 1e-3
    assert "CRB of T2 that is kept" in figure(driver, rank).find_element("css selector", ".ytitle").text
    # of signals there is one figure
    which = driver.find_element("css selector", "select[aria-label='Figure']")
    assert which.is_enabled()
    choose(driver, rank, "Parameter", "signal energy")
    assert not which.is_enabled()
    assert "energy loss of the signals" in figure(driver, rank).find_element("css selector", ".ytitle").text
    choose(driver, rank, "Parameter", "T1")
    assert which.is_enabled()
    # back to where it began, the curves are the first ones
    for label, option in (
        ("Tissue", "all tissues"), ("Figure", "loss, exact bound B_ec"), ("Over the fingerprints", "mean"),
    ):  # fmt: skip
        choose(driver, rank, label, option)
    until(lambda: curves(driver, rank) == seen[0][0])
    for title, label, option in (
        ("All weights and ranks", "Parameter", "T2"),
        ("Bias", "Fingerprint", "T1 1.4 s, T2 0.1 s"),
        ("Standard deviation", "Parameter", "T2"),
        ("Error against the rank", "Tissue", "csf"),
        ("Cost against the rank", "Weight", "0"),
    ):
        before = driver.execute_script(
            "return JSON.stringify(arguments[0].querySelector('.plot').data)", figure(driver, title)
        )
        if title == "Cost against the rank":
            weights = figure(driver, title).find_elements("xpath", "ancestor::div[@class='panel']//option")
            option = weights[1].text
        choose(driver, title, label, option)
        assert before != driver.execute_script(
            "return JSON.stringify(arguments[0].querySelector('.plot').data)", figure(driver, title)
        )
    check_width(driver)
    check_quiet(driver, folder / "page.html")


def test_a_pointer_brings_up_the_figures(opened: Callable[[str], Any], folder: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    driver = opened("page.html")
    found = figure(driver, "Against the rank")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
    points = found.find_elements("css selector", ".scatterlayer .trace:last-child path.point")
    assert len(points) == 5
    ActionChains(driver).move_to_element(points[3]).click().perform()
    text = until(lambda: [one.text for one in found.find_elements("css selector", ".hoverlayer .hovertext")])[0]
    y = driver.execute_script("return arguments[0].querySelector('.plot').data.map(d => d.y[3])", found)
    assert "weight 0" in text
    assert "number of coefficients K: 4" in text
    # curves may lie on each other
    assert any(f"{value:.4g}" in text for value in y), (text, y)
    check_quiet(driver, folder / "page.html")


def test_a_legend_hides_and_a_finger_scrolls(opened: Callable[[str], Any], folder: Path) -> None:
    driver = opened("page.html")
    found = figure(driver, "Against the weight")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
    n_curves = len(curves(driver, "Against the weight"))
    found.find_element("css selector", ".legendtoggle").click()
    until(lambda: len(curves(driver, "Against the weight")) == n_curves - 1)
    # they stay away when something else is shown
    choose(driver, "Against the weight", "Parameter", "T2")
    assert len(curves(driver, "Against the weight")) == n_curves - 1
    touch = driver.execute_script("return matchMedia('(pointer: coarse)').matches")
    mode = driver.execute_script("return arguments[0].querySelector('.plot').layout.dragmode", found)
    assert touch == (driver.execute_script("return window.innerWidth") == WIDTHS["phone"])
    assert mode == (False if touch else "zoom")


def test_lines_are_copied(opened: Callable[[str], Any], folder: Path) -> None:
    driver = opened("page.html")
    button = driver.find_element("css selector", ".code button")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()
    assert button.text in ("Copied", "Selected")
    marked = driver.execute_script("return window.getSelection().toString()")
    assert marked.strip() == driver.find_element("css selector", ".code pre").text.strip()
    check_quiet(driver, folder / "page.html")


def test_names_that_are_scripts_are_shown_and_not_run(opened: Callable[[str], Any], folder: Path) -> None:
    driver = opened("evil.html")
    assert driver.execute_script("return typeof hacked") == "undefined"
    assert driver.execute_script("return document.querySelectorAll('img').length") == 0
    choose(driver, "Against the rank", "Parameter", "</script>T2")
    title = figure(driver, "Against the rank").find_element("css selector", ".ytitle")
    until(lambda: title.text == "loss of the CRB of </script>T2 [%]")
    names = [one.text for one in driver.find_elements("css selector", ".legendtext")]
    assert any(name.startswith('<script>alert("&")</script>') for name in names)
    check_width(driver)
    check_quiet(driver, folder / "evil.html")


def test_without_scripts_sentences_and_tables_are_there(driver: Any, folder: Path) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get((folder / "page.html").as_uri())
        body = driver.find_element("css selector", "main").text
        assert "at the recommended K =" in body
        assert not any(one.is_displayed() for one in driver.find_elements("css selector", "select"))
        table = driver.find_element("css selector", "figcaption summary")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", table)
        table.click()
        assert "energy" in table.find_element("xpath", "..").text
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
