"use strict";

/* Decode {dtype, bdata, shape} (Plotly's spelling; little-endian like every machine with a browser). */
function decodeArray(packed) {
  const text = atob(packed.bdata);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new { f4: Float32Array, u1: Uint8Array, u2: Uint16Array }[packed.dtype](bytes.buffer);
}

/* [N, 3] float metres from the payload: floats, or 16-bit steps from a corner. */
function decodePoints({ xyz, low, step }) {
  const values = decodeArray(xyz);
  if (!step) return values;
  const points = new Float32Array(values.length);
  for (let i = 0; i < values.length; i += 3) for (let k = 0; k < 3; k++) points[i + k] = low[k] + step[k] * values[i + k];
  return points;
}

const byId = (id) => document.getElementById(id);

/* The page's data, embedded as JSON. */
function pageData() {
  return JSON.parse(byId("data").textContent);
}

/* A CSS variable of the current theme as [r, g, b] in 0..1. */
function themeColour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16) / 255);
}

/* The button #theme: light or dark, at first as the system likes it, then as chosen, also on the next page. Tells
 * the document by an event "themechange", also when the system changes its mind. */
function themeSwitch() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const button = byId("theme");
  const show = () => {
    button.textContent = dark() ? "☀ Light" : "☾ Dark";
    document.dispatchEvent(new Event("themechange"));
  };
  try {
    const chosen = localStorage.getItem("coop3d-theme");
    if (["light", "dark"].includes(chosen)) root.dataset.theme = chosen;
  } catch { /* storage is forbidden here: the choice lasts for this page */ }
  button.onclick = () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("coop3d-theme", root.dataset.theme);
    } catch { /* as above */ }
    show();
  };
  system.addEventListener("change", show);
  show();
}

/* Create an element: properties, then children (strings become text, so names need no escaping). */
function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/* Run the page in 3D; where it cannot, say why and what stands `instead`. */
function startOrExplain(start, instead) {
  themeSwitch();
  try {
    start();
  } catch (error) {
    byId("failure").style.display = "grid";
    byId("failure").textContent = `${error.message}: the 3D view cannot be shown here. ${instead}`;
    document.documentElement.dataset.ready = "failed"; // for tests
    if (!(error.message || "").includes("WebGL2")) throw error;
  }
}

/* A horizontal colour bar with ticks [[position 0..1, text], ...] into `host`; palette: 256 RGB triples. */
function colourBar(host, palette, ticks, unit) {
  const canvas = element("canvas", { width: 255, height: 1 });
  const context = canvas.getContext("2d");
  const row = context.createImageData(255, 1);
  for (let i = 0; i < 255; i++) row.data.set([palette[3 * i], palette[3 * i + 1], palette[3 * i + 2], 255], 4 * i);
  context.putImageData(row, 0, 0);
  host.replaceChildren(canvas);
  const width = host.clientWidth || 255;
  let free = 0; // CSS pixels at the left that labels have taken
  for (const [position, text] of ticks) {
    const label = element("span", { textContent: free ? text : `${text} ${unit}` });
    const half = 3.5 * label.textContent.length; // about, without measuring
    const left = Math.min(Math.max(position * width, half), width - half);
    if (left - half < free) continue; // it would overlap
    free = left + half + 5;
    label.style.left = `${(100 * left) / width}%`;
    host.append(label);
  }
}
