"use strict";
// Small line and dot charts as SVG, drawn at the width they are given and again when it changes.

const SVG = "http://www.w3.org/2000/svg";
const SHAPES = {
  circle: (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  square: (x, y, r) => `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
  cross: (x, y, r) => `M${x - r},${y - r}L${x + r},${y + r}M${x - r},${y + r}L${x + r},${y - r}`,
  diamond: (x, y, r) => `M${x},${y - 1.3 * r}L${x + 1.3 * r},${y}L${x},${y + 1.3 * r}L${x - 1.3 * r},${y}z`,
  triangle: (x, y, r) => `M${x},${y - 1.2 * r}L${x + 1.1 * r},${y + r}L${x - 1.1 * r},${y + r}z`,
};

function svg(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}

function html(name, attributes, parent, text) {
  const node = document.createElement(name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}

// A number as short as it can be read: three digits that count.
function fmt(v) {
  if (v === null || v === undefined || !isFinite(v)) return "–";
  if (v === 0) return "0";
  const size = Math.abs(v);
  if (size >= 1e6) return (v / 1e6).toPrecision(3).replace(/\.?0+$/, "") + " M";
  if (size >= 1e4) return Math.round(v / 1e3) + " k";
  if (size >= 1000) return String(Math.round(v));
  if (size < 1e-3) return v.toExponential(1);
  return String(+v.toPrecision(3)).replace("-", "−");
}

function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(wanted, 1);
  const power = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.8);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(+(i * step).toPrecision(12));
  return found;
}

// Ticks that leave room for their labels, the first and the last kept.
function thinned(all, place, gap) {
  const kept = [];
  for (const one of all) if (!kept.length || place(one) - place(kept[kept.length - 1]) >= gap) kept.push(one);
  const last = all[all.length - 1];
  if (kept.length > 1 && kept[kept.length - 1] !== last) kept[kept.length - 1] = last;
  return kept;
}

const tip = {
  show(event, lines) {
    const box = document.getElementById("tip");
    box.replaceChildren(...lines.map((line, i) => {
      const row = document.createElement("div");
      if (i === 0) row.style.fontWeight = "600";
      row.textContent = line;
      return row;
    }));
    box.hidden = false;
    const wide = box.offsetWidth, tall = box.offsetHeight;
    box.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - wide - 8)) + "px";
    box.style.top = (event.clientY + tall + 24 > innerHeight ? event.clientY - tall - 12 : event.clientY + 16) + "px";
  },
  hide() { document.getElementById("tip").hidden = true; },
};

// options: title, xWords, yWords, log (of x, base 2), at (ticks of x), names (of x, by value), marks (x of dotted lines),
// levels [{y, color, words}] (lines across), end (the largest x, where it is no tick), share (y from 0 to 1), series [{label, color, dash, shape, hollow, line, points
// [{x, y, low, high, tip}]}].
function chart(parent, options) {
  const card = html("div", { class: "card" }, parent);
  html("h3", {}, card, options.title);
  const place = html("div", {}, card);
  const paint = () => {
    const width = place.clientWidth;
    if (width) draw(place, width, options);
  };
  new ResizeObserver(paint).observe(place);
  paint();
  return card;
}

function extent(options) {
  const values = [];
  for (const one of options.series) for (const p of one.points) values.push(p.y, p.low, p.high);
  for (const level of options.levels || []) values.push(level.y);
  const known = values.filter((v) => v !== null && isFinite(v));
  let low = Math.min(...known), high = Math.max(...known);
  if (!known.length) return [0, 1];
  if (options.share && low >= 0 && high <= 1) return [0, 1];
  if (options.zero && low > 0) low = 0;
  if (options.zero && low === 0 && high === 0) return [0, 1];
  if (high - low <= 1e-5 * Math.max(Math.abs(low), Math.abs(high))) { low -= Math.abs(low) / 10 || 0.5; high += Math.abs(high) / 10 || 0.5; }
  const pad = (high - low) * 0.06;
  return [options.zero && low === 0 ? 0 : low - pad, high + pad];
}

function draw(place, width, options) {
  const height = Math.round(Math.min(Math.max(width * 0.62, 190), 260));
  const [low, high] = extent(options);
  const marksY = ticks(low, high, 5);
  const left = 32 + 7 * Math.max(...marksY.map((v) => fmt(v).length)), right = 14, top = 10, bottom = 40;
  const X = options.log ? (v) => Math.log2(v) : (v) => v;
  const all = options.at.concat(options.end === undefined ? [] : options.end).map(X);
  let first = Math.min(...all), last = Math.max(...all);
  if (first === last) { first -= 1; last += 1; }
  const inner = 10;
  const x = (v) => left + inner + ((X(v) - first) / (last - first)) * (width - left - right - 2 * inner);
  const y = (v) => top + (1 - (v - low) / (high - low)) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": options.title });
  for (const v of marksY) {
    svg("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: "rule" }, root);
    svg("text", { x: left - 7, y: y(v) + 4, "text-anchor": "end" }, root, fmt(v));
  }
  const name = options.names || fmt;
  const room = Math.max(...options.at.map((v) => String(name(v)).length)) * 7 + 10;
  for (const v of thinned(options.at, x, room)) {
    svg("line", { x1: x(v), x2: x(v), y1: height - bottom, y2: height - bottom + 4, class: "axis" }, root);
    svg("text", { x: x(v), y: height - bottom + 18, "text-anchor": "middle" }, root, name(v));
  }
  svg("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }, root);
  svg("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, root, options.xWords);
  svg("text", { x: 0, y: 0, transform: `translate(11 ${(height - bottom + top) / 2}) rotate(-90)`, "text-anchor": "middle" }, root, options.yWords);
  for (const v of options.marks || []) svg("line", { x1: x(v), x2: x(v), y1: top, y2: height - bottom, class: "mark" }, root);
  for (const level of options.levels || [])
    svg("line", { x1: left, x2: width - right, y1: y(level.y), y2: y(level.y), stroke: level.color, "stroke-width": 1.3, "stroke-dasharray": "2 4" }, root);
  const points = [];
  for (const one of options.series) points.push(...curve(root, one, x, y));
  // Names of levels last, so that no curve runs over them; of two that would touch, the first.
  const taken = [];
  for (const level of options.levels || []) {
    const at = y(level.y) + (y(level.y) - top > 16 ? -5 : 14);
    if (taken.every((other) => Math.abs(other - at) > 14)) svg("text", { x: width - right - 2, y: at, "text-anchor": "end", class: "level" }, root, level.words);
    taken.push(at);
  }
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    const near = points.map((p) => [Math.hypot(p.x - event.clientX + box.left, p.y - event.clientY + box.top), p]);
    near.sort((a, b) => a[0] - b[0]);
    if (near.length && near[0][0] < 40) tip.show(event, near[0][1].tip);
    else tip.hide();
  });
  root.addEventListener("pointerleave", tip.hide);
  place.replaceChildren(root);
}

function curve(root, one, x, y) {
  const known = one.points.filter((p) => p.y !== null).sort((a, b) => a.x - b.x);
  const bounded = known.filter((p) => p.low !== null && p.high !== null);
  if (one.line && known.length > 1) {
    if (bounded.length > 1) {
      const edge = bounded.map((p) => `${x(p.x)},${y(p.high)}`).concat(bounded.slice().reverse().map((p) => `${x(p.x)},${y(p.low)}`));
      svg("path", { d: `M${edge.join("L")}z`, fill: one.color, opacity: 0.16 }, root);
    }
    const line = known.map((p) => `${x(p.x)},${y(p.y)}`).join("L");
    svg("path", { d: `M${line}`, fill: "none", stroke: one.color, "stroke-width": 2, "stroke-dasharray": one.dash, "stroke-linejoin": "round" }, root);
  } else {
    for (const p of bounded) {
      const at = x(p.x) + (one.aside || 0), a = y(p.low), b = y(p.high);
      svg("path", { d: `M${at},${a}V${b}M${at - 3},${a}h6M${at - 3},${b}h6`, stroke: one.color, "stroke-width": 1.5, fill: "none" }, root);
    }
  }
  return known.map((p) => {
    const at = x(p.x) + (one.line && known.length > 1 ? 0 : one.aside || 0);
    const hollow = one.hollow || one.shape === "cross";
    svg("path", { d: SHAPES[one.shape](at, y(p.y), one.shape === "cross" ? 3 : 3.6), fill: hollow ? "var(--card)" : one.color, stroke: one.color, "stroke-width": 1.7 }, root);
    return { x: at, y: y(p.y), tip: p.tip };
  });
}
