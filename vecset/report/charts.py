"""Charts of the HTML pages as plotly figures (dicts for `Plotly.newPlot`): box plots, training curves, and the style
of the 3D scenes. What a figure says is never told by colour alone: by place, filling, sign, dash or words as well."""

from html import escape

import numpy as np
import plotly.graph_objects as go

from vecset.imaging.classes import rgb
from vecset.report.figures import status_words

INK, SOFT, LINE = "#1c2126", "#5a646e", "#e4e8ec"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif'
# Okabe and Ito's colours, told apart by colour-blind people (https://jfly.uni-koeln.de/color/)
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("solid", "dash", "dot", "dashdot")
LOSS_PARTS = (
    "vol",
    "near",
    "surface",
    "eikonal",
    "class",
    "kl",
    "normal",
    "balanced",
    "truncated",
    "class_distance",
    "class_near",
    "class_far",
)  # engines/losses.py LOSSES, which needs torch
_ROW, _GAP = 24, 14  # pixels: of a box, between structures
_MOST_IN_ONE_TIP = 15  # curves
ERROR_BANDS = 12  # of the colour scale of surface errors
NOT_COMPARED = "#D55E00"  # surface that the other label map does not have
SEEN = "#c8ccd0"  # of what has no spread, where surfaces are coloured by it
SCALES = {"error": "distance to the other surface (mm)", "spread": "spread of the samples (mm)"}


def _layout(**more):
    axis = dict(gridcolor=LINE, zerolinecolor=LINE, linecolor=LINE, automargin=True)
    base = dict(
        template="none",
        font=dict(family=FONT, size=12, color=INK),
        margin=dict(l=8, r=12, t=8, b=8),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="#ffffff",
        modebar=dict(bgcolor="rgba(255,255,255,0.8)", color="#9aa3ab", activecolor="#0072B2"),
        hoverlabel=dict(align="left", bgcolor="#1c2126", font=dict(color="#ffffff", family=FONT)),
        xaxis=axis,
        yaxis=axis,
    )
    return go.Layout(base).update(more)


def box_chart(boxes: dict, run_names: list[str], colours: list[str]) -> dict:
    """The box plot of `boxes` (vecset.report.figures.boxes) without its values: {traces, layout}. The page fills in
    `x` for the metric that is chosen: of a trace with meta {run, row} the row's values, of one with meta {run, at} the
    values at [(row, heart)]. The first run's boxes are filled and above, the second's are hollow and below."""
    traces, runs, rows = [], len(run_names), boxes["rows"]
    place = [0.0] if runs == 1 else [-0.21, 0.21]
    for k, row in enumerate(rows):
        colour = SOFT if row["id"] is None else colours[row["id"] - 1]
        for run in range(runs):
            told = zip(boxes["cases"], row["status"][run], row["observed"][run])
            said = [_point_words(case, status, observed) for case, status, observed in told]
            run_line = f"<br>{escape(run_names[run])}" if runs > 1 else ""
            traces.append(
                go.Box(
                    name=escape(row["name"]),
                    meta=dict(run=run, row=k),
                    orientation="h",
                    y=[k + place[run]] * len(said),
                    text=said,
                    width=0.5 if runs == 1 else 0.34,
                    boxpoints="all",
                    jitter=0.5,
                    pointpos=0,
                    hoveron="points",
                    hovertemplate=f"%{{text}}<br>{escape(row['name'])}: %{{x:.4~g}}{run_line}<extra></extra>",
                    line=dict(color=INK if run == 0 else colour, width=1.2 if run == 0 else 2),
                    fillcolor=_faded(colour) if run == 0 else "rgba(255,255,255,0)",
                    marker=dict(color=INK, size=4, opacity=0.6, symbol="circle" if run == 0 else "circle-open"),
                    showlegend=False,
                )
            )
    for run in range(runs):
        at = [
            (k, n)
            for k, row in enumerate(rows)
            for n, status in enumerate(row["status"][run])
            if status not in ("ok", None)
        ]
        if at:
            traces.append(
                go.Scatter(
                    meta=dict(run=run, at=at),
                    mode="markers",
                    y=[k + place[run] for k, _ in at],
                    marker=dict(symbol="x-thin", size=9, line=dict(width=2, color="#000000")),
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
    layout = _layout(
        height=60 + len(rows) * (runs * _ROW + _GAP),
        boxmode="overlay",
        hovermode="closest",
        dragmode=False,
        yaxis=dict(
            range=[len(rows) - 0.45, -0.55],
            tickvals=list(range(len(rows))),
            ticktext=[_row_label(row, runs) for row in rows],
            showgrid=False,
            fixedrange=True,
        ),
        xaxis=dict(side="bottom", mirror="ticks", fixedrange=True, title=dict(text="", standoff=6)),
        shapes=[
            dict(type="rect", xref="paper", x0=0, x1=1, y0=k - 0.5, y1=k + 0.5, fillcolor="#f3f5f7", line_width=0)
            | dict(layer="below")
            for k in range(0, len(rows), 2)
        ],
    )
    return {"traces": [t.to_plotly_json() for t in traces], "layout": layout.to_plotly_json()}


def _row_label(row, runs):
    """Number, name and, in small print, how many hearts are missed, spurious, absent, not annotated or inferred."""
    name = row["name"] if len(row["name"]) < 24 else row["name"][:22] + "…"
    text = escape(name if row["id"] is None else f"{row['id']}  {name}")
    said = []
    for run, letter in zip(range(runs), "AB"):
        counts = {}
        for status in row["status"][run]:
            if status not in ("ok", None):
                counts[status] = counts.get(status, 0) + 1
        if "inferred" in row["observed"][run]:
            counts["inferred"] = row["observed"][run].count("inferred")
        words = ", ".join(f"{n} {status_words(status)}" for status, n in counts.items())
        if words:
            said.append(words if runs == 1 else f"{letter}: {words}")
    return f"{text}<br><span style='font-size:10px;color:{SOFT}'>{'; '.join(said)}</span>" if said else text


def _point_words(case, status, observed):
    words = [status_words(status)] if status not in ("ok", None) else []
    words += ["inferred"] if observed == "inferred" else []
    return escape(f"{case} ({', '.join(words)})" if words else case)


def _faded(colour):
    return "rgba({},{},{},0.55)".format(*rgb(colour))


def training_charts(curves: dict | None, classes: list[tuple[int, str]], colours: list[str]) -> list[dict]:
    """[{title, data, layout}] from `vecset.report.figures.training_curves`: losses, validation Dice, learning rate."""
    if not curves:
        return []
    train, val = curves.get("train", {}), curves.get("val", {})

    def line(kind, key, k, name=None):
        return _line(kind, key, name or key, _COLOURS[k % len(_COLOURS)], _DASHES[k % len(_DASHES)])

    charts = []
    if "loss" in train:
        losses = [line(train, "loss", 0, "training")]
        losses += [line(val, "loss", 2, "validation")] if "loss" in val else []
        charts.append(_chart("Loss", losses, log=True))
        parts = [p for p in LOSS_PARTS if any(v is not None and v > 0 for v in train.get(p, ()))]
        if parts:
            lines = [line(train, part, k) for k, part in enumerate(parts)]
            charts.append(_chart("Parts of the training loss, unweighted", lines, log=True))
    if "mean_dice" in val:
        lines = [_line(val, "mean_dice", "mean", "#000000", "solid", width=3)]
        lines += [
            _line(val, f"dice_{name}", f"{c} {name}", colours[c - 1], _DASHES[k % len(_DASHES)])
            for k, (c, name) in enumerate(classes)
            if f"dice_{name}" in val
        ]
        charts.append(_chart("Validation Dice", lines, range=[0, 1]))
    if "lr" in train:
        charts.append(_chart("Learning rate", [line(train, "lr", 1, "learning rate")], rangemode="tozero"))
    return charts


def _line(kind, key, name, colour, dash, width=1.7):
    values = kind[key]
    alone = sum(v is not None for v in values) == 1
    return go.Scatter(
        x=kind["global_step"],
        y=values,
        name=escape(name),
        mode="markers" if alone else "lines",
        line=dict(color=colour, dash=dash, width=width),
        marker=dict(color=colour),
        hovertemplate="%{y:.4g}",
        showlegend=True,
    )


def _chart(title, lines, log=False, **axis):
    if log:  # the axis cannot show what is not positive
        for one in lines:
            one.y = [None if v is None or v <= 0 else v for v in one.y]
        axis = dict(type="log", dtick=1, minor=dict(showgrid=True, gridcolor="#f3f5f7"), exponentformat="power")
    few = len(lines) <= _MOST_IN_ONE_TIP
    layout = _layout(
        height=330 + 11 * len(lines) if few else 620,
        hovermode="x unified" if few else "closest",
        hoverlabel=dict(bgcolor="#ffffff", font=dict(color=INK)) if few else {},
        yaxis=axis,
        xaxis=dict(title=dict(text="optimizer steps", standoff=6)),
        legend=dict(orientation="h", yref="container", y=0.01, yanchor="bottom", x=0, font=dict(size=11)),
    )
    layout.yaxis.update(gridcolor=LINE, automargin=True)
    return {
        "title": title,
        "data": [one.to_plotly_json() for one in lines],
        "layout": layout.to_plotly_json(),
    }


def scene_style() -> dict:
    """{letter, mesh, scene, layout, scales}: what all surfaces, orientation letters and scenes of the 3D view share."""
    # `visible=False` would draw as little, but plotly would still turn the axes' names into triangles first: 0.3 s
    off = ("showspikes", "showgrid", "zeroline", "showline", "showbackground", "showticklabels", "autorange")
    hidden = dict.fromkeys(off, False) | dict(ticks="", tickmode="array", tickvals=[], title=dict(text=""))
    mesh = go.Mesh3d(
        flatshading=False,
        lighting=dict(ambient=0.68, diffuse=0.55, specular=0.12, roughness=0.5, fresnel=0.05),
        lightposition=dict(x=20_000, y=90_000, z=60_000),
    )
    letter = go.layout.scene.Annotation(
        showarrow=False, font=dict(size=13, color=SOFT), bgcolor="rgba(255,255,255,0.7)"
    )
    scene = go.layout.Scene(
        xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="cube", dragmode="turntable", bgcolor="#ffffff"
    )
    layout = _layout(margin=dict(l=0, r=0, t=0, b=0), showlegend=False, hovermode="closest")
    layout.coloraxis = dict(
        cmin=0,
        colorscale=error_scale(),
        colorbar=dict(
            title=dict(text=SCALES["error"], side="top", font=dict(size=11)),
            orientation="h",
            thickness=10,
            len=240,
            lenmode="pixels",
            x=0.5,
            y=0,
            yanchor="bottom",
            ypad=2,
            tickfont=dict(size=11),
        ),
    )
    parts = {"mesh": mesh, "letter": letter, "scene": scene, "layout": layout}
    return {name: part.to_plotly_json() for name, part in parts.items()} | {"scales": SCALES}


def error_scale() -> list[list]:
    """[[place 0..1, '#RRGGBB']] of surface errors in bands, whose edges are lines of equal error: cividis, which looks
    the same to colour-blind people (Nunez and others 2018, "Optimizing colormaps with consideration for color vision
    deficiency")."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    values = colormaps["cividis"](np.linspace(0, 1, ERROR_BANDS))
    scale = []
    for k, value in enumerate(values):
        scale += [[k / ERROR_BANDS, to_hex(value)], [(k + 1) / ERROR_BANDS, to_hex(value)]]
    return scale
