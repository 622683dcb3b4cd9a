// The 3D section: which structures, which views, what the colours mean.

async function unpackSurfaces(surfaces) {
  const structures = [];
  for (const [side, list] of surfaces.sides.entries()) {
    for (const s of list) {
      const steps = await unpack(s.vertices, s.num_vertices, 3),
        faces = new Uint32Array(await unpack(s.faces, 3 * s.num_faces, 1));
      const positions = Float32Array.from(steps, (v, k) => surfaces.origin_mm[k % 3] + v * surfaces.step_mm);
      const errors = s.error
        ? Float32Array.from(await unpack(s.error, s.num_vertices, 1), (v) => v * surfaces.error_step_mm)
        : new Float32Array(s.num_vertices).fill(-1);
      structures.push({ side, id: s.class, positions, faces, errors, normals: vertexNormals(positions, faces) });
    }
  }
  return structures;
}

// A round end of the scale that 95 % of the reconstructions' surface lies below.
function niceScale(structures) {
  const values = structures
    .filter((s) => s.side > 0)
    .flatMap((s) => Array.from(s.errors))
    .filter((v) => v >= 0)
    .sort((a, b) => a - b);
  const high = values.length ? values[Math.floor(0.95 * (values.length - 1))] : 1;
  return [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 40, 50].find((v) => v >= high) || Math.ceil(high / 10) * 10;
}

const VIEWS = [
  ["front", 0, 0],
  ["back", Math.PI, 0],
  ["right", Math.PI / 2, 0],
  ["left", -Math.PI / 2, 0],
  ["above", 0, 1.5],
  ["below", 0, -1.5],
];

// Returns {view, show(heart)}; `window.vecsetScene` gives tests the scene and what it shows.
function surfacesView() {
  const canvas = el("canvas", {
    tabindex: 0,
    "aria-label": "surfaces in 3D: drag to turn, wheel to zoom, Shift and drag to move, arrow keys to turn",
  });
  const message = el("div", { class: "message" }),
    decoration = el("div", {});
  const view = el("div", { class: "view" }, canvas, decoration);
  let scene = null;
  try {
    scene = new Scene(canvas);
  } catch (error) {
    message.textContent = `The surfaces cannot be drawn: this browser offers no WebGL 2 (${error.message}).`;
    view.append(message);
  }
  const look = {
    shown: new Set(data.classes.map((c) => c.id)),
    byError: false,
    scaleMm: 3,
    lineMm: 1,
    veilAlpha: 0.35,
    only: null,
  };
  const state = { layout: "side", sides: [], failed: false };
  const views = () =>
    state.layout === "side" || state.sides.length < 2
      ? state.sides.map((_, k) => ({ solid: [k], veil: null }))
      : state.sides.slice(1).map((_, k) => ({ solid: [k + 1], veil: 0 }));

  let waiting = false;
  const draw = () => {
    if (scene?.centre) scene.draw(views(), look);
    decoration.querySelectorAll("svg.compass").forEach((c) => drawCompass(c, scene.axes()));
  };
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
  const decorate = () => {
    hideTip();
    const count = views().length;
    const name = (k) =>
      state.layout === "side" || state.sides.length < 2
        ? state.sides[k]
        : `${state.sides[0]} (veil) over ${state.sides[k + 1]}`;
    const bar = el("canvas", { width: data.error_colours.length, height: 1 }),
      context = bar.getContext("2d");
    data.error_colours.forEach((c, k) => {
      context.fillStyle = c;
      context.fillRect(k, 0, 1, 1);
    });
    const key = el(
      "div",
      { class: "scale" },
      el("span", { text: "distance to the other surface (mm)" }),
      el("br"),
      bar,
      el(
        "div",
        {},
        el("span", { text: "0" }),
        el("span", { text: `lines every ${look.lineMm}` }),
        el("span", { text: `≥ ${look.scaleMm}` }),
      ),
    );
    decoration.replaceChildren(
      ...views()
        .flatMap((_, k) => [
          el("span", {
            class: "name",
            style: `left:calc(${(100 * k) / count}% + 0.4rem);max-width:calc(${100 / count}% - 0.8rem)`,
            text: name(k),
            title: name(k),
          }),
          svg("svg", { class: "compass", viewBox: "0 0 74 74", style: `left:calc(${(100 * k) / count}% + 0.2rem)` }),
          k ? el("div", { class: "divider", style: `left:${(100 * k) / count}%` }) : null,
        ])
        .filter(Boolean),
      ...(look.byError ? [key] : []),
    );
    redraw();
  };

  if (scene) {
    new ResizeObserver(() => {
      const ratio = Math.min(devicePixelRatio || 1, 2);
      canvas.width = Math.max(1, Math.round(view.clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(view.clientHeight * ratio));
      draw();
    }).observe(view);
    moveByPointer(canvas, scene, redraw, (event) => {
      const box = canvas.getBoundingClientRect();
      const found =
        scene.centre &&
        scene.pick(views(), look, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
      if (!found) {
        hideTip();
        return;
      }
      const error =
        state.sides.length < 2
          ? ""
          : found.errorMm === null
            ? "\nnot in the other"
            : `\n${found.errorMm.toFixed(2)} mm from the other surface`;
      showTip(event, `${found.id} ${nameOf.get(found.id)} (${state.sides[found.side]})${error}`);
    });
    canvas.addEventListener("webglcontextlost", () => {
      message.textContent = "The graphics context was lost; load the page again.";
      view.append(message);
    });
  }

  const boxes = data.classes.map((c) =>
    el("input", {
      type: "checkbox",
      checked: true,
      "data-class": c.id,
      on: {
        change: (event) => {
          look.shown[event.target.checked ? "add" : "delete"](c.id);
          redraw();
        },
      },
    }),
  );
  const setAll = (on) => {
    boxes.forEach((b, k) => {
      b.checked = on;
      look.shown[on ? "add" : "delete"](data.classes[k].id);
    });
    redraw();
  };
  const switches = el(
    "div",
    { class: "switches" },
    el(
      "div",
      { class: "bar" },
      el("button", { type: "button", id: "all-on", text: "all", on: { click: () => setAll(true) } }),
      el("button", { type: "button", id: "all-off", text: "none", on: { click: () => setAll(false) } }),
    ),
    data.classes.map((c, k) =>
      el(
        "label",
        {
          on: {
            pointerenter: () => {
              look.only = c.id;
              redraw();
            },
            pointerleave: () => {
              look.only = null;
              redraw();
            },
          },
        },
        boxes[k],
        swatch(c.colour),
        el("span", { class: "number", text: c.id }),
        c.name,
      ),
    ),
  );

  const veil = el(
    "label",
    { style: "display:none" },
    "veil",
    el("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.05,
      value: look.veilAlpha,
      id: "veil",
      on: {
        input: (event) => {
          look.veilAlpha = Number(event.target.value);
          redraw();
        },
      },
    }),
  );
  const limit = el("input", {
    type: "number",
    min: 0.5,
    step: 0.5,
    id: "error-scale",
    on: {
      change: (event) => {
        look.scaleMm = Math.max(0.1, Number(event.target.value) || 1);
        look.lineMm = lineStep(look.scaleMm);
        decorate();
      },
    },
  });
  const limitLabel = el("label", { style: "display:none" }, "scale to", limit, "mm");
  const layout = choice(
    [
      ["side", "side by side"],
      ["over", "overlaid"],
    ],
    "side",
    (value) => {
      state.layout = value;
      veil.style.display = value === "over" ? "" : "none";
      decorate();
    },
  );
  layout.id = "layout";
  const colouring = choice(
    [
      ["structure", "structure"],
      ["error", "surface error"],
    ],
    "structure",
    (value) => {
      look.byError = value === "error";
      limitLabel.style.display = look.byError ? "" : "none";
      decorate();
    },
  );
  colouring.id = "colouring";
  const turns = el(
    "span",
    { class: "group" },
    VIEWS.map(([name, yaw, pitch]) =>
      el("button", {
        type: "button",
        text: name,
        on: {
          click: () => {
            if (scene) Object.assign(scene.camera, { yaw, pitch, panX: 0, panY: 0, zoom: 1 });
            redraw();
          },
        },
      }),
    ),
  );
  const two = [
    el("span", { class: "label" }, layout),
    veil,
    el("span", { class: "label" }, "colour by", colouring),
    limitLabel,
  ];
  const bar = el("div", { class: "bar" }, ...two, el("span", { class: "label" }, "from", turns));
  const note = el("p", { class: "note" });

  const show = async (heart) => {
    state.sides = heart.sides;
    two.forEach((part) => {
      if (heart.sides.length < 2) part.style.display = "none";
    });
    message.remove();
    if (!scene || !heart.surfaces) {
      message.textContent = message.textContent || "Nothing to draw: the label maps are empty.";
      view.append(message);
      return;
    }
    const structures = await unpackSurfaces(heart.surfaces);
    look.scaleMm = niceScale(structures);
    look.lineMm = lineStep(look.scaleMm);
    limit.value = look.scaleMm;
    scene.load(structures);
    note.textContent =
      "Drag to turn, Shift and drag to move, wheel (after a click, or with Ctrl) or pinch to zoom, double click to " +
      "start again; point at a structure for its name and error. Surfaces of the label maps (marching cubes, Taubin " +
      "smoothing). Error: distance of each point to the same structure's surface in the other label map; stripes " +
      "where it has none." +
      (heart.surfaces.thinned
        ? ` For this page the surfaces are thinned to ${data.max_triangles.toLocaleString("en")} triangles per label ` +
          "map by merging near vertices, large structures first; the error was measured before."
        : "");
    decorate();
  };
  window.vecsetScene = { scene, look, views, draw };
  return { show, view: el("div", { id: "surfaces" }, bar, el("div", { class: "scene" }, view, switches), note) };
}

const lineStep = (scaleMm) => [0.25, 0.5, 1, 2, 5, 10].find((s) => scaleMm / s <= 3) || scaleMm / 4;
