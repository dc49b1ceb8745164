// Moving about: a drawing in a canvas that pans, zooms and brings boxes into view, and a map of
// the whole of it.

const LEGIBLE = 0.45; // the smallest scale at which names can be read
const AROUND = 60; // free space around what is brought into view
const LOWEST = 60; // pixels: less of the canvas than this is no room to show anything in

const hull = boxes => {
  const x = Math.min(...boxes.map(b => b.x - b.w / 2)) - AROUND;
  const y = Math.min(...boxes.map(b => b.y - b.h / 2)) - AROUND;
  const w = Math.max(...boxes.map(b => b.x + b.w / 2)) + AROUND - x;
  const h = Math.max(...boxes.map(b => b.y + b.h / 2)) + AROUND - y;
  return { x, y, w, h };
};

class View {
  constructor() {
    this.canvas = byId("canvas");
    this.map = byId("map");
    this.view = { x: 0, y: 0, k: 1 };
    this.room = { y: 0, width: 0, height: 0 }; // as it was at the last move
    this.held = []; // the boxes that were brought into view last
    this.listenToPointers();
    new ResizeObserver(() => this.scene && this.resize()).observe(this.canvas);
  }

  drawMap(dots) {
    const { x, y, w, h } = this.frame;
    this.lens = svg("rect", { class: "lens", "vector-effect": "non-scaling-stroke" });
    this.map.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
    this.map.replaceChildren(...dots, this.lens);
  }

  move(glide = false) {
    const { x, y, k } = this.view;
    const { width: w, height: h } = this.canvas.getBoundingClientRect();
    this.room = this.measure();
    for (const part of [this.scene, this.lens])
      part.classList.toggle("glides", glide && document.readyState !== "loading");
    this.scene.setAttribute("transform", `translate(${x},${y}) scale(${k})`);
    this.canvas.classList.toggle("far", k < 0.42);
    const seen = { x: -x / k, y: -y / k, width: w / k, height: h / k };
    for (const [key, value] of Object.entries(seen)) this.lens.setAttribute(key, value);
    const whole = this.frame.w * k <= w + 1 && this.frame.h * k <= h + 1;
    this.map.classList.toggle("idle", whole);
  }

  // The part of the canvas that can be seen: on a phone the panel lies over it.
  measure() {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const panel = byId("panel").getBoundingClientRect();
    const covered = panel.width > 0 && panel.left < left + width && panel.top < top + height;
    const y = covered ? Math.max(0, -top) : 0;
    const free = covered ? panel.top - top - y : height;
    return free < LOWEST ? { y: 0, width, height } : { y, width, height: free };
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
  show({ x, y, w, h }, least = 0, most = 1.1, glide = false) {
    const room = this.measure();
    const k = Math.min(most, Math.max(least, Math.min(room.width / w, room.height / h)));
    const start = (space, extent, from) =>
      (extent * k <= space ? (space - extent * k) / 2 : 0) - from * k;
    this.view = { k, x: start(room.width, w, x), y: room.y + start(room.height, h, y) };
    if (w * k > room.width) this.view.x = room.width / 2 - (x + w / 2) * k;
    this.move(glide);
  }

  fit() {
    this.show(this.frame);
  }

  // At the start: legible, from the top, with the main column in view.
  open() {
    this.held = [];
    const room = this.canvas.getBoundingClientRect();
    this.show(this.frame, Math.max(0.6, Math.min(0.85, room.width / this.frame.w)));
    const [first] = this.plan.boxes;
    if (first && this.frame.w * this.view.k > room.width)
      this.pan(room.width / 2 - first.x * this.view.k - this.view.x, 0);
  }

  // -- bringing boxes into view --------------------------------------------------------------

  // Goes to boxes, wherever they are.
  reveal(boxes) {
    this.held = boxes;
    if (boxes.length) this.show(this.around(boxes, LEGIBLE), LEGIBLE, 1, true);
  }

  // Goes there only if some of the boxes are out of sight, and never closer.
  keep(boxes) {
    this.held = boxes;
    this.room = this.measure();
    const { k } = this.view, least = Math.min(LEGIBLE, k);
    if (boxes.every(box => this.sees(box))) this.move(true);
    else this.show(this.around(boxes, least), least, k, true);
  }

  // The canvas has a new size: what could be seen of the boxes stays in view.
  resize() {
    const { held } = this, seen = held.filter(box => this.sees(box));
    if (seen.length) this.keep(seen);
    else this.move();
    this.held = held;
  }

  sees({ x, y, w, h }) {
    const { view: { x: left, y: top, k }, room } = this;
    const within = (middle, size, space) =>
      middle - size * k / 2 >= 0 && middle + size * k / 2 <= space;
    return within(x * k + left, w, room.width) && within(y * k + top - room.y, h, room.height);
  }

  // The area of the first box and of as many of the others, the nearest first, as fit in.
  around([first, ...others], least) {
    const { width, height } = this.measure();
    const distance = box => Math.hypot(box.x - first.x, box.y - first.y);
    const shown = [first];
    for (const box of others.toSorted((a, b) => distance(a) - distance(b))) {
      const { w, h } = hull([...shown, box]);
      if (w * least <= width && h * least <= height) shown.push(box);
    }
    return hull(shown);
  }

  // -- listening -----------------------------------------------------------------------------

  listenToPointers() {
    const { canvas } = this;
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      const { left, top } = canvas.getBoundingClientRect();
      if (event.shiftKey) this.pan(-event.deltaX, -event.deltaY);
      else this.zoom(Math.exp(-event.deltaY / 500), event.clientX - left, event.clientY - top);
    }, { passive: false });
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
}
