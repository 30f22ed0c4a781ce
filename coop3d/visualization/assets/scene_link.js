/* Points and pixels: a mark is one point of one cloud, shown as a ring in 3D and as a ring in the pictures of its
 * vehicle, with what is known about it. */

let mark = null; // {vehicle, kind, cloud, index}
const SEARCH_PIXELS = 14; // how far from the pointer the nearest drawn pixel may lie

function valueOf(scale, index) {
  if (index === scale.unknown) return NaN;
  return scale.low * Math.pow(scale.high / scale.low, index / 254);
}

/* A byte on its scale as text: two digits are true, and an end of the scale stands for all beyond. */
function reading(scale, index) {
  const beyond = index === 254 ? "≥ " : index === 0 && scale.unit ? "≤ " : "";
  return `${beyond}${Number(valueOf(scale, index).toPrecision(2))}${scale.unit && " "}${scale.unit}`;
}

/* What is known of a marked point: [name, text] pairs. */
function facts({ cloud, index }) {
  const [, range, confidence, error] = cloud.scalars.subarray(4 * index, 4 * index + 4);
  const { scales } = data;
  return [
    ["range", reading(scales.range, range)],
    ...(error === scales.error.unknown ? [] : [["error", reading(scales.error, error)]]),
    ...(confidence === scales.confidence.unknown ? [] : [["confidence", reading(scales.confidence, confidence)]]),
    ...(cloud.pixels ? [["pixel", `${cloud.pixels[2 * index]}, ${cloud.pixels[2 * index + 1]}`]] : []),
  ];
}

function markPosition() {
  return mark.cloud.xyz.subarray(3 * mark.index, 3 * mark.index + 3);
}

/* Show `next` everywhere, or nothing for null. */
function setMark(next) {
  mark = next;
  const described = mark ? [`${mark.vehicle.name}, ${KINDS[mark.kind].title}`, ...facts(mark).map(([k, v]) => `${k} ${v}`)] : [];
  const [x, y, z] = mark ? [...markPosition()].map((v) => v.toFixed(2)) : [];
  byId("tip").textContent = mark ? [...described, `x ${x}  y ${y}  z ${z} m`].join("\n") : "";
  byId("readout").textContent = mark ? described.join(" · ") : "Point at a pixel to find its point, at a point to find its pixel.";
  const at = mark?.cloud.pixels ? [mark.cloud.pixels[2 * mark.index] + 0.5, mark.cloud.pixels[2 * mark.index + 1] + 0.5] : null;
  for (const cross of document.querySelectorAll(".cross")) {
    const shown = at && data.vehicles[cross.dataset.vehicle] === mark.vehicle;
    cross.style.display = shown ? "block" : "none";
    if (!shown) continue;
    const [width, height] = mark.vehicle.imageSize;
    cross.style.left = `${(100 * at[0]) / width}%`;
    cross.style.top = `${(100 * at[1]) / height}%`;
  }
  placeMark();
}

/* Bring the pictures of the marked vehicle into their column, unless some of them are there. */
function showPicturesOfMark() {
  const reel = byId("reel");
  const box = reel.getBoundingClientRect();
  const crosses = mark ? [...reel.querySelectorAll(".cross")].filter((c) => c.style.display === "block" && c.offsetParent) : [];
  const seen = (c) => c.getBoundingClientRect().top > box.top && c.getBoundingClientRect().bottom < box.bottom;
  if (crosses.length && !crosses.some(seen)) reel.scrollTop += crosses[0].closest("section").getBoundingClientRect().top - box.top;
}

/* Ring and tip follow their point; called after every redraw. */
function placeMark() {
  if (!viewer) return; // no WebGL2: pictures only
  const { clientWidth, clientHeight } = viewer.canvas;
  const at = mark && viewer.screen(markPosition());
  const inside = at && at[0] >= 0 && at[0] <= clientWidth && at[1] >= 0 && at[1] <= clientHeight;
  const tip = byId("tip");
  byId("ring").style.display = tip.style.display = inside ? "block" : "none";
  if (!inside) return;
  byId("ring").style.transform = `translate(${at[0]}px, ${at[1]}px)`;
  const left = at[0] + 16 + tip.offsetWidth > clientWidth ? at[0] - 16 - tip.offsetWidth : at[0] + 16;
  const top = Math.min(at[1] + 12, clientHeight - tip.offsetHeight - 4);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

/* Index of the point of each pixel of a cloud, -1 where the pixel was not drawn. */
function pixelGrid(cloud, [width, height]) {
  const grid = new Int32Array(width * height).fill(-1);
  for (let i = cloud.pixels.length / 2 - 1; i >= 0; i--) grid[cloud.pixels[2 * i + 1] * width + cloud.pixels[2 * i]] = i;
  return grid;
}

/* The drawn point nearest to a pixel of a vehicle's pictures, of the first kind that is shown (else that there is). */
function pointAtPixel(vehicle, column, row) {
  const s = settings();
  const kinds = ["predicted", "placed", "truth"].filter((kind) => vehicle[kind]?.xyz.shape[0]);
  const kind = kinds.find((k) => s[k]) || kinds[0];
  const cloud = kind && gpuCloud(vehicle, kind);
  if (!cloud?.pixels || !vehicle.imageSize) return null;
  cloud.grid ||= pixelGrid(cloud, vehicle.imageSize);
  const count = s.masked ? cloud.kept : Infinity;
  const [width, height] = vehicle.imageSize;
  let [index, best] = [-1, SEARCH_PIXELS ** 2];
  for (let y = Math.max(0, row - SEARCH_PIXELS); y <= Math.min(height - 1, row + SEARCH_PIXELS); y++) {
    for (let x = Math.max(0, column - SEARCH_PIXELS); x <= Math.min(width - 1, column + SEARCH_PIXELS); x++) {
      const found = cloud.grid[y * width + x];
      const away = (x - column) ** 2 + (y - row) ** 2;
      if (found >= 0 && found < count && away < best) [index, best] = [found, away];
    }
  }
  return index < 0 ? null : { vehicle, kind, cloud, index };
}

function centreOn(found) {
  if (!found) return;
  viewer.camera.target = [...found.cloud.xyz.subarray(3 * found.index, 3 * found.index + 3)];
  viewer.redraw();
}

/* Call `handle(event)` at most once a frame. */
function throttled(handle) {
  let pending = null;
  return (event) => {
    if (!pending) requestAnimationFrame(() => (handle(pending), (pending = null)));
    pending = event;
  };
}

function listenToPictures() {
  const dialog = byId("enlarged");
  const enlarge = (image) => ((dialog.firstElementChild.src = image.src), dialog.showModal());
  for (const picture of document.querySelectorAll(".picture")) {
    const vehicle = data.vehicles[picture.dataset.vehicle];
    const image = picture.querySelector("img");
    const found = (event) => {
      const box = image.getBoundingClientRect();
      const at = [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
      return viewer && vehicle.imageSize && pointAtPixel(vehicle, ...at.map((t, k) => Math.floor(t * vehicle.imageSize[k])));
    };
    picture.addEventListener("pointermove", throttled((event) => setMark(found(event))));
    picture.addEventListener("pointerleave", () => requestAnimationFrame(() => setMark(null)));
    image.onclick = (event) => (event.shiftKey ? centreOn(found(event)) : enlarge(image));
    picture.parentElement.querySelector("button").onclick = () => enlarge(image);
  }
  dialog.onclick = () => dialog.close();
}

/* One chip per kind of picture: shows and hides it for all vehicles. */
function buildChips() {
  const titles = new Set([...document.querySelectorAll("figure")].map((f) => f.dataset.layer));
  byId("layers").append(...[...titles].map((title) => {
    const box = element("input", { type: "checkbox", checked: true, value: title });
    return element("label", {}, box, title);
  }));
}

function showChosenPictures() {
  const open = new Set([...document.querySelectorAll("#layers input:checked")].map((box) => box.value));
  for (const figure of document.querySelectorAll("figure")) figure.hidden = !open.has(figure.dataset.layer);
}
