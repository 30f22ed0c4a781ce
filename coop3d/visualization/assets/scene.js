/* The page of one scene: builds the controls, decides what is drawn, shows labels and the point under the pointer.
 * Data come from coop3d.visualization.scene_page.scene_payload. */

const data = pageData();
const byId = (id) => document.getElementById(id);
const turbo = decodeArray(data.turbo);
const KINDS = ["predicted", "truth"];
const KIND_COLOURS = { predicted: [0.84, 0.37, 0.0], truth: [0.0, 0.45, 0.7] };
const MODES = { photo: 0, range: 1, confidence: 2, error: 3, height: 4, vehicle: 5, kind: 5 };
const HEIGHTS = [data.ground - 0.5, data.ground + 9.5];

function valueOf(scale, index) {
  if (index === scale.unknown) return NaN;
  return scale.low * Math.pow(scale.high / scale.low, index / 254);
}

/* One byte each of photograph, range, confidence, error per point; unknown where the cloud has none. */
function interleave(cloud, count) {
  const scalars = new Uint8Array(4 * count).fill(255);
  ["photo", "range", "confidence", "error"].forEach((name, k) => {
    if (!cloud[name]) return;
    const values = decodeArray(cloud[name]);
    for (let i = 0; i < count; i++) scalars[4 * i + k] = values[i];
  });
  return scalars;
}

/* Toggles and sliders as one object. */
function settings() {
  return {
    colour: byId("colour").value,
    ...Object.fromEntries(["predicted", "truth", "frames", "grid", "masked"].map((k) => [k, byId(k).checked])),
    vehicles: data.vehicles.map((_, k) => byId(`vehicle${k}`).checked),
    size: Number(byId("size").value),
    minConfidence: Number(byId("confidence").value),
    maxRange: Number(byId("range").value),
  };
}

function flatColour(vehicle, kind, colour) {
  if (colour === "kind") return KIND_COLOURS[kind];
  const base = vehicle.colour.map((c) => c / 255);
  return kind === "predicted" ? base : base.map((c) => 0.45 * c + 0.4); // true points paler
}

function frameToDraw() {
  const s = settings();
  const clouds = [];
  const lines = [{ vertices: s.grid ? gridLines : null }];
  data.vehicles.forEach((vehicle, k) => {
    if (!s.vehicles[k]) return;
    if (s.frames) KINDS.forEach((kind) => lines.push({ vertices: vehicle.lines[kind], wide: true }));
    for (const kind of KINDS.filter((kind) => s[kind] && vehicle[kind])) {
      const { gpu, kept, xyz, pixelAngle, density } = vehicle[kind];
      const count = s.masked ? kept : xyz.shape[0];
      const { size, minConfidence, maxRange } = s;
      const uniforms = { mode: MODES[s.colour], flatColour: flatColour(vehicle, kind, s.colour), pixelAngle, density };
      clouds.push({ cloud: gpu, count, vehicle, kind, size, minConfidence, maxRange, heights: HEIGHTS, ...uniforms });
    }
  });
  return { clouds, lines };
}

/* ---- lines: ground grid, and per vehicle a car, axes, cameras ---- */

function apply(pose, p) {
  return [0, 1, 2].map((r) => pose[r][0] * p[0] + pose[r][1] * p[1] + pose[r][2] * p[2] + pose[r][3]);
}

function dashed(segments, dash = 0.25) {
  return segments.flatMap(([a, b, colour]) => {
    const pieces = Math.max(1, Math.round(Math.hypot(...a.map((x, k) => b[k] - x)) / dash / 2));
    const at = (t) => a.map((x, k) => x + t * (b[k] - x));
    return Array.from({ length: pieces }, (_, i) => [at(i / pieces), at((i + 0.5) / pieces), colour]);
  });
}

/* A 4.8 x 1.9 x 1.6 m car whose sensor sits on the roof's middle, with a mark at its front. */
function carSegments(colour) {
  const [x, front, top, bottom] = [0.95, 2.4, -0.3, -1.9];
  const corner = (i) => [i & 1 ? x : -x, i & 2 ? front : -front, i & 4 ? top : bottom];
  const edges = [];
  for (let i = 0; i < 8; i++) for (const bit of [1, 2, 4]) if (!(i & bit)) edges.push([corner(i), corner(i | bit), colour]);
  const nose = [0, front + 1.1, bottom];
  return [...edges, [corner(2), nose, colour], [corner(3), nose, colour]];
}

function axisSegments() {
  return [
    [[0, 0, 0], [2, 0, 0], [0.9, 0.2, 0.2]],
    [[0, 0, 0], [0, 2, 0], [0.2, 0.75, 0.25]],
    [[0, 0, 0], [0, 0, 2], [0.25, 0.45, 1.0]],
  ];
}

/* A little pyramid along each camera's viewing direction. */
function cameraSegments(cameras, colour) {
  return cameras.flatMap(([centre, forward]) => {
    const flat = Math.hypot(forward[0], forward[1]) || 1;
    const right = [forward[1] / flat, -forward[0] / flat, 0];
    const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([u, v]) =>
      centre.map((c, k) => c + 0.6 * forward[k] + 0.5 * u * right[k] + (k === 2 ? 0.35 * v : 0)));
    return corners.flatMap((corner, k) => [[centre, corner, colour], [corner, corners[(k + 1) % 4], colour]]);
  });
}

function vehicleLines(vehicle) {
  const colour = vehicle.colour.map((c) => c / 255);
  const local = [...carSegments(colour), ...axisSegments(), ...cameraSegments(vehicle.cameras, colour)];
  const { predicted, truth } = vehicle.poses;
  const placed = (pose) => local.map(([a, b, c]) => [apply(pose, a), apply(pose, b), c]);
  const gap = predicted && truth ? [[apply(predicted, [0, 0, 0]), apply(truth, [0, 0, 0]), [0.9, 0.1, 0.1]]] : [];
  return {
    predicted: viewer.addLines(predicted ? [...placed(predicted), ...gap] : []),
    truth: viewer.addLines(truth ? dashed(placed(truth)) : []),
  };
}

function gridExtent() {
  const reach = Math.max(50, Math.ceil(data.radius / 10) * 10);
  return [0, 1].map((k) => [-reach, reach].map((r) => Math.round((data.centre[k] + r) / 10) * 10));
}

function buildGrid() {
  const [[x0, x1], [y0, y1]] = gridExtent();
  const tint = (v) => themeColour(v === 0 ? "--grid-strong" : "--grid");
  const segments = [];
  for (let x = x0; x <= x1; x += 10) segments.push([[x, y0, data.ground], [x, y1, data.ground], tint(x)]);
  for (let y = y0; y <= y1; y += 10) segments.push([[x0, y, data.ground], [x1, y, data.ground], tint(y)]);
  gridLines = viewer.addLines(segments);
}

/* ---- labels over the canvas ---- */

function gridLabels() {
  const step = data.radius > 120 ? 50 : 20;
  return gridExtent().flatMap(([low, high], axis) => {
    const labels = [];
    for (let m = Math.ceil(low / step) * step; m <= high; m += step) {
      if (m === 0) continue;
      const position = axis === 0 ? [m, 0, data.ground] : [0, m, data.ground];
      labels.push({ position, node: element("span", { textContent: `${m} m` }), grid: true });
    }
    return labels;
  });
}

function nameLabels() {
  return data.vehicles.flatMap((vehicle, k) => {
    const pose = vehicle.poses.predicted || vehicle.poses.truth;
    if (!pose) return [];
    const node = element("span", { className: "name", textContent: vehicle.name });
    return [{ position: apply(pose, [0, 0, 2.4]), node, vehicle: k }];
  });
}

function placeLabels() {
  const s = settings();
  for (const { position, node, grid, vehicle } of labels) {
    const at = viewer.screen(position);
    const shown = at && (grid ? s.grid : s.frames && s.vehicles[vehicle]);
    node.style.display = shown ? "" : "none";
    if (shown) node.style.transform = `translate(${at[0]}px, ${at[1]}px) translate(-50%, -50%)`;
  }
  byId("count").textContent = `${viewer.stats.points.toLocaleString("en")} points drawn`;
}

/* ---- controls ---- */

function lookFrom(name, vehicle = data.vehicles[0]) {
  const pose = vehicle && (vehicle.poses.predicted || vehicle.poses.truth);
  const target = [data.centre[0], data.centre[1], data.ground];
  const distance = 1.5 * data.radius;
  const quarter = Math.PI / 2;
  if (name === "Top") viewer.camera = { target, distance: 1.6 * distance, azimuth: 0, elevation: quarter - 0.001 };
  if (name === "Side") viewer.camera = { target, distance, azimuth: -quarter, elevation: 0.3 };
  if (name === "Oblique") viewer.camera = { target, distance, azimuth: 0.5, elevation: 0.55 };
  if (name === "Driver" && pose) {
    const forward = [pose[0][1], pose[1][1], pose[2][1]];
    const azimuth = Math.atan2(forward[0], forward[1]);
    viewer.camera = { target: apply(pose, [0, 6, 0]), distance: 6, azimuth, elevation: 0.0 };
  }
  viewer.redraw();
}

function buildControls() {
  for (const name of ["Oblique", "Top", "Side", "Driver"]) {
    byId("cameras").append(element("button", { type: "button", textContent: name, onclick: () => lookFrom(name) }));
  }
  data.vehicles.forEach((vehicle, k) => {
    const box = element("input", { type: "checkbox", id: `vehicle${k}`, checked: true });
    const swatch = element("i", { className: "swatch" });
    swatch.style.cssText = `background: rgb(${vehicle.colour}); margin: 0`;
    const name = element("span", { textContent: vehicle.name, title: vehicle.name });
    const look = element("button", { type: "button", textContent: "view", title: "From this vehicle" });
    look.onclick = () => lookFrom("Driver", vehicle);
    byId("vehicles").append(element("div", { className: "row" }, element("label", {}, box, swatch, name), look));
  });
  const has = (kind) => data.vehicles.some((v) => v[kind] && v[kind].xyz.shape[0]);
  for (const kind of KINDS) byId(kind).disabled = !has(kind);
  byId("predicted").checked = has("predicted");
  byId("truth").checked = !has("predicted");
  byId("panel").addEventListener("input", update);
}

function update() {
  const s = settings();
  const { range, confidence } = data.scales;
  const texts = {
    size: `× ${s.size.toFixed(1)}`,
    confidence: valueOf(confidence, s.minConfidence).toFixed(2),
    range: s.maxRange === 255 ? "all" : `${valueOf(range, s.maxRange).toFixed(1)} m`,
  };
  for (const [id, text] of Object.entries(texts)) byId(id).previousElementSibling.textContent = text;
  showBar(s.colour);
  viewer.redraw();
}

function showBar(colour) {
  const heightTicks = [0, 2, 4, 6, 8].map((h) => [(h + 0.5) / 10, `${h}`]);
  const scale = colour === "height" ? { ticks: heightTicks, unit: "m" } : data.scales[colour];
  byId("bar").hidden = !scale;
  if (scale) colourBar(byId("bar"), turbo, scale.ticks, scale.unit);
}

function describe({ draw, index }) {
  const { cloud, vehicle, kind } = draw;
  const [x, y, z] = [0, 1, 2].map((k) => cloud.xyz[3 * index + k].toFixed(2));
  const [, range, confidence, error] = cloud.scalars.subarray(4 * index, 4 * index + 4);
  const lines = [`${vehicle.name}, ${kind === "truth" ? "true" : "predicted"}`, `x ${x}  y ${y}  z ${z} m`];
  lines.push(`range ${valueOf(data.scales.range, range).toFixed(1)} m`);
  if (confidence < 255) lines.push(`confidence ${valueOf(data.scales.confidence, confidence).toFixed(1)}`);
  if (error < 255) lines.push(`error ${valueOf(data.scales.error, error).toFixed(2)} m`);
  return lines.join("\n");
}

function hover(event) {
  const tip = byId("tip");
  const hit = event.buttons ? null : viewer.pick(event.offsetX, event.offsetY);
  tip.style.display = hit ? "block" : "none";
  if (!hit) return;
  tip.textContent = describe(hit);
  const flip = event.offsetX > viewer.canvas.clientWidth - 200;
  tip.style.left = `${event.offsetX + (flip ? -tip.offsetWidth - 12 : 14)}px`;
  tip.style.top = `${event.offsetY + 14}px`;
}

function centreOn(event) {
  const hit = viewer.pick(event.offsetX, event.offsetY);
  if (!hit) return;
  viewer.camera.target = [...hit.draw.cloud.xyz.subarray(3 * hit.index, 3 * hit.index + 3)];
  viewer.redraw();
}

function pictureLegends() {
  for (const host of document.querySelectorAll(".bar[data-scale]")) {
    const scale = data.scales[host.dataset.scale];
    colourBar(host, turbo, scale.ticks, scale.unit);
  }
}

function enlargeOnClick() {
  const dialog = byId("enlarged");
  for (const image of document.querySelectorAll("figure img")) {
    image.onclick = () => ((dialog.firstElementChild.src = image.src), dialog.showModal());
  }
  dialog.onclick = () => dialog.close();
}

let viewer;
let gridLines;
let labels = [];

function start() {
  buildControls();
  enlargeOnClick();
  pictureLegends();
  const { range } = data.scales;
  const shared = {
    photoPalette: decodeArray(data.photoPalette),
    turbo,
    rangeLimits: [range.low, range.high],
    weightLimits: data.weightLimits,
  };
  viewer = new CloudViewer(byId("cloud"), shared, frameToDraw);
  for (const vehicle of data.vehicles) {
    for (const kind of KINDS.filter((kind) => vehicle[kind])) {
      const cloud = vehicle[kind];
      cloud.gpu = viewer.addCloud(decodeArray(cloud.xyz), interleave(cloud, cloud.xyz.shape[0]));
      cloud.xyz.bdata = null; // the decoded copy is enough
    }
    vehicle.lines = vehicleLines(vehicle);
  }
  buildGrid();
  labels = [...gridLabels(), ...nameLabels()];
  byId("labels").append(...labels.map((label) => label.node));
  viewer.afterDraw = placeLabels;
  lookFrom("Oblique");
  update();
  let pending = false;
  viewer.canvas.addEventListener("pointermove", (event) => {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => ((pending = false), hover(event)));
  });
  viewer.canvas.addEventListener("pointerleave", () => (byId("tip").style.display = "none"));
  viewer.canvas.addEventListener("dblclick", centreOn);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (buildGrid(), viewer.redraw()));
  viewer.whenIdle(() => (document.documentElement.dataset.ready = String(Math.round(performance.now())))); // for tests
}

try {
  start();
} catch (error) {
  byId("failure").style.display = "grid";
  byId("failure").textContent = `${error.message}: the 3D view cannot be shown here. Pictures and numbers are below.`;
  document.documentElement.dataset.ready = "failed";
  if (!(error.message || "").includes("WebGL2")) throw error;
}
