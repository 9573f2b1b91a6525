"""The page's charts as Vega-Lite specifications; the page's script puts their rows in.

Colours are names of the page's own style, so that light, dark and print need no second drawing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from paceline.errors import MissingExtraError
from paceline.report.figures import STAGES

try:
    import altair as alt
except ModuleNotFoundError as missing:
    raise MissingExtraError("altair", "report") from missing

Layers = alt.LayerChart | alt.FacetChart

ROWS = alt.NamedData("rows")
NOTHING = alt.InlineData(values=[{}])
ROW_STEP_PX = 17
PANEL_HEIGHT_PX = 230
BUDGET_CHART_HEIGHT_PX = 320
LEARNING_CHART_HEIGHT_PX = 160
TIMELINE_HEIGHT_PX = 150
TIER_COLOURS = {"low": "var(--low)", "medium": "var(--medium)", "high": "var(--high)", "all": "var(--high)"}
STAGE_COLOURS = dict(zip(STAGES, ("var(--vision)", "var(--prefill)", "var(--decode)", "var(--other)"), strict=True))
INK, MUTED, GLOBAL, OWN = "var(--ink)", "var(--muted)", "var(--global)", "var(--own)"
DATASET_COLOURS = [f"var(--d{index})" for index in range(9)]
DATASET_LEGEND = alt.Legend(orient="bottom", columns=2, labelLimit=140, symbolOpacity=1)
THEME: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "gridColor": "var(--grid)",
        "domainColor": "var(--grid)",
        "tickColor": "var(--grid)",
        "labelFontSize": 11,
        "titleFontSize": 12,
    },
    "legend": {"labelColor": MUTED, "titleColor": MUTED, "orient": "top", "title": None, "labelFontSize": 12},
    "axisY": {"labelLimit": 110},
}


def chart_specifications(
    latency_kind: str, budget_range_ms: tuple[float, float], stages: Sequence[str], num_configs: int
) -> dict[str, dict[str, Any]]:
    """Return every chart's specification by name; each reads the named data `rows`, the histogram `cuts` as well."""
    charts = {
        "front": _front(latency_kind, budget_range_ms),
        "stages": _stages(stages).properties(height=ROW_STEP_PX * num_configs),
        "histogram": _histogram(latency_kind),
        "percentiles": _percentiles(latency_kind).properties(height=ROW_STEP_PX * num_configs),
        "knob_accuracy": _knob("accuracy", "accuracy change (points)", None),
        "knob_latency": _knob("latency_ms", f"{latency_kind} latency change (ms)", DATASET_LEGEND),
    }
    placed: dict[str, Any] = {"config": THEME, "autosize": {"type": "fit-x", "contains": "padding"}}
    return {name: {**chart.properties(width="container").to_dict(), **placed} for name, chart in charts.items()}


def budget_chart(
    field: str,
    lines: Mapping[str, tuple[str, list[int]]],
    *,
    first: Sequence[str] = (),
    promised: float | None = None,
) -> dict[str, Any]:
    """Return the specification of one figure against the budget: a line and a band a controller, from `rows`.

    `lines` gives colour and dash by controller; `promised` is drawn across. Drawn at first are the controllers in `first`, or
    all; a click in the legend draws one more, or takes it away.
    """
    shown = alt.selection_point(
        name="shown",
        fields=["controller"],
        bind="legend",
        toggle="true",
        value=[{"controller": name} for name in first],
    )
    names, colours, dashes = list(lines), [colour for colour, _ in lines.values()], [dash for _, dash in lines.values()]
    legend = alt.Legend(
        orient="bottom", columns=2, labelLimit=320, symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=2.5
    )
    colour = alt.Color("controller:N", legend=legend, scale=alt.Scale(domain=names, range=colours))
    dash = alt.StrokeDash("controller:N", legend=legend, scale=alt.Scale(domain=names, range=dashes))
    budget = alt.X("budget_ms:Q", title="latency budget (ms)", scale=alt.Scale(zero=False, nice=False, padding=8))
    value = alt.Y(f"{field}:Q", title=field, scale=alt.Scale(zero=False))
    ends = alt.Y(f"{field}_low:Q"), alt.Y2(f"{field}_high:Q")
    parts = {field: field, f"{field}_low": "95 % interval from", f"{field}_high": "to"}
    tooltip = [
        alt.Tooltip("controller:N"),
        alt.Tooltip("budget_ms:Q", title="budget (ms)", format=".2f"),
        *(alt.Tooltip(f"{part}:Q", title=title, format=".3f") for part, title in parts.items()),
    ]
    rows = alt.Chart(ROWS).transform_filter(shown)
    layers: list[alt.Chart] = [
        rows.mark_area(opacity=0.1).encode(budget, *ends, colour).add_params(shown),
        rows.mark_line(strokeWidth=2).encode(budget, value, colour, dash),
        rows.mark_circle(size=40).encode(budget, value, colour, tooltip=tooltip),
    ]
    if promised is not None:
        across = alt.Chart(alt.InlineData(values=[{"share": promised}]))
        layers.append(across.mark_rule(color=INK, strokeDash=[4, 3]).encode(alt.Y("share:Q")))
    chart = alt.layer(*layers).properties(width="container", height=BUDGET_CHART_HEIGHT_PX)
    return {**chart.to_dict(), "config": THEME, "autosize": {"type": "fit-x", "contains": "padding"}}


def change_chart(
    field: str, title: str, *, middle: float, worse: Literal["above", "below"], num_configs: int
) -> dict[str, Any]:
    """Return the specification of one figure of every configuration with its interval, beside where nothing changed.

    What lies `worse` of `middle` with all of its interval stands out.
    """
    low, high = f"datum.{field}_low", f"datum.{field}_high"
    outside = f"{low} > {middle}" if worse == "above" else f"{high} < {middle}"
    better = f"{high} < {middle}" if worse == "above" else f"{low} > {middle}"
    colour = alt.when(outside).then(alt.value("var(--global)")).when(better).then(alt.value("var(--medium)"))
    shown = colour.otherwise(alt.value(MUTED))
    value = alt.X(f"{field}:Q", title=title, scale=alt.Scale(zero=False, nice=False, padding=12))
    tooltip = [
        alt.Tooltip("key:N"),
        *(alt.Tooltip(f"{name}:Q", format=".4f") for name in (field, f"{field}_low", f"{field}_high")),
        alt.Tooltip("n:Q", format=",", title="questions"),
    ]
    rows = alt.Chart(ROWS).encode(_key_axis(), color=shown, tooltip=tooltip)
    across = alt.Chart(alt.InlineData(values=[{"middle": middle}]))
    chart = alt.layer(
        across.mark_rule(color=INK, strokeDash=[4, 3]).encode(alt.X("middle:Q")),
        rows.mark_rule(strokeWidth=2).encode(alt.X(f"{field}_low:Q"), alt.X2(f"{field}_high:Q")),
        rows.mark_circle(size=55).encode(value),
    ).properties(width="container", height=ROW_STEP_PX * num_configs)
    return {**chart.to_dict(), "config": THEME, "autosize": {"type": "fit-x", "contains": "padding"}}


def learning_chart(colours: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the specification of one figure of training against the step, a line a controller.

    `colours` gives that of each line; `rows` hold controller, step and value.
    """
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    drawn = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(
        alt.X("step:Q", title="step"),
        alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        alt.Color("controller:N", scale=scale, legend=None),
        tooltip=[alt.Tooltip("controller:N"), alt.Tooltip("step:Q"), alt.Tooltip("value:Q", format=".4f")],
    )
    chart = alt.layer(drawn.mark_line(strokeWidth=2), drawn.mark_circle(size=25))
    placed = chart.properties(width="container", height=LEARNING_CHART_HEIGHT_PX)
    return {**placed.to_dict(), "config": THEME, "autosize": {"type": "fit-x", "contains": "padding"}}


def timeline_chart(
    fields: Mapping[str, tuple[str, str]], title: str, *, across: tuple[str, float] | None = None
) -> dict[str, Any]:
    """Return the specification of areas over time, one on the other, from `rows`.

    `fields` gives each area's word and colour; `across` a word and a value that are drawn over the whole width.
    """
    words, colours = [word for word, _ in fields.values()], [colour for _, colour in fields.values()]
    legend = alt.Legend(orient="top", symbolOpacity=1) if len(fields) > 1 else None
    areas = (
        alt.Chart(ROWS)
        .transform_calculate(**{word: f"datum['{field}']" for field, (word, _) in fields.items()})
        .transform_fold([*words], as_=["what", "value"])
        .mark_area(interpolate="step-after", opacity=0.85)
        .encode(
            alt.X("seconds:Q", title="seconds since the first arrival", scale=alt.Scale(nice=False)),
            alt.Y("value:Q", title=title, stack=True),
            alt.Color("what:N", legend=legend, scale=alt.Scale(domain=words, range=colours)),
            tooltip=[
                alt.Tooltip("seconds:Q", format=".2f"),
                alt.Tooltip("what:N"),
                alt.Tooltip("value:Q", format=",.1f"),
            ],
        )
    )
    layers: list[alt.Chart] = [areas]
    if across is not None:
        line = alt.Chart(alt.InlineData(values=[{"value": across[1], "what": across[0]}]))
        layers.append(line.mark_rule(color=INK, strokeDash=[4, 3]).encode(alt.Y("value:Q"), tooltip=["what:N"]))
    chart = alt.layer(*layers).properties(width="container", height=TIMELINE_HEIGHT_PX)
    return {**chart.to_dict(), "config": THEME, "autosize": {"type": "fit-x", "contains": "padding"}}


def _front(latency_kind: str, budget_range_ms: tuple[float, float]) -> Layers:
    latency = alt.X(
        "latency_ms:Q",
        title=f"{latency_kind} latency (ms)",
        scale=alt.Scale(domain=list(budget_range_ms), nice=False),
    )
    accuracy = alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(zero=False, padding=8))
    every = alt.Chart(ROWS)
    on_front = every.transform_filter("datum.front")
    tooltip = [
        alt.Tooltip("key:N", title="configuration"),
        alt.Tooltip("accuracy:Q", format=".3f"),
        alt.Tooltip("accuracy_low:Q", format=".3f", title="95 % interval from"),
        alt.Tooltip("accuracy_high:Q", format=".3f", title="to"),
        alt.Tooltip("latency_ms:Q", format=".2f", title="latency (ms)"),
        alt.Tooltip("n:Q", format=",", title="samples"),
    ]
    tiers = alt.Scale(domain=list(TIER_COLOURS), range=list(TIER_COLOURS.values()))
    shown = alt.condition("datum.front", alt.value(1), alt.value(0.35))
    return alt.layer(
        on_front.mark_line(interpolate="step-after", color=MUTED, strokeWidth=1.5).encode(latency, accuracy),
        on_front.mark_rule(color=MUTED).encode(latency, alt.Y("accuracy_low:Q"), alt.Y2("accuracy_high:Q")),
        on_front.mark_rule(color=MUTED).encode(alt.X("latency_ms_low:Q"), accuracy, alt.X2("latency_ms_high:Q")),
        _mark_of("global_key", shape="circle", size=210, colour=GLOBAL).encode(latency, accuracy),
        _mark_of("own_key", shape="diamond", size=330, colour=OWN).encode(latency, accuracy),
        every.mark_circle(size=55).encode(
            latency, accuracy, alt.Color("tier:N", scale=tiers, legend=None), opacity=shown, tooltip=tooltip
        ),
        alt.Chart(NOTHING)
        .transform_calculate(budget="budget")
        .mark_rule(color=INK, strokeDash=[4, 3], clip=True)
        .encode(alt.X("budget:Q")),
    ).add_params(
        alt.param(name="budget", value=budget_range_ms[0]),
        alt.param(name="global_key", value=""),
        alt.param(name="own_key", value=""),
    ).properties(height=PANEL_HEIGHT_PX)  # fmt: skip


def _mark_of(parameter: str, *, shape: str, size: int, colour: str) -> alt.Chart:
    # every point carries the mark and all but one hide it: a filter would leave scales without any value
    chosen = alt.condition(f"datum.key === {parameter}", alt.value(1), alt.value(0))
    mark = alt.Chart(ROWS).mark_point(shape=shape, size=size, stroke=colour, strokeWidth=2.5, filled=False)
    return mark.encode(opacity=chosen)


def _key_axis() -> alt.Y:
    return alt.Y("key:N", title=None, sort=alt.SortField("order"))


def _stages(measured: Sequence[str]) -> alt.Chart:
    stages = alt.Scale(domain=list(measured), range=[STAGE_COLOURS[stage] for stage in measured])
    return (
        alt.Chart(ROWS)
        .mark_bar()
        .encode(
            alt.X("start:Q", title="mean time since the call began (ms)"),
            alt.X2("end:Q"),
            _key_axis(),
            alt.Color("stage:N", scale=stages),
            tooltip=[alt.Tooltip("key:N"), alt.Tooltip("stage:N"), alt.Tooltip("ms:Q", format=".2f")],
        )
    )


def _histogram(latency_kind: str) -> Layers:
    tiers = alt.Scale(domain=list(TIER_COLOURS), range=list(TIER_COLOURS.values()))
    bars = (
        alt.Chart(ROWS)
        .mark_bar()
        .encode(
            alt.X("low:Q", bin="binned", title=f"{latency_kind} latency (ms)"),
            alt.X2("high:Q"),
            alt.Y("count:Q", stack=True, title="samples"),
            alt.Color("tier:N", scale=tiers, legend=None),
            tooltip=[alt.Tooltip(name) for name in ("tier:N", "low:Q", "high:Q", "count:Q")],
        )
    )
    cuts = alt.Chart(alt.NamedData("cuts"))
    rules = cuts.mark_rule(color=INK, strokeDash=[4, 3]).encode(alt.X("ms:Q"))
    labels = cuts.mark_text(color=INK, dy=-6, baseline="bottom").encode(
        alt.X("ms:Q"), alt.Text("cut:N"), y=alt.value(0)
    )
    return alt.layer(bars, rules, labels).properties(height=PANEL_HEIGHT_PX)


def _percentiles(latency_kind: str) -> Layers:
    rows = alt.Chart(ROWS).encode(
        _key_axis(),
        tooltip=[
            alt.Tooltip("key:N"),
            *(alt.Tooltip(f"{cut}:Q", format=".2f") for cut in ("p5", "p25", "median", "p75", "p95")),
        ],
    )
    outer = alt.X(
        "p5:Q", title=f"{latency_kind} latency (ms): p5 to p95, p25 to p75, median", scale=alt.Scale(zero=False)
    )
    return alt.layer(
        rows.mark_rule(color=MUTED).encode(outer, alt.X2("p95:Q")),
        rows.mark_bar(color="var(--prefill)", height=9).encode(alt.X("p25:Q"), alt.X2("p75:Q")),
        rows.mark_tick(color=INK, thickness=2, height=11).encode(alt.X("median:Q")),
    )


def _knob(field: str, title: str, legend: alt.Legend | None) -> Layers:
    rows = alt.Chart(ROWS).encode(alt.X("value:O", sort=None, title=None, axis=alt.Axis(labelAngle=0)))
    colour = alt.Color("dataset:N", legend=legend, scale=alt.Scale(range=DATASET_COLOURS))
    change = alt.Y(f"{field}:Q", title=title)
    ends = alt.Y(f"{field}_low:Q"), alt.Y2(f"{field}_high:Q")
    tooltip = [
        alt.Tooltip(name) for name in ("dataset:N", "value:O", f"{field}:Q", f"{field}_low:Q", f"{field}_high:Q")
    ]
    return alt.layer(
        rows.mark_line(strokeWidth=1.5).encode(change, colour),
        rows.mark_rule().encode(*ends, colour),
        rows.mark_circle(size=45).encode(change, colour, tooltip=tooltip),
    ).properties(height=PANEL_HEIGHT_PX)
