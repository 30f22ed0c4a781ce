/* A WebGL2 viewer of point clouds and lines, z up, metres. Colouring and filtering happen on the GPU from one byte
 * per quantity and point, so that no control costs more than one redraw. */

const POINT_SHADER = [
  `#version 300 es
  in vec3 position;
  in vec4 scalars; // palette indices 0..255 of photograph, range, confidence, error; 255 = unknown
  uniform mat4 viewProjection;
  uniform int mode; // 0 photograph, 1 range, 2 confidence, 3 error, 4 height, 5 flat
  uniform vec3 flatColour;
  uniform vec2 heights; // lowest, highest of the height scale
  uniform sampler2D photoPalette, turbo;
  uniform vec2 rangeLimits, weightLimits;
  uniform float pixelAngle, density, size, pixelsPerMetre, minConfidence, maxRange;
  out vec3 colour;
  flat out float diameter;
  vec3 look(sampler2D palette, float index) { return texelFetch(palette, ivec2(int(index + 0.5), 0), 0).rgb; }
  void main() {
    gl_Position = viewProjection * vec4(position, 1.0);
    float metres = rangeLimits.x * pow(rangeLimits.y / rangeLimits.x, scalars.y / 254.0);
    float drawn = min(1.0, density * clamp(metres, weightLimits.x, weightLimits.y));
    float spacing = pixelAngle * metres * inversesqrt(drawn);
    diameter = clamp(size * spacing * pixelsPerMetre / gl_Position.w, 1.5, 40.0);
    gl_PointSize = diameter;
    bool unsure = scalars.z < 254.5 && scalars.z < minConfidence;
    if (unsure || scalars.y > maxRange) gl_Position = vec4(2.0, 2.0, 2.0, 1.0); // outside: not drawn
    if (mode == 0) colour = look(photoPalette, scalars.x);
    else if (mode == 5) colour = flatColour;
    else if (mode == 4)
      colour = look(turbo, 254.0 * clamp((position.z - heights.x) / (heights.y - heights.x), 0.0, 1.0));
    else colour = look(turbo, mode == 1 ? scalars.y : mode == 2 ? scalars.z : scalars.w);
  }`,
  `#version 300 es
  precision mediump float;
  in vec3 colour;
  flat in float diameter;
  out vec4 pixel;
  void main() {
    vec2 q = gl_PointCoord - 0.5;
    if (diameter > 3.0 && dot(q, q) > 0.25) discard;
    pixel = vec4(colour, 1.0);
  }`,
];
const LINE_SHADER = [
  `#version 300 es
  in vec3 position;
  in vec3 tint;
  uniform mat4 viewProjection;
  uniform vec2 nudge;
  out vec3 colour;
  void main() {
    gl_Position = viewProjection * vec4(position, 1.0);
    gl_Position.xy += nudge * gl_Position.w;
    colour = tint;
  }`,
  `#version 300 es
  precision mediump float;
  in vec3 colour;
  out vec4 pixel;
  void main() { pixel = vec4(colour, 1.0); }`,
];
/* Puts the drawn points on the screen, colour and depth, darker where they lie behind their neighbours: edges can be
 * read without any normals (eye-dome lighting, Boucheny 2009). */
const SHADE_SHADER = [
  `#version 300 es
  void main() { // one triangle that covers the screen
    vec2 corner = vec2(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0);
    gl_Position = vec4(corner, 0.0, 1.0);
  }`,
  `#version 300 es
  precision highp float;
  uniform highp sampler2D colours, depths;
  uniform vec2 nearFar;
  uniform float reach, strength; // pixels, 0 = no shading
  out vec4 pixel;
  float logMetres(float depth) {
    float near = nearFar.x, far = nearFar.y;
    return log2(2.0 * near * far / (far + near - (2.0 * depth - 1.0) * (far - near)));
  }
  void main() {
    ivec2 at = ivec2(gl_FragCoord.xy), last = textureSize(depths, 0) - 1;
    float depth = texelFetch(depths, at, 0).r;
    vec3 colour = texelFetch(colours, at, 0).rgb;
    if (depth < 1.0 && strength > 0.0) {
      float here = logMetres(depth), hidden = 0.0;
      int r = int(reach + 0.5);
      ivec2 steps[4] = ivec2[4](ivec2(r, 0), ivec2(-r, 0), ivec2(0, r), ivec2(0, -r));
      for (int k = 0; k < 4; k++) {
        float there = texelFetch(depths, clamp(at + steps[k], ivec2(0), last), 0).r;
        hidden += clamp(here - logMetres(there), 0.0, 0.25);
      }
      colour *= exp(-strength * hidden);
    }
    pixel = vec4(colour, 1.0);
    gl_FragDepth = depth;
  }`,
];
const FIELD_OF_VIEW = (50 * Math.PI) / 180;
/* From where everything is seen; `nearest` times the scene's radius away at least, that surfaces are in the picture. */
const SIDES = {
  Oblique: { key: "O", hint: "From behind and above", azimuth: 0.5, elevation: 0.75, nearest: 1.5 },
  Top: { key: "U", hint: "From straight above, forward is up", azimuth: 0, elevation: Math.PI / 2 - 0.001, nearest: 2.4 },
  Side: { key: "S", hint: "From the right", azimuth: -Math.PI / 2, elevation: 0.3, nearest: 1.5 },
};

/* [N, 4] one byte each of photograph, range, confidence, error per point; unknown where the cloud has none. The base64
 * is dropped: the decoded copy is enough. */
function decodeScalars(cloud) {
  const scalars = new Uint8Array(4 * cloud.xyz.shape[0]).fill(255);
  ["photo", "range", "confidence", "error"].forEach((name, k) => {
    if (!cloud[name]) return;
    decodeArray(cloud[name]).forEach((value, i) => (scalars[4 * i + k] = value));
    cloud[name].bdata = null;
  });
  return scalars;
}

/* Points that are not predicted are paler; colours are bytes on the page and 0..1 on the GPU. */
function vehicleColour({ colour }, predicted = true) {
  return colour.map((c) => c / 255).map((c) => (predicted ? c : 0.45 * c + 0.4));
}

/* Under the choice of colour: its bar, or what `texts` say of it. */
function showScale(host, colour, texts, { scales, turbo }) {
  if (texts[colour]) return host.replaceChildren(texts[colour]);
  const heights = { ticks: [0, 2, 4, 6, 8].map((h) => [(h + 0.5) / 10, `${h}`]), unit: "m" };
  const { ticks, unit } = colour === "height" ? heights : scales[colour];
  const bar = element("div", { className: "bar", id: "bar" });
  host.replaceChildren(bar);
  colourBar(bar, decodeArray(turbo), ticks, unit);
}

/* A button per view of {name: {key, hint}}, which calls `look(name)`. */
function viewButtons(views, look) {
  return Object.entries(views).map(([name, { key, hint }]) => {
    const button = element("button", { type: "button", title: hint, onclick: () => look(name) }, `${name} `, element("kbd", {}, key));
    button.dataset.view = name;
    return button;
  });
}

class CloudViewer {
  /* `data` are the page's, of coop3d.visualization.payloads.view_payload; `beforeDraw()` returns
   * {clouds: [{cloud, mode, flatColour, ...uniforms, count}], lines: [...]}. */
  constructor(canvas, data, beforeDraw) {
    this.canvas = canvas;
    this.data = data;
    this.gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: false });
    if (!this.gl) throw new Error("This browser has no WebGL2");
    this.points = createProgram(this.gl, POINT_SHADER);
    this.lines = createProgram(this.gl, LINE_SHADER);
    this.shade = createProgram(this.gl, SHADE_SHADER);
    this.screenTriangle = { handle: this.gl.createVertexArray(), count: 3 };
    this.shared = {
      rangeLimits: [data.scales.range.low, data.scales.range.high],
      weightLimits: data.weightLimits,
      heights: [data.ground - 0.5, data.ground + 9.5],
      photoPalette: createTexture(this.gl, 256, 1, decodeArray(data.photoPalette)),
      turbo: createTexture(this.gl, 256, 1, decodeArray(data.turbo)),
    };
    this.beforeDraw = beforeDraw;
    this.camera = { target: [0, 0, 0], distance: 60, azimuth: 0, elevation: 0.6 };
    this.afterDraw = () => {};
    this.stats = { draws: 0, points: 0, milliseconds: 0 };
    this.share = 1; // of the points, drawn while the view moves: adapts to what the machine can do
    this.listen();
    new ResizeObserver(() => this.redraw()).observe(canvas);
  }

  addCloud(xyz, scalars) {
    const attributes = { position: { size: 3, data: xyz }, scalars: { size: 4, data: scalars } };
    return { xyz, scalars, vertices: createVertexArray(this.gl, this.points, attributes) };
  }

  /* Segments [[a, b, colour], ...] become one drawable; kept until forgotten. */
  addLines(segments) {
    const position = new Float32Array(segments.flatMap(([a, b]) => [...a, ...b]));
    const tint = new Float32Array(segments.flatMap(([, , c]) => [...c, ...c]));
    if (!segments.length) return null;
    const attributes = { position: { size: 3, data: position }, tint: { size: 3, data: tint } };
    return createVertexArray(this.gl, this.lines, attributes);
  }

  eye() {
    const { target, distance, azimuth, elevation } = this.camera;
    const c = Math.cos(elevation);
    const back = [-Math.sin(azimuth) * c, -Math.cos(azimuth) * c, Math.sin(elevation)];
    return back.map((b, k) => target[k] + distance * b);
  }

  /* Look from one of SIDES, so far away that every vehicle is in the picture, whatever the shape of the window. */
  look(side) {
    const { centre, ground, radius, positions } = this.data;
    const { azimuth, elevation, nearest } = SIDES[side];
    const target = [centre[0], centre[1], ground];
    const distance = Math.max(nearest * radius, this.distanceToSee(positions, { target, azimuth, elevation }));
    this.camera = { target, distance, azimuth, elevation };
    this.redraw();
  }

  /* How far from its target a camera must be, at least, to see these positions with a margin in today's window. */
  distanceToSee(positions, { target, azimuth, elevation }) {
    const [s, c, e, f] = [Math.sin(azimuth), Math.cos(azimuth), Math.sin(elevation), Math.cos(elevation)];
    const axes = [[c, -s, 0], [s * e, c * e, f], [-s * f, -c * f, e]]; // right, up, back
    const aspect = this.canvas.clientWidth / this.canvas.clientHeight || 1;
    const slope = 0.8 * Math.tan(FIELD_OF_VIEW / 2);
    const needed = positions.map((p) => {
      const [right, up, back] = axes.map((axis) => axis.reduce((sum, a, k) => sum + a * (p[k] - target[k]), 0));
      return back + Math.max(Math.abs(right) / aspect, Math.abs(up)) / slope;
    });
    return Math.max(0, ...needed);
  }

  /* What stands right before the eye is left out: else a wall behind which the camera hangs would hide the street. */
  nearFar() {
    return [Math.max(0.1, this.camera.distance / 6), this.camera.distance * 20 + 1500];
  }

  viewProjection() {
    const aspect = this.canvas.width / this.canvas.height;
    const projection = mat4.perspective(FIELD_OF_VIEW, aspect, ...this.nearFar());
    return mat4.multiply(projection, mat4.inverseRigid(mat4.lookAt(this.eye(), this.camera.target, [0, 0, 1])));
  }

  /* Ask for a frame. One is in the making at a time, so that a slow GPU never works off a queue of old views. */
  redraw() {
    this.dirty = true;
    if (this.busy) return;
    this.busy = true;
    requestAnimationFrame(() => this.frame());
  }

  frame() {
    const { gl } = this;
    const started = performance.now();
    const moving = this.moving;
    this.dirty = false;
    this.draw(moving ? this.share : 1);
    const fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    const finish = () => {
      if (gl.clientWaitSync(fence, gl.SYNC_FLUSH_COMMANDS_BIT, 0) === gl.TIMEOUT_EXPIRED) return setTimeout(finish, 4);
      gl.deleteSync(fence);
      this.stats.milliseconds = performance.now() - started;
      if (moving) this.adapt(this.stats.milliseconds);
      this.busy = false;
      if (this.dirty) this.redraw();
    };
    setTimeout(finish, 0);
  }

  /* Call back once the GPU has finished what was asked for. */
  whenIdle(callback) {
    if (this.busy || this.dirty) setTimeout(() => this.whenIdle(callback), 5);
    else callback();
  }

  /* Draw as many points while moving as take about 50 ms. */
  adapt(milliseconds) {
    const change = Math.min(1.3, Math.max(0.3, 50 / milliseconds));
    this.share = Math.min(1, Math.max(0.02, this.share * change));
  }

  /* Redraw while the pointer moves things; all points again once it rests. */
  move() {
    this.moving = true;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => ((this.moving = false), this.redraw()), 250);
    this.redraw();
  }

  draw(share) {
    const { gl } = this;
    const ratio = this.fitToScreen();
    const frame = this.beforeDraw();
    this.matrix = this.viewProjection();
    this.drawn = frame.clouds;
    gl.enable(gl.DEPTH_TEST);
    this.drawPoints(frame.clouds, share);
    this.showPoints(frame.shaded ? 2.0 : 0.0, ratio);
    this.drawLines(frame.lines, this.matrix, ratio);
    this.stats = { ...this.stats, draws: this.stats.draws + 1, points: frame.clouds.reduce((n, c) => n + c.count, 0) };
    this.afterDraw();
  }

  /* As many pixels as the screen has; returns device pixels per CSS pixel. */
  fitToScreen() {
    const { gl, canvas } = this;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((x) => Math.max(1, Math.round(x * ratio)));
    if (this.target?.width !== width || this.target?.height !== height) {
      [canvas.width, canvas.height] = [width, height];
      if (this.target) deleteTarget(gl, this.target);
      this.target = createTarget(gl, width, height);
    }
    gl.viewport(0, 0, width, height);
    return ratio;
  }

  drawPoints(clouds, share) {
    const { gl, canvas, matrix: viewProjection } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target.framebuffer);
    gl.clearColor(...themeColour("--sky"), 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(this.points.handle);
    const pixelsPerMetre = canvas.height / (2 * Math.tan(FIELD_OF_VIEW / 2));
    for (const { cloud, count, ...uniforms } of clouds) {
      const density = uniforms.density * share; // fewer points are drawn larger
      setUniforms(this.points, { ...this.shared, viewProjection, pixelsPerMetre, ...uniforms, density });
      drawVertices(gl, cloud.vertices, gl.POINTS, Math.ceil(count * share));
    }
  }

  showPoints(strength, ratio) {
    const { gl, target } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.clear(gl.DEPTH_BUFFER_BIT);
    gl.useProgram(this.shade.handle);
    const pictures = { colours: target.colour, depths: target.depth };
    setUniforms(this.shade, { ...pictures, nearFar: this.nearFar(), reach: 1.5 * ratio, strength });
    gl.depthFunc(gl.ALWAYS);
    drawVertices(gl, this.screenTriangle, gl.TRIANGLES);
    gl.depthFunc(gl.LESS);
  }

  /* WebGL draws hairlines only: four draws half a pixel apart make them two pixels wide. */
  drawLines(lines, viewProjection, ratio) {
    const { gl, canvas } = this;
    gl.useProgram(this.lines.handle);
    for (const { vertices, wide } of lines.filter((l) => l.vertices)) {
      for (const [x, y] of wide ? [[-1, -1], [1, -1], [-1, 1], [1, 1]] : [[0, 0]]) {
        const nudge = [(x * ratio) / canvas.width / 1.5, (y * ratio) / canvas.height / 1.5];
        setUniforms(this.lines, { viewProjection, nudge });
        drawVertices(gl, vertices, gl.LINES);
      }
    }
  }

  /* Where a point appears: [x, y] in CSS pixels, or null behind the eye. */
  screen([x, y, z]) {
    const m = this.matrix;
    const w = m[3] * x + m[7] * y + m[11] * z + m[15];
    if (w <= 0.05) return null;
    const u = (m[0] * x + m[4] * y + m[8] * z + m[12]) / w;
    const v = (m[1] * x + m[5] * y + m[9] * z + m[13]) / w;
    return [(0.5 + u / 2) * this.canvas.clientWidth, (0.5 - v / 2) * this.canvas.clientHeight];
  }

  /* The nearest drawn point within a few pixels of the pointer: {draw, index} or null. */
  pick(px, py) {
    const m = this.matrix;
    const [halfW, halfH] = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
    const [cx, cy] = [px / halfW - 1, 1 - py / halfH];
    const [near] = this.nearFar();
    let best = null;
    let bestW = Infinity;
    for (const draw of this.drawn || []) {
      const { xyz, scalars } = draw.cloud;
      for (let i = 0; i < draw.count; i++) {
        const [x, y, z] = [xyz[3 * i], xyz[3 * i + 1], xyz[3 * i + 2]];
        const w = m[3] * x + m[7] * y + m[11] * z + m[15];
        if (w < near || w >= bestW) continue;
        const dx = ((m[0] * x + m[4] * y + m[8] * z + m[12]) / w - cx) * halfW;
        const dy = ((m[1] * x + m[5] * y + m[9] * z + m[13]) / w - cy) * halfH;
        if (dx * dx + dy * dy > 36) continue;
        const confidence = scalars[4 * i + 2];
        if (scalars[4 * i + 1] > draw.maxRange || (confidence < 255 && confidence < draw.minConfidence)) continue;
        bestW = w;
        best = { draw, index: i };
      }
    }
    return best;
  }

  orbit(dx, dy) {
    const limit = Math.PI / 2 - 0.001;
    this.camera.azimuth += dx * 0.006;
    this.camera.elevation = Math.min(limit, Math.max(-limit, this.camera.elevation + dy * 0.006));
    this.move();
  }

  pan(dx, dy) {
    const { azimuth, elevation, distance } = this.camera;
    const scale = (2 * distance * Math.tan(FIELD_OF_VIEW / 2)) / this.canvas.clientHeight;
    const right = [Math.cos(azimuth), -Math.sin(azimuth), 0];
    const s = Math.sin(elevation);
    const up = [Math.sin(azimuth) * s, Math.cos(azimuth) * s, Math.cos(elevation)];
    this.camera.target = this.camera.target.map((t, k) => t - right[k] * dx * scale + up[k] * dy * scale);
    this.move();
  }

  zoom(amount) {
    this.camera.distance = Math.min(2000, Math.max(0.5, this.camera.distance * Math.exp(amount)));
    this.move();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (e) => canvas.setPointerCapture(e.pointerId));
    canvas.addEventListener("pointermove", (e) => {
      if (!e.buttons) return;
      if (e.buttons === 1 && !e.shiftKey && !e.ctrlKey) this.orbit(e.movementX, e.movementY);
      else this.pan(e.movementX, e.movementY);
    });
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("wheel", (e) => (e.preventDefault(), this.zoom(e.deltaY * 0.0012)), { passive: false });
    canvas.addEventListener("keydown", (e) => {
      const step = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] }[e.key];
      if (step) (e.preventDefault(), e.shiftKey ? this.pan(...step) : this.orbit(...step));
      if (e.key === "+" || e.key === "=") this.zoom(-0.15);
      if (e.key === "-") this.zoom(0.15);
    });
  }
}
