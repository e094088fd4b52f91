"""Names and passwords beyond ASCII: the page prepares them as the server does (SASLprep)."""

from __future__ import annotations

import stringprep

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page

from lft.accounts.account import MIN_ITERATIONS, Credential
from lft.accounts.saslprep import prepare
from protocol import UsageError
from tests.support.accounts import Serve
from tests.support.pages import address_of, fresh_page, log_in
from tests.web.conftest import WEB

PASSWORD = "a\u00adb\u1680c\u200d\ufe0fd\u00a0\u2460\uff0c"  # soft hyphen, spaces, joiners, forms


def _expected() -> dict[str, str]:
    """Return what the server makes of each character that an account may have."""
    found = {}
    for number in range(0x80, 0x10000):
        char = chr(number)
        if not stringprep.in_table_a1(char) and not stringprep.in_table_d1(char):
            try:
                found[char] = prepare(f"a{char}b")
            except UsageError:
                continue
    return found


def test_a_browser_logs_in_with_what_sasl_prepares(serve: Serve, chromium: Chromium) -> None:
    """Soft hyphens and joiners count for nothing, every space is one, forms of letters are one."""
    user = "\uff21nn\u2003b\u00ad"
    one = Credential.make(PASSWORD, iterations=MIN_ITERATIONS)
    site = serve({prepare(user): one}, http=WEB)
    with fresh_page(chromium, address_of(site)) as page:
        log_in(page, user, PASSWORD)


def test_the_page_prepares_every_character_as_the_server_does(page: Page) -> None:
    """Of those that RFC 3454 knows; what it prohibits is in no account."""
    wanted = _expected()
    made = page.evaluate("all => all.map((one) => prepared(`a${one}b`))", list(wanted))
    assert dict(zip(wanted, made)) == wanted
    assert len(wanted) > 30_000
