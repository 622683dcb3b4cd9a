"""HTML files from the templates (jinja2, vecset/report/templates) and the assets beside them.

A page opens from disk without a network: its style, its scripts, its data and plotly's script lie inside it, and a
content security policy forbids every request. Plotly's script is the one that the installed package ships, deflated
(4.8 MB become 2.0 MB); the page inflates it. None of plotly's smaller bundles has both box plots and meshes."""

import base64
import functools
import json
import zlib
from pathlib import Path

import jinja2
from markupsafe import Markup

from vecset.common.atomic import write_text

ASSETS = Path(__file__).parent / "assets"
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("vecset.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: Path, template: str, **content) -> None:
    """Writes the page of `template` ('report.html') with `content`, atomically."""
    write_text(path, _ENVIRONMENT.get_template(template).render(content))


def deflated(text: str) -> str:
    """`text` deflated (zlib) and in base64; `inflate` in assets/page.js is the way back."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def as_json(value: object) -> str:
    """JSON that is safe inside a script element, whatever the names in it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@functools.cache
def plotly_script() -> str:
    """Plotly's script, deflated."""
    from plotly.offline import get_plotlyjs  # plotly takes a while to import

    return deflated(get_plotlyjs())


def number(value: float | None, signed: bool = False) -> str:
    """Three digits that matter, at most three decimals; a dash for None. assets/tables.js has the same rule."""
    if value is None:
        return "–"
    size = abs(value)
    text = f"{size:.{0 if size >= 99.95 else 1 if size >= 9.995 else 3}f}"
    return ("" if float(text) == 0 else "−" if value < 0 else "+" if signed else "") + text


def _asset(name: str) -> Markup:
    return Markup((ASSETS / name).read_text(encoding="utf-8"))


_ENVIRONMENT.filters.update(number=number)
_ENVIRONMENT.globals.update(asset=_asset, plotly_script=plotly_script, as_json=as_json)
