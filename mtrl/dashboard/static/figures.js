"use strict";
// Draws the figures of a page in its colours, when they come into view, or all of them for a printer.

const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
const PRINTED = { width: 660, height: 960 }; // of a page's column; whether a printer has more or less is not known before it prints
const DARK = { "#0072B2": "#56A9E8", "#882255": "#D97AA8", "#332288": "#9A8CF0", "#999933": "#C5C55A", "#D55E00": "#F08040", "#009E73": "#2FC79B" };

function printing() { return document.documentElement.classList.contains("printing"); }

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

// Lighter lines on dark paper; text and grid in the page's colours.
function themed(figure) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches && !printing() && !matchMedia("print").matches;
  let text = JSON.stringify(figure);
  if (dark) for (const [light, own] of Object.entries(DARK)) text = text.replaceAll(light, own);
  const own = JSON.parse(text), ink = colour("--soft"), line = colour("--line");
  own.layout.font = { ...own.layout.font, color: ink };
  own.layout.title = { ...own.layout.title, font: { ...(own.layout.title || {}).font, color: colour("--ink") } };
  for (const axis of Object.keys(own.layout).filter(name => /^[xy]axis\d*$/.test(name)))
    own.layout[axis] = { gridcolor: line, zerolinecolor: line, linecolor: line, ...own.layout[axis] };
  own.layout.hoverlabel = { bgcolor: colour("--paper"), font: { color: colour("--ink") }, bordercolor: line };
  own.layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: colour("--mark") };
  return own;
}

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Plotly sends numbers either as lists or as base64 text of a typed array.
function numbers(values) { return values === undefined || values === null ? [] : Array.from(values); }

function asTable(place) {
  const quoted = text => `"${String(text ?? "").replaceAll('"', '""')}"`, lines = ["trace,x,y,z,low,high"];
  // What is there for the eye alone is grey cells of a heat map; the edges of bands are traces with names.
  place._fullData.filter(trace => trace.hoverinfo !== "skip" || trace.type !== "heatmap").forEach(trace => {
    const x = numbers(trace.x), y = numbers(trace.y), bars = [trace.error_x, trace.error_y].find(each => each && each.visible);
    const values = bars === trace.error_x ? x : y, above = bars ? numbers(bars.array) : [], below = bars ? numbers(bars.arrayminus) : [];
    const bounds = i => above[i] || below[i] ? [values[i] - below[i], values[i] + above[i]] : ["", ""];
    if (trace.z) trace.z.forEach((row, i) => numbers(row).forEach((z, j) => lines.push([quoted(trace.name), quoted(x[j]), quoted(y[i]), z, "", ""].join(","))));
    else x.forEach((value, i) => lines.push([quoted(trace.name), quoted(value), quoted(y[i]), "", ...bounds(i)].join(",")));
  });
  return lines.join("\n") + "\n";
}

// Files for a paper: black on white, at the size of a printed column.
async function savePicture(place, format) {
  const figure = JSON.parse(place.nextElementSibling.textContent), name = place.dataset.title.replace(/[^\w]+/g, "-").toLowerCase();
  if (format === "csv") { save(name + ".csv", "text/csv", asTable(place)); return; }
  const white = { paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff", font: { ...figure.layout.font, color: "#333333" } };
  const axes = Object.fromEntries(Object.keys(figure.layout).filter(key => /^[xy]axis\d*$/.test(key)).map(key => [key, { gridcolor: "#dddddd", ...figure.layout[key] }]));
  const printed = { data: figure.data, layout: { ...figure.layout, ...axes, ...white, width: 800, height: Math.max(figure.layout.height || 360, 420) } };
  await Plotly.downloadImage(printed, { format, width: printed.layout.width, height: printed.layout.height, scale: format === "png" ? 3 : 1, filename: name });
}

function addButtons(place) {
  if (place.parentElement.querySelector(".save")) return;
  const bar = document.createElement("div");
  bar.className = "save";
  for (const format of ["png", "svg", "csv"]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = format.toUpperCase();
    button.setAttribute("aria-label", `save ${place.dataset.title} as ${format.toUpperCase()}`);
    button.addEventListener("click", () => savePicture(place, format));
    bar.append(button);
  }
  place.parentElement.append(bar);
}

function draw(place) {
  const text = place.nextElementSibling.textContent;
  const look = colour("--paper") + (printing() ? " printed" : "");
  if (place.dataset.drawn === look && place.drawnText === text) return;
  const figure = themed(JSON.parse(text));
  if (printing()) {
    const rows = figure.layout.yaxis && figure.layout.yaxis.dtick === 1 ? Math.ceil(figure.layout.height / PRINTED.height) : 1;
    if (rows > 1) figure.layout.yaxis.dtick = rows; // as many names as a page has room for
    Object.assign(figure.layout, { width: PRINTED.width, height: Math.min(figure.layout.height, PRINTED.height) });
  }
  place.dataset.title = (figure.layout.title || {}).text || "figure";
  Plotly.react(place, figure.data, figure.layout, CONFIG).then(() => {
    addButtons(place);
    // A narrower page shows the picture smaller and whole.
    if (printing()) place.querySelectorAll(".main-svg").forEach(svg => svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`));
    else if (place.clientWidth !== place._fullLayout.width) Plotly.Plots.resize(place); // it was printed
    const { run, decisions } = figure.layout.meta || {};
    if (run && document.body.dataset.links !== "none" && !place.linked) {
      place.linked = true;
      place.title = decisions ? "click: the decision behind a point" : "click: the task's page";
      const page = point => decisions ? `decision?frames=${String(point.x).replace(/,/g, "")}` : `task/${encodeURIComponent(point.y)}`;
      place.on("plotly_click", event => { location.href = `/run/${run.split("/").map(encodeURIComponent).join("/")}/${page(event.points[0])}`; });
    }
  });
  place.drawnText = text;
  place.dataset.drawn = look;
}

const watcher = new IntersectionObserver(entries => entries.forEach(entry => {
  if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
}), { rootMargin: "300px" });

function watchFigures() { document.querySelectorAll(".plot").forEach(place => { if (!place.dataset.drawn) watcher.observe(place); }); }

function redrawAll() { document.querySelectorAll(".plot").forEach(draw); }

watchFigures();
for (const [event, printed] of [["beforeprint", true], ["afterprint", false]]) addEventListener(event, () => {
  document.documentElement.classList.toggle("printing", printed);
  redrawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);

// Sorts a table by the column whose head is pressed, numbers first; a second time turns it round.
function cellValue(cell) {
  if (!cell) return "";
  const text = cell.dataset.value ?? cell.textContent.trim(), value = parseFloat(text.replace(/,/g, ""));
  return isNaN(value) || !/^[-+.\d]/.test(text) ? text.toLowerCase() : value;
}

function sortRows(body, column, direction) {
  const missing = value => value === "" || value === "–";
  const compare = (a, b) => {
    const x = cellValue(a.cells[column]), y = cellValue(b.cells[column]);
    if (missing(x) !== missing(y)) return missing(x) ? 1 : -1; // what is missing stands last, whatever the direction
    return (typeof x !== typeof y ? (typeof x === "number" ? -1 : 1) : x > y ? 1 : x < y ? -1 : 0) * direction;
  };
  [...body.rows].sort(compare).forEach(row => body.append(row));
}

function makeSortable(table) {
  const heads = table.querySelectorAll("th");
  table.querySelectorAll("th button:not(.remove)").forEach(button => button.addEventListener("click", () => {
    const head = button.closest("th"), numeric = [...table.tBodies[0].rows].some(row => typeof cellValue(row.cells[head.cellIndex]) === "number");
    const before = head.getAttribute("aria-sort"), up = before ? before === "descending" : !numeric; // numbers: the highest first
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    sortRows(table.tBodies[0], head.cellIndex, up ? 1 : -1);
    table.dispatchEvent(new Event("sorted"));
  }));
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
