// Draws each graph of the page from Prometheus' own query_range. The figures beside it are there without this.
"use strict";
const SPACE = "http://www.w3.org/2000/svg", HEIGHT = 120, SECONDS = 900, STEP = 10;

function short(value) {
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return Number((value / size).toPrecision(3)) + letter;
  return String(Number(value.toPrecision(3)));
}

function shown(value, unit) {
  if (unit === "s") return value >= 1 ? short(value) + "s" : value >= 1e-3 ? short(value * 1e3) + "ms" : short(value * 1e6) + "us";
  if (unit === "bytes") return value >= 2 ** 30 ? short(value / 2 ** 30) + "GiB" : value >= 2 ** 20 ? short(value / 2 ** 20) + "MiB" : short(value / 2 ** 10) + "KiB";
  if (unit === "percentunit") return short(value * 100) + "%";
  return short(value) + ({ decbytes: "B", reqps: "/s", ops: "/s", watt: "W" }[unit] || "");
}

function element(parent, name, attributes, text) {
  const made = document.createElementNS(SPACE, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
}

async function series(query, start, end) {
  const asked = new URLSearchParams({ query: query.expression, start: start, end: end, step: STEP });
  const answer = await (await fetch("../api/v1/query_range?" + asked)).json();
  if (answer.status !== "success") throw new Error(answer.error);
  return answer.data.result.map(function (each) {
    const name = query.legend.replace(/\{(\w+)\}/g, (_, label) => each.metric[label] || "");
    return { name: name, points: each.values.map(([at, value]) => [at, Number(value)]) };
  });
}

function path(points, x, y) {
  let drawn = "", before = -Infinity;
  for (const [at, value] of points) {
    if (!Number.isFinite(value)) continue;
    drawn += (at - before > 2 * STEP ? "M" : "L") + x(at).toFixed(1) + " " + y(value).toFixed(1);
    before = at;
  }
  return drawn;
}

async function draw(graph) {
  const end = Date.now() / 1000, start = end - SECONDS, unit = graph.dataset.unit;
  const asked = JSON.parse(graph.dataset.queries).map((query) => series(query, start, end));
  const all = (await Promise.all(asked)).flat().filter((each) => each.points.some((point) => Number.isFinite(point[1])));
  if (all.length === 0) { graph.textContent = "nothing to draw"; return; }
  const width = graph.clientWidth;
  const bound = Number(graph.dataset.bound) || 0;
  const greatest = Math.max(bound, ...all.flatMap((each) => each.points.map((point) => point[1])).filter(Number.isFinite)) || 1;
  const first = Math.min(...all.map((each) => each.points[0][0]), end - 60);
  const x = (at) => ((at - first) / (end - first)) * width, y = (value) => HEIGHT - 14 - (value / greatest) * (HEIGHT - 30);
  const svg = document.createElementNS(SPACE, "svg");
  svg.setAttribute("viewBox", "0 0 " + width + " " + HEIGHT);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", graph.dataset.title);
  element(svg, "path", { class: "axis", d: "M0 " + y(0) + "H" + width });
  if (bound) element(svg, "path", { class: "bound", d: "M0 " + y(bound) + "H" + width });
  const labels = graph.parentElement.querySelectorAll("li");
  all.sort((one, other) => (one.name < other.name ? -1 : 1)).forEach(function (each, place) {
    const colour = "var(--c" + (place % 8) + ")";
    element(svg, "path", { d: path(each.points, x, y), style: "stroke:" + colour });
    for (const label of labels) if (label.dataset.name === each.name) label.style.borderColor = colour;
  });
  element(svg, "text", { x: 0, y: 11 }, shown(greatest, unit));
  element(svg, "text", { x: 0, y: HEIGHT - 2 }, Math.round((end - first) / 60) + " min ago");
  element(svg, "text", { x: width, y: HEIGHT - 2, "text-anchor": "end" }, "now");
  graph.replaceChildren(svg);
}

for (const graph of document.querySelectorAll(".graph"))
  draw(graph).catch((error) => { graph.textContent = "no graph: " + error.message; });
