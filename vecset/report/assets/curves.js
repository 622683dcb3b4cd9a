// Curves over the steps of training, in SVG.

// series: [{name, x, y, colour, dash, width}]; log: the vertical axis is logarithmic, values <= 0 are left out;
// range: of a linear axis, else as the values have it.
function lineChart(title, series, { log = false, range = null } = {}) {
  const place = el("div", {}),
    holder = el("div", {}, el("h3", { text: title }), place);
  onWidth(place, (width) =>
    drawLines(
      place,
      series.map((s) => ({ ...s, y: s.y.map((v) => (log && v <= 0 ? null : v)) })),
      log,
      range,
      width,
    ),
  );
  return holder;
}

function drawLines(place, series, log, range, width) {
  const height = Math.max(240, Math.min(620, 40 + 13 * series.length)),
    left = 46,
    right = Math.min(150, width * 0.33),
    top = 8,
    bottom = 34;
  const values = series.flatMap((s) => s.y).filter((v) => v !== null),
    xs = series.flatMap((s) => s.x);
  if (!values.length) {
    place.replaceChildren(el("p", { class: "note", text: "no values" }));
    return;
  }
  const scale = log ? Math.log10 : (v) => v;
  let low = scale(Math.min(...values)),
    high = scale(Math.max(...values));
  if (range) [low, high] = range;
  if (!(high > low)) {
    const apart = log ? 0.5 : Math.abs(high) / 2 || 0.5; // a constant of 0.001 must not look like 0
    low -= apart;
    high += apart;
  }
  const firstX = Math.min(...xs),
    lastX = Math.max(...xs);
  const x = (v) => left + (lastX > firstX ? (v - firstX) / (lastX - firstX) : 0.5) * (width - left - right);
  const y = (v) => top + ((high - scale(v)) / (high - low)) * (height - top - bottom);
  const picture = svg("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}` });
  const marks = log ? logTicks(low, high) : ticks(low, high, 5);
  for (const mark of marks) {
    picture.append(
      svg("line", { x1: left, x2: width - right, y1: y(mark), y2: y(mark), stroke: "#e4e8ec" }),
      svg("text", { class: "axis", x: left - 5, y: y(mark) + 4, "text-anchor": "end", text: String(mark) }),
    );
  }
  for (const mark of ticks(firstX, lastX, (width - left - right) / 90)) {
    picture.append(
      svg("text", {
        class: "axis",
        x: x(mark),
        y: height - bottom + 15,
        "text-anchor": "middle",
        text: String(mark),
      }),
    );
  }
  picture.append(
    svg("text", {
      class: "axis",
      x: (left + width - right) / 2,
      y: height - 4,
      "text-anchor": "middle",
      text: "optimizer steps",
    }),
  );
  for (const s of series) {
    let path = "",
      pen = "M";
    s.y.forEach((v, k) => {
      if (v === null) {
        pen = "M";
        return;
      }
      path += `${pen}${x(s.x[k]).toFixed(1)},${y(v).toFixed(1)}`;
      pen = "L";
    });
    picture.append(
      svg("path", {
        class: "curve",
        "data-name": s.name,
        d: path,
        fill: "none",
        stroke: s.colour,
        "stroke-width": s.width || 1.6,
        "stroke-dasharray": s.dash,
      }),
    );
    if (s.y.filter((v) => v !== null).length === 1) {
      const k = s.y.findIndex((v) => v !== null);
      picture.append(svg("circle", { cx: x(s.x[k]), cy: y(s.y[k]), r: 3, fill: s.colour }));
    }
  }
  labelEnds(picture, series, y, width - right + 6, top, height - bottom, right);
  const rule = svg("line", {
    y1: top,
    y2: height - bottom,
    stroke: "#5a646e",
    "stroke-width": 0.7,
    visibility: "hidden",
  });
  picture.append(rule);
  picture.addEventListener("pointermove", (event) => {
    const at = (event.clientX - picture.getBoundingClientRect().left - left) / (width - left - right);
    if (at < -0.05 || at > 1.05) {
      hideTip();
      return;
    }
    const wanted = firstX + at * (lastX - firstX);
    const own = series.map((s) => [
      s,
      s.x.reduce((best, v, k) => (Math.abs(v - wanted) < Math.abs(s.x[best] - wanted) ? k : best), 0),
    ]);
    const [s0, k0] = own[0];
    rule.setAttribute("x1", x(s0.x[k0]));
    rule.setAttribute("x2", x(s0.x[k0]));
    rule.setAttribute("visibility", "visible");
    showTip(
      event,
      `step ${s0.x[k0]}\n${own
        .filter(([s, k]) => s.y[k] !== null)
        .slice(0, 20)
        .map(([s, k]) => `${s.name}: ${Number(s.y[k].toPrecision(4))}`)
        .join("\n")}`,
    );
  });
  picture.addEventListener("pointerleave", () => {
    hideTip();
    rule.setAttribute("visibility", "hidden");
  });
  place.replaceChildren(picture);
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    for (const m of high - low > 2.5 ? [1] : high - low > 0.9 ? [1, 2, 5] : [1, 2, 3, 4, 6, 8]) {
      const v = Number((m * 10 ** power).toPrecision(6));
      if (Math.log10(v) >= low && Math.log10(v) <= high) found.push(v);
    }
  }
  return found;
}

// Names at the right ends of the curves, moved apart; those that find no room are told by the tooltip alone.
function labelEnds(picture, series, y, at, top, bottom, room) {
  const labels = series
    .map((s) => ({ s, y: y(s.y.findLast((v) => v !== null) ?? 1) }))
    .filter((l) => Number.isFinite(l.y))
    .sort((a, b) => a.y - b.y);
  const step = 12;
  labels.forEach((l, k) => {
    l.y = Math.max(l.y, k ? labels[k - 1].y + step : top + 4);
  });
  for (let k = labels.length - 1, limit = bottom; k >= 0; k--, limit -= step)
    if (labels[k].y > limit) labels[k].y = limit;
  const most = Math.floor((room - 26) / 6.2);
  for (const { s, y: place } of labels) {
    if (place < top - 4) continue;
    picture.append(
      svg("line", {
        x1: at,
        x2: at + 14,
        y1: place,
        y2: place,
        stroke: s.colour,
        "stroke-width": s.width || 1.6,
        "stroke-dasharray": s.dash,
      }),
      svg(
        "text",
        {
          x: at + 18,
          y: place + 4,
          "font-size": 11,
          text: s.name.length > most ? `${s.name.slice(0, most - 1)}…` : s.name,
        },
        svg("title", { text: s.name }),
      ),
    );
  }
}

const DASHES = [null, "6 3", "2 2", "8 3 2 3"];

function curvesSection() {
  if (!data.curves) return null;
  const { train, val } = data.curves,
    charts = [];
  const line = (kind, name, k, shown) => ({
    name: shown || name,
    x: kind.global_step,
    y: kind[name],
    dash: DASHES[Math.floor(k / 7) % DASHES.length] || DASHES[k % DASHES.length],
    colour: ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"][k % 7],
  });
  if (train.loss) {
    charts.push(
      lineChart(
        "Loss",
        [line(train, "loss", 0, "training"), ...(val.loss ? [line(val, "loss", 2, "validation")] : [])],
        { log: true },
      ),
    );
    const parts = ["vol", "near", "surface", "eikonal", "class", "kl", "normal", "balanced", "truncated"].filter(
      (n) => train[n] && train[n].some((v) => v > 0),
    );
    if (parts.length)
      charts.push(
        lineChart(
          "Parts of the training loss, unweighted",
          parts.map((n, k) => line(train, n, k)),
          { log: true },
        ),
      );
  }
  if (val.mean_dice) {
    const own = data.classes.filter((c) => val[`dice_${c.name}`]);
    charts.push(
      lineChart(
        "Validation Dice",
        [
          { name: "mean", x: val.global_step, y: val.mean_dice, colour: "#000000", width: 3 },
          ...own.map((c, k) => ({
            name: `${c.id} ${c.name}`,
            x: val.global_step,
            y: val[`dice_${c.name}`],
            colour: c.colour,
            dash: DASHES[k % DASHES.length],
            width: 1.7,
          })),
        ],
        { range: [0, 1] },
      ),
    );
  }
  if (train.lr) charts.push(lineChart("Learning rate", [line(train, "lr", 1, "rate")]));
  return charts.length ? section("curves", "Training", el("div", { class: "charts" }, charts)) : null;
}
