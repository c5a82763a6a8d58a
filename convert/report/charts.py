"""The report's figures: Altair charts, which are data; the page draws them, or vl-convert does, as PNG and SVG."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from convert.errors import UnsupportedError
from convert.report.summary import pareto, short_size, unit_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from convert.report.data import Report, Subject

_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+?)(?:\.weight)?$")
_LEAST: Final = 1e-7  # nats; a logarithmic axis has no 0
_HEIGHT: Final = 260


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart. name: of its file. caption: stands below it. told: its figures in words, for who does not see it."""

    name: str
    title: str
    caption: str
    told: str
    chart: Any

    @property
    def specification(self) -> dict[str, Any]:
        """The chart in Vega-Lite's words."""
        found: dict[str, Any] = self.chart.to_dict()
        return found


def figures(report: Report) -> list[Figure]:
    """Make the figures for which something was measured. UnsupportedError where Altair is not installed."""
    makers = (_size_and_loss, _speed, _memory, _where_it_is_lost)
    return [figure for maker in makers for figure in maker(report)]


def altair() -> Any:  # noqa: ANN401 - a module of the extra
    """Import Altair; UnsupportedError, with what to do, where it is missing."""
    try:
        import altair as alt  # noqa: PLC0415 - only the extra brings it
        import vl_convert  # noqa: F401, PLC0415
    except ImportError as error:
        hint = "pip install 'gguf-convert[report]'"
        raise UnsupportedError(f"the page's figures need Altair and vl-convert: {error}", hint=hint) from None
    return alt


def write_pictures(figures: Sequence[Figure], directory: Path) -> list[Path]:
    """Write each figure as PNG and SVG."""
    import vl_convert  # noqa: PLC0415 - only the extra brings it

    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in figures:
        png, svg = directory / f"{figure.name}.png", directory / f"{figure.name}.svg"
        whole = figure.specification | {"width": 640, "background": "white"}
        png.write_bytes(vl_convert.vegalite_to_png(whole, scale=2))
        svg.write_text(vl_convert.vegalite_to_svg(whole), encoding="utf-8")
        written += [png, svg]
    return written


def _size_and_loss(report: Report) -> Iterator[Figure]:
    best = pareto(report.subjects)
    if not best:
        return
    alt = altair()
    judged = [subject for subject in report.subjects if subject.answers]
    factor, unit = unit_of(max(map(_nbytes, judged)))
    rows = [_point(subject, factor, is_best=subject in best) for subject in judged]
    x = alt.X("size:Q", title=f"size, {unit}", scale=alt.Scale(zero=False, padding=30))
    y = alt.Y(
        "loss:Q",
        title="KL divergence, nats a token",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(format=".0e", tickCount=6),
    )
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y)
    line = base.transform_filter("datum.best").mark_line(strokeDash=[4, 3], opacity=0.6)
    points = base.mark_point(filled=True, size=70).encode(
        tooltip=["type:N", "takes:N", alt.Tooltip("loss:Q", format=".5f")],
        opacity=alt.condition("datum.best", alt.value(1), alt.value(0.5)),
    )
    names = base.mark_text(dy=-11, clip=False).encode(text="type:N")
    said = "; ".join(f"{subject.type} {short_size(_nbytes(subject))}, {_loss(subject):.4f} nats" for subject in best)
    caption = "Size against what is lost; on the line, what no smaller file equals."
    yield Figure("size-and-loss", "Size and loss", caption, said, _wide(line + points + names))


def _point(subject: Subject, factor: int, *, is_best: bool) -> dict[str, Any]:
    nbytes = _nbytes(subject)
    loss = max(_loss(subject), _LEAST)
    takes = {"size": nbytes / factor, "takes": short_size(nbytes)}
    return {"type": subject.type, "loss": loss, "best": is_best} | takes


def _speed(report: Report) -> Iterator[Figure]:
    rows = [
        {"file": _short(subject), "of": what, "tokens/s": value, "deviation": deviation}
        for subject in report.subjects
        if subject.speed is not None
        for what, value, deviation in (
            ("prompt", subject.speed.prompt, subject.speed.prompt_deviation),
            ("generation", subject.speed.generation, subject.speed.generation_deviation),
        )
    ]
    if not rows:
        return
    alt = altair()
    order = [_short(subject) for subject in report.subjects]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("tokens/s:Q"),
            y=alt.Y("file:N", sort=order, title=None, axis=alt.Axis(labelLimit=160)),
            yOffset=alt.YOffset("of:N", sort=["prompt", "generation"]),
            color=alt.Color("of:N", title=None, sort=["prompt", "generation"], legend=alt.Legend(orient="top")),
            tooltip=[
                "file:N",
                "of:N",
                alt.Tooltip("tokens/s:Q", format=".1f"),
                alt.Tooltip("deviation:Q", format=".1f"),
            ],
        )
    )
    said = "; ".join(f"{row['file']}, {row['of']}: {row['tokens/s']:.1f}" for row in rows)
    yield Figure("speed", "Tokens a second", "Of a prompt, and generated.", said, _wide(chart))


def _memory(report: Report) -> Iterator[Figure]:
    rows = [
        {"file": _short(subject), "MB": subject.speed.memory / 1e6, "memory": short_size(subject.speed.memory)}
        for subject in report.subjects
        if subject.speed is not None
    ]
    if not rows:
        return
    alt = altair()
    order = [row["file"] for row in rows]
    y = alt.Y("file:N", sort=order, title=None, axis=alt.Axis(labelLimit=160))
    chart = alt.Chart(alt.Data(values=rows)).mark_bar().encode(x="MB:Q", y=y, tooltip=["file:N", "memory:N"])
    said = "; ".join(f"{row['file']}: {row['memory']}" for row in rows)
    yield Figure("memory", "Memory at its peak", "Of the program that ran it.", said, _wide(chart))


def _where_it_is_lost(report: Report) -> Iterator[Figure]:
    """Draw the map of errors, a layer a row, a kind of tensor a column, for each file; a menu chooses."""
    rows = list(_cells(report))
    if not rows:
        return
    alt = altair()
    files = list(dict.fromkeys(row["file"] for row in rows))
    menu = alt.binding_select(options=files, name="file ")
    chosen = alt.selection_point(fields=["file"], bind=menu, value=files[-1])
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_rect()
        .encode(
            x=alt.X("kind:N", sort=None, title=None, axis=alt.Axis(labelAngle=-50, labelLimit=110)),
            y=alt.Y("layer:O", title="layer", sort="ascending"),
            color=alt.Color("error:Q", title="RMSE / spread", scale=alt.Scale(scheme="viridis")),
            tooltip=["name:N", "type:N", alt.Tooltip("error:Q", format=".5f"), "bytes:N"],
        )
        .add_params(chosen)
        .transform_filter(chosen)
    )
    worst = max(rows, key=lambda row: row["error"])
    caption = "How far each layer's tensors are from the reference's, in deviations of their values, for one file."
    said = f"furthest of all: {worst['name']} of {worst['file']} ({worst['type']}), {worst['error']:.4f}"
    yield Figure("where-it-is-lost", "Where it is lost", caption, said, _wide(chart, height=_HEIGHT + 60))


def _cells(report: Report) -> Iterator[dict[str, Any]]:
    for subject in report.subjects:
        for tensor in subject.weights.tensors if subject.weights is not None else ():
            found = _LAYER.match(tensor.name)
            if found is not None and tensor.type != "F32":
                said = {"name": tensor.name, "type": tensor.type, "bytes": short_size(tensor.nbytes)}
                place = {"file": _short(subject), "layer": int(found[1]), "kind": found[2]}
                yield said | place | {"error": tensor.relative_rmse}


def _wide(chart: Any, height: int = _HEIGHT) -> Any:  # noqa: ANN401 - Altair's
    return chart.properties(width="container", height=height)


def _short(subject: Subject) -> str:
    return subject.type if subject.path is not None else subject.label


def _nbytes(subject: Subject) -> int:
    return subject.size.nbytes if subject.size is not None else 0


def _loss(subject: Subject) -> float:
    return subject.answers.kl_mean if subject.answers is not None else 0.0
