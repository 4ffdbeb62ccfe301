// Episodes on a canvas: who stands where, who hears whom and how much; scrubbed by hand.

const GRID = 2000;

function replays(all) {
  const section = document.getElementById("replay");
  if (!all.length) { section.remove(); return; }
  const canvas = document.getElementById("canvas"), slider = document.getElementById("slider");
  const clock = document.getElementById("clock"), told = document.getElementById("told"), button = document.getElementById("play");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let shown = all[0], pointed = -1, timer = 0;

  const tabs = section.querySelector(".pick");
  all.forEach((one, i) => {
    const tab = html("button", { type: "button", "aria-pressed": i === 0 }, tabs, one.title || `${one.n} agents`);
    tab.onclick = () => {
      for (const other of tabs.children) other.setAttribute("aria-pressed", other === tab);
      pick(one);
    };
  });
  if (all.length < 2) tabs.replaceChildren();

  function pick(one) {
    shown = one;
    pointed = -1;
    slider.max = one.rows.length - 1;
    slider.value = 0;
    paint();
  }

  function color(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  function paint() {
    const row = shown.rows[+slider.value], n = shown.n;
    const side = canvas.clientWidth, tall = canvas.clientHeight || side, ratio = devicePixelRatio || 1;
    if (!side) return;
    canvas.width = side * ratio;
    canvas.height = tall * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const edge = Math.min(side, tall), pad = 18;
    const X = (v) => (side - edge) / 2 + pad + (v / GRID) * (edge - 2 * pad);
    const Y = (v) => (tall + edge) / 2 - pad - (v / GRID) * (edge - 2 * pad);
    const places = row.at.concat(row.things || []);
    const dead = new Set(row.dead || []);
    const radius = Math.max(3, Math.min(9, (edge / Math.sqrt(n)) * 0.06));
    const ink = color("--edge");

    pen.strokeStyle = color("--trail");
    pen.lineWidth = Math.max(1, radius * 0.6);
    for (let i = 0; i < n && n <= 200 && shown.placed; i++) {
      pen.beginPath();
      for (let t = Math.max(0, +slider.value - 8); t <= +slider.value; t++) {
        const at = shown.rows[t].at;
        pen.lineTo(X(at[2 * i]), Y(at[2 * i + 1]));
      }
      if (!dead.has(i)) pen.stroke();
    }
    pen.fillStyle = color("--thing");
    for (let i = 2 * n; i < places.length; i += 2) pen.fillRect(X(places[i]) - radius * 0.8, Y(places[i + 1]) - radius * 0.8, radius * 1.6, radius * 1.6);

    const heard = row.heard || [], heads = heard.length / 3 < 500;
    for (let e = 0; e < heard.length; e += 3) {
      const [from, to, weight] = [heard[e], heard[e + 1], heard[e + 2] / 9];
      if (pointed >= 0 && to !== pointed) continue;
      const ax = X(places[2 * from]), ay = Y(places[2 * from + 1]), bx = X(places[2 * to]), by = Y(places[2 * to + 1]);
      pen.strokeStyle = pen.fillStyle = `rgba(${ink}, ${0.1 + 0.62 * weight})`;
      pen.lineWidth = 0.5 + 2.4 * weight;
      pen.beginPath();
      pen.moveTo(ax, ay);
      pen.lineTo(bx, by);
      pen.stroke();
      const far = Math.hypot(bx - ax, by - ay);
      if (heads && far > 3 * radius) {
        const ux = (bx - ax) / far, uy = (by - ay) / far, tx = bx - ux * radius * 1.25, ty = by - uy * radius * 1.25, w = 3 + 2 * weight;
        pen.beginPath();
        pen.moveTo(tx, ty);
        pen.lineTo(tx - ux * 2 * w - uy * w * 0.8, ty - uy * 2 * w + ux * w * 0.8);
        pen.lineTo(tx - ux * 2 * w + uy * w * 0.8, ty - uy * 2 * w - ux * w * 0.8);
        pen.fill();
      }
    }
    for (let i = 0; i < n; i++) {
      const x = X(places[2 * i]), y = Y(places[2 * i + 1]);
      if (dead.has(i)) continue;
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.fillStyle = color(`--t${shown.kind[i] % 6}`);
      pen.fill();
      pen.lineWidth = i === pointed ? 3 : 1.2;
      pen.strokeStyle = i === pointed ? color("--ink") : color("--card");
      pen.stroke();
    }
    tell(row, dead);
  }

  function tell(row, dead) {
    clock.textContent = `step ${row.step} of ${shown.rows[shown.rows.length - 1].step}`;
    slider.setAttribute("aria-valuetext", clock.textContent);
    const edges = (row.heard || []).length / 3;
    const lines = [["return so far", fmt(row.earned)], ["agents alive", `${shown.n - dead.size} of ${shown.n}`],
      [pointed < 0 ? "messages heard" : `heard by agent ${pointed}`, pointed < 0 ? edges : (row.heard || []).filter((v, i) => i % 3 === 1 && v === pointed).length]];
    told.replaceChildren();
    for (const [words, value] of lines) {
      const p = html("p", {}, told);
      html("b", {}, p, value);
      p.append(words);
    }
    const keys = html("div", {}, told);
    shown.kinds.forEach((kind, i) => {
      const key = html("div", { class: "key" }, keys);
      html("i", { style: `background:var(--t${i % 6})` }, key);
      key.append(kind);
    });
    if (shown.rows.some((one) => one.things)) {
      const key = html("div", { class: "key" }, keys);
      html("i", { style: "background:var(--thing);border-radius:0" }, key);
      key.append("what is heard that is no agent");
    }
    if (shown.of) html("p", { style: "margin-top:.9rem" }, told, shown.of);
    if (!shown.placed) html("p", {}, told, "This world has no positions: agents stand on a circle.");
    if (shown.edges_left_out) html("p", {}, told, `The ${shown.edges_left_out} least attended messages of the episode are left out, so that this file stays small.`);
  }

  function stop() { clearInterval(timer); timer = 0; button.textContent = "▶"; }
  button.onclick = () => {
    if (timer) return stop();
    if (+slider.value >= +slider.max) slider.value = 0;
    button.textContent = "❚❚";
    timer = setInterval(() => {
      slider.value = +slider.value + 1;
      paint();
      if (+slider.value >= +slider.max) stop();
    }, still ? 600 : 160);
  };
  slider.oninput = () => { stop(); paint(); };
  canvas.onkeydown = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (!by) return;
    event.preventDefault();
    stop();
    slider.value = +slider.value + by;
    paint();
  };
  canvas.onpointermove = (event) => {
    const box = canvas.getBoundingClientRect(), edge = Math.min(box.width, box.height), pad = 18;
    const px = ((event.clientX - box.left - (box.width - edge) / 2 - pad) / (edge - 2 * pad)) * GRID;
    const py = (((box.height + edge) / 2 - (event.clientY - box.top) - pad) / (edge - 2 * pad)) * GRID;
    const row = shown.rows[+slider.value], dead = new Set(row.dead || []);
    let best = -1, least = 90;
    for (let i = 0; i < shown.n; i++) {
      const far = Math.hypot(row.at[2 * i] - px, row.at[2 * i + 1] - py);
      if (far < least && !dead.has(i)) { least = far; best = i; }
    }
    if (best !== pointed) { pointed = best; paint(); }
  };
  canvas.onpointerleave = () => { pointed = -1; paint(); };
  new ResizeObserver(paint).observe(canvas);
  document.addEventListener("theme", paint);
  pick(shown);
}
