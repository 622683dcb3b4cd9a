// The 3D view: a scene of plotly per label map (or per pair of them, overlaid), all with one camera.

const ARRAYS = { i2: Int16Array, u2: Uint16Array, u4: Uint32Array };
const EYES = { front: [0, 1, 0.08], back: [0, -1, 0.08], right: [1, 0, 0.08], left: [-1, 0, 0.08] };
Object.assign(EYES, { above: [0, 0.05, 1], below: [0, 0.05, -1] });

function eyeAt([x, y, z], distance) {
  const size = Math.hypot(x, y, z) / distance;
  return { x: x / size, y: y / size, z: z / size };
}

const array = ({ dtype, bdata }) => new ARRAYS[dtype](bytesOf(bdata).buffer);
const scaled = (values, step, offset) => Float32Array.from(array(values), (v) => offset + v * step);

async function unpackSurfaces(heart) {
  const surfaces = JSON.parse(await inflate(heart.surfaces));
  if (!surfaces) return null;
  const unpack = (s) => ({
    id: s.class,
    error: s.error && scaled(s.error, surfaces.error_step_mm, 0),
    spread: s.spread && scaled(s.spread, surfaces.error_step_mm, 0),
    mesh: Object.fromEntries([
      ...["x", "y", "z"].map((axis, n) => [axis, scaled(s[axis], surfaces.step_mm, surfaces.middle_mm[n])]),
      ...["i", "j", "k"].map((corner) => [corner, array(s[corner])]),
    ]),
  });
  return { ...surfaces, sides: surfaces.sides.map((side) => side.map(unpack)) };
}

// Returns show(heart), which resolves when the heart is drawn.
function surfacesView() {
  const view = $(".view");
  const plot = $(".view .plot");
  const classes = new Map(data.classes.map((c) => [c.id, c]));
  const look = { over: false, by: "structure", veil: 0.3, scales: {}, only: null, camera: null };
  const shown = new Set(classes.keys());
  let [heart, surfaces] = [null, null];

  const distance = () => 1.7 * Math.max(1, (0.7 * plot.clientHeight * views().length) / plot.clientWidth);
  const home = (name) => ({ eye: eyeAt(EYES[name], distance()) }); // the rest as plotly has it: middle, head up
  const views = () => {
    const sides = heart.sides.map((_, side) => [side]);
    return look.over && sides.length > 1 ? sides.slice(1).map(([side]) => [side, 0]) : sides; // the second is the veil
  };

  function trace(structure, side, veil, scene) {
    const { name, colour } = classes.get(structure.id);
    const said = `${structure.id} ${name} (${heart.sides[side]})`;
    const found = structure.error ? "<br>%{customdata:.2f} mm from the other surface" : "<br>not in the other";
    const error = heart.sides.length < 2 ? "" : found;
    const spread = structure.spread ? "<br>%{text} mm spread of samples" : "";
    const by = veil ? "structure" : look.by;
    const plain = by === "spread" ? data.seen : data.not_compared;
    const painted = structure[by] ? { intensity: structure[by], coloraxis: "coloraxis" } : { color: plain };
    return {
      ...data.scene.mesh,
      ...structure.mesh,
      scene,
      name: said,
      customdata: structure.error,
      ...(spread && { text: Array.from(structure.spread, (mm) => mm.toFixed(2)) }),
      hovertemplate: `${said.replaceAll("<", "&lt;")}${error}${spread}<extra></extra>`,
      visible: shown.has(structure.id),
      opacity: (look.only !== null && look.only !== structure.id ? 0.06 : 1) * (veil ? look.veil : 1),
      uid: `${scene}-${side}-${structure.id}-${by}`, // a mesh of its own: one that had a colour scale keeps it
      ...(by === "structure" ? { color: colour } : painted),
    };
  }

  // Right, left, front and back on the floor below the heart, so that no view has one of them over it; the head above.
  function letters(middles) {
    const ends = middles.map((m, n) => 1.15 * (surfaces.high_mm[n] - m)); // RAS: the high ends are right, front, head
    const places = { R: [1, 0, -1], L: [-1, 0, -1], A: [0, 1, -1], P: [0, -1, -1], S: [0, 0, 1] };
    return Object.entries(places).map(([text, place]) => {
      const [x, y, z] = place.map((way, n) => middles[n] + way * ends[n]);
      return { ...data.scene.letter, text, x, y, z };
    });
  }

  function draw() {
    if (!surfaces) return null;
    const traces = [];
    const middles = surfaces.low_mm.map((low, n) => (low + surfaces.high_mm[n]) / 2);
    const half = Math.max(...surfaces.low_mm.map((low, n) => surfaces.high_mm[n] - low)) / 1.7;
    const measured = look.by !== "structure";
    const layout = { ...data.scene.layout, coloraxis: { ...data.scene.layout.coloraxis, cmax: look.scales[look.by] ?? 1 } };
    layout.coloraxis.showscale = measured;
    const title = { ...layout.coloraxis.colorbar.title, text: data.scene.scales[look.by] };
    layout.coloraxis.colorbar = { ...layout.coloraxis.colorbar, title };
    const floor = measured ? 0.13 : 0; // room for the scale
    views().forEach((sides, k, all) => {
      const scene = k ? `scene${k + 1}` : "scene";
      layout[scene] = { ...data.scene.scene, domain: { x: [k / all.length, (k + 1) / all.length], y: [floor, 1] } };
      layout[scene].camera = look.camera;
      layout[scene].annotations = letters(middles);
      ["xaxis", "yaxis", "zaxis"].forEach((axis, n) => {
        layout[scene][axis] = { ...layout[scene][axis], range: [middles[n] - half, middles[n] + half] };
      });
      sides.forEach((side, n) => traces.push(...surfaces.sides[side].map((s) => trace(s, side, n > 0, scene))));
    });
    $(".view .names").replaceChildren(
      ...views().map(([side, veil]) => {
        const name = heart.sides[side];
        const text = veil === undefined ? name : `${heart.sides[veil]} (transparent) over ${name}`;
        return el("span", { text, title: text });
      }),
    );
    return Plotly.react(plot, traces, layout, config("tableRotation", "pan3d", "resetCameraDefault3d"));
  }

  let waiting = false;
  const redraw = () => {
    view.ariaBusy = "true";
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(async () => {
      waiting = false;
      await draw();
      view.ariaBusy = String(waiting);
    });
  };

  // One camera: what one scene reports, the others follow.
  const turnAll = (camera, but) => {
    look.camera = camera;
    const scenes = views().map((_, k) => (k ? `scene${k + 1}` : "scene")).filter((name) => name !== but);
    return Plotly.relayout(plot, Object.fromEntries(scenes.map((name) => [`${name}.camera`, camera])));
  };
  let following = false;
  const follow = (event) => {
    const key = Object.keys(event).find((name) => /^scene\d*\.camera$/.test(name));
    if (!key || following) return;
    following = true;
    turnAll(event[key], key.split(".")[0]).finally(() => (following = false));
  };

  function turnByKey(event) {
    const { eye } = look.camera;
    const distance = Math.hypot(eye.x, eye.y, eye.z);
    let [yaw, pitch] = [Math.atan2(eye.y, eye.x), Math.asin(eye.z / distance)];
    const keys = { ArrowLeft: [-1, 0, 1], ArrowRight: [1, 0, 1], ArrowUp: [0, 1, 1], ArrowDown: [0, -1, 1] };
    const step = keys[event.key] || { "+": [0, 0, 1 / 1.15], "-": [0, 0, 1.15] }[event.key];
    if (!step) return;
    event.preventDefault();
    yaw += 0.12 * step[0];
    pitch = Math.max(-1.5, Math.min(1.5, pitch + 0.12 * step[1]));
    const direction = [Math.cos(yaw) * Math.cos(pitch), Math.sin(yaw) * Math.cos(pitch), Math.sin(pitch)];
    turnAll({ ...look.camera, eye: eyeAt(direction, distance * step[2]) });
  }

  const switches = $$(".switches input");
  const setShown = (input, on) => {
    input.checked = on;
    shown[on ? "add" : "delete"](Number(input.dataset.class));
    redraw();
  };
  for (const input of switches) {
    input.addEventListener("change", () => setShown(input, input.checked));
    for (const [event, on] of [["pointerenter", true], ["pointerleave", false]])
      input.parentElement.addEventListener(event, () => {
        look.only = on && input.checked ? Number(input.dataset.class) : null;
        redraw();
      });
  }
  $("#all-on").addEventListener("click", () => switches.forEach((input) => setShown(input, true)));
  $("#all-off").addEventListener("click", () => switches.forEach((input) => setShown(input, false)));
  onChoice($("#turns"), (name) => turnAll(home(name)));
  const tellScale = () => $$("#error-scale").forEach((input) => (input.value = look.scales[look.by] ?? 1));
  if ($("#layout")) {
    onChoice($("#layout"), (value) => {
      look.over = value === "over";
      $("#veil-label").hidden = !look.over;
      redraw();
    });
    $("#veil").addEventListener("input", (event) => {
      look.veil = Number(event.target.value);
      redraw();
    });
  }
  if ($("#colouring")) {
    onChoice($("#colouring"), (value) => {
      look.by = value;
      $("#error-label").hidden = value === "structure";
      tellScale();
      redraw();
    });
    $("#error-scale").addEventListener("change", (event) => {
      look.scales[look.by] = Math.max(0.1, Number(event.target.value) || 1);
      redraw();
    });
  }
  view.addEventListener("keydown", turnByKey);
  view.addEventListener("pointerdown", () => view.focus({ preventScroll: true }));
  view.addEventListener(
    "wheel", // the page scrolls over the view until the view was clicked
    (event) => event.ctrlKey || document.activeElement === view || event.stopPropagation(),
    { capture: true },
  );

  return async (chosen) => {
    heart = chosen;
    surfaces = await unpackSurfaces(heart);
    $(".view .message").hidden = Boolean(surfaces);
    plot.style.visibility = surfaces ? "" : "hidden";
    if (!surfaces) return;
    look.scales = { error: surfaces.scale_mm, spread: surfaces.spread_scale_mm };
    look.camera ??= home("front");
    tellScale();
    $("#thinned").hidden = !surfaces.thinned;
    const first = !plot.layout;
    await draw();
    if (first) ["plotly_relayout", "plotly_relayouting"].forEach((name) => plot.on(name, follow));
  };
}
