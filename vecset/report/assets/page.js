// What all parts of the page share: elements, numbers as text, the tooltip, the data.

const data = JSON.parse(document.getElementById("data").textContent);
const colourOf = new Map(data.classes.map((c) => [c.id, c.colour]));
const nameOf = new Map(data.classes.map((c) => [c.id, c.name]));

function add(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on")
      for (const [event, action] of Object.entries(value)) element.addEventListener(event, action);
    else if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

const el = (tag, attributes, ...children) => add(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  add(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function section(id, title, ...children) {
  return el("section", { id }, el("h2", { text: title }), ...children);
}

const swatch = (colour) => el("i", { class: "swatch", style: `background:${colour}` });

function classLabel(row) {
  if (row.id === null || row.id === undefined) return [row.name];
  return [swatch(colourOf.get(row.id)), el("span", { class: "number", text: row.id }), row.name];
}

// Three digits that matter, and no more than three decimals.
function number(value, signed) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 3);
  const sign = Number(text) === 0 ? "" : value < 0 ? "−" : signed ? "+" : "";
  return sign + text;
}

const tip = document.getElementById("tip");

function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = !text;
  if (!text) return;
  const box = tip.getBoundingClientRect();
  const right = event.clientX + 14 + box.width > innerWidth;
  tip.style.left = `${Math.max(4, right ? event.clientX - box.width - 10 : event.clientX + 14)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 4))}px`;
}

const hideTip = () => {
  tip.hidden = true;
};

// A choice of one: buttons side by side. `choose(value)` is called for the first one, too, unless `quiet`.
function choice(options, chosen, choose) {
  const buttons = options.map(([value, text]) =>
    el("button", {
      type: "button",
      "data-value": value,
      "aria-pressed": String(value === chosen),
      text,
      on: {
        click: () => {
          mark(value);
          choose(value);
        },
      },
    }),
  );
  const mark = (value) => buttons.forEach((b, k) => b.setAttribute("aria-pressed", String(options[k][0] === value)));
  const group = el("span", { class: "group", role: "group" }, buttons);
  group.mark = mark;
  return group;
}

function select(options, chosen, choose) {
  return el(
    "select",
    { on: { change: (event) => choose(event.target.value) } },
    options.map(([value, text]) => el("option", { value, text, selected: value === chosen })),
  );
}

// Draws again whenever the width of `element` changes.
function onWidth(element, draw) {
  let last = 0;
  new ResizeObserver(() => {
    const width = Math.floor(element.clientWidth);
    if (width > 0 && width !== last) {
      last = width;
      draw(width);
    }
  }).observe(element);
}

// Ticks of a linear axis: about `count` round numbers from low to high.
function ticks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++)
    found.push(Number((k * step).toPrecision(12)));
  return found;
}

// The way back from html_report_hearts.pack: Int32Array of count * columns whole numbers, row by row.
async function unpack(text, count, columns) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const size = count * columns,
    values = new Int32Array(size);
  for (let column = 0; column < columns; column++) {
    let sum = 0;
    for (let row = 0; row < count; row++) {
      const k = column * count + row;
      sum += bytes[k] | (bytes[k + size] << 8) | (bytes[k + 2 * size] << 16) | (bytes[k + 3 * size] << 24);
      values[row * columns + column] = sum;
    }
  }
  return values;
}
