"use strict";
// Building elements, writing numbers. Names enter the page as text nodes or attributes only.

const byId = id => document.getElementById(id);

function make(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key, value);
    else if (key.startsWith("--")) element.style.setProperty(key, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter(child => child !== null && child !== false));
  return element;
}
const el = (tag, attributes = {}, ...children) =>
  make(document.createElement(tag), attributes, children);
const SVG = "http://www.w3.org/2000/svg";
const svg = (tag, attributes = {}, ...children) =>
  make(document.createElementNS(SVG, tag), attributes, children);

const NONE = "–";
function count(number) {
  if (number === null || number === undefined) return NONE;
  let value = number;
  for (const unit of ["", " k", " M", " G", " T"]) {
    if (Math.abs(value) < 999.5) return unit ? value.toPrecision(3) + unit : String(value);
    value /= 1000;
  }
  return `${Math.round(value)} P`;
}
const size = bytes => (bytes === null ? NONE : count(bytes) + (bytes < 999.5 ? " B" : "B"));
const share = (after, before) =>
  after === null || !before ? NONE : `${(100 * after / before).toFixed(1)} %`;
const change = (before, after) =>
  after === null || after === undefined ? count(before) : `${count(before)} → ${count(after)}`;
const width = (kept, all) => (kept === null || kept === undefined ? `${all}` : `${kept} / ${all}`);
const extent = shape => (shape ? shape.join(" × ") || "scalar" : "shape unknown");
const plural = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

// Cuts the middle out: the end of a module path says most.
function shorten(name, most) {
  const letters = Array.from(name);
  if (letters.length <= most) return name;
  const head = Math.floor(most * 0.35);
  return `${letters.slice(0, head).join("")}…${letters.slice(head + 1 - most).join("")}`;
}

// One tooltip for everything: lines of text beside the pointer or below the focused element.
const tip = {
  show(lines, x, y) {
    const box = byId("tip");
    const texts = lines.filter(Boolean);
    box.replaceChildren(...texts.map((line, i) => el(i ? "div" : "b", {}, line)));
    box.hidden = false;
    const { width: w, height: h } = box.getBoundingClientRect();
    box.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - w - 8))}px`;
    box.style.top = `${y + 18 + h > innerHeight ? Math.max(8, y - h - 12) : y + 18}px`;
  },
  hide() {
    byId("tip").hidden = true;
  },
  // `lines` is asked when the pointer comes: most elements are never pointed at.
  on(element, lines) {
    element.addEventListener("pointermove", event => {
      const text = lines(event.target);
      if (text) tip.show(text, event.clientX, event.clientY);
      else tip.hide();
    });
    element.addEventListener("pointerleave", tip.hide);
  },
};
