"""The description of the interface: it says what there is, and what it says holds."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from lft.store.history import Outcome, Proof
from tests.support.local import ServerThread, StartLocal
from tests.support.processes import ROOT, environment
from tests.support.web import ADMIN, Browser, site_of, web_port
from tests.web.conftest import WEB

DOCUMENT: dict[str, Any] = json.loads((ROOT / "lft" / "web" / "openapi.json").read_text())
METHODS = {"get", "head", "post", "put", "patch", "delete", "options"}


def test_the_description_has_each_route_and_no_other(site: ServerThread) -> None:
    """The table of the router and the document are one."""
    routes = {
        (route.method.lower(), re.sub(r"\.\.\.}", "}", route.path))
        for route in site_of(site).router.routes
        if route.path.startswith(("/api/", "/healthz", "/metrics"))
    }
    described = {
        (method, path) for path, found in DOCUMENT["paths"].items() for method in METHODS & {*found}
    }
    assert described == routes


def test_the_description_of_an_entry_has_each_fact_of_the_history() -> None:
    """Of which the history has what JSON, CSV and the command line show."""
    described = DOCUMENT["components"]["schemas"]["Outcome"]
    assert tuple(described["properties"]) == tuple(described["required"]) == Outcome._fields
    assert {*described["properties"]["proof"]["enum"]} == {"", *(one.value for one in Proof)}


def test_what_needs_no_login_is_said_to_need_none(site: ServerThread) -> None:
    """And the other way round."""
    with Browser(web_port(site)) as browser:
        for path, found in DOCUMENT["paths"].items():
            if "get" in found:
                free = found["get"].get("security") == []
                assert (browser.get(path.replace("{", "").replace("}", "")).status == 401) != free


def test_the_server_gives_the_description_to_everyone(browser: Browser) -> None:
    """It is no secret."""
    answer = browser.get("/api/v1/openapi.json")
    assert answer.json() == DOCUMENT
    assert answer.fields["content-type"] == "application/json"


def test_answers_are_as_described(no_delays: None, start_local: StartLocal, tmp_path: Path) -> None:
    """Schemathesis makes requests of all kinds from the document, and judges the answers."""
    site = start_local(http=WEB)
    address = f"http://127.0.0.1:{web_port(site)}"
    done = subprocess.run(
        [
            "schemathesis", "run", f"{address}/api/v1/openapi.json", "--auth", "admin:admin123",
            "--max-examples", "8", "--phases", "fuzzing", "--workers", "2",
            # what never ends, and what has the statuses of tus, which its own clients judge
            "--exclude-operation-id-regex", "events|Upload$|uploadOffset",
            "--generation-deterministic", "--warnings", "off",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_finds_nothing_wrong_with_the_figures(browser: Browser) -> None:
    """By its own tool."""
    for _ in range(2):
        figures = browser.get("/metrics", ADMIN).body
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=figures, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
