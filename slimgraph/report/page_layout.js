// Where things stand. Rows: longest path from the input. Columns: chains, each node going on in
// the column of its deepest input. Edges that skip rows run on rails in the gutter left of their
// column, one rail per source, so that a dense block stays a comb instead of a tangle.

const GAP = 22, COLUMN = 190, ASIDE = 46, RAIL = 8, BEND = 6;
const STEP = 6; // a rail comes in above the middle of a box and goes out below it
const JOINS = /^(cat|concat|concatenate|stack|hstack|vstack|dstack)$/;
const QUIET = new Set(["element-wise", "norm", "size", "parameter"]);
const SIZES = { box: [176, 46], pill: [132, 26], couple: [30, 30] };

// One box per node shown; a quiet node folds into the box of its only input.
function foldNodes(nodes, couplings, showAll) {
  const boxes = [], home = new Map();
  for (const node of nodes) {
    const inputs = [...new Set(node.inputs.map(name => home.get(name)))].filter(Boolean);
    const tied = couplings.has(node.name);
    if (!showAll && QUIET.has(node.kind) && !tied && inputs.length < 2) {
      inputs[0]?.folded.push(node);
      if (node.kind !== "size") home.set(node.name, inputs[0]); // a size carries no channels
      continue;
    }
    const meets = JOINS.test(node.target) || (node.kind === "element-wise" && inputs.length > 1);
    const kind = tied || meets ? "couple" : node.kind === "contraction" ? "box" : "pill";
    const [w, h] = SIZES[kind];
    const box = { node, kind, w, h, inputs, users: [], folded: [], row: 0, column: 0 };
    for (const input of inputs) input.users.push(box);
    boxes.push(box);
    home.set(node.name, box);
  }
  return boxes;
}

function setRows(boxes) {
  for (const box of boxes) box.row = 1 + Math.max(-1, ...box.inputs.map(input => input.row));
  for (const box of boxes) { // a bare parameter stands right above its first reader
    if (box.inputs.length || box.node.kind === "input" || !box.users.length) continue;
    box.row = Math.max(0, Math.min(...box.users.map(user => user.row)) - 1);
  }
}

// Chains: `parent` is the deepest input, `next` the user with the longest way still to go.
function setChains(boxes) {
  const deepest = (a, b) => (b.row > a.row ? b : a);
  const longest = (a, b) => (b.depth > a.depth ? b : a);
  for (const box of boxes) box.parent = box.inputs.length ? box.inputs.reduce(deepest) : null;
  for (const box of boxes.toReversed()) {
    box.depth = 1 + Math.max(0, ...box.users.map(user => user.depth));
    const heirs = box.users.filter(user => user.parent === box);
    box.next = heirs.length ? heirs.reduce(longest) : null;
  }
}

function setColumns(boxes) {
  const taken = []; // per column the row intervals in use
  const free = (column, from, to) =>
    !(taken[column] ?? []).some(([a, b]) => from <= b && to >= a);
  for (const head of boxes) {
    if (head.parent?.next === head) continue;
    let last = head;
    while (last.next) last = last.next;
    const end = Math.max(last.row, ...last.users.map(user => user.row - 1));
    let column = head.parent ? head.parent.column + 1 : 0;
    while (!free(column, head.row, end)) column += 1;
    (taken[column] ??= []).push([head.row, end]);
    for (let box = head; box; box = box.next) box.column = column;
  }
  return Math.max(1, taken.length);
}

// Rails: the readers of a box that no straight or branching edge reaches. Short ones lie inside.
function setRails(boxes, columns) {
  const gutters = Array.from({ length: columns }, () => []);
  const rails = [];
  for (const box of boxes) {
    const readers = box.next ? box.users.filter(user => user.parent !== box) : [];
    if (readers.length) rails.push({ box, readers, end: Math.max(...readers.map(r => r.row)) });
  }
  rails.sort((a, b) => a.end - a.box.row - (b.end - b.box.row));
  for (const rail of rails) {
    const lanes = gutters[rail.box.column];
    const open = lane => lane.every(r => rail.box.row > r.end || rail.end < r.box.row);
    let lane = lanes.findIndex(open);
    if (lane < 0) lane = lanes.push([]) - 1;
    lanes[lane].push(rail);
    rail.lane = lane;
  }
  return { rails, lanes: gutters.map(gutter => gutter.length) };
}

function place(boxes, rails, lanes) {
  const heights = [];
  for (const { row, h } of boxes) heights[row] = Math.max(heights[row] ?? 0, h);
  let y = GAP;
  const tops = heights.map(height => (y += height + GAP) - height - GAP);
  let x = 0;
  const lefts = lanes.map(number => {
    const left = x + (number ? ASIDE / 2 + number * RAIL : 0);
    x = left + COLUMN + ASIDE / 2;
    return left;
  });
  for (const box of boxes) {
    box.x = lefts[box.column] + COLUMN / 2;
    box.y = tops[box.row] + heights[box.row] / 2;
    box.top = tops[box.row];
  }
  for (const rail of rails) rail.x = lefts[rail.box.column] - ASIDE / 4 - rail.lane * RAIL;
  return { width: x, height: y, tops, heights };
}

// One path per source: all its edges share a colour and light up together.
function edgePath(box) {
  const bottom = box.y + box.h / 2;
  return box.users.map(user => {
    const top = user.y - user.h / 2;
    if (user.column === box.column && (user === box.next || !box.next)) {
      return `M${box.x},${bottom}V${top}`;
    }
    if (box.next && user.parent !== box) return ""; // a rail leads there
    const branches = user.parent === box;
    const y1 = branches ? bottom : Math.max(bottom, user.top - GAP);
    const y2 = branches ? Math.min(top, box.y + box.h / 2 + GAP + 12) : top;
    const middle = (y1 + y2) / 2;
    const curve = `C${box.x},${middle} ${user.x},${middle} ${user.x},${y2}`;
    return `M${box.x},${bottom}V${y1}${curve}V${top}`;
  }).join("");
}

function railPath({ box, readers, x }) {
  const out = box.y + STEP;
  let path = `M${box.x - box.w / 2 + 2},${out}H${x + BEND}Q${x},${out} ${x},${out + BEND}`;
  let lowest = 0;
  const taps = readers.map(user => {
    if (user.column === box.column) {
      const y = user.y - STEP;
      lowest = Math.max(lowest, y - BEND);
      return `M${x},${y - BEND}Q${x},${y} ${x + BEND},${y}H${user.x - user.w / 2 + 2}`;
    }
    const y = user.top - GAP / 2, turn = Math.sign(user.x - x) * BEND;
    lowest = Math.max(lowest, y - BEND);
    return `M${x},${y - BEND}Q${x},${y} ${x + turn},${y}H${user.x - turn}` +
      `Q${user.x},${y} ${user.x},${y + BEND}V${user.y - user.h / 2}`;
  });
  path += `V${lowest}`;
  return path + taps.join("");
}

// Where several rails come in from the left, their last stretch is one line: the bus of that box.
function findBuses(rails) {
  const buses = new Map();
  for (const { box, readers, x } of rails) {
    for (const user of readers.filter(reader => reader.column === box.column)) {
      const bus = buses.get(user) ?? { box: user, number: 0, x };
      buses.set(user, { box: user, number: bus.number + 1, x: Math.min(bus.x, x) });
    }
  }
  return [...buses.values()].filter(({ number }) => number > 1).map(({ box, x }) =>
    ({ box, d: `M${x + BEND},${box.y - STEP}H${box.x - box.w / 2 + 2}` }));
}

// Bands: stretches of rows that belong to one block of the model (layer1, features.denseblock2).
function findBands(boxes, { tops, heights }) {
  const rows = [];
  for (const box of boxes) if (box.column === 0) rows[box.row] = box.node.module.split(".");
  const cut = depth => rows.map(path => (path ?? []).slice(0, depth).join("."));
  let names = cut(1);
  for (let depth = 1; depth <= 3; depth++) {
    names = cut(depth);
    const sizes = Object.values(Object.groupBy(names, name => name)).map(list => list.length);
    if (Math.max(...sizes) < 0.6 * rows.length) break;
  }
  names.forEach((name, row) => { // what runs between two parts of a block belongs to it
    if (name) return;
    const below = names.findIndex((other, i) => i > row && other);
    if (row && names[below] === names[row - 1]) names[row] = names[row - 1];
  });
  const bands = [];
  names.forEach((name, row) => {
    const last = bands.at(-1);
    if (last?.name === name) last.to = row;
    else bands.push({ name, from: row, to: row });
  });
  for (const box of boxes) box.band = names[box.row] ?? "";
  const margin = GAP / 2 - 2;
  return bands.filter(band => band.name && band.to > band.from).map(({ name, from, to }) => {
    const y = tops[from] - margin;
    return { name, y, height: tops[to] + heights[to] + margin - y };
  });
}

function layOut(nodes, couplings, showAll) {
  const boxes = foldNodes(nodes, couplings, showAll);
  setRows(boxes);
  setChains(boxes);
  const { rails, lanes } = setRails(boxes, setColumns(boxes));
  const area = place(boxes, rails, lanes);
  return { boxes, rails, buses: findBuses(rails), ...area, bands: findBands(boxes, area) };
}
