// The header's figures, the sortable table of groups, the bars of the layers.

function drawHeader({ model, totals, groups, settings, export: file, slimgraph, torch }) {
  byId("model").textContent = model.name;
  const shapes = ends => ends.map(end => extent(end.shape)).join(", ");
  byId("shapes").textContent =
    `${shapes(model.inputs)} → ${shapes(model.outputs)} · slimgraph ${slimgraph} · torch ${torch}`;
  const tile = (name, before, after) => el("div", {}, el("dt", {}, name),
    el("dd", { class: "big" }, ...(after === null ? [count(before)]
      : [el("span", { class: "was" }, count(before)), " → ", count(after)])),
    after !== null && el("dd", { class: "meter", "--part": before ? after / before : 1 }),
    after !== null && el("dd", { class: "quiet" }, `${share(after, before)} remain`));
  const pair = key => [totals.before[key], totals.after ? totals.after[key] : null];
  const frozen = groups.filter(group => !group.prunable).length;
  const fact = (name, value, note) => el("div", {}, el("dt", {}, name),
    el("dd", { class: "big" }, value), el("dd", { class: "quiet note" }, note));
  const latency = file?.latency_ms, time = settings.latency;
  const ms = value => value.toPrecision(3);
  byId("tiles").replaceChildren(
    tile("Parameters", ...pair("params")), tile("MACs", ...pair("macs")),
    tile("Channels", ...pair("channels")),
    ...(time ? [el("div", {}, el("dt", {}, "onnxruntime"),
      el("dd", { class: "big" }, el("span", { class: "was" }, ms(time.dense_ms)), " → ",
        `${ms(time.slim_ms)} ms`),
      el("dd", { class: "meter", "--part": time.share }),
      el("dd", { class: "quiet" }, `${(100 * time.share).toFixed(1)} % of the time, `
        + plural(time.threads, "thread")))] : []),
    file ? fact("File", size(file.bytes), `${plural(file.nodes, "node")}, opset ${file.opset}`)
      : fact("Groups", count(groups.length), `${frozen} frozen`),
    ...(latency ? [fact("Latency", `${latency.median.toPrecision(3)} ms`,
      `median of ${latency.runs}, ${plural(latency.threads, "thread")}`)] : []));
  drawFacts(model, settings, file);
}

function drawFacts(model, settings, file) {
  const plain = value => (value !== null && typeof value === "object"
    ? Object.entries(value).map(([key, item]) => (Array.isArray(value) ? plain(item)
      : `${key} ${plain(item)}`)).join(", ") || "none"
    : typeof value === "number" ? String(+value.toPrecision(6)) : String(value));
  const said = ([, value]) => value !== null && !(Array.isArray(value) && !value.length);
  const { trace, recipe, latency, ...told } = settings; // the tiles have the latency
  const chips = Object.entries(told).filter(said).map(([key, value]) =>
    el("span", { class: "chip" }, `${key.replaceAll("_", " ")} `, el("b", {}, plain(value))));
  const parity = (file?.parity ?? []).map(check =>
    el("span", { class: `chip ${check.ok ? "good" : "bad"}`,
      title: `largest relative difference ${check.max_rel}, tolerance ${check.tolerance}` },
    `${check.ok ? "✓" : "✗"} parity ${check.output} `,
    el("b", {}, check.max_abs === null ? "not finite" : check.max_abs.toExponential(1))));
  const opaque = model.leaves.map(part =>
    el("span", { class: "chip", title: part.reason }, "opaque ",
      el("b", {}, part.module || "the forward")));
  const traced = model.rung === 3 ? [el("span", { class: "chip" }, "traced by ",
    el("b", {}, "torch.export"))] : [];
  byId("facts").replaceChildren(...parity, ...traced, ...opaque, ...chips);
  byId("choice").hidden = !trace;
  if (!trace) return;
  byId("choice").replaceChildren(
    el("summary", {}, "chosen by ", el("b", {}, trace.strategy), ": ",
      plural(trace.decisions.length, "decision")),
    el("p", { class: "quiet" }, plain(trace.options)),
    recipe ? el("p", { class: "quiet" }, "recipe: ", plain(recipe)) : null,
    el("ol", {}, trace.decisions.map(decision => el("li", {}, plain(decision)))));
}

const COLUMNS = [
  ["name", "group", group => group.name],
  ["size", "size", group => group.size],
  ["kept", "kept", group => group.kept ?? group.size],
  ["params", "params", group => group.params.after ?? group.params.before],
  ["macs", "MACs", group => group.macs.after ?? group.macs.before],
];

class GroupTable {
  constructor(report, colorOf, go) {
    this.order = { key: null, up: true };
    this.heads = COLUMNS.map(([key, title]) => el("th", { scope: "col", role: "columnheader" },
      el("button", { click: () => this.sort(key), "data-sort": key }, title)));
    this.rows = report.groups.map(group => ({ group, element: this.row(group, colorOf, go) }));
    this.body = el("tbody", { role: "rowgroup" }, this.rows.map(row => row.element));
    // The rows are laid out as grids, which takes their table roles away: they say them.
    const head = el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, this.heads));
    const table = el("table", { role: "table" }, head, this.body);
    byId("groups").replaceChildren(report.groups.length ? table : el("p", { class: "empty" },
      "No groups: the model has no channels that a parameter creates."));
  }

  row(group, colorOf, go) {
    const { kept, size: all, params, macs } = group;
    const cell = (attributes, ...children) => el("td", { role: "cell", ...attributes }, children);
    const cost = ({ before, after }) =>
      cell({ title: change(before, after) }, count(after ?? before));
    const frozen = group.prunable ? (group.frozen ? `${group.frozen} frozen` : "") : "frozen";
    const pick = () => go({ group: group.name, node: null });
    return el("tr", { role: "row", "--c": colorOf(group.id), click: pick },
      el("th", { scope: "row", role: "rowheader" }, el("button", { class: "code",
        title: group.name, click: event => { event.stopPropagation(); pick(); } },
      el("i", { class: "swatch" }), shorten(group.name, 42)),
      frozen && el("small", { class: "frozen" }, `❄\uFE0E ${frozen}`)),
      cell({ class: "note" }, plural(group.modules.length, "module")),
      cell({}, String(all)),
      cell({}, kept === null ? NONE : String(kept),
        el("i", { class: "meter", "--part": (kept ?? 0) / Math.max(all, 1) })),
      cost(params), cost(macs));
  }

  sort(key) {
    this.order = { key, up: this.order.key === key ? !this.order.up : key === "name" };
    const value = COLUMNS.find(([name]) => name === key)[2], sign = this.order.up ? 1 : -1;
    const compare = (a, b) => (typeof a === "string"
      ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
    this.rows.sort((a, b) => sign * compare(value(a.group), value(b.group)));
    this.body.replaceChildren(...this.rows.map(row => row.element));
    COLUMNS.forEach(([name], i) => {
      const direction = sign > 0 ? "ascending" : "descending";
      if (name === key) this.heads[i].setAttribute("aria-sort", direction);
      else this.heads[i].removeAttribute("aria-sort");
    });
  }

  select(chosen) {
    for (const { group, element } of this.rows) {
      element.classList.toggle("chosen", group === chosen);
      element.setAttribute("aria-current", group === chosen);
      if (group === chosen) element.scrollIntoView({ block: "nearest" });
    }
  }

  search(matches) {
    let found = 0;
    for (const { group, element } of this.rows) {
      element.hidden = matches !== null && !matches(group);
      found += !element.hidden;
    }
    return found;
  }
}

// Bars: as long as the square root of the width, so that small layers stay visible; filled to the
// share that is kept.
class LayerBars {
  constructor(report, groups, colorOf, go) {
    const widest = Math.max(1, ...report.layers.map(layer => layer.out[0]));
    this.rows = report.layers.map(layer => {
      const group = layer.group === null ? null : groups.get(key(layer.group));
      return { layer, group, element: this.row(layer, group, widest, colorOf, go) };
    });
    byId("layers").replaceChildren(this.rows.length
      ? el("div", {}, el("p", { class: "quiet" }, "Output channels before and after; a bar's " +
        "length grows with the square root of the width."),
      el("ol", { class: "bars" }, this.rows.map(row => row.element)))
      : el("p", { class: "empty" }, "No layers with parameters."));
  }

  row(layer, group, widest, colorOf, go) {
    const [before, after] = layer.out;
    const inside = [
      el("span", { class: "code" }, shorten(layer.module, 44)),
      el("span", { class: "count" }, width(after, before)),
      el("i", { class: "meter", "--part": (after ?? before) / Math.max(before, 1),
        "--long": Math.sqrt(before / widest) }),
      el("small", {}, `${layer.type} · ${change(...layer.params)} params · ` +
        `${change(...layer.macs)} MACs`),
    ];
    const title = [layer.module, layer.source].filter(Boolean).join("\n");
    const color = group ? colorOf(group.id) : "var(--wire)";
    const row = group
      ? el("button", { title, click: () => go({ group: group.name, node: null }) }, inside)
      : el("div", { title }, inside);
    return el("li", { "--c": color }, row);
  }

  select(chosen) {
    for (const { group, element } of this.rows)
      element.classList.toggle("chosen", Boolean(chosen) && group === chosen);
    this.rows.find(row => chosen && row.group === chosen)?.element
      .scrollIntoView({ block: "nearest" });
  }

  search(matches) {
    let found = 0;
    for (const { layer, element } of this.rows) {
      element.hidden = matches !== null && !matches(layer);
      found += !element.hidden;
    }
    return found;
  }
}
