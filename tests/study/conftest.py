"""Shared fixtures: a real browser, for JupyterLab and for the book."""

import os
import shutil

import pytest

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
CHROMIUM_OPTIONS = [
    "--headless=new",
    "--no-sandbox",  # which root does not get
    "--disable-gpu",
    "--disable-dev-shm-usage",  # small in containers
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--window-size=1200,1400",
]


@pytest.fixture
def environment(tmp_path):
    """Variables for processes that find neither the user's settings nor a backend of `make test`."""
    own = ("JUPYTER", "JPY_", "IPYTHON", "XDG_", "MPLBACKEND", "KERAS_BACKEND")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    (tmp_path / "home").mkdir()
    return inherited | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def browser(tmp_path, environment, monkeypatch):
    """A browser that finds no host but this machine, and ends with the test."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no browser: on Debian and Ubuntu, apt install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")  # selenium would send the driver's commands to a proxy
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for option in [*CHROMIUM_OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, ChromeService(DRIVER, env=environment))
    yield driver
    driver.quit()
