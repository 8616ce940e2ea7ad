// The grid of clips: filtered, sorted, paged.

const PAGE = 24;
const SORTS = {
  id: ["id", (row) => null, 1],
  "score-low": ["motion kept, least first", (row, view) => boxes[view].score[row], 1],
  "score-high": ["motion kept, most first", (row, view) => boxes[view].score[row], -1],
  "area-low": ["area, smallest first", areaOf, 1],
  "area-high": ["area, largest first", areaOf, -1],
  "offset-high": ["distance from the centre, farthest first", offsetOf, -1],
  "offset-low": ["distance from the centre, nearest first", offsetOf, 1],
  "actor-low": ["actor kept, least first", actorOf, 1],
};
let shown = [];
let page = 0;
let currentView = viewNamed(head.main);

function fillFilters() {
  const option = (value, text) => h("option", { value }, text);
  const used = [...new Set(rows.label)].sort((a, b) => a - b);
  byId("class").append(option("", "all"), ...used.map((label) => option(label, head.classes[label] ?? "no class")));
  byId("split").append(option("", "all"));
  for (const list of [0, 1, 2]) {
    PARTS.forEach((part, i) => {
      if (head.splits[list][i]) byId("split").append(option(`${list}${i + 1}`, `split ${list + 1} ${part} (${whole(head.splits[list][i])})`));
    });
  }
  byId("state").append(option("", "all"), ...STATES.map((name, i) => option(i, name)), option("fallback", "fallback boxes"));
  for (const [value, [text]] of Object.entries(SORTS)) {
    if (value !== "actor-low" || actors) byId("sort").append(option(value, text));
  }
  const pictured = new Set(Object.values(thumbnails).flatMap((byRow) => Object.keys(byRow))).size;
  byId("pictured-label").hidden = !pictured || pictured === rows.id.length;
  byId("pictured").checked = !byId("pictured-label").hidden;
  byId("find").addEventListener("input", () => showGrid(true));
  byId("filters").addEventListener("change", (event) => event.target !== byId("find") && showGrid(true));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
}

function chosenRows() {
  const words = byId("find").value.trim().toLowerCase();
  const [label, split, state] = ["class", "split", "state"].map((id) => byId(id).value);
  const view = currentView.name;
  const pictured = byId("pictured").checked;
  const found = [];
  for (let row = 0; row < rows.id.length; row++) {
    if (words && !rows.id[row].toLowerCase().includes(words) && !className(row).toLowerCase().includes(words)) continue;
    if (label !== "" && rows.label[row] !== Number(label)) continue;
    if (split && rows.split[row][split[0]] !== split[1]) continue;
    if (state === "fallback" ? boxes[view].source[row] !== 3 : state && rows.state[row] !== Number(state)) continue;
    if (pictured && rows.state[row] !== 2 && !thumbnailOf(row, view)) continue;
    found.push(row);
  }
  const [, key, direction] = SORTS[byId("sort").value];
  const keys = new Map(found.map((row) => [row, key(row, view)]));
  const missing = (row) => !isNumber(keys.get(row));
  return found.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : direction * (keys.get(a) - keys.get(b))) || a - b);
}

function showGrid(fromStart) {
  if (fromStart) page = 0;
  shown = chosenRows();
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  page = Math.min(page, pages - 1);
  byId("count").textContent = shown.length === rows.id.length ? plural(shown.length, "clip") : `${whole(shown.length)} of ${plural(rows.id.length, "clip")}`;
  const cards = shown.slice(page * PAGE, (page + 1) * PAGE).map(card);
  byId("grid").replaceChildren(...(cards.length ? cards : [h("li", { class: "none" }, "No clip matches these filters.")]));
  byId("grid").classList.toggle("plain", !byId("density").checked);
  showPages(pages);
}

function showPages(pages) {
  const go = (to) => () => { page = to; showGrid(false); byId("clips").scrollIntoView(); byId("grid").querySelector("a")?.focus({ preventScroll: true }); };
  const number = h("input", { type: "number", min: 1, max: pages, value: page + 1, "aria-label": "Page", onchange: (event) => go(Math.min(pages, Math.max(1, Math.round(Number(event.target.value)) || 1)) - 1)() });
  byId("pages").hidden = pages < 2;
  byId("pages").replaceChildren(
    h("button", { type: "button", disabled: page === 0, onclick: go(page - 1) }, "← Previous"),
    h("span", {}, number, ` of ${whole(pages)}`),
    h("button", { type: "button", disabled: page >= pages - 1, onclick: go(page + 1) }, "Next →"));
}

function card(row) {
  const view = currentView.name;
  const box = shownBox(row, view);
  const score = boxes[view].score[row];
  const kept = actorOf(row, view);
  const facts = [
    isNumber(score) && h("span", {}, "motion ", h("b", {}, percent(score))),
    box && h("span", {}, "area ", h("b", {}, percent(areaOf(row, view)))),
    isNumber(kept) && h("span", {}, "actor ", h("b", {}, percent(kept))),
    boxes[view].source[row] === 3 && h("span", { class: "tag" }, "fallback"),
    rows.state[row] !== 1 && h("span", { class: `tag ${STATES[rows.state[row]]}` }, STATES[rows.state[row]]),
  ];
  return h("li", {}, h("a", { class: "card", href: `#clip/${encodeURIComponent(rows.id[row])}` },
    h("span", { class: "pair" }, ...pair(row, view, box)),
    h("span", { class: "name" }, h("b", {}, className(row)), " ", h("span", {}, shortStem(row))),
    h("span", { class: "facts" }, facts),
    rows.reason[row] && h("span", { class: "reason" }, rows.reason[row])));
}

// The clip's name without the class, which is shown next to it.
function shortStem(row) {
  const name = stem(row);
  const start = `v_${className(row)}_`;
  return name.toLowerCase().startsWith(start.toLowerCase()) ? name.slice(start.length) : name;
}

// The frame with density and box, and the crop next to it.
function pair(row, view, box) {
  const size = sizeOf(row);
  if (!box) return [scene(size, `${rows.id[row]}: ${STATES[rows.state[row]]}, no box`, null, [])];
  const picture = head.full ? thumbnailOf(row, view) : null;
  const density = boxes[view].density?.[row];
  const layers = [shadeLayer(box, size), density && densityLayer(density, gridOf(view), size), boxLayer(box, colourOf(currentView), size)];
  const where = `box ${box.join(", ")} px of a frame of ${size.join("×")}`;
  const frame = scene(size, `${picture ? "Frame" : "Empty frame"} of ${rows.id[row]} with the ${where}`, picture, layers.filter(Boolean));
  return [frame, h("span", { class: "mat" }, cropOf(row, view, box, picture))];
}

function cropOf(row, view, box, picture) {
  const label = `Crop of ${rows.id[row]} in the view ${view}`;
  const own = picture ? null : thumbnailOf(row, view);
  if (!own) return scene(sizeOf(row), picture ? label : `${label}: no picture`, picture, [], box);
  const image = h("img", { class: "scene", src: own, alt: label });
  image.style.aspectRatio = (box[2] - box[0]) / (box[3] - box[1]);
  return image;
}
