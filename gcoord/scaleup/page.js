// The report's sections, from the data that Python put into the page.

const DATA = JSON.parse(document.getElementById("data").textContent);
const [S, N, M, C, VALUE, LOW, HIGH, EPISODES, SEEDS, FRAMES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const hidden = new Set();
let now = DATA.groups[0];

const section = (name) => document.getElementById(name);
const inside = (name, selector) => section(name).querySelector(selector);
const tally = (n, one, many) => `${n} ${n === 1 ? one : many}`;

function look(series) {
  const shapes = { random: "cross", scripted: "square", fine_tuned: "triangle", scratch: "diamond" };
  const color = { random: "var(--dim)", scripted: "var(--script)" }[series.mode] || `var(--t${series.tone % 6})`;
  const dash = { random: "2 4", scripted: "7 4", fine_tuned: "8 3 2 3" }[series.mode] || (series.tone > 5 ? "3 2" : "none");
  return { label: series.label, color, dash, shape: shapes[series.mode] || "circle", hollow: series.mode === "scratch", line: series.mode !== "scratch" };
}

function told(row, label) {
  const unit = now.metrics[row[M]].unit;
  const lines = [label, `${now.metrics[row[M]].words} ${fmt(row[VALUE])}${unit && unit !== "share" && unit.length < 9 ? " " + unit : ""}`];
  if (row[LOW] !== null) lines.push(`95 %: ${fmt(row[LOW])} to ${fmt(row[HIGH])}`);
  lines.push(`${tally(row[N], "agent", "agents")}, ${tally(row[SEEDS], "run", "runs")}, ${row[EPISODES]} episodes`);
  return lines;
}

const point = (row, at, label) => ({ x: at, y: row[VALUE], low: row[LOW], high: row[HIGH], tip: told(row, label) });
// Titles say what it is, axes in what.
const axis = (metric) => metric.unit || metric.words;
const full = (metric) => (metric.unit ? `${metric.words} (${metric.unit})` : metric.words);

// Rows of the undisturbed policies over sizes; of a fine-tuning curve its last point.
function final(metric) {
  const best = new Map();
  for (const row of now.rows) {
    if (row[M] !== metric || row[C] !== 0) continue;
    const key = `${row[S]} ${row[N]}`;
    if (!best.has(key) || best.get(key)[FRAMES] <= row[FRAMES]) best.set(key, row);
  }
  return [...best.values()];
}

function legend(place, used, repaint) {
  place.replaceChildren();
  if (used.length < 2) return;
  for (const i of used) {
    const style = look(now.series[i]);
    const button = html("button", { type: "button", "aria-pressed": !hidden.has(style.label) }, place);
    const key = svg("svg", { width: 30, height: 14, "aria-hidden": "true" }, button);
    if (style.line) svg("line", { x1: 1, x2: 29, y1: 7, y2: 7, stroke: style.color, "stroke-width": 2, "stroke-dasharray": style.dash }, key);
    const hollow = style.hollow || style.shape === "cross";
    svg("path", { d: SHAPES[style.shape](15, 7, 3.6), fill: hollow ? "var(--card)" : style.color, stroke: style.color, "stroke-width": 1.7 }, key);
    button.append(style.label);
    button.onclick = () => {
      if (!hidden.delete(style.label)) hidden.add(style.label);
      repaint();
    };
  }
}

function overSizes(name, kind) {
  const grid = inside(name, ".grid"), metrics = now.metrics.map((m, i) => [m, i]).filter(([m]) => m.kind === kind);
  const rows = metrics.map(([, i]) => final(i));
  section(name).hidden = !rows.some((r) => r.length);
  const used = [...new Set(rows.flat().map((row) => row[S]))].sort((a, b) => a - b);
  legend(inside(name, ".legend"), used, render);
  grid.replaceChildren();
  metrics.forEach(([metric], k) => {
    const shown = used.filter((i) => !hidden.has(now.series[i].label));
    const curves = shown.map((i, j) => {
      const style = look(now.series[i]);
      const points = rows[k].filter((row) => row[S] === i).map((row) => point(row, row[N], style.label));
      return { ...style, points, aside: (j - (shown.length - 1) / 2) * 7 };
    });
    const at = [...new Set(rows[k].map((row) => row[N]))].sort((a, b) => a - b);
    if (!at.length) return;
    if (at.length > 1) for (const one of curves) one.aside = 0;
    chart(grid, { title: metric.words, xWords: "agents in the team", yWords: axis(metric), log: true, at, names: String, series: curves,
      marks: now.trained.filter((n) => n >= at[0] && n <= at[at.length - 1]), share: metric.unit === "share", zero: kind === "cost" });
  });
}

let matrixOf = 0;
function matrix() {
  const results = now.metrics.map((m, i) => i).filter((i) => now.metrics[i].kind === "result" && final(i).length);
  if (!results.includes(matrixOf)) matrixOf = results[0];
  const rows = final(matrixOf), zero = rows.filter((row) => now.series[row[S]].mode === "zero_shot");
  const sizes = [...new Set(rows.map((row) => row[N]))].sort((a, b) => a - b);
  section("matrix").hidden = !zero.length;
  if (!zero.length) return;
  const tabs = inside("matrix", ".pick");
  tabs.replaceChildren();
  for (const i of results) html("button", { type: "button", "aria-pressed": i === matrixOf }, tabs, now.metrics[i].words).onclick = () => { matrixOf = i; matrix(); };
  const order = { zero_shot: 0, fine_tuned: 1, scratch: 2, scripted: 3, random: 4 };
  const lines = [...new Set(rows.map((row) => row[S]))].sort((a, b) => order[now.series[a].mode] - order[now.series[b].mode] || a - b);
  // Random play is so much worse that beside it all trained policies would look alike.
  const values = rows.filter((row) => now.series[row[S]].mode !== "random").map((row) => row[VALUE]).filter((v) => v !== null);
  const low = Math.min(...values), high = Math.max(...values);
  const table = html("table", { class: "heat" }), head = html("tr", {}, html("thead", {}, table)), body = html("tbody", {}, table);
  html("th", {}, head, "played at");
  for (const n of sizes) html("th", { style: "text-align:center" }, head, n);
  for (const i of lines) {
    const line = html("tr", {}, body);
    html("th", { scope: "row" }, line, now.series[i].label);
    for (const n of sizes) {
      const row = rows.find((r) => r[S] === i && r[N] === n);
      if (!row || row[VALUE] === null) { html("td", { class: "none" }, line, "·"); continue; }
      const share = high > low ? Math.max((row[VALUE] - low) / (high - low), 0) : 0.5;
      const own = now.series[i].trained.split("+").includes(String(n)) && now.series[i].mode === "zero_shot";
      const cell = html("td", { style: `background:rgba(var(--heat),${(0.06 + 0.5 * share).toFixed(3)})`, class: own ? "own" : "" }, line, fmt(row[VALUE]));
      if (row[LOW] !== null) html("small", {}, cell, `${fmt(row[LOW])} to ${fmt(row[HIGH])}`);
    }
  }
  inside("matrix", ".scroll").replaceChildren(table);
}

function tuning() {
  const metric = now.metrics.find((m) => m.name === "return_per_agent"), mode = (one) => now.series[one.series].mode;
  const sizes = [...new Set(now.curves.filter((one) => mode(one) === "fine_tuned").map((one) => one.n))].sort((a, b) => a - b);
  section("tuning").hidden = !sizes.length;
  const curves = now.curves.filter((one) => sizes.includes(one.n)), used = [...new Set(curves.map((one) => one.series))];
  legend(inside("tuning", ".legend"), used, render);
  const grid = inside("tuning", ".grid");
  grid.replaceChildren();
  for (const n of sizes) {
    const shown = curves.filter((one) => one.n === n && !hidden.has(now.series[one.series].label));
    const lines = shown.map((one) => {
      const style = look(now.series[one.series]);
      const points = one.points.map(([x, y, low, high]) => ({ x, y, low, high, tip: [style.label, `${fmt(x)} frames: ${fmt(y)}`, `95 %: ${fmt(low)} to ${fmt(high)}`, tally(one.runs, "run", "runs")] }));
      return { ...style, line: true, dash: mode(one) === "scratch" ? "4 3" : "none", points };
    });
    const most = Math.max(...curves.filter((one) => one.n === n).map((one) => one.points[one.points.length - 1][0]));
    const level = final(now.metrics.indexOf(metric)).filter((row) => row[N] === n && ["random", "scripted"].includes(now.series[row[S]].mode));
    chart(grid, { title: tally(n, "agent", "agents"), xWords: "frames trained at this size", yWords: full(metric), series: lines,
      at: ticks(0, most, 4).filter((v) => v <= most), end: most, levels: level.map((row) => ({ y: row[VALUE], color: look(now.series[row[S]]).color, words: now.series[row[S]].mode })) });
  }
}

let talkOf = 0;
function talk() {
  const disturbed = now.rows.filter((row) => row[C] > 0);
  section("talk").hidden = !disturbed.length;
  if (!disturbed.length) return;
  const results = now.metrics.map((m, i) => i).filter((i) => now.metrics[i].kind === "result" && disturbed.some((row) => row[M] === i));
  if (!results.includes(talkOf)) talkOf = results[0];
  const tabs = inside("talk", ".pick");
  tabs.replaceChildren();
  for (const i of results) html("button", { type: "button", "aria-pressed": i === talkOf }, tabs, now.metrics[i].words).onclick = () => { talkOf = i; talk(); };
  const of = now.rows.filter((row) => row[M] === talkOf && !["random", "scripted"].includes(now.series[row[S]].mode));
  const used = [...new Set(disturbed.filter((row) => row[M] === talkOf).map((row) => row[S]))];
  legend(inside("talk", ".legend"), used, render);
  const shown = used.filter((i) => !hidden.has(now.series[i].label)), conditions = now.conditions.map((_, c) => c);
  const grid = inside("talk", ".grid");
  grid.replaceChildren();
  for (const n of [...new Set(disturbed.map((row) => row[N]))].sort((a, b) => a - b)) dots(grid, n, of, shown, conditions);
}

// One size: a line for each condition, a dot with its whisker for each policy.
function dots(grid, n, rows, shown, conditions) {
  const card = html("div", { class: "card" }, grid);
  html("h3", {}, card, tally(n, "agent", "agents"));
  const place = html("div", {}, card), here = rows.filter((row) => row[N] === n && shown.includes(row[S]) && row[VALUE] !== null);
  const values = here.flatMap((row) => [row[VALUE], row[LOW], row[HIGH]]).filter((v) => v !== null);
  if (!values.length) { card.remove(); return; }
  const paint = () => {
    const width = place.clientWidth;
    if (!width) return;
    const words = Math.min(Math.max(...now.conditions.map((text) => text.length)) * 7 + 10, width * 0.45);
    const step = 16 + 9 * shown.length, height = conditions.length * step + 44, right = 16;
    let low = Math.min(...values), high = Math.max(...values);
    if (now.metrics[talkOf].unit === "share" && low >= 0 && high <= 1) { low = 0; high = 1; }
    else { const pad = (high - low) * 0.05 || 0.5; low -= pad; high += pad; }
    const x = (v) => words + 8 + ((v - low) / (high - low)) * (width - words - 8 - right);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${now.metrics[talkOf].words} by condition, ${n} agents` });
    const bottom = height - 40;
    const marks = ticks(low, high, 4);
    for (const v of thinned(marks, x, 36)) {
      svg("line", { x1: x(v), x2: x(v), y1: 0, y2: bottom, class: "rule" }, root);
      svg("text", { x: x(v), y: bottom + 16, "text-anchor": "middle" }, root, fmt(v));
    }
    svg("text", { x: (words + width) / 2, y: height - 3, "text-anchor": "middle" }, root, full(now.metrics[talkOf]));
    for (const i of shown) {
      const plain = here.find((row) => row[S] === i && row[C] === 0);
      if (plain && plain[LOW] !== null)
        svg("rect", { x: x(plain[LOW]), width: Math.max(x(plain[HIGH]) - x(plain[LOW]), 1.5), y: 0, height: bottom, fill: look(now.series[i]).color, opacity: 0.12 }, root);
    }
    const points = [];
    conditions.forEach((c, k) => {
      svg("text", { x: words, y: k * step + step / 2 + 4, "text-anchor": "end", class: "title" }, root, now.conditions[c]);
      shown.forEach((i, j) => {
        const row = here.find((one) => one[S] === i && one[C] === c);
        if (!row) return;
        const style = look(now.series[i]), at = k * step + step / 2 + (j - (shown.length - 1) / 2) * 9;
        if (row[LOW] !== null) svg("path", { d: `M${x(row[LOW])},${at}H${x(row[HIGH])}`, stroke: style.color, "stroke-width": 2 }, root);
        svg("path", { d: SHAPES[style.shape](x(row[VALUE]), at, 3.8), fill: style.color, stroke: "var(--card)" }, root);
        points.push([x(row[VALUE]), at, [`${now.conditions[c]}: ${style.label}`, ...told(row, "").slice(1)]]);
      });
    });
    root.addEventListener("pointermove", (event) => {
      const box = root.getBoundingClientRect();
      const near = points.find((p) => Math.hypot(p[0] - event.clientX + box.left, p[1] - event.clientY + box.top) < 14);
      near ? tip.show(event, near[2]) : tip.hide();
    });
    root.addEventListener("pointerleave", tip.hide);
    place.replaceChildren(root);
  };
  new ResizeObserver(paint).observe(place);
  paint();
}

function head() {
  section("world").textContent = now.world;
  const sizes = [...new Set(now.rows.map((row) => row[N]))].sort((a, b) => a - b);
  const span = sizes.length > 1 ? `${sizes[0]} to ${sizes[sizes.length - 1]}` : sizes[0];
  const trained = now.trained.length ? `Trained in teams of ${now.trained.join(", ")}; the` : "The";
  section("lead").textContent = `${trained} same weights play in teams of ${span}. Density ${now.density}.`;
  const metric = now.metrics.findIndex((m) => m.name === "return_per_agent" || m.name === "return"), success = now.metrics.findIndex((m) => m.name === "success");
  const tiles = section("tiles");
  tiles.replaceChildren();
  const put = (value, text) => { const tile = html("div", { class: "tile" }, tiles); html("b", {}, tile, value); html("span", {}, tile, text); };
  const zero = final(metric).filter((row) => now.series[row[S]].mode === "zero_shot").sort((a, b) => a[N] - b[N] || b[VALUE] - a[VALUE]);
  if (zero.length) {
    const large = zero.filter((row) => row[N] === zero[zero.length - 1][N])[0], label = now.series[large[S]].label;
    put(fmt(large[VALUE]), `${now.metrics[metric].words} at ${large[N]} agents, ${label}${zero.filter((row) => row[N] === large[N]).length > 1 ? " (the best)" : ""}`);
    for (const mode of ["scripted", "random"]) {
      const beside = final(metric).find((row) => row[N] === large[N] && now.series[row[S]].mode === mode);
      if (beside) put(fmt(beside[VALUE]), `${mode} at ${large[N]} agents`);
    }
    const share = success >= 0 && final(success).find((row) => row[N] === large[N] && row[S] === large[S]);
    if (share) put(fmt(share[VALUE]), `success at ${large[N]} agents, ${label}`);
  }
  const runs = now.rows.filter((row) => !["random", "scripted"].includes(now.series[row[S]].mode)).map((row) => row[SEEDS]);
  if (runs.length) put(Math.min(...runs) === Math.max(...runs) ? runs[0] : `${Math.min(...runs)} to ${Math.max(...runs)}`, "training runs behind each figure");
}

function figures() {
  const place = inside("table", ".scroll"), table = html("table", {}), head = html("tr", {}, html("thead", {}, table)), body = html("tbody", {}, table);
  for (const name of ["policy", "condition", "metric", "agents", "value", "95 % low", "high", "episodes", "runs", "frames"]) html("th", { class: ["condition", "metric"].includes(name) ? "text" : "" }, head, name);
  for (const row of now.rows) {
    const line = html("tr", {}, body);
    html("td", {}, line, now.series[row[S]].label);
    html("td", { class: "text" }, line, now.conditions[row[C]]);
    html("td", { class: "text" }, line, now.metrics[row[M]].words);
    for (const i of [N, VALUE, LOW, HIGH, EPISODES, SEEDS, FRAMES]) html("td", {}, line, [N, EPISODES, SEEDS, FRAMES].includes(i) ? row[i] : fmt(row[i]));
  }
  place.replaceChildren(table);
}

function facts() {
  const list = inside("facts", "dl");
  section("facts").hidden = !DATA.facts.length;
  for (const [name, text] of DATA.facts) { html("dt", {}, list, name); html("dd", {}, list, text); }
}

function nav() {
  const place = section("nav");
  place.replaceChildren();
  for (const one of document.querySelectorAll("main > section[id]")) if (!one.hidden) html("a", { href: `#${one.id}` }, place, one.querySelector("h2").textContent);
}

function render() {
  head();
  overSizes("sizes", "result");
  matrix();
  tuning();
  overSizes("cost", "cost");
  talk();
  overSizes("speech", "speech");
  figures();
  nav();
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function theme(name) { document.documentElement.dataset.theme = name; document.dispatchEvent(new Event("theme")); }
theme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
section("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");

if (DATA.groups.length > 1) {
  DATA.groups.forEach((one, i) => {
    const tab = html("button", { type: "button", "aria-pressed": i === 0 }, section("choice"), `${one.world}, ${one.density.split(":")[0]}`);
    tab.onclick = () => {
      for (const other of section("choice").children) other.setAttribute("aria-pressed", other === tab);
      now = one;
      render();
    };
  });
}
replays(DATA.replays);
facts();
render();
const watch = new IntersectionObserver((seen) => {
  for (const one of seen) {
    const link = document.querySelector(`nav a[href="#${one.target.id}"]`);
    if (link) link.classList.toggle("here", one.isIntersecting);
  }
}, { rootMargin: "-18% 0px -81% 0px" });
for (const one of document.querySelectorAll("main > section[id]")) watch.observe(one);
