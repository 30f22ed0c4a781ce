"use strict";

/* Decode {dtype, bdata, shape} (Plotly's spelling; little-endian like every machine with a browser). */
function decodeArray(packed) {
  const text = atob(packed.bdata);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new { f4: Float32Array, u1: Uint8Array, u2: Uint16Array }[packed.dtype](bytes.buffer);
}

/* The page's data, embedded as JSON. */
function pageData() {
  return JSON.parse(document.getElementById("data").textContent);
}

/* A CSS variable of the current theme as [r, g, b] in 0..1. */
function themeColour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16) / 255);
}

/* Create an element: properties, then children (strings become text, so names need no escaping). */
function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/* A horizontal colour bar with ticks [[position 0..1, text], ...] into `host`; palette: 256 RGB triples. */
function colourBar(host, palette, ticks, unit) {
  const canvas = element("canvas", { width: 255, height: 1 });
  const context = canvas.getContext("2d");
  const row = context.createImageData(255, 1);
  for (let i = 0; i < 255; i++) row.data.set([palette[3 * i], palette[3 * i + 1], palette[3 * i + 2], 255], 4 * i);
  context.putImageData(row, 0, 0);
  host.replaceChildren(canvas);
  let last = -1;
  for (const [position, text] of ticks) {
    if (position - last < 0.1 || position > 0.97) continue; // labels would overlap
    const first = last < 0;
    const label = element("span", { textContent: first ? `${text} ${unit}` : text });
    last = position + (first ? 0.06 : 0); // the unit takes room
    label.style.left = `${Math.max(100 * position, 4)}%`;
    host.append(label);
  }
}
