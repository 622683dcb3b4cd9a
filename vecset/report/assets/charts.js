// Box plots, training curves and the table of every heart. The figures come from charts.py, without the boxes' values.

// Buttons are listed, since plotly's own choice has one that sends the chart to a server.
const config = (...buttons) => ({
  responsive: true,
  displaylogo: false,
  plotlyServerURL: "",
  plotGlPixelRatio: Math.min(devicePixelRatio, 2), // plotly's default draws four times the pixels
  modeBarButtons: [["toImage", ...buttons]],
});

function drawBoxes(metric) {
  const { cases, rows, metrics } = data.boxes;
  const value = (row, run, k) => rows[row].values[metric][run][k];
  const traces = data.box_chart.traces.map((trace) => {
    const { run, row, at } = trace.meta;
    return { ...trace, x: at ? at.map(([r, k]) => value(r, run, k)) : cases.map((_, k) => value(row, run, k)) };
  });
  const all = traces.flatMap((trace) => trace.x).filter((v) => v !== null);
  const low = Math.floor(10 * Math.min(...all, 1)) / 10;
  const share = all.every((v) => v >= 0 && v <= 1); // Dice and the like: the axis ends at 1
  const title = { ...data.box_chart.layout.xaxis.title, text: metrics.find((m) => m.name === metric).words };
  const range = share ? { range: [low - 0.01, 1.02] } : { autorange: true };
  const axis = { ...data.box_chart.layout.xaxis, title, ...range };
  return Plotly.react($("#box-plot"), traces, { ...data.box_chart.layout, xaxis: axis }, config());
}

function fillEveryHeart(metric) {
  const { cases, rows } = data.boxes;
  const whole = rows.every((row) => row.values[metric].flat().every((v) => v === null || v % 1 === 0));
  const text = (value) => (whole && value !== null ? String(value) : number(value));
  const cell = (row, k) => {
    const words = new Set([...row.status, ...row.observed].map((of) => of[k]).filter((s) => s && !/ok|given/.test(s)));
    const said = [...words].map((s) => (s === "invented" ? "spurious" : s)).join(" | ");
    return el("td", { text: row.values[metric].map((run) => text(run[k])).join(" | ") }, el("small", { text: said }));
  };
  const head = ["heart", ...rows.map((row) => row.name)].map((name) => el("th", { text: name }));
  const body = cases.map((name, k) => el("tr", {}, el("th", { text: name }), rows.map((row) => cell(row, k))));
  const table = el("table", { id: "hearts-table" }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body));
  makeSortable(table);
  $("#every-heart .wide").replaceChildren(table);
}

function drawCharts() {
  onMetric($("#every-heart"), fillEveryHeart);
  if ($("#comparison"))
    onMetric($("#table"), (metric) =>
      $$("#comparison table").forEach((table) => (table.hidden = table.dataset.metric !== metric)),
    );
  onMetric($("#boxes"), drawBoxes);
  $$("#curves .chart").forEach((place, k) =>
    Plotly.newPlot(place, data.curves[k].data, data.curves[k].layout, config("zoom2d", "pan2d", "resetScale2d")),
  );
}
