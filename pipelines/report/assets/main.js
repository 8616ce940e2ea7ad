// Puts the page together and follows the address.

function showLegend() {
  const key = (colour, text) => h("span", { class: "key-box" }, h("span", { class: `swatch ${colour}` }), text);
  byId("legend").replaceChildren(
    key(colourOf(currentView), `box of ${currentView.name}`),
    currentView.kind === "motion" && h("span", { class: "key-box" }, h("span", { class: "ramp", "aria-hidden": "true" }), mapName(currentView)));
}

function useView(name) {
  currentView = viewNamed(name) ?? currentView;
  showHead(currentView);
  showLegend();
  showClasses(currentView);
  showGrid(false);
}

function followAddress() {
  const [, id] = location.hash.match(/^#clip\/(.+)$/) ?? [];
  if (!id) return byId("detail").open && byId("detail").close();
  try {
    openClip(decodeURIComponent(id));
  } catch (error) {
    if (!(error instanceof URIError)) throw error; // a truncated address: leave the page as it is
  }
}

byId("view").append(...views.map((view) => h("option", { value: view.name, selected: view.name === head.main }, view.name)));
byId("view").addEventListener("change", (event) => useView(event.target.value));
byId("detail").addEventListener("close", closeClip);
byId("detail").addEventListener("keydown", onDetailKey);
byId("detail").addEventListener("click", (event) => event.target === byId("detail") && byId("detail").close());
window.addEventListener("hashchange", followAddress);
fillFilters();
useView(head.main);
showActors();
showQuarantined();
showNotes();
showAbout();
followAddress();
