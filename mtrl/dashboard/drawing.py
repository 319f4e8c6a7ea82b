"""How figures look: style, bands, error bars, legends and heat maps.

Colours of lines are Okabe and Ito's, told apart by all. Text and grid have no colours here: the page sets them for light, dark and print.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mtrl.evaluation.intervals import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#882255", "#999933", "#332288", "#44AA99")
MOST_CELLS_WITH_NUMBERS = 400
HEIGHT = 360
UNKNOWN_COLOUR = "#999999"
ROW_HEIGHT = 18  # of a heat map; labels do not overlap


def new_figure(title: str, x: str, y: str) -> go.Figure:
    """An empty figure with a title and the names of its axes."""
    figure = go.Figure()
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return style(figure, title, HEIGHT)


def style(figure: go.Figure, title: str, height: int) -> go.Figure:
    """Gives a figure the common look."""
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    figure.update_layout(
        template="none",
        title={"text": title, "font": {"size": 15}, "x": 0, "xref": "container", "xanchor": "left"},
        title_y=1.0,
        title_yref="container",
        title_yanchor="top",
        title_pad_t=8,
        height=height,
        margin={"l": 55, "r": 15, "t": 62, "b": 45},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
        hovermode="x unified",
    )
    return figure


def subtitle(figure: go.Figure, text: str) -> None:
    """Says below the title what bars and bands are."""
    figure.update_layout(title_subtitle={"text": text, "font": {"size": 12}})


def with_legend(figure: go.Figure, wanted: bool = True) -> go.Figure:
    """Room below the axis for the names of the lines, as many rows as they take."""
    names = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    if not names or not wanted:
        return figure.update_layout(showlegend=False)
    across = max(1, 60 // (max(map(len, names)) + 6))  # names in one row of half a page
    rows = -(-len(names) // across)
    figure.update_layout(
        height=HEIGHT + 20 * rows,
        showlegend=True,
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        margin_b=55 + 20 * rows,
    )
    return figure


def add_share(figure: go.Figure, x: np.ndarray, y: np.ndarray, name: str, colour: str) -> None:
    """A layer of shares that stand on each other, over trained frames; a part of a bar where there is one point, which has no area."""
    if len(x) == 1:
        figure.add_bar(x=[f"{x[0]:,.0f}"], y=y, name=name, marker={"color": colour}, width=0.2)
        figure.update_layout(barmode="stack")
        figure.update_xaxes(type="category")
    else:
        figure.add_scatter(x=x, y=y, name=name, stackgroup="shares", line={"color": colour})
        figure.update_xaxes(rangemode="tozero")


def add_band(figure: go.Figure, x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray, name: str, colour: str) -> None:
    """A line with a band from `low` to `high`."""
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "legendgroup": name}
    figure.add_scatter(x=x, y=high, name=f"{name}, upper bound", **edge)
    figure.add_scatter(x=x, y=low, name=f"{name}, lower bound", fill="tonexty", fillcolor=_faint(colour), **edge)
    figure.add_scatter(x=x, y=y, name=name, legendgroup=name, mode="lines", line={"color": colour})


def error_bars(estimates: Sequence[Estimate]) -> dict[str, object]:
    """Bars from each estimate's lower to its upper bound; none where there is no interval."""
    above = [estimate.high - estimate.value if estimate.bounded else 0.0 for estimate in estimates]
    below = [estimate.value - estimate.low if estimate.bounded else 0.0 for estimate in estimates]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.5, "width": 4}


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    title: str,
    *,
    low: float,
    high: float,
    diverging: bool = False,
    marks: np.ndarray | None = None,
    axes: tuple[str, str] = ("task", ""),
    unit: str = "",
) -> go.Figure:
    """A table of numbers as colours, with the numbers in it, and `marks` [rows, columns] behind them.

    The scale runs from dark to light for all kinds of sight; one that diverges runs from blue to red around the middle of `low` and `high`,
    with grey, which it does not have, for what is not known. `axes` are the names of the rows' axis and of the columns', `unit` that of the
    scale of colours.
    """
    figure = new_figure(title, axes[1], axes[0])
    # Numbers in a thousand cells take a browser a second to draw, and nobody can read them; each cell still says its own when pointed at.
    shown = values.size <= MOST_CELLS_WITH_NUMBERS
    text = [["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in values]
    if marks is not None:
        text = [[cell + mark for cell, mark in zip(*pair, strict=True)] for pair in zip(text, marks, strict=True)]
    figure.add_heatmap(
        z=values,
        x=list(columns),
        y=list(rows),
        text=text if shown else None,
        texttemplate="%{text}" if shown else None,
        zmin=low,
        zmax=high,
        colorscale="RdBu_r" if diverging else "Cividis",
        colorbar={"thickness": 12, "title": {"text": unit, "side": "right"}},
    )
    if diverging and np.isnan(values).any():
        unknown = np.where(np.isnan(values), 1.0, np.nan)
        grey = [[0, UNKNOWN_COLOUR], [1, UNKNOWN_COLOUR]]
        figure.add_heatmap(z=unknown, x=list(columns), y=list(rows), colorscale=grey, showscale=False, hoverinfo="skip")
    figure.update_yaxes(autorange="reversed", showgrid=False, tickmode="linear", dtick=1)
    figure.update_xaxes(showgrid=False)
    figure.update_layout(height=max(240, 120 + ROW_HEIGHT * len(rows)), hovermode="closest")
    return figure


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
