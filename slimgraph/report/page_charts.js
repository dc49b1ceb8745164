// Charts: how scores are spread, how good the model is at which budget and after which step.

const BOX = { left: 44, top: 10, right: 348, bottom: 150 };
const short = number => String(+number.toPrecision(3));
const percent = number => `${+(100 * number).toPrecision(4)} %`;
let charts = 0; // numbers the titles

// Title and description are read aloud, and pointed to by ids.
function chart(title, description, ...parts) {
  const id = `chart-${charts += 1}`;
  return el("figure", {}, el("figcaption", {}, title),
    svg("svg", { class: "chart", viewBox: "0 0 360 186", role: "img",
      "aria-labelledby": `${id}-title`, "aria-describedby": `${id}-desc` },
    svg("title", { id: `${id}-title` }, title), svg("desc", { id: `${id}-desc` }, description),
    parts));
}

const label = (x, y, text, anchor = "middle") =>
  svg("text", { x, y, "text-anchor": anchor }, text);
const span = (from, to) => at => from + (to - from) * at;
const across = span(BOX.left, BOX.right), up = span(BOX.bottom, BOX.top);

// Lines across, with what they stand for: at 0, a half and 1 of the height.
const levels = (low, high, say) => [0, 0.5, 1].map(at => [
  svg("line", { class: at ? "level" : "axis", x1: BOX.left, x2: BOX.right, y1: up(at),
    y2: up(at) }),
  label(BOX.left - 6, up(at) + 4, say(low + (high - low) * at), "end")]);

const marks = names => el("p", { class: "key quiet" }, names.map(([kind, name]) =>
  el("span", {}, el("i", { class: `mark ${kind}` }), name)));

function scoreChart({ criterion, log, edges, kept, removed, zeros, unscored }) {
  const name = `Scores by ${criterion}`, gone = removed.some(Boolean) || zeros.removed;
  if (!edges.length) return el("figure", {}, el("figcaption", {}, name),
    el("p", { class: "quiet" }, "No channel that may leave has a positive, finite score."));
  const most = Math.max(1, ...kept.map((number, i) => number + removed[i]));
  const high = most > 1 ? most + most % 2 : 1, wide = 1 / kept.length;
  const bars = kept.map((number, i) => {
    const x = across(i * wide) + 0.5, width = Math.max(1, across(wide) - across(0) - 1);
    const bar = svg("g", {},
      svg("rect", { class: "ground", x, width, y: BOX.top, height: BOX.bottom - BOX.top }),
      [["kept", 0, number], ["removed", number, removed[i]]].map(([kind, from, own]) =>
        own > 0 && svg("rect", { class: kind, x, width, y: up((from + own) / high),
          height: up(from / high) - up((from + own) / high) })));
    tip.on(bar, () => [`score ${short(edges[i])} to ${short(edges[i + 1])}`,
      `${number} kept, ${removed[i]} removed`]);
    return bar;
  });
  const total = counts => counts.reduce((sum, own) => sum + own, 0);
  const said = `${total(kept)} channels kept, ${total(removed)} removed, scores from ` +
    `${short(edges[0])} to ${short(edges.at(-1))}.`;
  const middle = log ? Math.sqrt(edges[0]) * Math.sqrt(edges.at(-1))
    : edges[0] / 2 + edges.at(-1) / 2;
  const ends = [[0, edges[0], "start"], [0.5, middle, "middle"], [1, edges.at(-1), "end"]];
  const figure = chart(name, said, levels(0, high, at => (Number.isInteger(at) ? at : "")), bars,
    ends.map(([at, number, anchor]) => label(across(at), BOX.bottom + 15, short(number), anchor)),
    label(across(0.5), BOX.bottom + 31, log ? "score, logarithmic" : "score"));
  const off = zeros.kept + zeros.removed;
  figure.append(marks([["kept", "kept"], ...(gone ? [["removed", "removed"]] : [])]));
  if (off) figure.append(el("p", { class: "quiet" },
    `Not on this axis: ${plural(off, "channel")} with score 0, ${zeros.removed} removed.`));
  if (unscored) figure.append(el("p", { class: "quiet" },
    `${plural(unscored, "channel")} without a finite score stay.`));
  return figure;
}

const UNITS = { macs: "MACs", params: "parameters", channels: "channels" };

function curveChart({ measure, unit: units, points }) {
  const unit = UNITS[units] ?? units;
  const values = points.flatMap(({ before, after }) => [before, after])
    .filter(value => value !== null);
  const low = Math.min(0, ...values), high = Math.max(low < 0 ? 0 : 1e-12, ...values);
  const least = Math.min(...points.map(({ share }) => share)), from = Math.floor(10 * least) / 10;
  const x = at => across((at - from) / (1 - from || 1));
  const y = value => up((value - low) / (high - low || 1));
  const line = kind => {
    const own = points.filter(point => point[kind] !== null);
    return own.length > 0 && [
      svg("polyline", { class: `line ${kind}`,
        points: own.map(point => `${x(point.share)},${y(point[kind])}`).join(" ") }),
      own.map(point => {
        const dot = svg("circle", { class: `dot ${kind}`, cx: x(point.share), cy: y(point[kind]),
          r: 4 });
        tip.on(dot, () => [`${percent(point.share)} of ${unit}`,
          `${measure} ${short(point[kind])}, ${kind} repair`]);
        return dot;
      })];
  };
  const said = points.map(({ share: left, before, after }) => `${percent(left)}: ` +
    [before, after].filter(value => value !== null).map(short).join(" and ")).join("; ");
  const repaired = points.some(({ after }) => after !== null);
  const name = `${measure} by ${unit} that remain`;
  const figure = chart(name, said, levels(low, high, short), line("before"), line("after"),
    [from, (from + 1) / 2, 1].map((at, i) => label(x(at), BOX.bottom + 15, percent(at),
      ["start", "middle", "end"][i])),
    label(across(0.5), BOX.bottom + 31, `${unit} that remain`));
  figure.append(marks(repaired ? [["before", "before repair"], ["after", "after repair"]]
    : [["before", "not repaired"]]));
  return figure;
}

function errorChart({ measure, on, steps }) {
  const most = Math.max(1e-12, ...steps.map(({ error }) => error ?? 0));
  return el("figure", {}, el("figcaption", {}, `${measure}, ${on}`),
    el("ol", { class: "bars" }, steps.map(({ step, error }) => el("li", {}, el("div", {},
      el("span", {}, step), el("span", { class: "count" }, error === null ? "not finite"
        : short(error)),
      error !== null &&
        el("i", { class: "meter", "--part": 1, "--long": error / most }))))));
}

function drawCharts({ histograms = [], curve = null, errors = null }) {
  byId("charts").replaceChildren(...[errors && errorChart(errors), curve && curveChart(curve),
    ...histograms.map(scoreChart)].filter(Boolean));
  byId("tab-charts").hidden = !byId("charts").children.length;
}
