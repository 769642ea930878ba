"""Render a template as one HTML page that needs nothing besides itself, not even a script.

All texts come from models, judges or users and are hostile: templates escape them, control
characters are made visible first, and the page's content security policy forbids every script and
every request.
"""

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prefine.report import text
from prefine.report.text import visible

_WITH_TEXTS = ("report", "compare")
"""Pages that show prompts and answers."""


def html_page(template: str, **values: Any) -> str:
    """Render `template`.html.j2 with the stylesheets of pictures, of texts, and its own."""
    texts = ("texts",) if template in _WITH_TEXTS else ()
    css = "".join(_stylesheet(name) for name in ("marks", *texts, template))
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    page = _environment().get_template(f"{template}.html.j2")
    return page.render(css=Markup(css), policy=policy, text=text, **values)


@cache
def _stylesheet(name: str) -> str:
    file = resources.files("prefine.report") / "templates" / f"{name}.css"
    return file.read_text(encoding="utf-8").replace("\r\n", "\n")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("prefine.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
