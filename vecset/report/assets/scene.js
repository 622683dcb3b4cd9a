// Surfaces in WebGL 2, orthographic, several views of one camera side by side. Positions are in patient mm (RAS+).

const VERTEX_SHADER = `#version 300 es
in vec3 position; in vec3 normal; in float error;
uniform mat3 rotation; uniform vec3 centre, size; uniform vec2 pan;
out vec3 viewNormal; out float errorMm;
void main() {
  vec3 p = rotation * (position - centre) - vec3(pan, 0.0);
  gl_Position = vec4(p.xy * size.xy, -p.z * size.z, 1.0);
  viewNormal = rotation * normal;
  errorMm = error;
}`;

const FRAGMENT_SHADER = `#version 300 es
precision highp float;
in vec3 viewNormal; in float errorMm;
uniform vec3 colour; uniform float alpha, dim, scaleMm, lineMm, number; uniform int mode; uniform sampler2D scale;
out vec4 result;
void main() {
  if (mode == 2) {  // for picking: which structure, and the error in hundredths of a mm
    float hundredths = errorMm < 0.0 ? 0.0 : 1.0 + min(floor(errorMm * 100.0 + 0.5), 65000.0);
    result = vec4(number, floor(hundredths / 256.0), mod(hundredths, 256.0), 255.0) / 255.0;
    return;
  }
  // no normal where two sheets fell together
  vec3 n = length(viewNormal) > 0.0 ? normalize(viewNormal) : vec3(0.0, 0.0, 1.0);
  if (n.z < 0.0) n = -n;
  vec3 base = colour;
  if (mode == 1) {
    if (errorMm < 0.0) {  // nothing to compare with: stripes
      base = mod(gl_FragCoord.x + gl_FragCoord.y, 12.0) < 6.0 ? vec3(1.0) : vec3(0.84, 0.37, 0.0);
    } else {
      base = texture(scale, vec2(clamp(errorMm / scaleMm, 0.0, 1.0) * 63.0 / 64.0 + 0.5 / 64.0, 0.5)).rgb;
      float steps = errorMm / lineMm, width = fwidth(steps);
      float line = abs(fract(steps - 0.5) - 0.5);
      vec3 ink = vec3(dot(base, vec3(0.3, 0.6, 0.1)) < 0.42 ? 0.85 : 0.0);
      if (steps > 0.5 && width < 0.5) base = mix(ink, base, smoothstep(0.4 * width, 1.4 * width, line));
    }
  }
  float light = 0.42 + 0.56 * max(dot(n, normalize(vec3(-0.35, 0.45, 0.82))), 0.0) + 0.12 * n.z;
  float shine = 0.16 * pow(max(dot(n, normalize(vec3(-0.2, 0.3, 0.95))), 0.0), 28.0);
  vec3 lit = base * light + shine;
  result = vec4(mix(lit, vec3(0.93), dim), alpha);
}`;

class Scene {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl2", { antialias: true, alpha: false });
    if (!this.gl) throw new Error("no WebGL 2");
    this.program = this.link();
    this.structures = [];
    this.camera = { yaw: 0, pitch: 0.12, zoom: 1, panX: 0, panY: 0 };
    this.upload_scale();
  }

  link() {
    const { gl } = this,
      program = gl.createProgram();
    for (const [kind, text] of [
      [gl.VERTEX_SHADER, VERTEX_SHADER],
      [gl.FRAGMENT_SHADER, FRAGMENT_SHADER],
    ]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost())
        throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    ["position", "normal", "error"].forEach((name, k) => gl.bindAttribLocation(program, k, name));
    gl.linkProgram(program);
    this.at = {};
    for (const name of [
      "rotation",
      "centre",
      "size",
      "pan",
      "colour",
      "alpha",
      "dim",
      "scaleMm",
      "lineMm",
      "mode",
      "number",
      "scale",
    ]) {
      this.at[name] = gl.getUniformLocation(program, name);
    }
    return program;
  }

  upload_scale() {
    const { gl } = this,
      colours = data.error_colours.flatMap((c) => [1, 3, 5].map((k) => parseInt(c.slice(k, k + 2), 16)));
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage2D(
      gl.TEXTURE_2D,
      0,
      gl.RGB,
      data.error_colours.length,
      1,
      0,
      gl.RGB,
      gl.UNSIGNED_BYTE,
      new Uint8Array(colours),
    );
    for (const [name, value] of [
      [gl.TEXTURE_MIN_FILTER, gl.LINEAR],
      [gl.TEXTURE_MAG_FILTER, gl.LINEAR],
      [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE],
      [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE],
    ]) {
      gl.texParameteri(gl.TEXTURE_2D, name, value);
    }
  }

  // structures: [{side, id, positions (3V) f32 mm, normals (3V) f32, errors (V) f32 mm, faces (3F) u32}]; the old go.
  load(structures) {
    const { gl } = this;
    for (const s of this.structures) {
      gl.deleteVertexArray(s.array);
      s.buffers.forEach((b) => gl.deleteBuffer(b));
    }
    this.structures = structures.map((s) => {
      const array = gl.createVertexArray(),
        buffers = [];
      gl.bindVertexArray(array);
      [
        [s.positions, 3],
        [s.normals, 3],
        [s.errors, 1],
      ].forEach(([values, width], k) => {
        buffers.push(gl.createBuffer());
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers.at(-1));
        gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
        gl.enableVertexAttribArray(k);
        gl.vertexAttribPointer(k, width, gl.FLOAT, false, 0, 0);
      });
      buffers.push(gl.createBuffer());
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffers.at(-1));
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, s.faces, gl.STATIC_DRAW);
      gl.bindVertexArray(null);
      const colour = [1, 3, 5].map((k) => parseInt(colourOf.get(s.id).slice(k, k + 2), 16) / 255);
      return { side: s.side, id: s.id, count: s.faces.length, array, buffers, colour };
    });
    const low = [Infinity, Infinity, Infinity],
      high = [-Infinity, -Infinity, -Infinity];
    for (const { positions } of structures) {
      for (let k = 0; k < positions.length; k++) {
        low[k % 3] = Math.min(low[k % 3], positions[k]);
        high[k % 3] = Math.max(high[k % 3], positions[k]);
      }
    }
    this.centre = low.map((v, k) => (v + high[k]) / 2);
    this.radius = Math.hypot(...low.map((v, k) => high[k] - v)) / 2 || 1;
  }

  // Rows: the picture's right, up, and towards the viewer, in patient coordinates.
  axes() {
    const { yaw, pitch } = this.camera,
      c = Math.cos(pitch);
    const back = [Math.sin(yaw) * c, Math.cos(yaw) * c, Math.sin(pitch)],
      right = [-Math.cos(yaw), Math.sin(yaw), 0];
    const up = [
      back[1] * right[2] - back[2] * right[1],
      back[2] * right[0] - back[0] * right[2],
      back[0] * right[1] - back[1] * right[0],
    ];
    return [right, up, back];
  }

  // Fills the canvas. views: [{solid: [sides], veil: side or null}]; look: {shown: Set of ids, byError, scaleMm,
  // lineMm, veilAlpha, only: id to stand out or null}.
  draw(views, look) {
    const { gl, canvas } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.SCISSOR_TEST);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(1, 1, 1, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    views.forEach((view, k) => {
      this.place(k, views.length, canvas.width, canvas.height);
      this.pass(view.solid, look, look.byError ? 1 : 0, 1);
      if (view.veil === null) return;
      gl.colorMask(false, false, false, false); // the nearest layer of the veil alone is blended: first its depth
      this.pass([view.veil], look, 0, 1);
      gl.colorMask(true, true, true, true);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
      gl.depthFunc(gl.LEQUAL);
      this.pass([view.veil], look, 0, look.veilAlpha);
      gl.disable(gl.BLEND);
    });
  }

  place(k, count, width, height) {
    const { gl, camera } = this,
      own = Math.floor(width / count);
    gl.viewport(k * own, 0, own, height);
    gl.useProgram(this.program);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
    const perMm = (camera.zoom * Math.min(own, height)) / 2 / (0.86 * this.radius);
    const [right, up, back] = this.axes();
    gl.uniformMatrix3fv(
      this.at.rotation,
      false,
      right.flatMap((_, c) => [right[c], up[c], back[c]]),
    );
    gl.uniform3fv(this.at.centre, this.centre);
    gl.uniform3f(this.at.size, (2 * perMm) / own, (2 * perMm) / height, 0.9 / this.radius);
    gl.uniform2f(this.at.pan, camera.panX, camera.panY);
  }

  pass(sides, look, mode, alpha) {
    const { gl } = this;
    gl.uniform1i(this.at.mode, mode);
    gl.uniform1f(this.at.alpha, alpha);
    gl.uniform1f(this.at.scaleMm, look.scaleMm);
    gl.uniform1f(this.at.lineMm, look.lineMm);
    gl.uniform1i(this.at.scale, 0);
    this.structures.forEach((s, k) => {
      if (!sides.includes(s.side) || !look.shown.has(s.id)) return;
      gl.uniform3fv(this.at.colour, s.colour);
      gl.uniform1f(this.at.number, k + 1);
      gl.uniform1f(this.at.dim, look.only !== null && look.only !== s.id ? 0.85 : 0);
      gl.bindVertexArray(s.array);
      gl.drawElements(gl.TRIANGLES, s.count, gl.UNSIGNED_INT, 0);
    });
    gl.bindVertexArray(null);
  }

  // What is under the point (0..1 from the left and the top): {side, id, errorMm or null}, or null.
  pick(views, look, x, y) {
    const { gl, canvas } = this,
      width = Math.ceil(canvas.width / 2),
      height = Math.ceil(canvas.height / 2);
    if (!this.target)
      this.target = {
        frame: gl.createFramebuffer(),
        colour: gl.createRenderbuffer(),
        depth: gl.createRenderbuffer(),
      };
    const { frame, colour, depth } = this.target;
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    if (this.target.width !== width || this.target.height !== height) {
      for (const [buffer, format, where] of [
        [colour, gl.RGBA8, gl.COLOR_ATTACHMENT0],
        [depth, gl.DEPTH_COMPONENT24, gl.DEPTH_ATTACHMENT],
      ]) {
        gl.bindRenderbuffer(gl.RENDERBUFFER, buffer);
        gl.renderbufferStorage(gl.RENDERBUFFER, format, width, height);
        gl.framebufferRenderbuffer(gl.FRAMEBUFFER, where, gl.RENDERBUFFER, buffer);
      }
      Object.assign(this.target, { width, height });
    }
    const px = Math.min(width - 1, Math.floor(x * width)),
      py = Math.min(height - 1, Math.floor((1 - y) * height));
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(px, py, 1, 1); // one pixel is all that is needed
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    views.forEach((view, k) => {
      this.place(k, views.length, width, height);
      this.pass(view.veil === null ? view.solid : [...view.solid, view.veil], look, 2, 1);
    });
    const found = new Uint8Array(4);
    gl.readPixels(px, py, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, found);
    gl.disable(gl.SCISSOR_TEST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    const structure = this.structures[found[0] - 1];
    if (!structure) return null;
    const hundredths = found[1] * 256 + found[2];
    return { side: structure.side, id: structure.id, errorMm: hundredths ? (hundredths - 1) / 100 : null };
  }
}

// Vertex normals: the mean of the triangles' normals, weighted by their areas.
function vertexNormals(positions, faces) {
  const normals = new Float32Array(positions.length);
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
    const ux = positions[b] - positions[a],
      uy = positions[b + 1] - positions[a + 1],
      uz = positions[b + 2] - positions[a + 2];
    const vx = positions[c] - positions[a],
      vy = positions[c + 1] - positions[a + 1],
      vz = positions[c + 2] - positions[a + 2];
    const n = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx];
    for (const v of [a, b, c]) for (let k = 0; k < 3; k++) normals[v + k] += n[k];
  }
  return normals;
}
