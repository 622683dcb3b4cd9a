// Charts in SVG: a box per class and run, and curves over the steps of training.

function quantile(sorted, q) {
  const at = q * (sorted.length - 1), low = Math.floor(at);
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
  const runs = data.runs.length, labelWidth = Math.min(170, width * 0.3), right = 74, boxHeight = runs > 1 ? 13 : 15;
  const rowHeight = runs * boxHeight + 11, top = 22, height = top + boxes.rows.length * rowHeight + 8;
  const all = boxes.rows.flatMap((row) => row.values[metric].flat()).filter((v) => v !== null);
  const overlap = all.every((v) => v >= 0 && v <= 1);
  let low = Math.min(...all, overlap ? 1 : Infinity), high = overlap ? 1 : Math.max(...all);
  if (overlap) low = Math.floor(low * 10) / 10;
  if (!(high > low)) { low = (all.length ? low : 0) - 0.5; high = low + 1; }
  const marks = ticks(low, high, (width - labelWidth - right) / 80);
  if (!overlap) { low = Math.min(low, marks[0]); high = Math.max(high, marks.at(-1)); }
  const pad = 8, x = (v) => labelWidth + pad + (v - low) / (high - low) * (width - labelWidth - right - 2 * pad);
  const picture = svg("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `box plot per structure: ${metric}` });
  picture.append(svg("defs", {}, data.classes.map((c) => svg("pattern", { id: `hatch${c.id}`, width: 5, height: 5,
    patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
  svg("rect", { width: 5, height: 5, fill: c.colour, "fill-opacity": 0.35 }), svg("rect", { width: 1.6, height: 5, fill: c.colour })))));
  for (const mark of marks) {
    picture.append(svg("line", { x1: x(mark), x2: x(mark), y1: top - 4, y2: height - 6, stroke: "#e4e8ec" }),
      svg("text", { class: "axis", x: x(mark), y: 13, "text-anchor": "middle", text: String(mark) }));
  }
  boxes.rows.forEach((row, k) => {
    const y0 = top + k * rowHeight;
    if (k % 2 === 0) picture.append(svg("rect", { x: 0, y: y0, width, height: rowHeight, fill: "#f3f5f7", "fill-opacity": 0.6 }));
    const text = row.id === null ? row.name : `${row.id}  ${row.name}`;
    const label = svg("text", { x: row.id === null ? 4 : 20, y: y0 + rowHeight / 2 + 4, "font-weight": row.id === null ? 600 : 400,
      text: text.length > labelWidth / 7 - 2 ? `${text.slice(0, Math.floor(labelWidth / 7) - 3)}…` : text });
    label.append(svg("title", { text }));
    if (row.id !== null) {
      picture.append(svg("rect", { x: 4, y: y0 + rowHeight / 2 - 5, width: 10, height: 10, fill: colourOf.get(row.id), stroke: "#404040", "stroke-width": 0.5 }));
    }
    picture.append(label);
    row.values[metric].forEach((values, run) => drawOneBox(picture, row, run, values, x, y0 + 5.5 + run * boxHeight, boxHeight - 3, width - right + 6));
  });
  place.replaceChildren(picture);
}

function drawOneBox(picture, row, run, values, x, y, height, textX) {
  const there = values.map((v, k) => [v, k]).filter(([v]) => v !== null);
  const middle = y + height / 2, group = svg("g", { class: "box", "data-class": row.name, "data-run": run });
  const counts = { missed: 0, invented: 0, absent: 0, "not annotated": 0 };
  row.status[run].forEach((s) => { if (s in counts) counts[s] += 1; });
  const words = Object.entries(counts).filter(([, n]) => n).map(([s, n]) => `${n} ${s}`);
  if (words.length) {
    group.append(svg("text", { class: "axis", x: textX, y: middle + 4, text: words.length > 1 ? `${words[0]} …` : words[0] },
      svg("title", { text: words.join(", ") })));
  }
  const colour = colourOf.get(row.id) || "#606870";
  const fill = run === 1 ? (row.id === null ? "#ffffff" : `url(#hatch${row.id})`) : colour;
  if (there.length) {
    const b = boxOf(there.map(([v]) => v));
    group.append(
      svg("line", { x1: x(b.low), x2: x(b.high), y1: middle, y2: middle, stroke: "#333" }),
      svg("rect", { x: x(b.q1), y, width: Math.max(x(b.q3) - x(b.q1), 1), height, fill, "fill-opacity": run === 1 ? 1 : 0.55, stroke: "#333", "stroke-width": 0.9 }),
      svg("line", { x1: x(b.median), x2: x(b.median), y1: y, y2: y + height, stroke: "#000", "stroke-width": 2.2 }));
  }
  for (const [value, k] of there) {  // a little up and down, so that equal values show; the same at every drawing
    const wiggle = ((k * 0.618034) % 1 - 0.5) * height * 0.7, status = row.status[run][k];
    const ok = status === "ok" || status === undefined;
    group.append(ok ? svg("circle", { cx: x(value), cy: middle + wiggle, r: 2.1, fill: "#1c2126", "fill-opacity": 0.62 })
      : svg("path", { d: `M${x(value) - 3},${middle + wiggle - 3}l6,6m0,-6l-6,6`, stroke: "#000", "stroke-width": 1.4 }));
    group.lastChild.addEventListener("pointermove", (event) => showTip(event,
      `${data.boxes.cases[k]}\n${row.name}: ${number(value)}${ok ? "" : ` (${status})`}${data.runs.length > 1 ? `\n${data.runs[run].name}` : ""}`));
    group.lastChild.addEventListener("pointerleave", hideTip);
  }
  picture.append(group);
}

function boxSection() {
  const place = el("div", { id: "box-plot" });
  let metric;
  const draw = (width) => drawBoxes(place, data.boxes, metric, width);
  const [first, chooser] = metricChoice(data.boxes.metrics, (name) => { metric = name; draw(place.clientWidth); });
  metric = first;
  onWidth(place, draw);
  const runs = data.runs.length > 1 ? ` In each row the upper, plain box is ${data.runs[0].name}, the lower, hatched one ${data.runs[1].name}.` : "";
  return section("boxes", "Spread over the hearts", el("div", { class: "bar" }, chooser), place, el("p", { class: "note",
    text: `Box: quartiles; thick line: median; whiskers: the last heart within 1.5 box lengths. A dot is a heart (× where the structure is missed or invented).${runs}` }));
}

// series: [{name, x, y, colour, dash, width}]; log: the vertical axis is logarithmic, values <= 0 are left out; range: of
// a linear axis, else as the values have it.
function lineChart(title, series, { log = false, range = null } = {}) {
  const place = el("div", {}), holder = el("div", {}, el("h3", { text: title }), place);
  onWidth(place, (width) => drawLines(place, series.map((s) => ({ ...s, y: s.y.map((v) => (log && v <= 0 ? null : v)) })), log, range, width));
  return holder;
}

function drawLines(place, series, log, range, width) {
  const height = Math.max(240, Math.min(620, 40 + 13 * series.length)), left = 46, right = Math.min(150, width * 0.33), top = 8, bottom = 34;
  const values = series.flatMap((s) => s.y).filter((v) => v !== null), xs = series.flatMap((s) => s.x);
  if (!values.length) { place.replaceChildren(el("p", { class: "note", text: "no values" })); return; }
  const scale = log ? Math.log10 : (v) => v;
  let low = scale(Math.min(...values)), high = scale(Math.max(...values));
  if (range) [low, high] = range;
  if (!(high > low)) { low -= 0.5; high += 0.5; }
  const firstX = Math.min(...xs), lastX = Math.max(...xs);
  const x = (v) => left + (lastX > firstX ? (v - firstX) / (lastX - firstX) : 0.5) * (width - left - right);
  const y = (v) => top + (high - scale(v)) / (high - low) * (height - top - bottom);
  const picture = svg("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}` });
  const marks = log ? logTicks(low, high) : ticks(low, high, 5);
  for (const mark of marks) {
    picture.append(svg("line", { x1: left, x2: width - right, y1: y(mark), y2: y(mark), stroke: "#e4e8ec" }),
      svg("text", { class: "axis", x: left - 5, y: y(mark) + 4, "text-anchor": "end", text: String(mark) }));
  }
  for (const mark of ticks(firstX, lastX, (width - left - right) / 90)) {
    picture.append(svg("text", { class: "axis", x: x(mark), y: height - bottom + 15, "text-anchor": "middle", text: String(mark) }));
  }
  picture.append(svg("text", { class: "axis", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle", text: "optimizer steps" }));
  for (const s of series) {
    let path = "", pen = "M";
    s.y.forEach((v, k) => {
      if (v === null) { pen = "M"; return; }
      path += `${pen}${x(s.x[k]).toFixed(1)},${y(v).toFixed(1)}`;
      pen = "L";
    });
    picture.append(svg("path", { class: "curve", "data-name": s.name, d: path, fill: "none", stroke: s.colour, "stroke-width": s.width || 1.6, "stroke-dasharray": s.dash }));
    if (s.y.filter((v) => v !== null).length === 1) {
      const k = s.y.findIndex((v) => v !== null);
      picture.append(svg("circle", { cx: x(s.x[k]), cy: y(s.y[k]), r: 3, fill: s.colour }));
    }
  }
  labelEnds(picture, series, y, width - right + 6, top, height - bottom, right);
  const rule = svg("line", { y1: top, y2: height - bottom, stroke: "#5a646e", "stroke-width": 0.7, visibility: "hidden" });
  picture.append(rule);
  picture.addEventListener("pointermove", (event) => {
    const at = (event.clientX - picture.getBoundingClientRect().left - left) / (width - left - right);
    if (at < -0.05 || at > 1.05) { hideTip(); return; }
    const wanted = firstX + at * (lastX - firstX);
    const own = series.map((s) => [s, s.x.reduce((best, v, k) => (Math.abs(v - wanted) < Math.abs(s.x[best] - wanted) ? k : best), 0)]);
    const [s0, k0] = own[0];
    rule.setAttribute("x1", x(s0.x[k0])); rule.setAttribute("x2", x(s0.x[k0])); rule.setAttribute("visibility", "visible");
    showTip(event, `step ${s0.x[k0]}\n${own.filter(([s, k]) => s.y[k] !== null).slice(0, 20).map(([s, k]) => `${s.name}: ${Number(s.y[k].toPrecision(4))}`).join("\n")}`);
  });
  picture.addEventListener("pointerleave", () => { hideTip(); rule.setAttribute("visibility", "hidden"); });
  place.replaceChildren(picture);
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    for (const m of high - low > 2.5 ? [1] : [1, 2, 5]) {
      const v = Number((m * 10 ** power).toPrecision(6));
      if (Math.log10(v) >= low && Math.log10(v) <= high) found.push(v);
    }
  }
  return found;
}

// Names at the right ends of the curves, moved apart; those that find no room are told by the tooltip alone.
function labelEnds(picture, series, y, at, top, bottom, room) {
  const labels = series.map((s) => ({ s, y: y(s.y.findLast((v) => v !== null) ?? 1) })).filter((l) => Number.isFinite(l.y)).sort((a, b) => a.y - b.y);
  const step = 12;
  labels.forEach((l, k) => { l.y = Math.max(l.y, k ? labels[k - 1].y + step : top + 4); });
  for (let k = labels.length - 1, limit = bottom; k >= 0; k--, limit -= step) if (labels[k].y > limit) labels[k].y = limit;
  const most = Math.floor((room - 26) / 6.2);
  for (const { s, y: place } of labels) {
    if (place < top - 4) continue;
    picture.append(svg("line", { x1: at, x2: at + 14, y1: place, y2: place, stroke: s.colour, "stroke-width": s.width || 1.6, "stroke-dasharray": s.dash }),
      svg("text", { x: at + 18, y: place + 4, "font-size": 11, text: s.name.length > most ? `${s.name.slice(0, most - 1)}…` : s.name }, svg("title", { text: s.name })));
  }
}

const DASHES = [null, "6 3", "2 2", "8 3 2 3"];

function curvesSection() {
  if (!data.curves) return null;
  const { train, val } = data.curves, charts = [];
  const line = (kind, name, k, shown) => ({ name: shown || name, x: kind.global_step, y: kind[name], dash: DASHES[Math.floor(k / 7) % DASHES.length] || DASHES[k % DASHES.length],
    colour: ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"][k % 7] });
  if (train.loss) {
    charts.push(lineChart("Loss", [line(train, "loss", 0, "training"), ...(val.loss ? [line(val, "loss", 2, "validation")] : [])], { log: true }));
    const parts = ["vol", "near", "surface", "eikonal", "class", "kl", "normal", "balanced", "truncated"].filter((n) => train[n] && train[n].some((v) => v > 0));
    if (parts.length) charts.push(lineChart("Parts of the training loss, unweighted", parts.map((n, k) => line(train, n, k)), { log: true }));
  }
  if (val.mean_dice) {
    const own = data.classes.filter((c) => val[`dice_${c.name}`]);
    charts.push(lineChart("Validation Dice", [{ name: "mean", x: val.global_step, y: val.mean_dice, colour: "#000000", width: 3 },
      ...own.map((c, k) => ({ name: `${c.id} ${c.name}`, x: val.global_step, y: val[`dice_${c.name}`], colour: c.colour, dash: DASHES[k % DASHES.length], width: 1.7 }))], { range: [0, 1] }));
  }
  if (train.lr) charts.push(lineChart("Learning rate", [line(train, "lr", 1, "rate")]));
  return charts.length ? section("curves", "Training", el("div", { class: "charts" }, charts)) : null;
}
