"use strict";
// The behaviour of served pages: they follow the runs, and the table of runs is filtered, sorted and chosen from.

const REFRESH_MS = 10000, READING_MS = 500;

async function freshPage() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  return answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
}

// Tables and figures of one page are of one reading of the runs: they change together.
function takeOver(fresh) {
  document.querySelectorAll("[data-live]").forEach(section => {
    const other = fresh.getElementById(section.id);
    if (!other || section.liveText === other.innerHTML || (section.liveText === undefined && section.innerHTML === other.innerHTML)) return;
    const open = [...section.querySelectorAll("details")].map(each => each.open);
    section.innerHTML = section.liveText = other.innerHTML;
    section.querySelectorAll("details").forEach((each, index) => { if (index < open.length) each.open = open[index]; });
    section.querySelectorAll("table.sortable").forEach(makeSortable);
  });
  const place = document.querySelector("[data-figures]"), other = fresh.querySelector("[data-figures]");
  if (place && other) {
    const own = [...place.children], found = [...other.children];
    found.forEach((box, index) => {
      if (index >= own.length) { place.append(document.importNode(box, true)); return; }
      const script = own[index].querySelector("script"), text = box.querySelector("script").textContent;
      if (script.textContent !== text) {
        script.textContent = text;
        const plot = own[index].querySelector(".plot");
        if (plot.dataset.drawn) draw(plot);
      }
    });
    own.slice(found.length).forEach(box => box.remove());
    watchFigures();
  }
}

class RunTable {
  constructor(table) {
    this.table = table;
    this.body = table.tBodies[0];
    this.filter = document.getElementById("filter");
    this.button = document.getElementById("compare");
    this.fields = new Map(); // values of fields and metrics that are no columns, by name
    const query = new URLSearchParams(location.search);
    if (!query.has("columns") && localStorage.getItem("columns")) {
      query.set("columns", localStorage.getItem("columns"));
      location.replace("?" + query);
      return;
    }
    this.chosen = new Set(query.getAll("run"));
    this.filter.value = query.get("q") || "";
    makeSortable(table);
    const sort = query.get("sort");
    if (sort) {
      const head = [...table.tHead.rows[0].cells].find(cell => cell.dataset.name === sort.replace(/^-/, ""));
      if (head) head.setAttribute("aria-sort", sort.startsWith("-") ? "descending" : "ascending");
    }
    this.filter.addEventListener("input", () => this.show());
    table.addEventListener("sorted", () => this.remember());
    table.addEventListener("change", event => {
      event.target.checked ? this.chosen.add(event.target.value) : this.chosen.delete(event.target.value);
      this.show();
    });
    table.addEventListener("click", event => { if (event.target.dataset.remove) this.setColumns(columns => columns.filter(name => name !== event.target.dataset.remove)); });
    document.getElementById("column").addEventListener("change", event => this.setColumns(columns => [...columns, event.target.value]));
    document.getElementById("choose-all").addEventListener("click", () => {
      const shown = [...this.body.rows].filter(row => !row.hidden).map(row => row.dataset.run), all = shown.every(run => this.chosen.has(run));
      shown.forEach(run => all ? this.chosen.delete(run) : this.chosen.add(run));
      this.show();
    });
    this.button.addEventListener("click", () => { location.href = "/compare?" + this.visibleChoice().map(run => "run=" + encodeURIComponent(run)).join("&"); });
    // The rows are hidden until all are there: a browser that lays out a growing table does so again and again.
    this.show().finally(() => { this.body.hidden = false; });
  }

  setColumns(change) {
    const query = new URLSearchParams(location.search);
    const columns = [...new Set(change((query.get("columns") || "").split(",").filter(Boolean)).filter(Boolean))];
    localStorage.setItem("columns", columns.join(","));
    query.set("columns", columns.join(","));
    location.search = query;
  }

  visibleChoice() { return [...this.body.rows].filter(row => !row.hidden && this.chosen.has(row.dataset.run)).map(row => row.dataset.run); }

  // Keeps the whole view in the address, so that it can be sent and comes back after Back.
  remember() {
    const query = new URLSearchParams(location.search), set = (name, value) => value ? query.set(name, value) : query.delete(name);
    set("q", this.filter.value);
    const sorted = this.table.querySelector("th[aria-sort]");
    set("sort", sorted && (sorted.getAttribute("aria-sort") === "descending" ? "-" : "") + sorted.dataset.name);
    query.delete("run");
    this.chosen.forEach(run => query.append("run", run));
    history.replaceState(null, "", query.size ? "?" + query : location.pathname);
  }

  async show() {
    const conditions = this.filter.value.split(/\s+/).filter(Boolean).map(parseCondition);
    await Promise.all(conditions.filter(each => each.name && this.column(each.name) < 0).map(each => this.load(each.name)));
    for (const row of this.body.rows) row.hidden = !conditions.every(each => each.negated !== this.holds(row, each));
    for (const box of this.body.querySelectorAll("input[type=checkbox]")) box.checked = this.chosen.has(box.value);
    for (const cell of this.body.querySelectorAll("[data-time]")) cell.textContent = ago(parseFloat(cell.dataset.time));
    const sorted = this.table.querySelector("th[aria-sort]");
    if (sorted) sortRows(this.body, sorted.cellIndex, sorted.getAttribute("aria-sort") === "ascending" ? 1 : -1);
    const number = this.visibleChoice().length;
    this.button.disabled = number === 0;
    this.button.textContent = number ? `compare ${number} chosen` : "compare the chosen";
    this.remember();
  }

  column(name) {
    const known = { score: "evaluated score", training: "training score", speed: "frames/s", tag: "tags" }[name] || name;
    return [...this.table.tHead.rows[0].cells].findIndex(cell => cell.dataset.name && (cell.dataset.name === known || cell.dataset.name.endsWith("." + known) || cell.dataset.name.endsWith("/" + known)));
  }

  async load(name) {
    if (this.fields.has(name)) return;
    const options = [...document.querySelectorAll("#fields option")].map(option => option.value);
    const known = { lr: "learner.actor.learning_rate", scheduler: "curriculum.scheduler", gate: "model.gate", experts: "model.experts" }[name] || name;
    const field = options.includes(known) ? known : options.find(option => option.endsWith("." + known)) || options.find(option => option.endsWith("/" + known));
    this.fields.set(name, field ? await (await fetch("/api/fields?name=" + encodeURIComponent(field))).json() : {});
  }

  holds(row, condition) {
    if (!condition.name) return row.textContent.toLowerCase().includes(condition.value) || row.dataset.experiment.toLowerCase().includes(condition.value);
    const column = this.column(condition.name);
    const value = column < 0 ? (this.fields.get(condition.name) || {})[row.dataset.run] : cellValue(row.cells[column]);
    if (value === undefined || value === null) return false;
    if (condition.sign === ":") return String(value).toLowerCase().includes(condition.value);
    const wanted = parseFloat(condition.value), own = typeof value === "number" ? value : parseFloat(value);
    if (condition.sign === "=") return isNaN(wanted) ? String(value).toLowerCase() === condition.value : own === wanted;
    return { ">": own > wanted, "<": own < wanted, ">=": own >= wanted, "<=": own <= wanted }[condition.sign];
  }
}

// `word`, `-word`, `field:part`, `field=value`, `field>number` and the like.
function parseCondition(text) {
  const negated = text.startsWith("-") && text.length > 1, own = negated ? text.slice(1) : text;
  const found = /^([\w./-]+)(:|>=|<=|=|>|<)(.+)$/.exec(own);
  return found ? { negated, name: found[1], sign: found[2], value: found[3].toLowerCase() } : { negated, value: own.toLowerCase() };
}

function ago(seconds) {
  if (!seconds) return "–";
  const passed = Date.now() / 1000 - seconds;
  return passed < 60 ? "now" : passed < 3600 ? `${Math.round(passed / 60)} min ago` : passed < 86400 ? `${Math.round(passed / 3600)} h ago` : new Date(1000 * seconds).toISOString().slice(0, 10);
}

const table = document.getElementById("runs"), runs = table ? new RunTable(table) : null;

const note = document.getElementById("note");
if (note) note.addEventListener("submit", async event => {
  event.preventDefault();
  const said = note.querySelector("output"), text = note.querySelector("textarea").value;
  try {
    const answer = await fetch(`/run/${encodeURIComponent(note.dataset.run)}/note`, { method: "PUT", body: text });
    said.textContent = answer.ok ? "saved" : await answer.text();
    if (answer.ok) await refresh();
  } catch (error) {
    said.textContent = "the dashboard does not answer: the note is not saved";
  }
});

async function refresh() {
  if (document.hidden) return;
  try {
    const fresh = await freshPage();
    if (fresh === null) return;
    if (document.querySelector("[data-missing]")) { location.reload(); return; }
    if (runs) {
      runs.body.innerHTML = fresh.getElementById("rows").innerHTML;
      document.getElementById("none").hidden = fresh.getElementById("none").hidden;
      runs.fields.clear();
      await runs.show();
    }
    takeOver(fresh);
    const summary = document.querySelector("#summary[data-unread]");
    if (summary) summary.dataset.unread = fresh.getElementById("summary").dataset.unread;
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // the server is not there for now
  }
}

// Sooner as long as there are runs that the server has not read yet.
async function follow() {
  const unread = document.querySelector("#summary:not([data-unread='0'])");
  await new Promise(done => setTimeout(done, unread ? READING_MS : REFRESH_MS));
  await refresh().finally(follow);
}
follow();
