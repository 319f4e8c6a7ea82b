"use strict";
// The pages' behaviour: sorting, filtering, choosing, and figures that follow a run while it trains.

const REFRESH_MS = 10000;

function number(text) {
  const value = parseFloat(text.replace(/,/g, ""));
  return isNaN(value) ? text.toLowerCase() : value;
}

function makeSortable(table) {
  table.querySelectorAll("th button").forEach(button => {
    let direction = -1;
    button.addEventListener("click", () => {
      const column = button.closest("th").cellIndex, body = table.tBodies[0];
      direction = -direction;
      const compare = (a, b) => { const x = number(a.cells[column].textContent), y = number(b.cells[column].textContent);
        return (typeof x !== typeof y ? (typeof x === "number" ? 1 : -1) : x > y ? 1 : x < y ? -1 : 0) * direction; };
      [...body.rows].sort(compare).forEach(row => body.append(row));
    });
  });
}

function makeFilter(input, table) {
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
  });
}

function makeComparison(button, table) {
  button.addEventListener("click", () => {
    const chosen = [...table.querySelectorAll("input:checked")].map(box => "run=" + encodeURIComponent(box.value));
    if (chosen.length) location.href = "/compare?" + chosen.join("&");
  });
}

async function drawFigures(container) {
  const answer = await fetch(container.dataset.figures);
  if (!answer.ok) return;
  const figures = await answer.json();
  // All places first: a figure takes its width from the row that it stands in.
  while (container.children.length < figures.length) {
    const box = document.createElement("div");
    box.className = "figure";
    box.append(document.createElement("div"));
    container.append(box);
  }
  figures.forEach((figure, index) => {
    Plotly.react(container.children[index].firstChild, figure.data, figure.layout, { displaylogo: false, responsive: true });
  });
  container.dataset.drawn = Date.now();
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
const table = document.getElementById("runs");
if (table) {
  makeFilter(document.getElementById("filter"), table);
  makeComparison(document.getElementById("compare"), table);
}
document.querySelectorAll("[data-figures]").forEach(container => {
  drawFigures(container);
  setInterval(() => { if (!document.hidden) drawFigures(container); }, REFRESH_MS);
});
