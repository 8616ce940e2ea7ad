// Tables: classes, actors, quarantined clips, clips with notes, and the store's settings and software.

function meter(value, digits = 0, strong = false) {
  if (!isNumber(value)) return "–";
  const bar = h("i", {});
  bar.style.width = `${Math.min(100, 100 * value)}%`;
  return h("span", { class: strong ? "meter strong" : "meter" }, h("span", {}, percent(value, digits)), h("span", { class: "track", "aria-hidden": "true" }, bar));
}

const listedOf = (listed, count) => (listed < count ? ` (${whole(listed)} listed)` : "");
const clipLink = (row) => h("a", { href: `#clip/${encodeURIComponent(rows.id[row])}` }, rows.id[row]);

const kindOf = (column) => (column.number ? "number" : column.wordy ? "wordy" : null);

// A table sorted by its headings. Columns: { name, of(row) → value to sort by, show(row) → content, number, wordy }.
function table(caption, columns, items, { by = 0, down = false, tall = false } = {}) {
  const body = h("tbody");
  const heads = columns.map((column, i) => h("th", { scope: "col", class: kindOf(column) },
    h("button", { type: "button", onclick: () => order(i) }, column.name)));
  function order(column, start) {
    down = start ?? (column === by ? !down : Boolean(columns[column].number));
    by = column;
    heads.forEach((th, i) => (i === by ? th.setAttribute("aria-sort", down ? "descending" : "ascending") : th.removeAttribute("aria-sort")));
    const key = columns[by].of;
    const sorted = [...items].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      const sign = typeof x === "string" ? x.localeCompare(y, "en") : x - y;
      return down ? -sign : sign;
    });
    body.replaceChildren(...sorted.map((item) => h("tr", {}, columns.map((column, i) =>
      h(i ? "td" : "th", { scope: i ? null : "row", class: kindOf(column) }, column.show ? column.show(item) : String(column.of(item)))))));
  }
  order(by, down);
  return h("div", { class: tall ? "scroll tall" : "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, h("span", {}, caption)), h("thead", {}, h("tr", {}, heads)), body));
}

function showClasses(view) {
  const actorClass = new Map((actors?.classes ?? []).map(([label], i) => [label, i]));
  const series = actors?.series.find((one) => one.way === "view" && one.name === view.name);
  const name = (label) => head.classes[label] ?? "no class";
  const columns = [
    { name: "Class", of: (row) => name(row[0]), show: (row) => h("button", { type: "button", class: "link", onclick: () => filterClass(row[0]) }, name(row[0])) },
    { name: "Clips", of: (row) => row[1], show: (row) => whole(row[1]), number: true },
    { name: "Done", of: (row) => row[2], show: (row) => whole(row[2]), number: true },
    { name: "Area", of: (row) => row[4], show: (row) => meter(row[4]), number: true },
    view.kind === "motion" && { name: "Motion kept", of: (row) => row[5], show: (row) => meter(row[5], 1, true), number: true },
    view.kind === "motion" && { name: "Fallback", of: (row) => row[6], show: (row) => meter(row[6], 1), number: true },
    series && { name: "Actor kept", of: (row) => series.classes[actorClass.get(row[0])] ?? null, show: (row) => meter(series.classes[actorClass.get(row[0])], 1, true), number: true },
  ].filter(Boolean);
  byId("class-table").replaceChildren(table(`Means over the clips of each class, in the view ${view.name}`, columns, view.classes, { tall: view.classes.length > 15 }));
}

function filterClass(label) {
  byId("class").value = String(label);
  showGrid(true);
  if (!shown.length && byId("pictured").checked) {
    byId("pictured").checked = false;
    showGrid(true);
  }
  byId("clips").scrollIntoView();
  byId("class").focus({ preventScroll: true });
}

function showActors() {
  if (!actors) return;
  byId("actors").hidden = byId("to-actors").hidden = false;
  const series = table("How much of the actors is inside the box, all annotated clips", [
    { name: "Box", of: (one) => one.name },
    { name: "Area", of: (one) => one.area, show: (one) => meter(one.area, 1), number: true },
    { name: "Actor kept", of: (one) => one.mean, show: (one) => meter(one.mean, 1, isMain(one)), number: true },
    { name: "≥ 90 % kept", of: (one) => one.mostly, show: (one) => meter(one.mostly, 1, isMain(one)), number: true },
    { name: "Description", of: aboutSeries, wordy: true },
  ], actors.series, { by: 2, down: true });
  const measured = h("div", {});
  const measure = (name, text) => h("label", { class: "check" }, h("input", { type: "radio", name: "measure", checked: name === "mean", onchange: () => measured.replaceChildren(...measuredTables(name, text)) }), ` ${text}`);
  measured.replaceChildren(...measuredTables("mean", MEASURES.mean));
  byId("actor-tables").replaceChildren(
    h("p", { class: "quiet" }, `${plural(actors.count, "clip")} with ${plural(actors.boxCount, "actor box", "actor boxes")}. “Actor kept” is the share of an actor's box (one per actor and frame) inside the crop, averaged over a clip's boxes and then over clips. “≥ 90 % kept” is the share of actor boxes of which at least 90 % is inside. The rows centre, random and best have exactly the area of a view's box; best is found with the annotations and is an upper bound for one static box per clip. mocrop evaluate prints confidence intervals of the differences.`),
    series,
    h("fieldset", { class: "switches", id: "measure" }, h("legend", {}, "By class and by clip"), Object.entries(MEASURES).map(([name, text]) => measure(name, text))),
    measured, ...mismatches());
}

const MEASURES = { mean: "Actor kept", mostly: "≥ 90 % kept" };

// The actors by class and by clip, in one of the measures: the mean share kept, or the share of boxes kept to 90 %.
function measuredTables(measure, text) {
  const [ofClasses, ofClips] = measure === "mean" ? ["classes", "clips"] : ["classesMostly", "clipsMostly"];
  const value = (one, key) => ({ name: one.name, of: (item) => one[key][item[0]], show: (item) => meter(one[key][item[0]], 1, isMain(one)), number: true });
  const main = actors.series.findIndex(isMain);
  return [
    table(`${text} by class, mean over clips`, [
      { name: "Class", of: (item) => head.classes[item[1]] ?? "no class" },
      { name: "Clips", of: (item) => item[2], number: true },
      ...actors.series.map((one) => value(one, ofClasses)),
    ], actors.classes.map(([label, count], i) => [i, label, count]), { tall: actors.classes.length > 15 }),
    table(`${text} by clip, worst first${listedOf(actors.rows.length, actors.count)}`, [
      { name: "Clip", of: (item) => rows.id[item[1]], show: (item) => clipLink(item[1]) },
      { name: "Boxes", of: (item) => actors.boxes[item[0]], show: (item) => whole(actors.boxes[item[0]]), number: true },
      ...actors.series.map((one) => value(one, ofClips)),
    ], actors.rows.map((row, i) => [i, row]), { by: 2 + main, tall: actors.rows.length > 15 }),
  ];
}

const isMain = (series) => series.way === "view" && series.name === head.main;

function aboutSeries(series) {
  if (series.way !== "view") return series.about;
  const view = viewNamed(series.name), share = percent(view.params.crop_ratio);
  const cells = view.params.grid ? `${view.params.grid.join("×")} cells, ` : "";
  const what = view.params.method === "actor" ? "motion relative to the camera" : "motion";
  const moving = moves(view) ? `, moving over ${view.params.segments} positions` : "";
  if (view.kind === "motion") return `view: where the ${what} is, ${cells}${share} of the frame${moving}`;
  return { full: "view: the whole frame", centre: `view: ${share} of the frame, at the centre`, random: `view: ${share} of the frame, at a random position` }[view.kind];
}

function mismatches() {
  if (!actors.problems.length) return [h("p", { class: "quiet" }, "All annotations match the store.")];
  const columns = [
    { name: "Annotated clip", of: (item) => item[0] },
    { name: "What does not match", of: (item) => item.slice(1).join("; "), wordy: true },
  ];
  return [h("h3", {}, `${plural(actors.problemCount, "annotation")} that ${actors.problemCount === 1 ? "does" : "do"} not match${listedOf(actors.problems.length, actors.problemCount)}`),
    table("Annotations that do not match the store", columns, actors.problems, { tall: actors.problems.length > 15 })];
}

function showQuarantined() {
  const bad = Object.keys(rows.reason).map(Number);
  if (!head.states.quarantined) return;
  byId("quarantined").hidden = byId("to-quarantined").hidden = false;
  const part = (row, i) => { const at = rows.reason[row].indexOf(": "); return i ? rows.reason[row].slice(at + 2) : at < 0 ? "" : rows.reason[row].slice(0, at); };
  byId("quarantine-table").replaceChildren(table(`${plural(head.states.quarantined, "clip")} left out, with reasons${listedOf(bad.length, head.states.quarantined)}`, [
    { name: "Clip", of: (row) => rows.id[row], show: clipLink },
    { name: "Class", of: className },
    { name: "Stage", of: (row) => part(row, 0) },
    { name: "Reason", of: (row) => part(row, 1), wordy: true },
  ], bad, { tall: bad.length > 15 }));
}

function showNotes() {
  if (!head.notes.length) return;
  byId("notes").hidden = byId("to-notes").hidden = false;
  byId("note-tables").replaceChildren(...head.notes.map((note) => table(
    `${plural(note.count, "clip")}: ${note.about}${listedOf(note.clips.length, note.count)}`, [
      { name: "Clip", of: ([row]) => rows.id[row], show: ([row]) => clipLink(row) },
      { name: "Class", of: ([row]) => className(row) },
      { name: "Note", of: ([, text]) => text, wordy: true },
    ], note.clips, { tall: note.clips.length > 15 })));
}

function showAbout() {
  const seconds = Object.entries(head.seconds), total = seconds.reduce((sum, [, value]) => sum + value, 0);
  const list = (title, pairs) => h("div", {}, h("h3", {}, title), h("dl", { class: "facts-list" }, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
  const time = (stage) => (stage in head.seconds ? h("span", { class: "meter" }, duration(head.seconds[stage]), h("span", { class: "track", "aria-hidden": "true" }, lengthOf(head.seconds[stage] / total))) : "–");
  byId("about-body").replaceChildren(
    list("Stages", Object.entries(head.stages).map(([stage, [done, all]]) => [stage, h("span", { class: "stage" }, `${whole(done)} of ${plural(all, "shard")}`, time(stage))])),
    list("Made with", [["data set", head.dataset], ...Object.entries(head.software), ["fingerprint", h("code", {}, head.fingerprint)]]),
    h("details", {}, h("summary", {}, `Recipe ${head.recipe.name}`), h("pre", { tabindex: 0 }, JSON.stringify(head.recipe, null, 1))),
    h("details", {}, h("summary", {}, "Parameters of the views"), h("pre", { tabindex: 0 }, JSON.stringify(Object.fromEntries(views.map((view) => [view.name, view.params])), null, 1))));
}

function lengthOf(share) {
  const bar = h("i", {});
  bar.style.width = `${100 * share}%`;
  return bar;
}
