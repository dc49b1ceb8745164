// The side panel: all about one group, or about one node that carries several groups.

const SHOWN = 12; // of long lists, before "show all"
const ONLY = { message: "the only channel there is", node: "", source: "", channels: [[0, 0]] };

const reasonsOf = ({ size: all, reasons }) => (all === 1 && !reasons.length ? [ONLY] : reasons);
const within = (runs, i) => runs.some(([first, last]) => first <= i && i <= last);
const range = numbers => numbers.reduce(([low, high], number) =>
  [Math.min(low, number), Math.max(high, number)], [Infinity, -Infinity]);

class Panel {
  constructor(report, colorOf, go) {
    this.report = report;
    this.colorOf = colorOf;
    this.go = go;
    this.element = byId("panel");
  }

  close() {
    this.element.hidden = true;
    this.opener?.focus({ preventScroll: true });
    this.opener = null;
  }

  fill(color, title, kind, ...parts) {
    const close = el("button", { class: "icon", "aria-label": "Close details",
      click: () => this.go({ group: null, node: null }) }, "✕");
    this.element.style.setProperty("--c", color);
    this.element.replaceChildren(
      el("div", { class: "bar" }, el("i", { class: "swatch" }),
        el("h2", {}, el("span", { class: "quiet" }, kind), " ",
          el("span", { class: "code" }, title)), close),
      el("div", { class: "inside" }, ...parts.filter(Boolean)));
    const active = document.activeElement;
    this.element.hidden = false;
    if (active === document.body || this.element.contains(active)) return; // nobody pressed a key
    this.opener = active;
    this.element.focus({ preventScroll: true });
  }

  group(group) {
    const { kept, size: all, params, macs } = group;
    this.fill(this.colorOf(group.id), group.name, "group",
      el("dl", { class: "figures" },
        this.figure("channels", width(kept, all), kept, all),
        this.figure("parameters", change(params.before, params.after), params.after, params.before),
        this.figure("MACs", change(macs.before, macs.after), macs.after, macs.before)),
      this.reasons(group),
      this.channels(group),
      this.histogram(group),
      this.couplings(group),
      this.list("Modules", group.modules, module => this.moduleLink(module)),
      this.members(group));
  }

  node(node) {
    const fact = (name, value) => value && el("div", {}, el("dt", {}, name), el("dd", {}, value));
    this.fill("var(--wire)", node.name, "node",
      el("dl", { class: "facts" }, fact("kind", node.kind), fact("target", node.target),
        fact("module", node.module), fact("shape", extent(node.shape)), fact("source", node.source),
        fact("inputs", node.inputs.join(", "))),
      this.list("Groups it carries", node.groups, id => this.groupLink(this.report.groups[id])));
  }

  figure(name, text, after, before) {
    const ratio = after === null ? 1 : after / (before || 1);
    return el("div", {}, el("dt", {}, name), el("dd", {}, text),
      el("dd", { class: "meter", "--part": ratio }),
      el("dd", { class: "quiet" }, after === null ? "" : share(after, before)));
  }

  section(title, ...parts) {
    return el("section", {}, el("h3", {}, title), ...parts);
  }

  list(title, items, draw) {
    if (!items.length) return null;
    const more = items.length > SHOWN + 3 && el("button", { class: "more", click: () => {
      more.replaceWith();
      list.append(...items.slice(SHOWN).map(item => el("li", {}, draw(item))));
    } }, `show all ${items.length}`);
    const first = more ? items.slice(0, SHOWN) : items;
    const list = el("ul", { class: "plain" }, first.map(item => el("li", {}, draw(item))));
    return title === null ? el("div", {}, list, more)
      : this.section(`${title} · ${items.length}`, list, more);
  }

  moduleLink(module) {
    const node = this.report.nodes.find(n => n.module === module && n.kind === "contraction") ??
      this.report.nodes.find(n => n.module === module);
    if (!node) return el("span", { class: "code" }, module);
    return el("button", { class: "link code", title: "Show in the graph",
      click: () => this.go({ at: node.name }) }, module);
  }

  groupLink(group) {
    return el("button", { class: "link code", "--c": this.colorOf(group.id),
      click: () => this.go({ group: group.name, node: null }) },
    el("i", { class: "swatch" }), group.name, el("span", { class: "quiet" },
      ` ${width(group.kept, group.size)}`));
  }

  reasons(group) {
    const { frozen, size: all, prunable } = group, reasons = reasonsOf(group);
    if (!reasons.length && !frozen && prunable) return null;
    const amount = prunable ? `${frozen} of ${plural(all, "channel")}` : "All channels";
    return el("div", { class: "callout" }, el("h3", {}, `❄\uFE0E ${amount} frozen`),
      this.list(null, reasons, reason => [reason.message, " ", this.place(reason),
        prunable && el("div", { class: "quiet" }, this.spans(reason.channels))]));
  }

  // Runs of channels: "channels 0–23 · 90".
  spans(runs) {
    const texts = runs.map(([first, last]) => (first === last ? `${first}` : `${first}–${last}`));
    const one = runs.length === 1 && runs[0][0] === runs[0][1];
    return `${one ? "channel" : "channels"} ${this.some(texts)}`;
  }

  place({ node, source }) {
    return el("span", { class: "quiet code" },
      el("button", { class: "link code", title: "Show in the graph",
        click: () => this.go({ at: node }) }, node), source && ` ${source}`);
  }

  couplings({ couplings }) {
    return this.list("Tied by", couplings, coupling => [
      el("span", { class: "sign" }, SIGNS.find(([p]) => p.test(coupling.op))?.[1] ?? "◦"), " ",
      this.place(coupling),
      el("div", { class: "quiet code" }, this.some(coupling.modules)),
    ]);
  }

  some(names) {
    const more = names.length > 6 ? ` and ${names.length - 5} more` : "";
    return (more ? names.slice(0, 5) : names).join(" · ") + more;
  }

  members({ members }) {
    const draw = ({ param, dim, role }) => [
      el("span", { class: "code" }, param), " ",
      el("span", { class: "nowrap quiet" }, `dim ${dim} · `,
        el("span", { class: `role ${role}` }, role))];
    return this.list("Members", members, draw);
  }

  channels(group) {
    const { blocks } = group;
    const shape = blocks ? ` in ${plural(blocks[0], "block")} of ${blocks[1]}` : "";
    return this.section(`Channels${shape}`, this.strip(group), this.legend(group));
  }

  // One cell per channel, in rows of blocks where the group has blocks.
  strip(group) {
    const { size: all, kept, scores, blocks } = group;
    const [low, high] = range((scores ?? []).filter(score => score !== null));
    const strength = i => 0.25 + 0.75 * ((scores[i] ?? low) - low) / (high - low || 1);
    const cell = i => el("i", { class: this.fate(group, i), "data-i": i,
      "--s": scores ? strength(i) : 1 });
    const length = blocks ? blocks[1] : all;
    const rows = Array.from({ length: Math.ceil(all / length) }, (_, row) =>
      el("div", { class: "strip" }, Array.from({ length: Math.min(length, all - row * length) },
        (_, i) => cell(row * length + i))));
    const strip = el("div", { class: "strips", role: "img",
      "aria-label": `${width(kept, all)} channels kept` }, rows);
    tip.on(strip, ({ dataset: { i } }) => i !== undefined && [`channel ${i}`,
      [this.word(group, this.fate(group, i)), this.why(group, i)].filter(Boolean).join(": "),
      scores && `score ${Number(scores[i] ?? NaN).toPrecision(4)}`]);
    return strip;
  }

  legend(group) {
    const { keep, scores, frozen, prunable } = group;
    const fates = [prunable && "kept", prunable && keep && "removed",
      (frozen || !prunable) && "frozen"].filter(Boolean);
    return el("p", { class: "key quiet" },
      fates.map(fate => el("span", {}, el("i", { class: fate }), this.word(group, fate))),
      scores && prunable ? "the stronger the colour, the higher the score" : "");
  }

  fate({ keep, prunable, frozen_channels: frozen }, channel) {
    if (!prunable || within(frozen, channel)) return "frozen";
    return keep === null || keep[channel] ? "kept" : "removed";
  }

  word({ keep }, fate) {
    if (fate === "frozen") return "has to stay";
    return keep === null ? "can leave" : fate;
  }

  // What keeps a channel from leaving, if anything does.
  why(group, channel) {
    const own = reasonsOf(group).filter(reason => within(reason.channels, channel));
    return [...new Set(own.map(reason => reason.message))].join("; ");
  }

  histogram({ scores, keep }) {
    const pairs = (scores ?? []).map((score, i) => [score, keep === null || keep[i]])
      .filter(([score]) => score !== null);
    if (pairs.length < 2) return null;
    const [low, high] = range(pairs.map(([score]) => score));
    const number = Math.max(8, Math.min(36, Math.round(2 * Math.sqrt(pairs.length))));
    const bins = Array.from({ length: number }, () => [0, 0]);
    for (const [score, kept] of pairs) {
      const at = high > low ? (score - low) / (high - low) * number : 0;
      bins[Math.min(number - 1, Math.floor(at))][kept ? 0 : 1] += 1;
    }
    const most = Math.max(...bins.map(([a, b]) => a + b)), step = 360 / number, unit = 90 / most;
    const bars = bins.map(([kept, gone], i) => {
      const bar = svg("g", {},
        svg("rect", { class: "ground", x: i * step, y: 0, width: step, height: 90 }),
        svg("rect", { class: "kept", x: i * step + 1, width: step - 2, y: 90 - kept * unit,
          height: kept * unit }),
        svg("rect", { class: "removed", x: i * step + 1, width: step - 2,
          y: 90 - (kept + gone) * unit, height: gone * unit }));
      const edges = [i, i + 1].map(e => (low + (high - low) * e / number).toPrecision(3));
      tip.on(bar, () => [`score ${edges.join(" to ")}`, `${kept} kept, ${gone} removed`]);
      return bar;
    });
    return this.section("Scores", svg("svg", { class: "histogram", viewBox: "0 0 360 106",
      role: "img", "aria-label": "Histogram of scores" }, bars,
    svg("line", { x1: 0, x2: 360, y1: 90.5, y2: 90.5 }),
    svg("text", { x: 0, y: 104 }, low.toPrecision(3)),
    svg("text", { x: 360, y: 104, "text-anchor": "end" }, high.toPrecision(3))));
  }
}
