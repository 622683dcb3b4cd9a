// A box per class and run, in SVG.

function quantile(sorted, q) {
  const at = q * (sorted.length - 1),
    low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

// Tukey's box: quartiles, median, whiskers to the last value within 1.5 interquartile ranges.
function boxOf(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const [q1, median, q3] = [0.25, 0.5, 0.75].map((q) => quantile(sorted, q));
  const reach = 1.5 * (q3 - q1);
  return { q1, median, q3, low: sorted.find((v) => v >= q1 - reach), high: sorted.findLast((v) => v <= q3 + reach) };
}

function drawBoxes(place, boxes, metric, width) {
  const runs = data.runs.length,
    labelWidth = Math.min(170, width * 0.3),
    right = 74,
    boxHeight = runs > 1 ? 13 : 15;
  const rowHeight = runs * boxHeight + 11,
    top = 22,
    height = top + boxes.rows.length * rowHeight + 8;
  const all = boxes.rows.flatMap((row) => row.values[metric].flat()).filter((v) => v !== null);
  const overlap = all.every((v) => v >= 0 && v <= 1);
  let low = Math.min(...all, overlap ? 1 : Infinity),
    high = overlap ? 1 : Math.max(...all);
  if (overlap) low = Math.floor(low * 10) / 10;
  if (!(high > low)) {
    low = (all.length ? low : 0) - 0.5;
    high = low + 1;
  }
  const marks = ticks(low, high, (width - labelWidth - right) / 80);
  if (!overlap) {
    low = Math.min(low, marks[0]);
    high = Math.max(high, marks.at(-1));
  }
  const pad = 8,
    x = (v) => labelWidth + pad + ((v - low) / (high - low)) * (width - labelWidth - right - 2 * pad);
  const picture = svg("svg", {
    class: "chart",
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `box plot per structure: ${metric}`,
  });
  picture.append(
    svg(
      "defs",
      {},
      data.classes.map((c) =>
        svg(
          "pattern",
          { id: `hatch${c.id}`, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
          svg("rect", { width: 5, height: 5, fill: c.colour, "fill-opacity": 0.35 }),
          svg("rect", { width: 1.6, height: 5, fill: c.colour }),
        ),
      ),
    ),
  );
  for (const mark of marks) {
    picture.append(
      svg("line", { x1: x(mark), x2: x(mark), y1: top - 4, y2: height - 6, stroke: "#e4e8ec" }),
      svg("text", { class: "axis", x: x(mark), y: 13, "text-anchor": "middle", text: String(mark) }),
    );
  }
  boxes.rows.forEach((row, k) => {
    const y0 = top + k * rowHeight;
    if (k % 2 === 0)
      picture.append(svg("rect", { x: 0, y: y0, width, height: rowHeight, fill: "#f3f5f7", "fill-opacity": 0.6 }));
    const text = row.id === null ? row.name : `${row.id}  ${row.name}`;
    const label = svg("text", {
      x: row.id === null ? 4 : 20,
      y: y0 + rowHeight / 2 + 4,
      "font-weight": row.id === null ? 600 : 400,
      text: text.length > labelWidth / 7 - 2 ? `${text.slice(0, Math.floor(labelWidth / 7) - 3)}…` : text,
    });
    label.append(svg("title", { text }));
    if (row.id !== null) {
      picture.append(
        svg("rect", {
          x: 4,
          y: y0 + rowHeight / 2 - 5,
          width: 10,
          height: 10,
          fill: colourOf.get(row.id),
          stroke: "#404040",
          "stroke-width": 0.5,
        }),
      );
    }
    picture.append(label);
    row.values[metric].forEach((values, run) =>
      drawOneBox(picture, row, run, values, x, y0 + 5.5 + run * boxHeight, boxHeight - 3, width - right + 6),
    );
  });
  place.replaceChildren(picture);
}

function drawOneBox(picture, row, run, values, x, y, height, textX) {
  const there = values.map((v, k) => [v, k]).filter(([v]) => v !== null);
  const middle = y + height / 2,
    group = svg("g", { class: "box", "data-class": row.name, "data-run": run });
  const counts = { missed: 0, invented: 0, absent: 0, "not annotated": 0 };
  row.status[run].forEach((s) => {
    if (s in counts) counts[s] += 1;
  });
  const words = Object.entries(counts)
    .filter(([, n]) => n)
    .map(([s, n]) => `${n} ${s}`);
  if (words.length) {
    group.append(
      svg(
        "text",
        { class: "axis", x: textX, y: middle + 4, text: words.length > 1 ? `${words[0]} …` : words[0] },
        svg("title", { text: words.join(", ") }),
      ),
    );
  }
  const colour = colourOf.get(row.id) || "#606870";
  const fill = run === 1 ? (row.id === null ? "#ffffff" : `url(#hatch${row.id})`) : colour;
  if (there.length) {
    const b = boxOf(there.map(([v]) => v));
    group.append(
      svg("line", { x1: x(b.low), x2: x(b.high), y1: middle, y2: middle, stroke: "#333" }),
      svg("rect", {
        x: x(b.q1),
        y,
        width: Math.max(x(b.q3) - x(b.q1), 1),
        height,
        fill,
        "fill-opacity": run === 1 ? 1 : 0.55,
        stroke: "#333",
        "stroke-width": 0.9,
      }),
      svg("line", { x1: x(b.median), x2: x(b.median), y1: y, y2: y + height, stroke: "#000", "stroke-width": 2.2 }),
    );
  }
  for (const [value, k] of there) {
    // a little up and down, so that equal values show; the same at every drawing
    const wiggle = (((k * 0.618034) % 1) - 0.5) * height * 0.7,
      status = row.status[run][k];
    const ok = status === "ok" || status === undefined;
    group.append(
      ok
        ? svg("circle", { cx: x(value), cy: middle + wiggle, r: 2.1, fill: "#1c2126", "fill-opacity": 0.62 })
        : svg("path", {
            d: `M${x(value) - 3},${middle + wiggle - 3}l6,6m0,-6l-6,6`,
            stroke: "#000",
            "stroke-width": 1.4,
          }),
    );
    group.lastChild.addEventListener("pointermove", (event) =>
      showTip(
        event,
        [
          data.boxes.cases[k],
          `${row.name}: ${number(value)}${ok ? "" : ` (${status})`}`,
          ...(data.runs.length > 1 ? [data.runs[run].name] : []),
        ].join("\n"),
      ),
    );
    group.lastChild.addEventListener("pointerleave", hideTip);
  }
  picture.append(group);
}

function boxSection() {
  const place = el("div", { id: "box-plot" });
  let metric;
  const draw = (width) => drawBoxes(place, data.boxes, metric, width);
  const [first, chooser] = metricChoice(data.boxes.metrics, (name) => {
    metric = name;
    draw(place.clientWidth);
  });
  metric = first;
  onWidth(place, draw);
  const runs =
    data.runs.length > 1
      ? ` In each row the upper, plain box is ${data.runs[0].name}, the lower, hatched one ${data.runs[1].name}.`
      : "";
  return section(
    "boxes",
    "Spread over the hearts",
    el("div", { class: "bar" }, chooser),
    place,
    el("p", {
      class: "note",
      text:
        "Box: quartiles; thick line: median; whiskers: the last heart within 1.5 box lengths. " +
        `A dot is a heart (× where the structure is missed or invented).${runs}`,
    }),
  );
}
