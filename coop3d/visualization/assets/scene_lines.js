/* Lines and labels of a scene: ground grid, and per vehicle a car, axes and cameras; boxes of known objects. Segments are
 * [[x, y, z], [x, y, z], [r, g, b]], metres, z up. */

const BOX_COLOUR = [0.87, 0.62, 0.05];

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

/* The twelve edges between eight corners whose index bits say which side of the box they are on. */
function boxEdges(corners, colour) {
  const edges = [];
  for (let i = 0; i < 8; i++) for (const bit of [1, 2, 4]) if (!(i & bit)) edges.push([corners[i], corners[i | bit], colour]);
  return edges;
}

/* A 4.8 x 1.9 x 1.6 m car whose sensor sits on the roof's middle, with a mark at its front. */
function carSegments(colour) {
  const [x, front, top, bottom] = [0.95, 2.4, -0.3, -1.9];
  const corners = Array.from({ length: 8 }, (_, i) => [i & 1 ? x : -x, i & 2 ? front : -front, i & 4 ? top : bottom]);
  const nose = [0, front + 1.1, bottom];
  return [...boxEdges(corners, colour), [corners[2], nose, colour], [corners[3], nose, colour]];
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
      centre.map((c, k) => c + 0.6 * forward[k] + 0.6 * u * right[k] + (k === 2 ? 0.45 * v : 0)));
    return corners.flatMap((corner, k) => [[centre, corner, colour], [corner, corners[(k + 1) % 4], colour]]);
  });
}

/* Solid where the vehicle is predicted, dashed where it is; a red line joins both. */
function vehicleLines(viewer, vehicle) {
  const colour = vehicleColour(vehicle);
  const local = [...carSegments(colour), ...axisSegments(), ...cameraSegments(vehicle.cameras, colour)];
  const { predicted, truth } = vehicle.poses;
  const placed = (pose) => local.map(([a, b, c]) => [apply(pose, a), apply(pose, b), c]);
  const gap = predicted && truth ? [[apply(predicted, [0, 0, 0]), apply(truth, [0, 0, 0]), [0.9, 0.1, 0.1]]] : [];
  return {
    predicted: viewer.addLines(predicted ? [...placed(predicted), ...gap] : []),
    truth: viewer.addLines(truth ? dashed(placed(truth)) : []),
  };
}

/* Edges of every box and, from the middle of its bottom, a line out of its front; corner bits are right, down, forward. */
function boxLines(viewer, boxes) {
  const middle = (corners) => corners[0].map((_, k) => corners.reduce((sum, c) => sum + c[k], 0) / corners.length);
  return viewer.addLines(boxes.flatMap(({ corners }) => {
    const [floor, front] = [[2, 3, 6, 7], [6, 7]].map((bits) => middle(bits.map((i) => corners[i])));
    const nose = front.map((x, k) => x + 0.35 * (x - floor[k]));
    return [...boxEdges(corners, BOX_COLOUR), [floor, nose, BOX_COLOUR]];
  }));
}

function gridExtent(data) {
  const reach = Math.max(50, Math.ceil(data.radius / 10) * 10);
  return [0, 1].map((k) => [-reach, reach].map((r) => Math.round((data.centre[k] + r) / 10) * 10));
}

function gridLines(viewer, data) {
  const [[x0, x1], [y0, y1]] = gridExtent(data);
  const tint = (v) => themeColour(v === 0 ? "--grid-strong" : "--grid");
  const segments = [];
  for (let x = x0; x <= x1; x += 10) segments.push([[x, y0, data.ground], [x, y1, data.ground], tint(x)]);
  for (let y = y0; y <= y1; y += 10) segments.push([[x0, y, data.ground], [x1, y, data.ground], tint(y)]);
  return viewer.addLines(segments);
}

/* Labels {position, node, toggle, vehicle}; the first ones win where two would overlap. */
function buildLabels(data) {
  const names = data.vehicles.flatMap((vehicle, k) => {
    const pose = vehicle.poses.predicted || vehicle.poses.truth;
    if (!pose) return [];
    const node = element("span", { className: "name", textContent: vehicle.name });
    node.style.borderLeftColor = `rgb(${vehicle.colour})`;
    return [{ position: apply(pose, [0, 0, 1.6]), node, toggle: "frames", vehicle: k }];
  });
  const boxes = data.boxes.map(({ name, corners }) => {
    const position = [0, 1, 2].map((k) => [0, 1, 4, 5].reduce((sum, i) => sum + corners[i][k] / 4, k === 2 ? 0.3 : 0));
    return { position, node: element("span", { className: "box", textContent: name }), toggle: "boxes" };
  });
  const step = data.radius > 120 ? 50 : 20;
  const metres = gridExtent(data).flatMap(([low, high], axis) => {
    const first = Math.ceil(low / step) * step;
    const marks = Array.from({ length: Math.floor((high - first) / step) + 1 }, (_, i) => first + i * step);
    return marks.filter((m) => m !== 0).map((m) => {
      const position = axis === 0 ? [m, 0, data.ground] : [0, m, data.ground];
      return { position, node: element("span", { textContent: `${m} m` }), toggle: "grid" };
    });
  });
  return [...names, ...boxes, ...metres];
}

/* Put each label where its point appears, if `wanted(label)` and if no earlier label lies there. */
function placeLabels(viewer, labels, wanted) {
  const taken = [];
  for (const label of labels) {
    const at = wanted(label) ? viewer.screen(label.position) : null;
    label.width ||= label.node.offsetWidth; // measured once, while it is displayed
    const half = label.width / 2 + 3;
    const free = at && taken.every(([x, y, w]) => Math.abs(x - at[0]) > w + half || Math.abs(y - at[1]) > 15);
    label.node.style.visibility = free ? "visible" : "hidden";
    if (!free) continue;
    taken.push([...at, half]);
    label.node.style.transform = `translate(${at[0]}px, ${at[1]}px) translate(-50%, -50%)`;
  }
}
