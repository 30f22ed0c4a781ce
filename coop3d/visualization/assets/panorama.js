/* The page of one panorama: layers share one window (left, top, zoom) onto the image; columns wrap around.
 * Data come from coop3d.visualization.panorama_page.panorama_payload. */

const data = pageData();
const { width, height } = data;
const [azimuth, elevation, range, source, flags] =
  ["azimuth", "elevation", "range", "source", "flags"].map((name) => decodeArray(data[name]));
const win = { left: 0, top: 0, zoom: 1 }; // image pixels at the canvas's corner; canvas pixels per image pixel * fit
const layers = [];
let pointer = null; // continuous image coordinates, or null

function scaleOf(canvas) {
  return (canvas.width / width) * win.zoom;
}

function wrap(column) {
  return ((column % width) + width) % width;
}

function clampWindow() {
  win.zoom = Math.min(40, Math.max(1, win.zoom));
  win.left = wrap(win.left);
  win.top = Math.min(height - height / win.zoom, Math.max(0, win.top));
}

function drawLayer({ canvas, image }) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round((canvas.width * height) / width);
  const context = canvas.getContext("2d");
  const scale = scaleOf(canvas);
  context.imageSmoothingEnabled = scale < 1;
  for (const turn of [0, width]) {
    context.drawImage(image, (turn - win.left) * scale, -win.top * scale, width * scale, height * scale);
  }
  drawTicks(context, scale, ratio);
  if (pointer) drawCross(context, scale);
}

function drawTicks(context, scale, ratio) {
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  context.fillStyle = "white";
  context.strokeStyle = "black";
  context.lineWidth = 3 * ratio;
  const step = [45, 30, 15, 10, 5, 2, 1].find((s) => (s / 360) * width * scale < 130 * ratio) || 1;
  for (let angle = -180; angle < 180; angle += step) {
    const x = wrap((angle / 360 + 0.5) * width - win.left) * scale;
    if (x > context.canvas.width) continue;
    context.strokeText(`${angle}°`, x + 3 * ratio, context.canvas.height - 5 * ratio);
    context.fillText(`${angle}°`, x + 3 * ratio, context.canvas.height - 5 * ratio);
    context.fillRect(x, context.canvas.height - 7 * ratio, ratio, 7 * ratio);
  }
}

function drawCross(context, scale) {
  const x = wrap(pointer[0] - win.left) * scale;
  const y = (pointer[1] - win.top) * scale;
  context.fillStyle = "rgba(255, 255, 255, 0.85)";
  context.fillRect(x, 0, 1, context.canvas.height);
  context.fillRect(0, y, context.canvas.width, 1);
}

function field(name, value) {
  return element("span", {}, element("b", { textContent: `${name} ` }), value);
}

/* What the pixel under the pointer knows. */
function describe(column, row) {
  const k = row * width + column;
  const metres = range[k] === data.unknownRange ? "unknown" : `${(range[k] / 100).toFixed(2)} m`;
  const set = data.flagNames.filter((_, bit) => flags[k] & (1 << bit));
  return [
    field("agent", data.agent),
    field("pixel", `${column}, ${row}`),
    field("azimuth", `${azimuth[column].toFixed(1)}°`),
    field("elevation", `${elevation[row].toFixed(1)}°`),
    field("range", metres),
    field("camera", source[k] === 255 ? "none" : String(source[k])),
    field("flags", set.length ? set.join(", ") : "none"),
  ];
}

let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    layers.forEach(drawLayer);
    const inside = pointer && pointer[1] >= 0 && pointer[1] < height;
    const text = inside ? describe(Math.floor(pointer[0]), Math.floor(pointer[1])) : [field("Point at a pixel", "")];
    byId("readout").replaceChildren(...text);
  });
}

function imageCoordinates(event) {
  const canvas = event.currentTarget;
  const perCss = canvas.width / canvas.clientWidth / scaleOf(canvas);
  return [wrap(win.left + event.offsetX * perCss), win.top + event.offsetY * perCss, perCss];
}

function listen(canvas) {
  canvas.addEventListener("pointerdown", (e) => canvas.setPointerCapture(e.pointerId));
  canvas.addEventListener("pointermove", (e) => {
    const [x, y, perCss] = imageCoordinates(e);
    if (e.buttons) {
      win.left -= e.movementX * perCss;
      win.top -= e.movementY * perCss;
      clampWindow();
    }
    pointer = [x, y];
    redraw();
  });
  canvas.addEventListener("pointerleave", () => ((pointer = null), redraw()));
  canvas.addEventListener("dblclick", () => (Object.assign(win, { left: 0, top: 0, zoom: 1 }), redraw()));
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    const [x, y] = imageCoordinates(e);
    const before = win.zoom;
    win.zoom = Math.min(40, Math.max(1, before * Math.exp(-e.deltaY * 0.0015)));
    const keep = before / win.zoom; // the pixel under the pointer stays there
    win.left = x - wrap(x - win.left) * keep;
    win.top = y - (y - win.top) * keep;
    clampWindow();
    redraw();
  }, { passive: false });
}

async function start() {
  themeSwitch();
  byId("facts").textContent = data.facts;
  for (const { title, src } of data.layers) {
    const canvas = element("canvas", {});
    const image = element("img", { src });
    await image.decode();
    const heading = element("h3", {}, title);
    byId("layers").append(element("div", { className: "layer" }, heading, canvas));
    if (title.startsWith("Range")) {
      const bar = element("div", { className: "bar" });
      canvas.after(bar);
      colourBar(bar, decodeArray(data.turbo), data.ticks, "m");
    }
    listen(canvas);
    layers.push({ canvas, image });
  }
  window.addEventListener("resize", redraw);
  redraw();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
  }));
}

start();
