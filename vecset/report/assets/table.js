// The tables: means per class with their intervals; two runs and their difference; every heart's figures.

function meansTable(table) {
  const head = el(
    "tr",
    {},
    el("th", { text: "structure" }),
    table.columns.map((c) => el("th", { text: c.words, class: c.aside ? "aside" : null })),
    table.counts.map((c) => el("th", { text: c })),
  );
  const body = table.rows.map((row) =>
    el(
      "tr",
      { class: row.id === null ? "whole" : null },
      el("th", {}, classLabel(row)),
      row.cells.map((cell, k) =>
        el(
          "td",
          { class: table.columns[k].aside ? "aside" : null },
          number(cell.mean),
          cell.interval ? el("small", { text: `${number(cell.interval[0])} to ${number(cell.interval[1])}` }) : null,
          cell.floor === null || cell.floor === undefined
            ? null
            : el("small", { text: `floor ${number(cell.floor)}` }),
        ),
      ),
      row.counts.map((count) => el("td", { text: count ?? "" })),
    ),
  );
  const made = el("table", { id: "means" }, el("thead", {}, head), el("tbody", {}, body));
  const all = el("input", {
    type: "checkbox",
    id: "all-columns",
    on: { change: () => made.classList.toggle("all", all.checked) },
  });
  const asides = table.columns.some((c) => c.aside);
  return [
    asides ? el("div", { class: "bar" }, el("label", {}, all, "all figures (volumes and topology, too)")) : null,
    el("div", { class: "wide" }, made),
  ];
}

function meansSection() {
  const cells = data.table.rows.flatMap((row) => row.cells);
  const notes = ["Means over the hearts."];
  if (cells.some((c) => c.interval)) notes.push("Below each its 95 % bootstrap interval over hearts.");
  if (cells.some((c) => c.floor !== null && c.floor !== undefined)) {
    notes.push(
      "“floor”: what the truth scores against itself after the sampling and re-voxelising that the model's input " +
        "went through.",
    );
  }
  notes.push(
    "“missed” (in the truth only) and “invented” (in the reconstruction only) count in the means; “absent” (in " +
      "neither) is left out.",
  );
  return section(
    "table",
    "Figures",
    meansTable(data.table),
    el("p", { class: "note", text: notes.join(" ") }),
    el("details", {}, el("summary", { text: "Every heart" }), everyHeart()),
  );
}

function metricChoice(metrics, choose) {
  const first = (metrics.find((m) => m.name === "dice") || metrics[0]).name;
  return [
    first,
    el(
      "label",
      {},
      "figure",
      select(
        metrics.map((m) => [m.name, m.words]),
        first,
        choose,
      ),
    ),
  ];
}

function everyHeart() {
  const place = el("div", { class: "wide" });
  const fill = (metric) => {
    const whole = data.boxes.rows.every((row) => row.values[metric].flat().every((v) => v === null || v % 1 === 0));
    const text = (value) => (whole && value !== null ? String(value) : number(value));
    place.replaceChildren(
      el(
        "table",
        { id: "hearts-table" },
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            el("th", { text: "heart" }),
            data.boxes.rows.map((r) => el("th", { text: r.name })),
          ),
        ),
        el(
          "tbody",
          {},
          data.boxes.cases.map((name, k) =>
            el(
              "tr",
              {},
              el("th", { text: name }),
              data.boxes.rows.map((row) =>
                el(
                  "td",
                  {},
                  row.values[metric].map((run) => text(run[k])).join(" | "),
                  notOk(row.status.map((run) => run[k])),
                ),
              ),
            ),
          ),
        ),
      ),
    );
  };
  const [first, chooser] = metricChoice(data.boxes.metrics, fill);
  fill(first);
  return [el("div", { class: "bar" }, chooser), place];
}

function notOk(statuses) {
  const words = [...new Set(statuses.filter((s) => s && s !== "ok"))];
  return words.length ? el("small", { text: words.join(" | ") }) : null;
}

// Two runs: per class both means, the mean of the paired differences and its interval, how many hearts went up or down.
function comparisonSection() {
  const place = el("div", { class: "wide" });
  const [a, b] = data.runs.map((run) => run.name);
  const fill = (metric) => {
    const { better, words } = data.comparison.metrics.find((m) => m.name === metric);
    const head = [
      "structure",
      a,
      b,
      "B − A",
      "95 % interval of B − A",
      "",
      "hearts: B better",
      "A better",
      "equal",
      "pairs",
    ];
    if (!better) head.splice(6, 2, "B larger", "A larger");
    place.replaceChildren(
      el(
        "table",
        { id: "comparison", "data-metric": metric },
        el("caption", { text: words, style: "text-align:left;color:var(--soft);padding:0.2rem 0.65rem" }),
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            head.map((text) => el("th", { text })),
          ),
        ),
        el(
          "tbody",
          {},
          data.comparison.rows.map((row) => {
            const v = row.values[metric];
            const sure = v.interval && (v.interval[0] > 0 || v.interval[1] < 0);
            const verdict = !sure || !better ? "" : v.difference * better > 0 ? "▲ better" : "▼ worse";
            const kind = !verdict ? null : v.difference * better > 0 ? "better" : "worse";
            return el(
              "tr",
              { class: row.id === null ? "whole" : null },
              el("th", {}, classLabel(row)),
              el("td", { text: number(v.a) }),
              el("td", { text: number(v.b) }),
              el("td", { class: kind, text: number(v.difference, true) }),
              el("td", {
                text: v.interval ? `${number(v.interval[0], true)} to ${number(v.interval[1], true)}` : "–",
              }),
              el("td", { class: kind, style: "text-align:left", text: verdict }),
              el("td", { text: (better < 0 ? v.lower : v.higher) ?? "" }),
              el("td", { text: (better < 0 ? v.higher : v.lower) ?? "" }),
              el("td", { text: v.equal ?? "" }),
              el("td", { text: v.pairs ?? "" }),
            );
          }),
        ),
      ),
    );
  };
  const [first, chooser] = metricChoice(data.comparison.metrics, fill);
  fill(first);
  return section(
    "table",
    "Figures of both runs",
    el("div", { class: "bar" }, chooser),
    place,
    el("p", { class: "note", text: data.comparison.note }),
    el("details", {}, el("summary", { text: "Every heart: A | B" }), everyHeart()),
  );
}

function settingsSection() {
  return section(
    "settings",
    "How it was made",
    data.runs.map((run) => [
      data.runs.length > 1 ? el("h3", { text: run.name }) : null,
      el(
        "dl",
        {},
        Object.entries(run.settings).flatMap(([name, value]) => [
          el("dt", { text: name.replaceAll("_", " ") }),
          el("dd", { text: value }),
        ]),
      ),
    ]),
  );
}
