// A clip's detail: a large frame with layers, the strip of frames, the density over time, the clip in every view.

const layersOn = { boxes: true, density: true, arrows: true, actors: true };
const ARROW_TIMES = 2;
let open = null; // { row, at, view }

function openClip(id) {
  const row = rows.id.indexOf(id);
  if (row < 0) return;
  const strip = details[row]?.strip ?? [];
  const peopled = strip.flatMap((one, i) => (one.actors?.length ? [i] : []));
  const at = peopled.length ? peopled[Math.floor(peopled.length / 2)] : Math.floor(strip.length / 2);
  const dialog = byId("detail");
  const isNew = open?.row !== row;
  open = { row, at, view: currentView };
  showDetail();
  if (!dialog.open) dialog.showModal();
  if (isNew) dialog.scrollTop = 0;
  if (isNew) byId("detail-title").focus({ preventScroll: true });
}

function closeClip() {
  open = null;
  if (location.hash.startsWith("#clip/")) history.replaceState(null, "", "#");
}

function step(by) {
  const place = shown.indexOf(open.row);
  const next = place < 0 ? undefined : shown[place + by];
  if (next !== undefined) location.replace(`#clip/${encodeURIComponent(rows.id[next])}`);
}

function move(to) {
  const last = (details[open.row]?.strip.length ?? 0) - 1;
  open.at = Math.max(0, Math.min(last, to));
  showDetail();
}

function onDetailKey(event) {
  if (["INPUT", "SELECT"].includes(event.target.tagName) && event.target.type !== "checkbox") return;
  const act = { ArrowLeft: () => move(open.at - 1), ArrowRight: () => move(open.at + 1), PageUp: () => step(-1), PageDown: () => step(1) }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function showDetail() {
  const { row } = open;
  const focused = document.activeElement?.dataset?.key;
  const place = shown.indexOf(row);
  const button = (key, text, by) => h("button", { type: "button", "data-key": key, disabled: shown[place + by] === undefined || place < 0, onclick: () => step(by) }, text);
  const dialog = byId("detail");
  dialog.replaceChildren(
    h("header", {}, h("div", {}, h("h2", { id: "detail-title", tabindex: -1, "data-key": "title" }, className(row)), h("p", { class: "quiet" }, rows.id[row])),
      h("div", { class: "buttons" }, button("previous", "← Previous", -1), button("next", "Next →", 1),
        h("button", { type: "button", "data-key": "close", onclick: () => dialog.close() }, "Close"))),
    h("div", { class: "columns" },
      h("div", {}, viewer(row), layerSwitches(row), stripOf(row), timeChart(row)),
      h("div", {}, h("h3", {}, "Every view"), viewList(row), factsOf(row))));
  if (!focused) return;
  const same = [...dialog.querySelectorAll("[data-key]")].find((element) => element.dataset.key === focused && !element.disabled);
  (same ?? byId("detail-title")).focus({ preventScroll: true });
}

function viewer(row) {
  const size = sizeOf(row);
  const now = details[row]?.strip[open.at];
  const view = open.view;
  const box = boxAt(row, view.name, now);
  const picture = now?.picture ? `data:image/webp;base64,${now.picture}` : head.full ? thumbnailOf(row, view.name) : null;
  const map = mapOf(row, view, now);
  const layers = [
    box && shadeLayer(box, size),
    layersOn.density && map && densityLayer(map.levels, map.grid, size),
    layersOn.arrows && now?.arrows && arrowLayer(now.arrows, ARROW_TIMES),
    layersOn.actors && now?.actors?.map((actor) => boxLayer(actor, "actor", size)),
    layersOn.boxes && (details[row]?.places?.[view.name] ?? []).map((place) => boxLayer(place, `${colourOf(view)} thin place`, size)),
    layersOn.boxes && views.filter((other) => other !== view && other.kind !== "full" && boxOf(row, other.name)).map((other) => boxLayer(boxAt(row, other.name, now), `${colourOf(other)} thin`, size)),
    box && boxLayer(box, colourOf(view), size),
  ];
  const what = `${now ? `Frame ${now.frame}` : "A frame"} of ${rows.id[row]}${box ? ` with the box of ${view.name}: ${box.join(", ")} px` : ""}`;
  const still = details[row]?.time ? "nothing moves until the next picture" : null;
  const notes = now ? [`Frame ${now.frame}`, now.arrows ? `vectors of frame ${now.arrows_of}, drawn ${ARROW_TIMES} times as long` : still] : [];
  notes.push(map?.about, details[row]?.places?.[view.name] && `dashed: the box in the middle of each of ${view.params.segments} parts of the clip`);
  const note = notes.filter(Boolean).join("; ");
  return h("figure", { class: "viewer" }, scene(size, what, picture, layers.flat().filter(Boolean)), h("figcaption", {}, note && `${note}.`));
}

// The map shown on a frame of the strip: the one on which the view's box was chosen, or the density of vectors from
// that frame to the next.
function mapOf(row, view, now) {
  const whole = boxes[view.name].density?.[row];
  if (now?.density && view.params.method !== "actor") return { levels: now.density, grid: head.stripGrid, about: now.arrows && "density until the next picture" };
  return whole && { levels: whole, grid: gridOf(view.name), about: `${mapName(view)}, of the whole clip${view.params.method === "actor" ? ", weighted towards the middle" : ""}` };
}

function layerSwitches(row) {
  const strip = details[row]?.strip ?? [];
  const there = { boxes: views.length > 1, density: true, arrows: strip.some((one) => one.arrows), actors: strip.some((one) => one.actors?.length) };
  const names = { boxes: "all boxes", density: "density", arrows: "vectors", actors: "actors" };
  return h("fieldset", { class: "switches" }, h("legend", { class: "hidden" }, "Layers"), Object.keys(names).filter((name) => there[name]).map((name) =>
    h("label", { class: "check" }, h("input", { type: "checkbox", checked: layersOn[name], "data-key": name, onchange: (event) => { layersOn[name] = event.target.checked; showDetail(); } }), name === "actors" ? h("span", { class: "swatch actor" }) : null, ` ${names[name]}`)));
}

function stripOf(row) {
  const strip = details[row]?.strip;
  if (!strip?.length) return h("p", { class: "quiet" }, details[row] ? "No frames of this clip are cached." : `The page has the strip and vectors of only ${plural(Object.keys(details).length, "clip")}; mocrop report --clip ${rows.id[row]} includes those of this one.`);
  const size = sizeOf(row);
  return h("div", { class: "strip", role: "group", "aria-label": "Frames, ← and → move" }, strip.map((one, i) => {
    const picture = one.picture ? `data:image/webp;base64,${one.picture}` : null;
    const box = boxAt(row, open.view.name, one);
    return h("button", { type: "button", "data-key": `frame-${i}`, "aria-pressed": i === open.at ? "true" : "false", onclick: () => move(i) },
      scene(size, `Frame ${one.frame}`, picture, box ? [boxLayer(box, colourOf(open.view), size)] : []), h("span", {}, one.frame));
  }));
}

function timeChart(row) {
  const time = details[row]?.time;
  if (!time) return null;
  const inside = time.inside[open.view.name] ?? time.all.map(() => 0);
  const frames = time.frames.at(-1), top = Math.max(1, ...time.all.map((count, i) => count / (time.frames[i + 1] - time.frames[i])));
  const [width, height] = [600, 84];
  const bars = s("g", {});
  time.all.forEach((count, i) => {
    const x = (time.frames[i] / frames) * width, step = ((time.frames[i + 1] - time.frames[i]) / frames) * width;
    const tall = (value) => (value / (time.frames[i + 1] - time.frames[i]) / top) * height;
    const bar = (value, from, name) => s("rect", { class: name, x: x + 0.5, width: Math.max(0.5, step - 1), y: height - from - tall(value), height: tall(value) });
    bars.append(bar(inside[i], 0, "in"), bar(count - inside[i], tall(inside[i]), "out"));
  });
  const marks = details[row].strip.map((one, i) => s("line", { class: i === open.at ? "mark now" : "mark", x1: (one.frame / frames) * width, x2: (one.frame / frames) * width, y1: 0, y2: height }));
  const sum = (counts) => counts.reduce((total, count) => total + count, 0);
  const [all, kept] = [sum(time.all), sum(inside)];
  const words = all ? `${percent(kept / all)} of the ${plural(all, "vector")} longer than ${head.threshold} px lie in the box of ${open.view.name}` : `No vector is longer than ${head.threshold} px`;
  return h("figure", { class: "time" }, h("h3", {}, "Density over time"),
    s("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${words}, by frame` }, bars, ...marks),
    h("div", { class: "axis", "aria-hidden": "true" }, h("span", {}, "frame 0"), h("span", {}, `${frames - 1}`)),
    h("figcaption", {}, h("span", { class: "key in" }, "in the box"), h("span", { class: "key out" }, "outside"), `${words}.`));
}

function viewList(row) {
  return h("ul", { class: "views" }, views.map((view) => {
    const box = shownBox(row, view.name);
    const now = details[row]?.strip[open.at];
    const at = boxAt(row, view.name, now);
    const kept = actorOf(row, view.name), score = boxes[view.name].score[row];
    const numbers = [box && `area ${percent(areaOf(row, view.name))}`, isNumber(score) && `motion ${percent(score, 1)}`, isNumber(kept) && `actor ${percent(kept, 1)}`].filter(Boolean);
    return h("li", {}, h("button", { type: "button", "data-key": `view-${view.name}`, "aria-pressed": view === open.view ? "true" : "false", onclick: () => { open.view = view; showDetail(); } },
      h("span", { class: "crop" }, box ? storedCrop(row, view.name, box) : ""),
      h("span", { class: "about-view" }, h("span", { class: `swatch ${colourOf(view)}` }), h("b", {}, view.name), h("span", { class: "quiet" }, box ? `${SOURCES[boxes[view.name].source[row]]}` : "no box"), h("span", { class: "numbers" }, numbers.map((text) => h("span", {}, text))), box && h("span", { class: "quiet" }, `x ${at[0]}–${at[2]}, y ${at[1]}–${at[3]} px${moves(view) && now ? ` in frame ${now.frame}` : ""}`))));
  }));
}

function storedCrop(row, view, box) {
  const own = details[row]?.crops[view];
  if (own) return h("img", { src: `data:image/webp;base64,${own}`, alt: `The cached crop of the view ${view}` });
  return cropOf(row, view, box, head.full ? thumbnailOf(row, view) : null);
}

function factsOf(row) {
  const split = [...rows.split[row]].map((part, i) => part !== "0" && `${i + 1} ${PARTS[part - 1]}`).filter(Boolean);
  const facts = [
    ["State", STATES[rows.state[row]]],
    rows.reason[row] && ["Reason", rows.reason[row]],
    rows.width[row] && ["Frames", `${whole(rows.frames[row])} of ${rows.width[row]}×${rows.height[row]} px`],
    rows.window[row] && ["Window", `${rows.window[row][1]} of ${rows.window[row][0]}, from its frame ${whole(rows.window[row][2])} on`],
    split.length && ["Split", split.join(", ")],
    ["Draw it", h("code", {}, `mocrop boxes ${head.store} --clip ${rows.id[row]} --png clip.png`)],
  ];
  return h("dl", { class: "facts-list" }, facts.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}
