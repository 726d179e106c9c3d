"use strict";

// Light and dark: the system's, until somebody presses the button.
const root = document.documentElement;
const toggle = document.getElementById("theme");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
const nameToggle = () => { toggle.textContent = isDark() ? "light theme" : "dark theme"; };
toggle.hidden = false;
toggle.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("netweight-theme", root.dataset.theme); } catch { /* kept until the page closes */ }
  nameToggle();
});
prefersDark.addEventListener("change", nameToggle);
nameToggle();

// Sorting: each head becomes a button; what was not measured stays at the end either way.
const table = document.getElementById("cards");
const body = table.tBodies[0];
const heads = [...table.querySelectorAll("th[data-column]")];
const valueOf = (row, column) => row.cells[column].dataset.value;

function sortBy(head) {
  const column = Number(head.dataset.column);
  const before = head.getAttribute("aria-sort");
  const first = head.dataset.better === "more" ? "descending" : "ascending";
  const second = first === "ascending" ? "descending" : "ascending";
  const order = before === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows].sort((one, other) => {
    const left = valueOf(one, column), right = valueOf(other, column);
    if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
    return sign * (column === 0 ? left.localeCompare(right, "en", { numeric: true }) : Number(left) - Number(right));
  });
  body.append(...rows);
  for (const each of heads) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
}

for (const head of heads) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.querySelector(".head").childNodes);
  // Several groups have a p50: who hears the buttons one by one hears the group too.
  if (head.dataset.group) button.ariaLabel = `${button.textContent.trim()}, ${head.dataset.group}`;
  button.addEventListener("click", () => sortBy(head));
  head.replaceChildren(button);
}

// Filtering: by words, and by family and variant; a model without a family stays with all of them.
const filters = document.getElementById("filters");
const text = document.getElementById("text");
const count = document.getElementById("count");
const boxes = [...filters.querySelectorAll("input[type=checkbox]")];
filters.hidden = false;

function filter() {
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const off = { family: new Set(), variant: new Set() };
  for (const box of boxes) if (!box.checked) off[box.dataset.kind].add(box.value);
  let shown = 0;
  for (const row of body.rows) {
    const { family, variant, words: known } = row.dataset;
    row.hidden = off.family.has(family) || off.variant.has(variant) || !words.every((word) => known.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  count.value = `${shown} of ${body.rows.length} models`;
}

filters.addEventListener("input", filter);
filters.addEventListener("reset", () => setTimeout(filter));
filters.addEventListener("submit", (event) => event.preventDefault());

// A link to a model opens its details; a printed page has them all open.
const details = [...document.querySelectorAll("details")];
function openLinked() {
  const linked = location.hash.startsWith("#model-") && document.querySelector(location.hash);
  if (linked) linked.open = true;
}
addEventListener("hashchange", openLinked);
openLinked();
let closed = [];
addEventListener("beforeprint", () => { closed = details.filter((each) => !each.open); for (const each of closed) each.open = true; });
addEventListener("afterprint", () => { for (const each of closed) each.open = false; });
