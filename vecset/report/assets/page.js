// What the parts of the page share: the data, elements, numbers as text, the tooltip, choices.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];

function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < bytes.length; k++) bytes[k] = text.charCodeAt(k);
  return bytes;
}

// The way back from `deflated` in render.py.
async function inflate(text) {
  const packed = bytesOf(text);
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

// Three digits that matter, and no more than three decimals.
function number(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  const text = size.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 3);
  return (Number(text) && value < 0 ? "−" : "") + text;
}

const tip = $("#tip");

function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = !text;
  const box = tip.getBoundingClientRect();
  const right = event.clientX + 14 + box.width > innerWidth;
  tip.style.left = `${Math.max(4, right ? event.clientX - box.width - 10 : event.clientX + 14)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 4))}px`;
}

const hideTip = () => {
  tip.hidden = true;
};

// Buttons of which one is pressed: calls choose(value) for each press; returns a function that presses one silently.
function onChoice(group, choose) {
  const buttons = [...group.querySelectorAll("button")];
  const mark = (value) => buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.value === value)));
  for (const button of buttons)
    button.addEventListener("click", () => {
      mark(button.dataset.value);
      choose(button.dataset.value);
    });
  return mark;
}

// Calls choose(name of the metric) now and at each change of the list in `place`.
function onMetric(place, choose) {
  const list = place.querySelector("select.metric");
  list.addEventListener("change", () => choose(list.value));
  choose(list.value);
}
