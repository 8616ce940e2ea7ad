// Elements, numbers, and the picture of a clip: a frame with density, arrows and boxes on it, as one SVG.

const data = JSON.parse(document.getElementById("data").textContent);
const { head, rows, boxes, thumbnails, details, actors } = data;
const views = head.views;
const SOURCES = ["none", "motion", "fixed rule", "fallback: nothing moves"];
const PARTS = ["train", "test", "validation"];
const STATES = ["pending", "done", "quarantined"];
const COLOURS = { motion: ["a", "b", "c", "d"], centre: ["centre"], random: ["random"], full: ["full"] };

const byId = (id) => document.getElementById(id);

// An element; attributes by name, "on…" are listeners; children are elements or text, never markup.
function h(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

function s(tag, attributes = {}, ...children) {
  return build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const isNumber = (value) => typeof value === "number";
const percent = (value, digits = 0) => (isNumber(value) ? `${(100 * value).toFixed(digits)} %` : "–");
const whole = (value) => value.toLocaleString("en-GB").replaceAll(",", "\u202f");
const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

function duration(seconds) {
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const viewNamed = (name) => views.find((view) => view.name === name);
const className = (row) => head.classes[rows.label[row]] ?? "no class";
const stem = (row) => rows.id[row].slice(rows.id[row].indexOf("/") + 1);

function colourOf(view) {
  const same = views.filter((other) => other.kind === view.kind);
  const colours = COLOURS[view.kind];
  return `view-${colours[same.indexOf(view) % colours.length]}`;
}

function sizeOf(row) {
  return rows.width[row] ? [rows.width[row], rows.height[row]] : [320, 240];
}

function boxOf(row, view) {
  const table = boxes[view];
  return table.source[row] ? table.box.slice(4 * row, 4 * row + 4) : null;
}

// The box in the frame of the thumbnail, which differs from the static box if the view's box moves.
function shownBox(row, view) {
  const table = boxes[view];
  return table.shown && table.source[row] ? table.shown.slice(4 * row, 4 * row + 4) : boxOf(row, view);
}

// The box in a frame of the strip.
const boxAt = (row, view, frame) => frame?.boxes?.[view] ?? shownBox(row, view);

const moves = (view) => view.params.segments > 1;

// A description of a view's map.
const mapName = (view) => (view.params.method === "actor" ? "motion relative to the camera" : "motion density");

function areaOf(row, view) {
  const box = boxOf(row, view);
  const [width, height] = sizeOf(row);
  return box && ((box[2] - box[0]) * (box[3] - box[1])) / (width * height);
}

// Distance of the box's middle from the frame's, as a share of half the diagonal.
function offsetOf(row, view) {
  const box = boxOf(row, view);
  const [width, height] = sizeOf(row);
  return box && Math.hypot(box[0] + box[2] - width, box[1] + box[3] - height) / Math.hypot(width, height);
}

const actorRows = new Map((actors?.rows ?? []).map((row, index) => [row, index]));

function actorOf(row, view) {
  if (!actorRows.has(row)) return null;
  return actors.series.find((series) => series.way === "view" && series.name === view).clips[actorRows.get(row)];
}

function thumbnailOf(row, view) {
  const found = thumbnails[head.full ?? view]?.[row];
  return found ? `data:image/webp;base64,${found}` : null;
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

function gridOf(view) {
  return viewNamed(view).grid;
}

// Layers of a scene, each in px of the frame.

function densityLayer(base64, [gridRows, gridCols], [width, height]) {
  const layer = s("g", { class: "density" });
  bytesOf(base64).forEach((level, cell) => {
    if (level < 12) return;
    const row = Math.floor(cell / gridCols), col = cell % gridCols;
    layer.append(s("rect", {
      x: (col * width) / gridCols, y: (row * height) / gridRows, width: width / gridCols, height: height / gridRows,
      "fill-opacity": (0.66 * (level / 255) ** 1.3).toFixed(3),
    }));
  });
  return layer;
}

function shadeLayer([x0, y0, x1, y1], [width, height]) {
  return s("path", { class: "shade", d: `M0 0H${width}V${height}H0ZM${x0} ${y0}V${y1}H${x1}V${y0}Z` });
}

function boxLayer([x0, y0, x1, y1], colour, [width]) {
  const inset = width / 320;
  const shape = { x: x0 + inset, y: y0 + inset, width: x1 - x0 - 2 * inset, height: y1 - y0 - 2 * inset };
  return s("g", { class: `box ${colour}` }, s("rect", { ...shape, class: "halo" }), s("rect", { ...shape, class: "line" }));
}

// An arrow from the block's earlier place to the block, `times` as long as the motion.
function arrowLayer(arrows, times) {
  const layer = s("g", { class: "arrows" });
  let lines = "", heads = "";
  for (let i = 0; i < arrows.length; i += 4) {
    const [x, y] = [arrows[i], arrows[i + 1]];
    const [dx, dy] = [(arrows[i + 2] / 4) * times, (arrows[i + 3] / 4) * times];
    const length = Math.hypot(dx, dy);
    if (!length) continue;
    const size = Math.min(4, 0.6 * length) / length;
    lines += `M${(x - dx).toFixed(1)} ${(y - dy).toFixed(1)}L${x} ${y}`;
    heads += `M${(x - dx * size - dy * size * 0.6).toFixed(1)} ${(y - dy * size + dx * size * 0.6).toFixed(1)}L${x} ${y}`;
    heads += `L${(x - dx * size + dy * size * 0.6).toFixed(1)} ${(y - dy * size - dx * size * 0.6).toFixed(1)}`;
  }
  layer.append(s("path", { class: "halo", d: lines + heads }), s("path", { class: "line", d: lines + heads }));
  return layer;
}

// A picture with a text: `part` is the visible part of the frame, by default the whole frame.
function scene(size, label, picture, layers, part = [0, 0, ...size]) {
  const [x0, y0, x1, y1] = part;
  return s("svg", { class: "scene", viewBox: `${x0} ${y0} ${x1 - x0} ${y1 - y0}`, role: "img", "aria-label": label },
    s("rect", { class: "empty", width: size[0], height: size[1] }),
    picture && s("image", { href: picture, width: size[0], height: size[1], preserveAspectRatio: "none" }),
    ...layers);
}
