// Slices of a heart: truth, reconstructions and differences side by side, a slider per plane. Every picture is a strip
// of all slices of its plane; the page only cuts them out, and reads the structures from their colours.

const rgbKey = (hex) => parseInt(hex.slice(1), 16);
// What a colour of a strip means: its number in the picture, the mark that is written on it, its name.
const SIGNS = [null, "−", "+", "≠"]; // of the kinds of difference, so that they are not told by colour alone
const meanings = {
  classes: new Map(data.classes.map((c) => [rgbKey(c.colour), { id: c.id, mark: c.id, name: `${c.id} ${c.name}` }])),
  difference: new Map(
    Object.entries(data.difference).map(([name, colour], k) => [rgbKey(colour), { id: k + 1, mark: SIGNS[k], name }]),
  ),
};

function loadImage(address) {
  const image = new Image();
  image.src = address;
  return image.decode().then(() => image);
}

const meaningAt = (pixels, k, of) =>
  meanings[of].get((pixels[4 * k] << 16) | (pixels[4 * k + 1] << 8) | pixels[4 * k + 2]);

// Where marks fit: in each connected region of one meaning the pixel farthest (in steps along rows and columns) from
// its edge, of several the one nearest to the region's middle: [{mark, far, x, y}], the widest place first.
function markPlaces(canvas, of) {
  const { width, height } = canvas;
  const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const row = width + 2; // one pixel of background all round, so that every pixel has four neighbours
  const ids = new Uint8Array(row * (height + 2));
  const marks = new Map();
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) {
      const found = meaningAt(pixels, k, of);
      if (!found || found.mark === null) continue;
      ids[(y + 1) * row + x + 1] = found.id;
      marks.set(found.id, found.mark);
    }
  }
  const far = new Uint16Array(ids.length);
  const step = (k, a, b) => {
    const first = ids[a] === ids[k] ? far[a] + 1 : 1;
    const second = ids[b] === ids[k] ? far[b] + 1 : 1;
    return first < second ? first : second;
  };
  for (let k = row; k < ids.length; k++) if (ids[k]) far[k] = step(k, k - 1, k - row);
  for (let k = ids.length - row; k > 0; k--) if (ids[k]) far[k] = Math.min(far[k], step(k, k + 1, k + row));
  const seen = new Uint8Array(ids.length);
  const region = new Int32Array(ids.length);
  const around = [-1, 1, -row, row];
  const places = [];
  for (let start = row; start < ids.length; start++) {
    if (!ids[start] || seen[start]) continue;
    let size = 1;
    let [sumX, sumY, deepest] = [0, 0, 0];
    region[0] = start;
    seen[start] = 1;
    for (let at = 0; at < size; at++) {
      const k = region[at];
      sumX += k % row;
      sumY += Math.floor(k / row);
      if (far[k] > deepest) deepest = far[k];
      for (const offset of around) {
        const n = k + offset;
        if (seen[n] || ids[n] !== ids[start]) continue;
        seen[n] = 1;
        region[size++] = n;
      }
    }
    let [best, least] = [start, Infinity];
    for (let at = 0; at < size; at++) {
      const k = region[at];
      if (far[k] !== deepest) continue;
      const off = Math.hypot((k % row) - sumX / size, Math.floor(k / row) - sumY / size);
      if (off < least) [best, least] = [k, off];
    }
    places.push({ mark: marks.get(ids[start]), far: deepest, x: (best % row) - 1, y: Math.floor(best / row) - 1 });
  }
  return places.sort((a, b) => b.far - a.far);
}

function planeView(plane, options) {
  const strips = plane.strips.map((strip) => {
    const canvas = el("canvas", { width: plane.width, height: plane.height });
    const numbers = el("div", {});
    const frame = el(
      "div",
      { class: "slice" },
      canvas,
      numbers,
      el("i", { class: "left", text: plane.letters[0] }),
      el("i", { class: "top", text: plane.letters[1] }),
    );
    return {
      ...strip,
      canvas,
      numbers,
      frame,
      figure: el("figure", {}, el("figcaption", { text: strip.name, title: strip.name }), frame),
    };
  });
  const slider = el("input", {
    type: "range",
    min: 0,
    max: plane.at_mm.length - 1,
    value: plane.start,
    "aria-label": `${plane.name} slice`,
  });
  const where = el("span", { class: "label" });
  const row = el(
    "div",
    { class: "strips" },
    strips.map((s) => s.figure),
  );
  const view = el(
    "div",
    { class: "plane", "data-plane": plane.name },
    el("div", { class: "bar" }, el("b", { text: plane.name }), slider, where),
    row,
  );
  const draw = () => {
    const index = Number(slider.value);
    const at = plane.at_mm[index].toFixed(1).replace("-", "−");
    where.textContent = `${at} mm, slice ${index + 1} of ${plane.at_mm.length}`;
    for (const s of strips) {
      if (!s.image) continue;
      const context = s.canvas.getContext("2d", { willReadFrequently: true });
      context.clearRect(0, 0, plane.width, plane.height);
      context.drawImage(s.image, 0, index * plane.height, plane.width, plane.height, 0, 0, plane.width, plane.height);
      s.numbers.replaceChildren();
      if (!options.numbers) continue;
      const pixel = s.frame.clientWidth / plane.width;
      const written = [];
      for (const at of markPlaces(s.canvas, s.of)) {
        if (at.far * pixel < 6 || written.some((w) => Math.hypot(w.x - at.x, w.y - at.y) * pixel < 14)) continue;
        written.push(at);
        s.numbers.append(
          el("span", {
            text: at.mark,
            style: `left:${(100 * (at.x + 0.5)) / plane.width}%;top:${(100 * (at.y + 0.5)) / plane.height}%`,
          }),
        );
      }
    }
  };
  slider.addEventListener("input", draw);
  for (const s of strips) {
    s.frame.addEventListener("pointermove", (event) => showTip(event, underPointer(event, s, strips, plane)));
    s.frame.addEventListener("pointerleave", hideTip);
    s.frame.addEventListener(
      "wheel",
      (event) => {
        if (!event.shiftKey && !event.altKey) return; // the page scrolls; with Shift or Alt, the slices
        event.preventDefault();
        slider.value = Number(slider.value) + Math.sign(event.deltaY || event.deltaX);
        draw();
      },
      { passive: false },
    );
  }
  const ready = Promise.all(
    strips.map(async (s) => {
      s.image = await loadImage(s.png);
    }),
  ).then(draw);
  const resize = (pixelsPerMm, columns) => {
    row.style.gridTemplateColumns = `repeat(${columns}, ${plane.width * plane.mm[0] * pixelsPerMm}px)`;
    for (const s of strips) s.frame.style.height = `${plane.height * plane.mm[1] * pixelsPerMm}px`;
    draw();
  };
  return { view, ready, draw, resize, plane, columns: strips.length };
}

function underPointer(event, strip, strips, plane) {
  const box = strip.frame.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * plane.width),
    y = Math.floor(((event.clientY - box.top) / box.height) * plane.height);
  if (x < 0 || y < 0 || x >= plane.width || y >= plane.height) return "";
  return strips
    .map((s) => {
      const found = meaningAt(s.canvas.getContext("2d").getImageData(x, y, 1, 1).data, 0, s.of);
      return `${s.name}: ${found ? found.name : s.of === "classes" ? "background" : "both background"}`;
    })
    .join("\n");
}

// The slices of the heart that is chosen: returns {view, show(heart)}.
function slicesView() {
  const options = { numbers: true },
    place = el("div", { class: "planes" });
  let planes = [];
  const size = () => {
    if (!planes.length || !place.clientWidth) return;
    const columns = Math.min(planes[0].columns, Math.max(2, Math.floor(place.clientWidth / 110)));
    const widest = Math.max(...planes.map(({ plane }) => plane.width * plane.mm[0]));
    const highest = Math.max(...planes.map(({ plane }) => plane.height * plane.mm[1]));
    const pixelsPerMm = Math.min((place.clientWidth - 8 * (columns - 1)) / columns / widest, 380 / highest);
    planes.forEach((p) => p.resize(pixelsPerMm, columns));
  };
  onWidth(place, size);
  const toggle = el("input", {
    type: "checkbox",
    checked: true,
    id: "slice-numbers",
    on: {
      change: (event) => {
        options.numbers = event.target.checked;
        planes.forEach((p) => p.draw());
      },
    },
  });
  const legend = el("div", { class: "legend" });
  const note = el("p", {
    class: "note",
    text: "The patient's right, or front, is on the left. Point at a slice to read the structures.",
  });
  const show = async (heart) => {
    const mine = heart.planes.map((plane) => planeView(plane, options));
    await Promise.all(mine.map((p) => p.ready));
    planes = mine;
    place.replaceChildren(...planes.map((p) => p.view));
    const coarse = Math.max(...heart.planes.map((p) => p.stride));
    note.dataset.stride = coarse;
    legend.replaceChildren(
      ...data.classes.map((c) =>
        el("span", {}, swatch(c.colour), el("span", { class: "number", text: c.id }), c.name),
      ),
      ...(heart.sides.length > 1
        ? Object.entries(data.difference).map(([name, colour], k) =>
            el("span", {}, swatch(colour), SIGNS[k] ? `${name} (${SIGNS[k]})` : name),
          )
        : []),
      ...(coarse > 1 ? [el("span", { text: `(every ${coarse}th voxel is shown)` })] : []),
    );
    size();
  };
  return {
    show,
    view: el(
      "div",
      { id: "slices" },
      el("div", { class: "bar" }, el("label", {}, toggle, "numbers and signs")),
      legend,
      place,
      note,
    ),
  };
}
