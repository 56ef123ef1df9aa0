"""The page that asks a visitor for a tunnel's password, with the looks that its publisher gave it."""

import re
from dataclasses import dataclass, field
from html import escape
from typing import Final
from urllib.parse import urlsplit

from moongate.edge.routes.entries import Page

# Kept from the upstream on tunnels with a password; no path that a person would choose.
FORM_PATH: Final = "/.moongate/password"

# What may stand in a Content-Security-Policy without meaning anything else there.
_ORIGIN: Final = re.compile(r"[0-9A-Za-z.\-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex"><meta name="referrer" content="same-origin"><title>{title}</title><style>
body{{font:16px/1.5 system-ui,sans-serif;color:#222;background:#f6f6f4;margin:0;display:grid;place-items:center;min-height:100vh}}
main{{max-width:22rem;width:100%;padding:2rem;box-sizing:border-box}}h1{{font-size:1.4rem;margin:.2rem 0 1rem}}
label{{display:block;margin:.5rem 0}}p{{margin:.5rem 0}}small{{color:#666}}a{{color:inherit}}
input,button{{font:inherit;box-sizing:border-box;width:100%;padding:.5rem .7rem;margin:.3rem 0;border-radius:.3rem}}
input{{border:1px solid #9aa58f;background:#fff;color:#222}}button{{border:0;background:#4c5a3f;color:#fff;cursor:pointer}}
[role=alert]{{color:#a02020}}img{{max-width:100%;max-height:5rem}}
.gate{{width:3.5rem;height:3.5rem;border-radius:50%;border:.7rem solid #9aa58f}}
@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#1c1d1b}}small{{color:#999}}[role=alert]{{color:#f09a9a}}
input{{background:#2a2b29;color:#ddd}}}}
</style></head><body><main>{emblem}<h1>{title}</h1>
<form method="post" action="{action}"><input type="hidden" name="next" value="{then}">
<label for="password">This page is protected by a password.</label>{news}
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="1024" required autofocus>
<button type="submit">Continue</button></form>{site}
<p><small>Request {request_id}</small></p></main></body></html>
"""


@dataclass(frozen=True, slots=True)
class PasswordForm:
    """What the page shows."""

    host: str
    then: str  # where the visitor wanted to go: an origin-form target
    news: str = ""  # what was wrong with the last try
    page: Page = field(default_factory=Page)

    def html(self, request_id: str) -> str:
        """Return the page."""
        page = self.page
        logo, site = page.logo_url, page.site_url
        return _PAGE.format(
            title=escape(page.title or self.host),
            emblem=f'<img src="{escape(logo)}" alt="">' if _origin(logo) else '<div class="gate"></div>',
            action=FORM_PATH,
            then=escape(self.then),
            news=f'<p role="alert">{escape(self.news)}</p>' if self.news else "",
            site=f'<p><a href="{escape(site)}" rel="noreferrer">{escape(site)}</a></p>' if site else "",
            request_id=request_id,
        )

    @property
    def policy(self) -> str:
        """The page's Content-Security-Policy: its own form, its own style, and the logo's origin."""
        images = _origin(self.page.logo_url)
        return (
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            + (f"; img-src {images}" if images else "")
        )


def _origin(url: str) -> str:
    """Return the origin of an address, or nothing if it has none that can be named in a policy."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not _ORIGIN.fullmatch(parts.netloc):
        return ""
    return f"{parts.scheme}://{parts.netloc}"
