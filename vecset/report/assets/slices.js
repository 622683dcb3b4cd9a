// Slices of a heart: truth, reconstructions and differences side by side, a slider per plane. Every picture is a strip
// of all slices of its plane; the page only cuts them out, and reads the structures from their colours.

const SIGNS = ["", "−", "+", "≠"]; // of the kinds of difference, so that they are not told by colour alone
const kinds = Object.entries(data.difference).map(([name, colour], k) => ({ name, colour, mark: SIGNS[k] }));
// By the colour of a pixel, as one number: what it means there.
const meanings = {
  classes: data.classes.map((c) => ({ name: `${c.id} ${c.name}`, colour: c.colour, mark: c.id })),
  difference: kinds,
};
const byColour = {};
for (const [of, list] of Object.entries(meanings))
  byColour[of] = new Map(list.map((meaning) => [parseInt(meaning.colour.slice(1), 16), meaning]));

function stripView(strip, plane) {
  const canvas = el("canvas", { width: plane.width, height: plane.height });
  const letters = plane.letters.map((text, k) => el("i", { class: ["left", "top"][k], text }));
  const places = el("div", {});
  const frame = el("div", { class: "slice" }, canvas, places, letters);
  const figure = el("figure", {}, el("figcaption", { text: strip.name, title: strip.name }), frame);
  return { ...strip, canvas, context: canvas.getContext("2d", { willReadFrequently: true }), places, frame, figure };
}

// Numbers and signs where they fit: strip.marks holds per slice [x, y, pixels to the edge, which], the widest first.
function writeMarks(strip, plane, index) {
  const pixel = strip.frame.clientWidth / plane.width;
  const written = [];
  for (const [x, y, far, which] of $("#slice-numbers").checked ? strip.marks[index] : []) {
    const crowded = written.some((other) => Math.hypot(other[0] - x, other[1] - y) * pixel < 14);
    if (far * pixel >= 6 && !crowded) written.push([x, y, meanings[strip.of][which - 1].mark]);
  }
  const share = (k, size) => `${(100 * (k + 0.5)) / size}%`;
  const place = (x, y) => `left:${share(x, plane.width)};top:${share(y, plane.height)}`;
  strip.places.replaceChildren(...written.map(([x, y, text]) => el("span", { text, style: place(x, y) })));
}

function underPointer(event, frame, strips, plane) {
  const box = frame.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * plane.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * plane.height);
  if (x < 0 || y < 0 || x >= plane.width || y >= plane.height) return "";
  const lines = strips.map((strip) => {
    const [red, green, blue] = strip.context.getImageData(x, y, 1, 1).data;
    const found = byColour[strip.of].get((red << 16) | (green << 8) | blue);
    return `${strip.name}: ${found ? found.name : strip.of === "classes" ? "background" : "both background"}`;
  });
  return lines.join("\n");
}

async function planeView(plane) {
  const strips = plane.strips.map((strip) => stripView(strip, plane));
  const limits = { min: 0, max: plane.at_mm.length - 1, value: plane.start };
  const slider = el("input", { type: "range", ...limits, "aria-label": `${plane.name} slice` });
  const where = el("span", { class: "label" });
  const bar = el("div", { class: "bar" }, el("b", { text: plane.name }), slider, where);
  const row = el("div", { class: "strips" }, strips.map((strip) => strip.figure));
  const draw = () => {
    const index = Number(slider.value);
    const at = plane.at_mm[index].toFixed(1).replace("-", "−");
    where.textContent = `${at} mm, slice ${index + 1} of ${plane.at_mm.length}`;
    for (const strip of strips) {
      strip.context.clearRect(0, 0, plane.width, plane.height);
      strip.context.drawImage(strip.image, 0, -index * plane.height);
      writeMarks(strip, plane, index);
    }
  };
  slider.addEventListener("input", draw);
  for (const { frame } of strips) {
    frame.addEventListener("pointermove", (event) => showTip(event, underPointer(event, frame, strips, plane)));
    frame.addEventListener("pointerleave", hideTip);
    frame.addEventListener("wheel", (event) => {
      if (!event.shiftKey && !event.altKey) return; // the page scrolls; with Shift or Alt, the slices
      event.preventDefault();
      slider.value = Number(slider.value) + Math.sign(event.deltaY || event.deltaX);
      draw();
    }, { passive: false });
  }
  const resize = (pixelsPerMm, columns) => {
    row.style.gridTemplateColumns = `repeat(${columns}, ${plane.width * plane.mm[0] * pixelsPerMm}px)`;
    for (const { frame } of strips) frame.style.height = `${plane.height * plane.mm[1] * pixelsPerMm}px`;
    draw();
  };
  for (const strip of strips) {
    strip.image = Object.assign(new Image(), { src: strip.png });
    await strip.image.decode();
  }
  return { view: el("div", { class: "plane", "data-plane": plane.name }, bar, row), draw, resize, plane };
}

// Returns show(heart), which resolves when the slices are drawn.
function slicesView() {
  const place = $("#slices .planes");
  let planes = [];
  const size = () => {
    if (!planes.length) return;
    const columns = Math.min(planes[0].plane.strips.length, Math.max(2, Math.floor(place.clientWidth / 110)));
    const [widest, highest] = [["width", 0], ["height", 1]].map(([side, k]) =>
      Math.max(...planes.map(({ plane }) => plane[side] * plane.mm[k])),
    );
    const pixelsPerMm = Math.min((place.clientWidth - 8 * (columns - 1)) / columns / widest, 380 / highest);
    planes.forEach((p) => p.resize(pixelsPerMm, columns));
  };
  new ResizeObserver(size).observe(place);
  $("#slice-numbers").addEventListener("change", () => planes.forEach((p) => p.draw()));
  return async (heart) => {
    planes = await Promise.all(heart.planes.map(planeView));
    place.replaceChildren(...planes.map((p) => p.view));
    const coarse = Math.max(...heart.planes.map((p) => p.stride));
    $("#stride").textContent = coarse > 1 ? `(every ${coarse}th voxel is shown)` : "";
    size();
  };
}
