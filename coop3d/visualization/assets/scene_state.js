/* What a page of a scene can be set to: the controls, their keys, and the same as text after the # of the address. */

const KINDS = {
  predicted: { title: "Predicted points", key: "P", colour: [0.84, 0.37, 0.0], hint: "Predicted points at the predicted pose" },
  placed: { title: "Predicted, true pose", key: "G", colour: [0.0, 0.62, 0.45], hint: "Predicted points put at the true (GT) pose: what is left is the error of range and scale" },
  truth: { title: "True points", key: "T", colour: [0.0, 0.45, 0.7], hint: "Points of the ground truth (GT)" },
  lidar: { title: "LiDAR sweep", key: "L", colour: [0.58, 0.4, 0.74], hint: "The vehicle's LiDAR sweep at its true pose" },
};
const TOGGLES = {
  frames: { title: "Vehicles", key: "V", hint: "Car, axes and cameras: solid predicted, dashed true, red between both" },
  boxes: { title: "Boxes", key: "B", hint: "Boxes of the vehicles that the data set lists" },
  grid: { title: "Grid", key: "R", hint: "Grid on the road, lines every 10 m" },
  masked: { title: "Mask", key: "M", hint: "Only points where the mask sees a surface" },
  shaded: { title: "Edges", key: "E", hint: "Points darker where something nearer hides them" },
};
const VIEWS = { ...SIDES, Driver: { key: "D", hint: "From the first vehicle's sensor" } };
const SLIDERS = ["size", "confidence", "range"];

/* Toggles and sliders as one object. */
function settings() {
  const checked = (k) => byId(k).checked;
  return {
    colour: byId("colour").value,
    ...Object.fromEntries([...Object.keys(KINDS), ...Object.keys(TOGGLES)].map((k) => [k, checked(k)])),
    vehicles: data.vehicles.map((_, k) => checked(`vehicle${k}`)),
    size: Number(byId("size").value),
    minConfidence: Number(byId("confidence").value),
    maxRange: Number(byId("range").value),
  };
}

function checkbox(id, title, { key, hint, colour }) {
  const box = element("input", { type: "checkbox", id });
  const swatch = colour ? [element("i", { className: "swatch" })] : [];
  swatch.forEach((s) => (s.style.cssText = `background: rgb(${colour.map((c) => 255 * c)}); margin: 0`));
  const text = element("span", { textContent: title });
  return element("label", { title: hint }, box, ...swatch, text, ...(key ? [element("kbd", {}, key)] : []));
}

/* Fill the panel; `look(view, vehicle)` moves the camera. */
function buildControls(look) {
  byId("cameras").append(...viewButtons(VIEWS, look));
  for (const [id, kind] of Object.entries(KINDS)) byId("kinds").append(checkbox(id, kind.title, kind));
  for (const [id, toggle] of Object.entries(TOGGLES)) byId("toggles").append(checkbox(id, toggle.title, toggle));
  data.vehicles.forEach((vehicle, k) => {
    const key = k < 9 ? String(k + 1) : "";
    const label = checkbox(`vehicle${k}`, vehicle.name, { key, hint: vehicle.name, colour: vehicleColour(vehicle) });
    const button = element("button", { type: "button", textContent: "view", title: "From this vehicle" });
    button.onclick = () => look("Driver", vehicle);
    byId("vehicles").append(element("div", { className: "row" }, label, button));
    byId(`vehicle${k}`).checked = true;
  });
  const has = (kind) => data.vehicles.some((v) => v[kind] && v[kind].xyz.shape[0]);
  const placed = data.vehicles.some((v) => v.predicted && v.poses.predicted && v.poses.truth);
  for (const kind of ["predicted", "truth", "lidar"]) byId(kind).disabled = !has(kind);
  byId("placed").disabled = !(has("predicted") && placed);
  byId("boxes").disabled = !data.boxes.length;
  for (const id of ["frames", "grid", "masked", "shaded"]) byId(id).checked = true;
  byId("boxes").checked = data.boxes.length > 0;
  byId("predicted").checked = has("predicted");
  byId("truth").checked = !has("predicted") && has("truth");
}

/* ---- the address ---- */

function stateText(camera) {
  const numbers = (list) => list.map((x) => Number(x.toFixed(3))).join(",");
  const on = [...Object.keys(KINDS), ...Object.keys(TOGGLES)].filter((id) => byId(id).checked);
  const hidden = (boxes) => boxes.flatMap((box, k) => (box.checked ? [] : [k])).join(",");
  const layers = [...document.querySelectorAll("#layers input")];
  const parts = {
    cam: numbers([...camera.target, camera.distance, camera.azimuth, camera.elevation]),
    colour: byId("colour").value,
    on: on.join(","),
    hide: hidden(data.vehicles.map((_, k) => byId(`vehicle${k}`))),
    set: SLIDERS.map((id) => byId(id).value).join(","),
    closed: hidden(layers),
  };
  return Object.entries(parts).map(([k, v]) => `${k}=${v}`).join("&");
}

/* Set the controls from an address; what is missing or makes no sense stays. Returns the camera, or null. */
function applyState(text) {
  const parts = new URLSearchParams(text.replace(/^#/, ""));
  const list = (name) => (parts.get(name) || "").split(",").filter(Boolean);
  if ([...byId("colour").options].some((o) => o.value === parts.get("colour"))) byId("colour").value = parts.get("colour");
  if (parts.has("on")) {
    const on = list("on");
    for (const id of [...Object.keys(KINDS), ...Object.keys(TOGGLES)]) byId(id).checked = on.includes(id) && !byId(id).disabled;
  }
  if (parts.has("hide")) data.vehicles.forEach((_, k) => (byId(`vehicle${k}`).checked = !list("hide").includes(String(k))));
  list("set").forEach((value, k) => {
    if (SLIDERS[k] && Number.isFinite(Number(value))) byId(SLIDERS[k]).value = value; // a slider clamps by itself
  });
  if (parts.has("closed")) {
    document.querySelectorAll("#layers input").forEach((box, k) => (box.checked = !list("closed").includes(String(k))));
  }
  const cam = list("cam").map(Number);
  if (cam.length !== 6 || !cam.every(Number.isFinite) || cam[3] <= 0) return null;
  return { target: cam.slice(0, 3), distance: cam[3], azimuth: cam[4], elevation: cam[5] };
}

/* ---- keys ---- */

const MOUSE_HELP = [
  ["drag", "turn"], ["right drag", "move; also with Shift"], ["wheel, + −", "zoom"], ["arrows", "turn; with Shift: move"],
  ["double click", "turn about this point"], ["point", "at a picture: ring around its point in 3D, and the other way round"],
  ["Shift click", "in a picture: turn about its point"],
];

function keyTable(look) {
  const flip = (id) => !byId(id).disabled && byId(id).click();
  const nextColour = (step) => {
    const select = byId("colour");
    select.selectedIndex = (select.selectedIndex + step + select.options.length) % select.options.length;
    select.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const grow = (step) => {
    byId("size").value = Number(byId("size").value) + step;
    byId("size").dispatchEvent(new Event("input", { bubbles: true }));
  };
  return [
    ...Object.entries({ ...KINDS, ...TOGGLES }).map(([id, { key, hint }]) => [key, hint, () => flip(id)]),
    ...data.vehicles.slice(0, 9).map(({ name }, k) => [String(k + 1), `Vehicle ${name}`, () => flip(`vehicle${k}`)]),
    ...Object.entries(VIEWS).map(([name, { key, hint }]) => [key, `${name} view: ${hint.toLowerCase()}`, () => look(name)]),
    ["C", "Next colour; with Shift: the one before", (event) => nextColour(event.shiftKey ? -1 : 1)],
    ["[", "Smaller points", () => grow(-0.2)],
    ["]", "Larger points", () => grow(0.2)],
    ["?", "This list", () => byId("help").showModal()],
  ];
}

function listenToKeys(look) {
  const table = keyTable(look);
  const rows = [...MOUSE_HELP, ...table].map(([key, what]) =>
    element("div", {}, element("dt", {}, element("kbd", {}, key)), element("dd", { textContent: what })));
  byId("helptext").append(...rows);
  byId("keys").onclick = () => byId("help").showModal();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    if (document.querySelector("dialog[open]")) return;
    table.find(([key]) => key === event.key.toUpperCase())?.[2](event);
  });
}
