// The channel graph: draws a layout, moves it about, lights up what is selected or searched.

const SIGNS = [[/add|sum/, "+"], [/sub/, "−"], [/mul/, "×"], [/div/, "÷"],
  [/cat|stack/, "‖"], [/max|min|where/, "∨"]];

class GraphView {
  constructor(report, colorOf, onPick) {
    this.report = report;
    this.colorOf = colorOf;
    this.onPick = onPick;
    this.canvas = byId("canvas");
    this.map = byId("map");
    this.layers = new Map(report.layers.map(layer => [layer.module, layer]));
    this.couplings = new Map(report.groups.flatMap(group =>
      group.couplings.map(coupling => [coupling.node, coupling])));
    this.freezing = new Set(report.groups.flatMap(group => group.reasons.map(r => r.node)));
    this.view = { x: 0, y: 0, k: 1 };
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
    this.drawMap();
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

  drawMap() {
    const { x, y, w, h } = this.frame;
    const dots = this.plan.boxes.map(box => svg("rect", { x: box.x - box.w / 2,
      y: box.y - box.h / 2, width: box.w, height: box.h, "--c": this.paint(box.node.groups) }));
    this.lens = svg("rect", { class: "lens", "vector-effect": "non-scaling-stroke" });
    this.map.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
    this.map.replaceChildren(...dots, this.lens);
  }

  // -- moving ------------------------------------------------------------------------------

  move() {
    const { x, y, k } = this.view;
    const { width: w, height: h } = this.canvas.getBoundingClientRect();
    this.scene.setAttribute("transform", `translate(${x},${y}) scale(${k})`);
    this.canvas.classList.toggle("far", k < 0.42);
    const seen = { x: -x / k, y: -y / k, width: w / k, height: h / k };
    for (const [key, value] of Object.entries(seen)) this.lens.setAttribute(key, value);
    const whole = this.frame.w * k <= w + 1 && this.frame.h * k <= h + 1;
    this.map.classList.toggle("idle", whole);
  }

  zoom(factor, x, y) {
    const { width: w, height: h } = this.canvas.getBoundingClientRect();
    const [px, py] = [x ?? w / 2, y ?? h / 2];
    const k = Math.min(3, Math.max(0.03, this.view.k * factor));
    const change = k / this.view.k;
    this.view = { k, x: px - (px - this.view.x) * change, y: py - (py - this.view.y) * change };
    this.move();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.move();
  }

  // Shows an area; `least` keeps it legible, then as much is shown as there is room for.
  show({ x, y, w, h }, least = 0, most = 1.1) {
    const room = this.canvas.getBoundingClientRect();
    const k = Math.min(most, Math.max(least, Math.min(room.width / w, room.height / h)));
    const start = (space, extent, from) =>
      (extent * k <= space ? (space - extent * k) / 2 : 0) - from * k;
    this.view = { k, x: start(room.width, w, x), y: start(room.height, h, y) };
    if (w * k > room.width) this.view.x = room.width / 2 - (x + w / 2) * k;
    this.move();
  }

  fit() {
    this.show(this.frame);
  }

  // At the start: legible, from the top, with the main column in view.
  open() {
    const room = this.canvas.getBoundingClientRect();
    this.show(this.frame, Math.max(0.6, Math.min(0.85, room.width / this.frame.w)));
    const [first] = this.plan.boxes;
    if (first && this.frame.w * this.view.k > room.width)
      this.pan(room.width / 2 - first.x * this.view.k - this.view.x, 0);
  }

  reveal(boxes) {
    if (!boxes.length) return;
    const x = Math.min(...boxes.map(b => b.x - b.w / 2)) - 60;
    const y = Math.min(...boxes.map(b => b.y - b.h / 2)) - 60;
    const w = Math.max(...boxes.map(b => b.x + b.w / 2)) + 60 - x;
    const h = Math.max(...boxes.map(b => b.y + b.h / 2)) + 60 - y;
    this.show({ x, y, w, h }, 0.45, 1);
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
    const { canvas } = this;
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      const { left, top } = canvas.getBoundingClientRect();
      if (event.shiftKey) this.pan(-event.deltaX, -event.deltaY);
      else this.zoom(Math.exp(-event.deltaY / 500), event.clientX - left, event.clientY - top);
    }, { passive: false });
    canvas.addEventListener("keydown", event => this.press(event));
    canvas.addEventListener("click", event => {
      const box = event.target.closest(".node")?.box;
      if (box && !this.dragging) this.onPick(box.node);
    });
    this.dragWith(canvas);
    const jump = event => {
      if (!event.buttons) return;
      const at = new DOMPoint(event.clientX, event.clientY)
        .matrixTransform(this.map.getScreenCTM().inverse());
      const room = canvas.getBoundingClientRect();
      this.view.x = room.width / 2 - at.x * this.view.k;
      this.view.y = room.height / 2 - at.y * this.view.k;
      this.move();
    };
    this.map.addEventListener("pointerdown", jump);
    this.map.addEventListener("pointermove", jump);
    new ResizeObserver(() => this.scene && this.move()).observe(canvas);
  }

  // One finger or the mouse drags, two fingers zoom. A short move still counts as a click.
  dragWith(canvas) {
    const fingers = new Map();
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return b ? Math.hypot(a.x - b.x, a.y - b.y) : 0;
    };
    canvas.addEventListener("pointerdown", event => {
      if (!fingers.size) this.dragging = false;
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", event => {
      const last = fingers.get(event.pointerId);
      if (!last) return;
      const dx = event.clientX - last.x, dy = event.clientY - last.y;
      if (!this.dragging && Math.hypot(dx, dy) < 4) return;
      this.dragging = true;
      tip.hide();
      canvas.setPointerCapture(event.pointerId);
      const before = spread();
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (before) {
        const { left, top } = canvas.getBoundingClientRect();
        this.zoom(spread() / before, event.clientX - left, event.clientY - top);
      } else this.pan(dx, dy);
    });
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, event => fingers.delete(event.pointerId));
  }

  press(event) {
    const box = event.target.box;
    const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const step = arrows[event.key];
    if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else if (box && (event.key === "Enter" || event.key === " ")) this.onPick(box.node);
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
