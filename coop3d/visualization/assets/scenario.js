/* The page of a scenario: one cloud per frame, vehicle and kind, uploaded when its frame is first shown; trajectories;
 * play and pause. Data come from coop3d.visualization.scenario_page.scenario_payload. */

const data = pageData();
const KINDS = ["predicted", "truth"];
const MODES = { photo: 0, range: 1, height: 4, vehicle: 5 };
const TEXTS = { photo: "as photographed", vehicle: "as the swatches below; true points paler" };
const SPEEDS = { "-3": 1 / 8, "-2": 1 / 4, "-1": 1 / 2, 0: 1, 1: 2 };
const TOGGLES = [...KINDS, "trails", "boxes", "grid", "history", "follow"];
let viewer;
let trails;
let grid;
let current = 0;
let timer = null;
const labels = [];

function settings() {
  return {
    colour: byId("colour").value,
    size: Number(byId("size").value),
    vehicles: data.vehicles.map((_, k) => byId(`vehicle${k}`).checked),
    ...Object.fromEntries(TOGGLES.map((name) => [name, byId(name).checked])),
  };
}

/* ---- what is drawn ---- */

/* The cloud on the GPU; its base64 is dropped once decoded. */
function uploaded(cloud) {
  if (!cloud.gpu) {
    cloud.gpu = viewer.addCloud(decodePoints(cloud), decodeScalars(cloud));
    cloud.xyz.bdata = null;
  }
  return cloud.gpu;
}

/* `frames` are drawn at once: the more, the closer their points lie, and the smaller they may be. */
function drawOf(cloud, s, frames) {
  const flatColour = vehicleColour(data.vehicles[cloud.vehicle], cloud.kind === "predicted");
  const { pixelAngle, density } = cloud;
  const limits = { minConfidence: 0, maxRange: 255 };
  const [count, size] = [cloud.xyz.shape[0], s.size / Math.sqrt(Math.min(frames, 6))];
  return { cloud: uploaded(cloud), count, mode: MODES[s.colour], flatColour, size, pixelAngle, density, ...limits };
}

function frameToDraw() {
  const s = settings();
  const shown = s.history ? data.frames.slice(0, current + 1) : [data.frames[current]];
  const wanted = (cloud) => s[cloud.kind] && s.vehicles[cloud.vehicle] && cloud.xyz.shape[0];
  const clouds = shown.flatMap((frame) => frame.clouds.filter(wanted).map((cloud) => drawOf(cloud, s, shown.length)));
  const frame = data.frames[current];
  const lines = [{ vertices: s.grid ? grid : null }, { vertices: s.boxes ? boxesOf(frame) : null }];
  data.vehicles.forEach((_, k) => {
    if (!s.vehicles[k]) return;
    for (const kind of KINDS) {
      lines.push({ vertices: carOf(frame, k, kind), wide: true });
      if (s.trails) lines.push({ vertices: trails[k][kind], wide: true });
    }
  });
  return { clouds, lines, shaded: true };
}

function carOf(frame, k, kind) {
  const pose = frame.poses[k]?.[kind];
  if (!pose) return null;
  frame.cars ||= {};
  if (!frame.cars[k + kind]) {
    const segments = carSegments(vehicleColour(data.vehicles[k])).map(([a, b, c]) => [apply(pose, a), apply(pose, b), c]);
    frame.cars[k + kind] = viewer.addLines(kind === "truth" ? dashed(segments) : segments);
  }
  return frame.cars[k + kind];
}

function boxesOf(frame) {
  if (frame.boxLines === undefined) {
    frame.boxLines = boxLines(viewer, frame.boxes.map((corners) => ({ corners })));
  }
  return frame.boxLines;
}

/* A vehicle's way through all frames where it has a pose; broken where it has none. */
function trailOf(k, kind) {
  const colour = vehicleColour(data.vehicles[k]);
  const places = data.frames.map((frame) => frame.poses[k]?.[kind] && apply(frame.poses[k][kind], [0, 0, 0]));
  const segments = places.slice(1).flatMap((b, i) => (places[i] && b ? [[places[i], b, colour]] : []));
  return viewer.addLines(kind === "truth" ? dashed(segments) : segments);
}

/* ---- numbers ---- */

/* Metres and degrees between predicted and true pose. */
function poseError(predicted, truth) {
  const metres = Math.hypot(...[0, 1, 2].map((r) => predicted[r][3] - truth[r][3]));
  let trace = 0;
  for (let r = 0; r < 3; r++) for (let c = 0; c < 3; c++) trace += predicted[r][c] * truth[r][c];
  return [metres, (Math.acos(Math.min(1, Math.max(-1, (trace - 1) / 2))) * 180) / Math.PI];
}

function showErrors() {
  const rows = data.vehicles.flatMap((vehicle, k) => {
    const { predicted, truth } = data.frames[current].poses[k] || {};
    if (!predicted || !truth) return [];
    const [metres, degrees] = poseError(predicted, truth);
    const cells = [`${metres.toFixed(2)} m`, `${degrees.toFixed(1)}°`].map((textContent) => element("td", { textContent }));
    return [element("tr", {}, element("th", { textContent: vehicle.name, title: vehicle.name }), ...cells)];
  });
  byId("errors").closest("fieldset").hidden = !rows.length;
  byId("errors").replaceChildren(...rows);
}

/* ---- time ---- */

function show(index) {
  const last = data.frames.length - 1;
  current = Math.min(last, Math.max(0, index));
  byId("frame").value = current;
  byId("frametext").textContent = `${data.frames[current].name}  (${current + 1} of ${last + 1})`;
  showErrors();
  if (byId("follow").checked) follow();
  viewer.redraw();
}

function follow() {
  const poses = data.frames[current].poses[Object.keys(data.frames[current].poses)[0]];
  const pose = poses && (poses.truth || poses.predicted);
  if (pose) viewer.camera.target = apply(pose, [0, 0, 0]);
}

/* A frame is shown when its time has come and the GPU has finished the one before. */
function play(playing) {
  clearTimeout(timer);
  timer = null;
  byId("play").textContent = playing ? "Pause" : "Play";
  if (!playing) return;
  if (current === data.frames.length - 1) show(0);
  const tick = () => {
    if (current === data.frames.length - 1) return play(false);
    viewer.whenIdle(() => {
      if (timer === null) return;
      show(current + 1);
      wait();
    });
  };
  const wait = () => (timer = setTimeout(tick, 1000 / (data.fps * SPEEDS[byId("speed").value])));
  wait();
}

/* ---- page ---- */

function update() {
  byId("sizetext").textContent = `× ${Number(byId("size").value).toFixed(1)}`;
  showScale(byId("scale"), byId("colour").value, TEXTS, data);
  byId("speedtext").textContent = `× ${SPEEDS[byId("speed").value]}`;
  if (byId("follow").checked) follow();
  viewer.redraw();
}

function look(side) {
  viewer.look(side);
  if (byId("follow").checked) follow();
}

function afterDraw() {
  const s = settings();
  data.vehicles.forEach((_, k) => {
    const poses = data.frames[current].poses[k];
    const pose = poses && (poses.predicted || poses.truth);
    if (pose) labels[k].position = apply(pose, [0, 0, 1.6]);
    labels[k].wanted = Boolean(pose) && s.vehicles[k];
  });
  placeLabels(viewer, labels, (label) => label.wanted);
  byId("count").textContent = `${viewer.stats.points.toLocaleString("en")} points`;
  const any = data.frames[current].clouds.some((cloud) => cloud.xyz.shape[0]);
  byId("notice").textContent = viewer.stats.points ? "" : any ? "All points are switched off." : "This frame has no points.";
  byId("notice").hidden = Boolean(viewer.stats.points);
}

function buildControls() {
  data.vehicles.forEach(({ name, colour }, k) => {
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = `rgb(${colour})`;
    const box = element("input", { type: "checkbox", id: `vehicle${k}`, checked: true });
    byId("vehicles").append(element("label", { title: name }, box, swatch, element("span", { textContent: name })));
    const node = element("span", { className: "name", textContent: name });
    node.style.borderLeftColor = `rgb(${colour})`;
    labels.push({ position: [0, 0, 0], node });
  });
  byId("labels").append(...labels.map((label) => label.node));
  for (const kind of KINDS) {
    const there = data.frames.some((frame) => frame.clouds.some((cloud) => cloud.kind === kind));
    Object.assign(byId(kind), { disabled: !there, checked: there && (kind === "predicted" || !byId("predicted").checked) });
  }
  byId("boxes").disabled = !data.frames.some((frame) => frame.boxes.length);
  byId("cameras").append(...viewButtons(SIDES, look));
  byId("frame").max = data.frames.length - 1;
}

function listen() {
  byId("panel").addEventListener("input", update);
  byId("frame").addEventListener("input", () => (play(false), show(Number(byId("frame").value))));
  byId("play").onclick = () => play(timer === null);
  byId("back").onclick = () => (play(false), show(current - 1));
  byId("next").onclick = () => (play(false), show(current + 1));
  document.addEventListener("themechange", () => ((grid = gridLines(viewer, data)), viewer.redraw()));
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("select, input, button") || event.ctrlKey || event.metaKey || event.altKey) return;
    const id = { " ": "play", ",": "back", ".": "next" }[event.key];
    if (id) (event.preventDefault(), byId(id).click());
    const side = Object.keys(SIDES).find((name) => SIDES[name].key === event.key.toUpperCase());
    if (side) look(side);
  });
}

function start() {
  buildControls();
  viewer = new CloudViewer(byId("cloud"), data, frameToDraw);
  trails = data.vehicles.map((_, k) => Object.fromEntries(KINDS.map((kind) => [kind, trailOf(k, kind)])));
  grid = gridLines(viewer, data);
  viewer.afterDraw = afterDraw;
  listen();
  look("Oblique");
  update();
  show(0);
  viewer.whenIdle(() => (document.documentElement.dataset.ready = String(Math.round(performance.now())))); // for tests
}

startOrExplain(start, "A video of the same is made with --video.");
