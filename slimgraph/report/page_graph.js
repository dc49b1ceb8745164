// The channel graph: draws a layout, lights up what is selected or searched.

const SIGNS = [[/add|sum/, "+"], [/sub/, "−"], [/mul/, "×"], [/div/, "÷"],
  [/cat|stack/, "‖"], [/max|min|where/, "∨"]];

class GraphView extends View {
  constructor(report, colorOf, onPick) {
    super();
    this.report = report;
    this.colorOf = colorOf;
    this.onPick = onPick;
    this.layers = new Map(report.layers.map(layer => [layer.module, layer]));
    this.couplings = new Map(report.groups.flatMap(group =>
      group.couplings.map(coupling => [coupling.node, coupling])));
    this.freezing = new Set(report.groups.flatMap(group => group.reasons.map(r => r.node)));
    this.listen();
  }

  draw(showAll) {
    this.plan = layOut(this.report.nodes, this.couplings, showAll);
    const { boxes, rails, buses, bands } = this.plan;
    const left = Math.min(0, ...rails.map(rail => rail.x)) - 30;
    this.frame = { x: left, y: 0, w: this.plan.width - left + 16, h: this.plan.height };
    this.scene = svg("g", {}, bands.map(band => this.band(band)),
      boxes.map(box => this.edge(box, edgePath(box))),
      rails.map(rail => this.edge(rail.box, railPath(rail))),
      buses.map(bus => this.edge(bus.box, bus.d, "bus")),
      boxes.map(box => this.box(box)));
    this.canvas.replaceChildren(this.scene);
    this.canvas.querySelector(".node")?.setAttribute("tabindex", "0");
    this.drawMap(boxes.map(box => this.dot(box)));
    this.move();
  }

  paint(groups) {
    return groups.length === 1 ? this.colorOf(groups[0]) : "var(--wire)";
  }

  edge(box, d, kind = "") {
    const path = d && svg("path", { d, class: `edge ${kind}`, "--c": this.paint(box.node.groups) });
    if (path && !kind) (box.edges ??= []).push(path);
    return path || null;
  }

  band({ name, y, height }) {
    const { x, w } = this.frame;
    const most = Math.max(6, Math.floor(height / 8)); // as many letters as there is room for
    const title = svg("text", { transform: `translate(${x + 18},${y + 12}) rotate(-90)`,
      "text-anchor": "end" }, shorten(name, most));
    return svg("g", { class: "band" }, svg("rect", { x, y, width: w, height, rx: 10 }), title);
  }

  box(box) {
    const { node, kind } = box;
    const draw = { box: this.module, couple: this.couple, pill: this.pill }[kind];
    box.element = svg("g", {
      class: `node ${kind} ${this.freezing.has(node.name) ? "freezes" : ""}`,
      transform: `translate(${box.x},${box.y})`, "--c": this.paint(node.groups),
      tabindex: -1, role: "button", "aria-label": `${this.title(node)}, ${this.widthOf(node)}`,
    }, draw.call(this, box));
    box.element.box = box;
    tip.on(box.element, () => (this.dragging ? null : this.describe(box)));
    return box.element;
  }

  title(node) {
    if (node.op === "call_module") return node.target;
    return node.kind === "contraction" && node.module ? node.module : node.name;
  }

  // A name for a small box; what the band beside it says already is left out first.
  label({ node, band }, most) {
    const title = this.title(node);
    const inside = band && title.length > most && title.startsWith(`${band}.`);
    return shorten(inside ? title.slice(band.length + 1) : title, most);
  }

  widthOf(node) {
    const layer = this.layers.get(node.module);
    if (node.kind === "contraction" && layer) return width(layer.out[1], layer.out[0]);
    const groups = node.groups.map(id => this.report.groups[id]);
    if (groups.length !== 1) return groups.length ? plural(groups.length, "group") : "";
    return width(groups[0].kept, groups[0].size);
  }

  // A contraction: name, type, channels kept of all, and the same as a bar.
  module(box) {
    const { node, w, h } = box;
    const layer = this.layers.get(node.module);
    const [before, after] = layer?.out ?? [1, null];
    const frozen = node.groups.some(id => !this.report.groups[id].prunable);
    const x = 12 - w / 2, length = w - 22;
    return [
      svg("rect", { class: "body", x: -w / 2, y: -h / 2, width: w, height: h, rx: 7 }),
      this.stripes(node.groups, -w / 2, h),
      svg("text", { class: "name", x, y: -7 }, this.label(box, 23)),
      svg("text", { class: "small", x, y: 8 }, shorten(layer?.type ?? node.target, 14)),
      svg("text", { class: "count", x: w / 2 - 10, y: 8 },
        `${frozen ? "❄\uFE0E " : ""}${this.widthOf(node)}`),
      svg("rect", { class: "track", x, y: 14, width: length, height: 4, rx: 2 }),
      svg("rect", { class: "fill", x, y: 14, width: length * (after ?? before) / before,
        height: 4, rx: 2 }),
    ];
  }

  // A stripe at the left in the colour of every group that the value carries.
  stripes(groups, x, h) {
    const some = groups.slice(0, 8), part = (h - 14) / some.length;
    return some.map((id, i) => svg("rect", { class: "stripe", "--c": this.colorOf(id),
      x, y: 7 - h / 2 + i * part, width: 4, height: part }));
  }

  // Where values meet: a ring in the colours of what meets.
  couple({ node, w }) {
    const coupling = this.couplings.get(node.name);
    const text = `${coupling?.op ?? ""} ${node.target}`;
    const sign = SIGNS.find(([pattern]) => pattern.test(text))?.[1] ?? "◦";
    const some = node.groups.slice(0, 24);
    return [
      svg("circle", { class: "body", r: w / 2 }),
      some.map((id, i) => svg("circle", { class: "arc", "--c": this.colorOf(id), r: w / 2 - 1.5,
        pathLength: some.length, "stroke-dasharray": `1 ${some.length - 1}`,
        "stroke-dashoffset": -i })),
      svg("text", { class: "sign" }, sign),
      svg("text", { class: "small", x: w / 2 + 7, y: 4 }, shorten(node.name, 16)),
    ];
  }

  pill(box) {
    const { w, h } = box;
    return [
      svg("rect", { class: "body", x: -w / 2, y: -h / 2, width: w, height: h, rx: h / 2 }),
      svg("text", { class: "name", y: 4, "text-anchor": "middle" }, this.label(box, 17)),
    ];
  }

  describe({ node, folded }) {
    const groups = node.groups.map(id => this.report.groups[id].name);
    const named = groups.slice(0, 3).map(name => shorten(name, 40)).join(", ");
    const more = groups.length > 3 ? ` and ${groups.length - 3} more` : "";
    return [
      shorten(this.title(node), 60), `${node.kind} · ${extent(node.shape)}`, this.widthOf(node),
      groups.length > 0 && `carries ${named}${more}`, node.source,
      folded.length > 0 && `then ${folded.map(n => shorten(n.name, 24)).slice(0, 4).join(", ")}`,
    ];
  }

  // In the map a box is a dot.
  dot(box) {
    return svg("rect", { x: box.x - box.w / 2, y: box.y - box.h / 2, width: box.w,
      height: box.h, "--c": this.paint(box.node.groups) });
  }

  // -- selecting ---------------------------------------------------------------------------

  members(group) {
    const modules = new Set(group.modules);
    return this.plan.boxes.filter(box =>
      box.node.groups.includes(group.id) && modules.has(box.node.module));
  }

  select(group, node) {
    const chosen = new Set(group ? this.members(group) : []);
    const home = node && this.plan.boxes.find(box =>
      box.node.name === node.name || box.folded.some(inner => inner.name === node.name));
    if (home) chosen.add(home);
    this.canvas.classList.toggle("selecting", chosen.size > 0 || Boolean(group));
    for (const box of this.plan.boxes) {
      const carries = group ? box.node.groups.includes(group.id) : box === home;
      box.element.classList.toggle("chosen", chosen.has(box));
      box.element.classList.toggle("on", carries);
      for (const path of box.edges ?? []) path.classList.toggle("on", carries);
    }
    return [...chosen];
  }

  search(matches) {
    let found = 0;
    this.canvas.classList.toggle("searching", matches !== null);
    for (const box of this.plan.boxes) {
      const hit = matches !== null && [box.node, ...box.folded].some(matches);
      box.element.classList.toggle("hit", hit);
      found += hit;
    }
    return found;
  }

  // -- listening ---------------------------------------------------------------------------

  listen() {
    this.canvas.addEventListener("keydown", event => this.press(event));
    this.canvas.addEventListener("click", event => {
      const box = event.target.closest(".node")?.box;
      if (box && !this.dragging) this.onPick(box);
    });
  }

  press(event) {
    const box = event.target.box;
    const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const step = arrows[event.key];
    if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else if (box && (event.key === "Enter" || event.key === " ")) this.onPick(box);
    else if (box && step) this.walk(box, ...step);
    else if (step) this.pan(60 * step[0], 60 * step[1]);
    else return;
    event.preventDefault();
  }

  // From the focused node to the nearest one in the direction of the arrow.
  walk(from, dx, dy) {
    let best = null, least = Infinity;
    for (const box of this.plan.boxes) {
      const ahead = -(dx * (box.x - from.x) + dy * (box.y - from.y));
      const aside = Math.abs(dy * (box.x - from.x)) + Math.abs(dx * (box.y - from.y));
      if (ahead > 1 && ahead + 2 * aside < least) [best, least] = [box, ahead + 2 * aside];
    }
    if (!best) return;
    from.element.setAttribute("tabindex", "-1");
    best.element.setAttribute("tabindex", "0");
    best.element.focus({ preventScroll: true });
    const room = this.canvas.getBoundingClientRect(), { x, y, k } = this.view;
    const inside = best.x * k + x > 60 && best.x * k + x < room.width - 60 &&
      best.y * k + y > 40 && best.y * k + y < room.height - 40;
    if (!inside) this.pan(room.width / 2 - best.x * k - x, room.height / 2 - best.y * k - y);
  }
}
