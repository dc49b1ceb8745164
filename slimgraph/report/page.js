// What is shown is what the address says: every action writes location.hash, `apply` reads it.

const { report, palette } = JSON.parse(byId("data").textContent);
const colorOf = id => palette[id % palette.length];
const key = name => name.toWellFormed(); // as the address holds it
const groups = new Map(report.groups.map(group => [key(group.name), group]));
const nodes = new Map(report.nodes.map(node => [key(node.name), node]));

const readState = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
let shown = {};
const TABS = ["groups", "layers", "charts"];

function go(changes) {
  if (changes.at) { // only look there, keep what is selected
    focusNode(changes.at);
    return;
  }
  const next = new URLSearchParams(location.hash.slice(1));
  for (const [key, value] of Object.entries(changes)) {
    if (value) next.set(key, value);
    else next.delete(key);
  }
  location.hash = next.toString();
  apply();
}

const graph = new GraphView(report, colorOf, box => {
  const { name, groups: carried } = box.node;
  picked = box;
  if (carried.length === 1) go({ group: report.groups[carried[0]].name, node: null });
  else go({ node: name, group: null });
  picked = null;
});
const panel = new Panel(report, colorOf, go);
let picked = null; // the box in the graph that was clicked: the view stays with it

function focusNode(name) {
  const box = graph.plan.boxes.find(({ node, folded }) =>
    node.name === name || folded.some(inner => inner.name === name));
  if (!box) return;
  graph.reveal([box]);
  box.element.classList.add("flash");
  setTimeout(() => box.element.classList.remove("flash"), 1500);
}

function apply() {
  const state = readState();
  const changed = key => shown[key] !== state[key];
  if (!graph.plan || changed("all")) {
    graph.draw(state.all === "1");
    graph.open();
    byId("all").checked = state.all === "1";
    shown.group = shown.node = shown.q = undefined; // draw anew what was lit
  }
  const group = groups.get(state.group) ?? null, node = nodes.get(state.node) ?? null;
  if (changed("group") || changed("node")) {
    if (group) panel.group(group);
    else if (node) panel.node(node);
    else panel.close();
    const boxes = graph.select(group, node);
    table.select(group);
    bars.select(group);
    if (picked) graph.keep([picked, ...boxes]);
    else graph.reveal(boxes);
  }
  if (changed("q")) search(state.q ?? "");
  showTab(openTabs().includes(state.tab) ? state.tab : "groups");
  shown = state;
}

function search(text) {
  const query = text.trim().toLowerCase();
  const has = (...texts) => texts.some(t => t && t.toLowerCase().includes(query));
  const inGroup = g => has(g.name, ...g.modules, ...g.members.map(member => member.param));
  const matches = test => (query ? test : null);
  const found = table.search(matches(inGroup));
  bars.search(matches(layer => has(layer.module, layer.type, layer.group)));
  const lit = graph.search(matches(n => has(n.name, n.module, n.source, n.kind)));
  byId("found").textContent = query ? `${plural(found, "group")}, ${plural(lit, "node")}` : "";
  if (byId("search").value !== text) byId("search").value = text;
}

const openTabs = () => TABS.filter(tab => !byId(`tab-${tab}`).hidden);
function showTab(name) {
  for (const tab of TABS) {
    byId(tab).hidden = tab !== name;
    byId(`tab-${tab}`).setAttribute("aria-selected", tab === name);
    byId(`tab-${tab}`).setAttribute("tabindex", tab === name ? 0 : -1);
  }
}

function drawLegend() {
  const ring = sign => el("i", { class: "ring" }, sign);
  byId("legend").replaceChildren(
    el("li", {}, palette.slice(0, 3).map(color => el("i", { class: "swatch", "--c": color })),
      "same colour: one group"),
    el("li", {}, ring("+"), "add ties"), el("li", {}, ring("‖"), "concat joins"),
    el("li", {}, ring("×"), "gate ties"), el("li", {}, "❄\uFE0E frozen"));
}

// -- theme: the reader's system decides until the button is used -----------------------------

const memory = {
  get theme() {
    try { return localStorage.getItem("slimgraph-theme"); } catch { return null; }
  },
  set theme(value) {
    try { localStorage.setItem("slimgraph-theme", value); } catch { /* not remembered then */ }
  },
};
const setTheme = theme => { document.documentElement.style.colorScheme = theme ?? ""; };
function isDark() {
  const chosen = document.documentElement.style.colorScheme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// -- wiring ----------------------------------------------------------------------------------

setTheme(memory.theme);
byId("theme").addEventListener("click", () => {
  memory.theme = isDark() ? "light" : "dark";
  setTheme(memory.theme);
});
drawHeader(report);
drawLegend();
const table = new GroupTable(report, colorOf, go);
const bars = new LayerBars(report, groups, colorOf, go);
byId("tab-groups").append(el("span", { class: "quiet" }, ` ${report.groups.length}`));
byId("tab-layers").append(el("span", { class: "quiet" }, ` ${report.layers.length}`));
drawCharts(report);
for (const tab of TABS) {
  byId(`tab-${tab}`).addEventListener("click", () => go({ tab: tab === "groups" ? null : tab }));
  byId(`tab-${tab}`).addEventListener("keydown", event => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const all = openTabs(), step = event.key === "ArrowRight" ? 1 : all.length - 1;
    const other = all[(all.indexOf(tab) + step) % all.length];
    byId(`tab-${other}`).click();
    byId(`tab-${other}`).focus();
  });
}
byId("all").addEventListener("change", event => go({ all: event.target.checked ? "1" : null }));
byId("search").addEventListener("input", event => go({ q: event.target.value }));
byId("search").addEventListener("keydown", event => {
  if (event.key !== "Enter") return;
  const found = table.rows.map(row => row.group).filter((_, i) => !table.rows[i].element.hidden);
  const query = event.target.value.trim().toLowerCase();
  const best = found.find(group => group.name.toLowerCase().includes(query)) ?? found[0];
  if (best) go({ group: best.name, node: null });
});
for (const button of document.querySelectorAll("[data-zoom]")) {
  const factor = { in: 1.3, out: 1 / 1.3 }[button.dataset.zoom];
  button.addEventListener("click", () => (factor ? graph.zoom(factor) : graph.fit()));
}
addEventListener("keydown", event => {
  const typing = event.target.matches("input[type=search]");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("search").select();
    byId("search").focus();
  } else if (event.key === "Escape") {
    tip.hide();
    if (readState().q && (typing || panel.element.hidden)) go({ q: null });
    else go({ group: null, node: null });
  }
});
addEventListener("hashchange", apply);
apply();
