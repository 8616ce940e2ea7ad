// The head: a summary of the store in a sentence, in numbers, and as a map of its boxes.

function showHead(view) {
  const total = Object.values(head.states).reduce((sum, count) => sum + count, 0);
  byId("title").textContent = head.store.replace(/\.zarr$/, "");
  byId("lead").replaceChildren(...leadOf(view));
  byId("made").replaceChildren(...madeWith());
  byId("tiles").replaceChildren(...tilesOf(view, total));
  byId("states").replaceChildren(...(total ? [shareBar("Clips", stateParts()), shareBar("Time", timeParts())] : []).filter(Boolean));
  byId("notices").replaceChildren(...data.notices.map((text) => h("p", { class: "notice" }, text)));
  showHeat(view);
}

function leadOf(view) {
  if (!view.boxed) return [`No box was chosen yet in the view ${view.name}.`];
  const area = h("b", {}, percent(view.area));
  if (view.kind !== "motion") {
    const what = { full: "is the whole frame", centre: "is a box at the centre", random: "is a box at a random position" }[view.kind];
    return [`${view.name} ${what}: `, area, " of the picture."];
  }
  const words = [`${view.name} keeps `, h("b", {}, percent(view.score)), ` of the ${mapName(view) === "motion density" ? "motion" : mapName(view)} in `, area, " of the picture"];
  const [mine, centre] = [actorMean("view", view.name), actorMean("centre", view.name)];
  if (mine === null || centre === null) return [...words, "."];
  return [...words, ", and ", h("b", {}, percent(mine, 1)), ` of the actor, ${against(mine, centre)}.`];
}

const actorMean = (way, view) => actors?.series.find((one) => one.way === way && one.of === view)?.mean ?? null;

// Compares a view with a centre crop of exactly its area, in the digits that are shown.
function against(mine, centre) {
  const points = Math.round(1000 * mine) - Math.round(1000 * centre);
  if (!points) return "as much as a centre crop of the same area";
  const difference = `${(Math.abs(points) / 10).toFixed(1)} points ${points > 0 ? "more" : "less"}`;
  return `${difference} than a centre crop of the same area (${percent(centre, 1)})`;
}

function tilesOf(view, total) {
  const seconds = Object.values(head.seconds).reduce((sum, value) => sum + value, 0);
  const used = view.classes.length;
  const tile = (name, value, note) => h("div", {}, h("dt", {}, name), h("dd", {}, value, note && h("small", {}, note)));
  return [
    tile("Clips", whole(total), plural(used, "class", "classes")),
    view.kind === "motion" && tile("Motion kept", percent(view.median), "median over clips"),
    tile("Area", percent(view.area), "mean share of the frame"),
    moves(view) && tile("Boxes per clip", whole(view.params.segments), "with smooth moves between them"),
    view.kind === "motion" && tile("Fallback", percent(view.fallback, 1), "of clips, nothing moves"),
    seconds > 0 && total > 0 && tile("Time per clip", `${(seconds / total).toFixed(2)} s`, `on one core, ${duration(seconds)} in total`),
  ].filter(Boolean);
}

function madeWith() {
  const names = ["mocrop", "ffmpeg", "av", "zarr"].filter((name) => name in head.software);
  const versions = names.map((name) => `${name} ${head.software[name].replace(/^ffmpeg |, configuration.*$/g, "")}`);
  const text = [`Data set ${head.dataset}`, `recipe ${head.recipe.name}`, ...versions, `fingerprint ${head.fingerprint.slice(0, 12)}`];
  return text.map((part) => h("span", {}, part));
}

const stateParts = () => ["done", "pending", "quarantined"].map((name) => [name, head.states[name], `${whole(head.states[name])} ${name}`]);
const timeParts = () => Object.entries(head.seconds).map(([stage, value]) => [stage, value, `${stage} ${duration(value)}`]);

// A bar of parts, each { class, amount, words }; null if all are 0.
function shareBar(name, parts) {
  const there = parts.filter(([, amount]) => amount > 0);
  if (!there.length) return null;
  const bar = h("div", { class: "shares", "aria-hidden": "true" }, there.map(([kind, amount]) => {
    const part = h("span", { class: kind });
    part.style.flexGrow = amount;
    return part;
  }));
  return h("div", { class: "share-bar" }, bar, h("p", {}, h("b", {}, name), there.map(([kind, , words]) => h("span", { class: kind }, words))));
}

const HEAT = [36, 48];

function showHeat(view) {
  const figure = byId("heat");
  if (!view.heat) {
    figure.replaceChildren(scene([320, 240], "No boxes yet", null, []), h("figcaption", {}, "Positions of the boxes: none yet."));
    return;
  }
  const [heatRows, heatCols] = HEAT;
  const at = (x, y) => view.heat[Math.min(heatRows - 1, Math.floor(y * heatRows)) * heatCols + Math.min(heatCols - 1, Math.floor(x * heatCols))] / 1000;
  const cells = s("g", { class: "heat-cells" });
  for (let row = 0; row < heatRows; row++) {
    for (let col = 0, end; col < heatCols; col = end) {
      const value = view.heat[row * heatCols + col];
      for (end = col + 1; end < heatCols && view.heat[row * heatCols + end] === value; end++);
      cells.append(s("rect", { x: col, y: row, width: end - col, height: 1, "fill-opacity": (0.06 + (0.9 * value) / 1000).toFixed(3) }));
    }
  }
  const spots = [["top left", 0, 0, 1.2, 3], ["top", 0.5, 0, 24, 3], ["top right", 1, 0, 46.8, 3], ["left", 0, 0.5, 1.2, 18.7],
    ["middle", 0.5, 0.5, 24, 18.7], ["right", 1, 0.5, 46.8, 18.7], ["bottom left", 0, 1, 1.2, 34.6], ["bottom", 0.5, 1, 24, 34.6],
    ["bottom right", 1, 1, 46.8, 34.6]];
  const labels = spots.map(([, x, y, left, base]) =>
    s("text", { x: left, y: base, "text-anchor": ["start", "middle", "end"][2 * x], class: at(x, y) > 0.55 ? "on" : "off" }, percent(at(x, y))));
  const words = spots.map(([name, x, y]) => `${name} ${percent(at(x, y))}`).join(", ");
  figure.replaceChildren(
    s("svg", { viewBox: `0 0 ${heatCols} ${heatRows}`, role: "img", "aria-label": `Share of boxes that contain each point of the frame: ${words}` },
      s("rect", { class: "paper", width: heatCols, height: heatRows }), cells, ...labels),
    h("figcaption", {}, h("b", {}, "Positions of the boxes. "),
      `Share of the ${plural(view.places, "box", "boxes")} of ${view.name} that contain each point of the frame.`));
}
