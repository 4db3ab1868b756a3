"""Style and script of the report page; plotly draws, nothing is loaded from a network."""

from __future__ import annotations

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
body{font-family:system-ui,sans-serif;max-width:76em;margin:1.5em auto;padding:0 1em;color:#222}
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin-top:1.6em}
.answer{font-size:1.25em;margin:.6em 0}.note{color:#555;max-width:60em}
table{border-collapse:collapse;margin:.5em 0}
td,th{border-bottom:1px solid #ddd;padding:.25em .7em;text-align:left;vertical-align:top}
td.number{text-align:right;font-variant-numeric:tabular-nums}
th{cursor:pointer;user-select:none;border-bottom:2px solid #888;white-space:nowrap}
th[aria-sort=ascending]::after{content:" ▲"}th[aria-sort=descending]::after{content:" ▼"}
tr.shown td{background:#fff3d6}tbody tr{cursor:pointer}tbody tr:hover td{background:#f4f4f4}
.row{display:flex;flex-wrap:wrap;gap:1em}.figure{flex:1 1 30em;min-width:22em}
.figure h2{margin:.4em 0}.plot{width:100%;height:29em}
"""

SCRIPT = """
"use strict";
const errors = [];
window.addEventListener("error", e => {
  errors.push(e.message); document.body.dataset.errors = errors.join("; ");
});
const data = JSON.parse(document.getElementById("data").textContent);
const still = {displaylogo: false, responsive: true};
const blank = {margin: {l: 10, r: 10, t: 10, b: 10}, showlegend: false, hovermode: "closest"};

function sortBy(table, column) {
  const heads = table.tHead.rows[0].cells, body = table.tBodies[0];
  const falling = heads[column].getAttribute("aria-sort") === "ascending";
  const value = row => {
    const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
    const number = Number(text);
    return text.trim() === "" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
    : String(a).localeCompare(String(b));
  const rows = [...body.rows].sort((one, other) => {
    const a = value(one), b = value(other);
    if (a === null || b === null) return (a === null) - (b === null);
    return falling ? compare(b, a) : compare(a, b);
  });
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
  body.append(...rows);
}

function outline(cell) {
  const [a, b, c] = cell, o = [0, 0, 0], plus = (u, v) => u.map((x, k) => x + v[k]);
  const ab = plus(a, b), ac = plus(a, c), bc = plus(b, c), abc = plus(ab, c);
  const path = [o, a, ab, b, o, c, ac, abc, bc, c, null, a, ac, null, ab, abc, null, b, bc];
  const part = k => path.map(p => p === null ? null : p[k]);
  return {type: "scatter3d", mode: "lines", x: part(0), y: part(1), z: part(2),
          line: {color: "#999", width: 2}, hoverinfo: "skip"};
}

// How far the eye must be for every corner of the cell to be seen, and how many pixels an Angstrom
// has then. plotly sees 45 degrees from top to bottom and scales by the geometric mean of the box.
const towards = [0.67, -0.67, 0.31].map((v, k, all) => v / Math.hypot(...all));
function framed(cell, atoms) {
  const box = ["x", "y", "z"].map(k => [...cell[k], ...atoms[k]].filter(v => v !== null));
  const low = box.map(v => Math.min(...v)), size = box.map((v, k) => Math.max(...v) - low[k] || 1);
  const mean = Math.cbrt(size[0] * size[1] * size[2]), slope = Math.tan(Math.PI / 8);
  const [a, b, c] = towards, flat = Math.hypot(a, b);
  const up = [-c * a / flat, -c * b / flat, flat], side = [-b / flat, a / flat, 0];
  const view = document.getElementById("view"), narrow = view.clientHeight / view.clientWidth;

  const along = (n, axis) => axis.reduce(
    (sum, v, k) => sum + v * (box[k][n] - low[k] - size[k] / 2) / mean, 0);
  const far = Math.max(...box[0].map((_, n) => along(n, towards)
    + Math.max(Math.abs(along(n, up)), Math.abs(along(n, side)) * narrow) / (0.85 * slope)));
  return {far, pixels: view.clientHeight / (2 * far * slope * mean)};
}

let camera = null;
function show(key) {
  const one = data.structures[key];
  const column = k => one.positions.map(p => p[k]);
  const cell = outline(one.cell), atoms = {x: column(0), y: column(1), z: column(2)};
  const {far, pixels} = framed(cell, atoms);
  camera ??= {eye: {x: far * towards[0], y: far * towards[1], z: far * towards[2]}};

  const spheres = {
    type: "scatter3d", mode: "markers", ...atoms,
    text: one.symbols.map((s, k) => `${s} (atom ${k})`), hoverinfo: "text",
    marker: {size: one.radii.map(r => 2 * r * pixels), color: one.colors, opacity: 1,
             line: {color: "#444", width: 1}},
  };
  const bare = {visible: false};
  const layout = {...blank, uirevision: "kept", scene: {
    aspectmode: "data", camera, xaxis: bare, yaxis: bare, zaxis: bare}};
  Plotly.react("view", [spheres, cell], layout, still);
  document.getElementById("shown").textContent = one.title;
  for (const row of document.querySelectorAll("tbody tr"))
    row.classList.toggle("shown", row.dataset.key === key);
}

function bars() {
  const m = data.minima, label = m.map(o => `${o.rank}  ${o.site}`);
  const wide = m.map(o => o.high === null ? 0 : o.high - o.energy);
  const low = m.map(o => o.low === null ? 0 : o.energy - o.low);
  // Half a hundredth of an eV is no difference: the axis is never narrower than 0.2 eV.
  const left = Math.min(...m.map((o, k) => o.energy - low[k]));
  const right = Math.max(...m.map((o, k) => o.energy + wide[k]));
  const half = Math.max(0.1, 0.55 * (right - left)), middle = (left + right) / 2;
  const range = m.length ? [middle - half, middle + half] : [-1, 1];
  Plotly.newPlot("bars", [{
    type: "scatter", mode: "markers", x: m.map(o => o.energy), y: label,
    marker: {size: 10, color: "#1f6fb2"},
    error_x: {type: "data", symmetric: false, array: wide, arrayminus: low, thickness: 1.5},
    hovertemplate: "%{x:.3f} eV<extra></extra>",
  }], {...blank, margin: {l: 10, r: 20, t: 10, b: 45}, xaxis: {title: {text: data.axis}, range},
       yaxis: {autorange: "reversed", automargin: true}}, still);
}

function above() {
  const t = data.top, pick = (list, k) => list.map(p => p.at[k]);
  const circle = a => ({type: "circle", x0: a.at[0] - a.radius, x1: a.at[0] + a.radius,
    y0: a.at[1] - a.radius, y1: a.at[1] + a.radius, fillcolor: a.color, opacity: a.opacity,
    line: {color: "#666", width: 1}, layer: "below"});
  const sites = {type: "scatter", mode: "markers", x: pick(t.sites, 0), y: pick(t.sites, 1),
    text: t.sites.map(s => s.name), hoverinfo: "text",
    marker: {symbol: "cross", size: 8, color: "#333"}};
  const minima = {type: "scatter", mode: "markers+text", x: pick(t.minima, 0),
    y: pick(t.minima, 1), text: t.minima.map(m => String(m.rank)),
    hovertext: t.minima.map(m => m.name), hoverinfo: "text", textfont: {color: "white", size: 12},
    marker: {size: 22, color: "#b2301f"}};
  const cell = {type: "scatter", mode: "lines", x: t.cell.map(p => p[0]), y: t.cell.map(p => p[1]),
    line: {color: "#888", dash: "dash"}, hoverinfo: "skip"};
  const axis = {visible: false};
  Plotly.newPlot("above", [cell, sites, minima], {...blank, shapes: t.atoms.map(circle),
    xaxis: axis, yaxis: {...axis, scaleanchor: "x"}}, still);
}

for (const table of document.querySelectorAll("table.sorts")) {
  [...table.tHead.rows[0].cells].forEach((head, k) =>
    head.addEventListener("click", () => sortBy(table, k)));
  table.addEventListener("click", e => {
    const row = e.target.closest("tbody tr");
    if (row && row.dataset.key in data.structures) show(row.dataset.key);
  });
}
bars(); above();
const first = Object.keys(data.structures)[0];
if (first) show(first);
document.getElementById("view").on?.("plotly_relayout", e => {
  if (e["scene.camera"]) camera = e["scene.camera"];
});
const wanted = location.hash.match(/^#sort-(\\d+)$/);
if (wanted) sortBy(document.querySelector("table.sorts"), Number(wanted[1]));
document.body.dataset.ready = "yes";
"""
