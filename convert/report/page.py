"""A report as one HTML file that needs no network: the answer, the table, the figures, and how it was made.

The template is `page.html` beside this file; Vega comes with vl-convert, whole, into the page.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from convert.report.charts import altair, figures
from convert.report.columns import shown_columns
from convert.report.markdown import missing_of, notes
from convert.report.summary import headline

if TYPE_CHECKING:
    from convert.report.data import Report

_TEMPLATE: Final = "page.html"
_SNIPPET: Final = "window.vegaEmbed = vegaEmbed;"


def as_page(report: Report) -> str:
    """Write the page. UnsupportedError where Altair or vl-convert are not installed."""
    altair()
    import vl_convert  # noqa: PLC0415 - only the extra brings it

    columns, charts = shown_columns(report.subjects), figures(report)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(_TEMPLATE).render(
        report=report,
        headline=headline(report),
        columns=columns,
        rows=[[(column.cell(subject), column.value(subject)) for column in columns] for subject in report.subjects],
        figures=charts,
        notes=list(notes(report)),
        missing=list(missing_of(report)),
        specifications=_json({chart.name: chart.specification for chart in charts}),
        vega=_script(vl_convert.javascript_bundle(_SNIPPET)),
    )


def _script(code: str) -> Markup:
    """Put code of a library's into a script element; `</script` is the one thing that would end it."""
    return Markup(re.sub("</(?=script)", r"<\\/", code, flags=re.IGNORECASE))  # noqa: S704 - and that is not left


def _json(value: object) -> Markup:
    """Put data into a script element; without a `<` nothing in it can end that."""
    return Markup(json.dumps(value).replace("<", "\\u003c"))  # noqa: S704 - see above
