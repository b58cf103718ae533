"""Chromium logs in, looks around and logs out: what cookies, forms and menus are to a real browser."""

from __future__ import annotations

import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = [pytest.mark.xdist_group("runtime-server"), pytest.mark.timeout(400)]

PATIENCE = 60.0
PROGRAMS = "chromium", "chromedriver"
MISSING = "needs Chromium: apt-get install chromium chromium-driver"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    found = [shutil.which(name) for name in PROGRAMS]
    if not all(found):
        pytest.skip(MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    options.add_experimental_option("prefs", {"intl.accept_languages": "en-US,en"})
    profile = tmp_path_factory.mktemp("chromium")
    arguments = [
        "--headless=new",
        "--window-size=1400,1000",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ]
    for argument in [*arguments, *(["--no-sandbox"] if os.geteuid() == 0 else [])]:
        options.add_argument(argument)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "localhost,127.0.0.1")  # a proxy does not know the driver of this machine
        driver = webdriver.Chrome(options, webdriver.ChromeService(found[1]))
        yield driver
        driver.quit()


@pytest.fixture
def tab(chromium):
    """The browser, with nobody logged in."""
    yield chromium
    chromium.delete_all_cookies()


def wait(tab, what, condition):
    def answered(_):
        try:
            return condition()
        except Exception:  # noqa: BLE001 - the page is on its way
            return False

    return WebDriverWait(tab, PATIENCE).until(
        answered, f"{what}: {tab.current_url}\n{tab.page_source[:3000]}"
    )


def text(tab):
    return tab.find_element(By.TAG_NAME, "body").text


def press(tab, words):
    """Press what bears these words, once it is there."""
    path = f"//*[self::button or self::a or @role='menuitem'][normalize-space()={words!r}]"
    wait(tab, f"no {words!r}", lambda: tab.find_element(By.XPATH, path).click() or True)


def log_in(tab, deployment, issuer, who):
    """Open a page of Airflow, and press a button of the platform's page that it leads to."""
    tab.get(f"{deployment.url}/dags/orders")
    wait(tab, "the platform's page", lambda: tab.current_url.startswith(f"{issuer.url}/login"))
    press(tab, who)
    wait(tab, "the page that was opened", lambda: tab.current_url.startswith(f"{deployment.url}/dags/orders"))
    wait(tab, "the Dag", lambda: "orders" in text(tab))


def test_in_and_out(tab, deployment, issuer):
    log_in(tab, deployment, issuer, "edgar@example.com, editor")
    [cookie] = [one for one in tab.get_cookies() if one["name"] == "_token"]
    assert cookie["httpOnly"]
    press(tab, "User")
    press(tab, "Logout")
    # The page asks on; an answer that is refused after the logout takes the browser to the login before the goodbye.
    tab.execute_script("XMLHttpRequest.prototype.send = window.fetch = () => new Promise(() => {})")
    press(tab, "Confirm")
    wait(tab, "the platform's goodbye", lambda: tab.current_url == f"{issuer.url}/logout")
    assert deployment.status(cookie["value"]) == 403
    tab.get(f"{deployment.url}/dags/orders")
    wait(tab, "the platform's page", lambda: tab.current_url.startswith(f"{issuer.url}/login"))


@pytest.mark.parametrize(
    ("who", "sees"), [("vera@example.com, viewer", False), ("ada@example.com, admin", True)]
)
def test_the_menu_is_that_of_the_role(tab, deployment, issuer, who, sees):
    log_in(tab, deployment, issuer, who)

    def entries():
        return {link.text for link in tab.find_elements(By.XPATH, "//*[self::a or self::button]")}

    wait(tab, "the menu", lambda: entries() > {"Dags", "Browse"})
    assert ("Admin" in entries()) is sees
    if sees:
        press(tab, "Admin")
        press(tab, "Connections")
        wait(tab, "the connection", lambda: "bank.example" in text(tab))
