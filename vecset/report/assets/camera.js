// How the 3D view is turned: by the pointer and the keys; the compass that says which way round it is.

const DIRECTIONS = [
  ["R", [1, 0, 0]],
  ["L", [-1, 0, 0]],
  ["A", [0, 1, 0]],
  ["P", [0, -1, 0]],
  ["S", [0, 0, 1]],
  ["I", [0, 0, -1]],
];
function drawCompass(compass, axes) {
  const [right, up, back] = axes,
    dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const arms = DIRECTIONS.map(([letter, d]) => ({
    letter,
    x: 37 + 25 * dot(right, d),
    y: 37 - 25 * dot(up, d),
    z: dot(back, d),
  }))
    .filter(({ z }) => z > -0.9)
    .sort((a, b) => a.z - b.z);
  compass.replaceChildren(
    ...arms.flatMap(({ letter, x, y, z }) => {
      const strength = 0.3 + (0.7 * (z + 1)) / 2;
      return [
        svg("line", {
          x1: 37,
          y1: 37,
          x2: 37 + (x - 37) * 0.72,
          y2: 37 + (y - 37) * 0.72,
          stroke: "#5a646e",
          "stroke-opacity": strength,
        }),
        svg("text", {
          x,
          y: y + 4,
          "text-anchor": "middle",
          "font-size": 11,
          "font-weight": 600,
          fill: "#1c2126",
          "fill-opacity": strength,
          text: letter,
        }),
      ];
    }),
  );
}

function moveByPointer(canvas, scene, redraw, hover) {
  const pointers = new Map();
  const { camera } = scene;
  const turn = (dx, dy) => {
    camera.yaw += dx;
    camera.pitch = Math.max(-1.55, Math.min(1.55, camera.pitch + dy));
  };
  const zoom = (factor) => {
    camera.zoom = Math.max(0.3, Math.min(20, camera.zoom * factor));
  };
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y) || 1;
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    hideTip();
  });
  canvas.addEventListener("pointermove", (event) => {
    const old = pointers.get(event.pointerId);
    if (!old) {
      hover(event);
      return;
    }
    const dx = event.clientX - old.x,
      dy = event.clientY - old.y,
      before = pointers.size > 1 ? spread() : 0;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (pointers.size > 1) zoom(spread() / before);
    else if (event.shiftKey || event.buttons & 6) {
      const mmPerPixel = (2 * 0.86 * scene.radius) / camera.zoom / Math.min(canvas.clientWidth, canvas.clientHeight);
      camera.panX -= dx * mmPerPixel;
      camera.panY += dy * mmPerPixel;
    } else turn(dx * 0.009, dy * 0.009);
    redraw();
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls over it until it was clicked
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.008 : 0.0015)));
      redraw();
    },
    { passive: false },
  );
  canvas.addEventListener("dblclick", () => {
    Object.assign(camera, { zoom: 1, panX: 0, panY: 0 });
    redraw();
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("keydown", (event) => {
    const action = {
      ArrowLeft: () => turn(-0.12, 0),
      ArrowRight: () => turn(0.12, 0),
      ArrowUp: () => turn(0, -0.12),
      ArrowDown: () => turn(0, 0.12),
      "+": () => zoom(1.15),
      "-": () => zoom(1 / 1.15),
    }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
    redraw();
  });
}
