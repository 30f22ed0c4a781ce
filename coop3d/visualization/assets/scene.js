/* The page of one scene: decides what is drawn and ties the controls, the pictures and the 3D view together.
 * Data come from coop3d.visualization.scene_page.scene_payload. */

const data = pageData();
const turbo = decodeArray(data.turbo);
const TEXTS = {
  photo: "as photographed; LiDAR in its vehicle's colour",
  kind: "as the swatches below",
  vehicle: "as the swatches below; true points paler",
};
const MODES = { photo: 0, range: 1, confidence: 2, error: 3, height: 4, vehicle: 5, kind: 5 };
let viewer;
let lines = {};
let labels = [];
let firstState = "";

/* ---- clouds ---- */

/* The cloud as the viewer knows it; those at the true pose are made of predicted ones when first asked for. */
function gpuCloud(vehicle, kind) {
  const cloud = vehicle[kind];
  if (!cloud) return null;
  if (!cloud.gpu) {
    const [xyz, scalars] = kind === "placed" ? atTruePose(vehicle) : [decodePoints(cloud), decodeScalars(cloud)];
    const pixels = kind === "placed" ? vehicle.predicted.gpu.pixels : cloud.pixel && decodeArray(cloud.pixel);
    cloud.gpu = { ...viewer.addCloud(xyz, scalars), pixels, kept: cloud.kept };
    cloud.xyz.bdata = null;
  }
  return cloud.gpu;
}

/* A vehicle's predicted points moved from its predicted to its true pose; the error is what that leaves. */
function atTruePose(vehicle) {
  const { xyz, scalars } = gpuCloud(vehicle, "predicted");
  const { predicted, truth } = vehicle.poses;
  const moved = new Float32Array(xyz.length);
  const own = new Array(3);
  for (let i = 0; i < xyz.length; i += 3) {
    const away = [0, 1, 2].map((k) => xyz[i + k] - predicted[k][3]);
    for (let k = 0; k < 3; k++) own[k] = predicted[0][k] * away[0] + predicted[1][k] * away[1] + predicted[2][k] * away[2];
    moved.set(apply(truth, own), i);
  }
  const error = vehicle.placed.error ? decodeArray(vehicle.placed.error) : null;
  const changed = scalars.slice();
  for (let i = 0; i < changed.length / 4; i++) changed[4 * i + 3] = error ? error[i] : data.scales.error.unknown;
  return [moved, changed];
}

function flatColour(vehicle, kind, colour) {
  if (colour === "kind") return KINDS[kind].colour;
  return vehicleColour(vehicle, kind === "predicted" || kind === "placed");
}

/* A vehicle's lines, but for those around the eye: nobody looks out of a cage. */
function vehicleDrawn({ lines: own, poses }) {
  const eye = viewer.eye();
  const outside = (pose) => pose && Math.hypot(...eye.map((x, k) => x - pose[k][3])) > 3.5;
  return ["predicted", "truth"].filter((k) => outside(poses[k])).map((k) => ({ vertices: own[k], wide: true }));
}

function frameToDraw() {
  const s = settings();
  const clouds = [];
  const drawn = [{ vertices: s.grid ? lines.grid : null }, { vertices: s.boxes ? lines.boxes : null, wide: true }];
  data.vehicles.forEach((vehicle, k) => {
    if (!s.vehicles[k]) return;
    if (s.frames) drawn.push(...vehicleDrawn(vehicle));
    for (const kind of Object.keys(KINDS).filter((kind) => s[kind] && vehicle[kind])) {
      const { kept, xyz, pixelAngle, density } = vehicle[kind];
      const { size, minConfidence, maxRange } = s;
      const mode = kind === "lidar" && s.colour === "photo" ? MODES.vehicle : MODES[s.colour];
      const uniforms = { mode, flatColour: flatColour(vehicle, kind, s.colour), pixelAngle, density };
      const count = s.masked ? kept : xyz.shape[0];
      clouds.push({ cloud: gpuCloud(vehicle, kind), count, vehicle, kind, size, minConfidence, maxRange, ...uniforms });
    }
  });
  return { clouds, lines: drawn, shaded: s.shaded };
}

/* ---- what stands around the view ---- */

function lookFrom(name, vehicle = data.vehicles[0]) {
  if (SIDES[name]) return viewer.look(name);
  const pose = vehicle && (vehicle.poses.predicted || vehicle.poses.truth);
  if (!pose) return;
  const azimuth = Math.atan2(pose[0][1], pose[1][1]); // of its forward direction
  viewer.camera = { target: apply(pose, [0, 6, 0]), distance: 6, azimuth, elevation: 0.0 };
  viewer.redraw();
}

/* Why the view is empty, or nothing. */
function emptiness(s) {
  if (viewer.stats.points) return "";
  const clouds = data.vehicles.flatMap((v) => Object.keys(KINDS).map((kind) => v[kind]).filter(Boolean));
  if (!clouds.some((c) => c.xyz.shape[0])) return "This scene has no points: nothing was predicted or measured here.";
  if (!Object.keys(KINDS).some((kind) => s[kind])) return "No kind of points is switched on.";
  if (!s.vehicles.some(Boolean)) return "All vehicles are switched off.";
  return s.masked ? "The mask rejects every point of what is shown: switch Mask off to see them." : "What is shown has no points.";
}

function afterDraw() {
  const s = settings();
  placeLabels(viewer, labels, ({ toggle, vehicle }) => s[toggle] && (vehicle === undefined || s.vehicles[vehicle]));
  placeMark();
  byId("count").textContent = `${viewer.stats.points.toLocaleString("en")} points`;
  byId("notice").textContent = emptiness(s);
  byId("notice").hidden = !byId("notice").textContent;
  rememberState();
}

/* The address follows what is shown, a moment after it stops changing. */
function rememberState() {
  clearTimeout(rememberState.timer);
  rememberState.timer = setTimeout(() => {
    const text = stateText(viewer.camera);
    const bare = location.href.split("#")[0];
    history.replaceState(null, "", text === firstState ? bare : `${bare}#${text}`);
  }, 200);
}

/* The event's address is the one that was asked for: `rememberState` may have replaced the present one since. */
function restoreState(event) {
  const camera = applyState(event ? new URL(event.newURL).hash : location.hash);
  if (camera) viewer.camera = camera;
  update();
}

async function copyLink() {
  clearTimeout(rememberState.timer);
  firstState = ""; // from now on the address is always complete
  const link = `${location.href.split("#")[0]}#${stateText(viewer.camera)}`;
  history.replaceState(null, "", link);
  const copied = await Promise.resolve(navigator.clipboard?.writeText(link)).then(() => Boolean(navigator.clipboard), () => false);
  byId("share").textContent = copied ? "Copied" : "See address bar";
  setTimeout(() => (byId("share").textContent = "Copy link"), 1500);
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
  showScale(byId("scale"), s.colour, TEXTS, data);
  byId("kinds").classList.toggle("plain", s.colour !== "kind"); // else their colours could be taken for vehicles'
  showChosenPictures();
  setMark(null);
  viewer.redraw();
}

function hover(event) {
  const hit = event.buttons ? null : viewer.pick(event.offsetX, event.offsetY);
  setMark(hit && { ...hit.draw, index: hit.index });
  showPicturesOfMark();
}

function pictureLegends() {
  for (const host of document.querySelectorAll(".bar[data-scale]")) {
    const scale = data.scales[host.dataset.scale];
    colourBar(host, turbo, scale.ticks, scale.unit);
  }
}

function listenToView() {
  const { canvas } = viewer;
  canvas.addEventListener("pointermove", throttled(hover));
  canvas.addEventListener("pointerleave", () => requestAnimationFrame(() => setMark(null)));
  canvas.addEventListener("dblclick", (event) => {
    const hit = viewer.pick(event.offsetX, event.offsetY);
    centreOn(hit && { ...hit.draw, index: hit.index });
  });
  byId("panel").addEventListener("input", update);
  byId("layers").addEventListener("input", update);
  byId("share").onclick = copyLink;
  window.addEventListener("hashchange", restoreState);
  document.addEventListener("themechange", () => ((lines.grid = gridLines(viewer, data)), viewer.redraw()));
}

function start() {
  for (const vehicle of data.vehicles) {
    const { predicted, poses } = vehicle;
    const { kept, xyz, pixelAngle, density, errorTruePose: error } = predicted || {};
    vehicle.placed = predicted && poses.predicted && poses.truth ? { kept, xyz, pixelAngle, density, error } : null;
  }
  buildControls(lookFrom);
  buildChips();
  pictureLegends();
  listenToPictures();
  viewer = new CloudViewer(byId("cloud"), data, frameToDraw);
  for (const vehicle of data.vehicles) vehicle.lines = vehicleLines(viewer, vehicle);
  lines = { boxes: boxLines(viewer, data.boxes), grid: gridLines(viewer, data) };
  labels = buildLabels(data);
  byId("labels").append(...labels.map((label) => label.node));
  viewer.afterDraw = afterDraw;
  lookFrom("Oblique");
  firstState = stateText(viewer.camera);
  listenToKeys(lookFrom);
  listenToView();
  restoreState();
  viewer.whenIdle(() => (document.documentElement.dataset.ready = String(Math.round(performance.now())))); // for tests
}

startOrExplain(start, "Pictures and numbers stand beside it.");
