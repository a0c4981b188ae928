"""A report as one self-contained HTML page."""

from __future__ import annotations

import base64
from pathlib import Path

from recbole_mambarec.report.document import Chart, Report
from recbole_mambarec_common.extras import need

TEMPLATE = "page.html"


def render(report: Report) -> str:
    """The page, including its charts.

    Raises:
        UserError: jinja2 is not installed.
    """
    jinja2 = need("jinja2", "report")
    source = Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["data_uri"] = _data_uri
    return environment.from_string(source).render(report=report)


def _data_uri(chart: Chart) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(chart.svg).decode("ascii")
