"use strict";

// The browser of the questions. `browser_data` in snippets.py describes the data.
const data = JSON.parse(document.getElementById("data").textContent);
const PER_PAGE = 50;
const COLORS = 7; // of the runs, then they begin again
const byId = (id) => document.getElementById(id);
const baseline = 0;
const several = data.runs.length > 1;
let matching = []; // numbers of the questions that the filters let through
let page = 0;

// Texts come from users' data: they only ever become text nodes.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function isHit(run, question, cutoff) {
  const rank = data.runs[run].first[question];
  return rank > 0 && rank <= cutoff;
}

const filters = {
  all: { label: "all questions", test: () => true },
  hit: { label: "hits", test: (q, run, k) => isHit(run, q, k) },
  miss: { label: "misses", test: (q, run, k) => !isHit(run, q, k) },
};
if (several) {
  const base = data.runs[baseline].name;
  filters.won = { label: `won against ${base}`, test: (q, run, k) => isHit(run, q, k) && !isHit(baseline, q, k) };
  filters.lost = { label: `lost against ${base}`, test: (q, run, k) => !isHit(run, q, k) && isHit(baseline, q, k) };
  filters.none = { label: "missed by all runs", test: (q, run, k) => !data.runs.some((_, r) => isHit(r, q, k)) };
}

// What the search looks through, made at the first search: question, answers, id, and titles of the first passages.
let searchable = null;
function searchTexts() {
  searchable ??= data.questions.map(([qid, question, answers], i) => {
    const titles = data.runs.flatMap((run) => run.ranked[i].slice(0, 5).map((one) => data.passages[one[0]][1]));
    return [qid, question, ...answers, ...titles].join("\n").toLowerCase();
  });
  return searchable;
}

function update() {
  const run = Number(byId("run").value);
  const cutoff = Number(byId("cutoff").value) || 1;
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const { test } = filters[byId("filter").value];
  matching = data.questions.map((_, i) => i).filter((i) => test(i, run, cutoff));
  if (words.length) matching = matching.filter((i) => words.every((word) => searchTexts()[i].includes(word)));
  const first = data.runs[run].first;
  const score = (i) => data.runs[run].ranked[i][0]?.[1] ?? -Infinity;
  const rank = (i) => first[i] || Infinity;
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const orders = {
    "rank": (a, b) => compare(rank(a), rank(b)),
    "rank-down": (a, b) => compare(rank(b), rank(a)),
    "score": (a, b) => compare(score(a), score(b)),
    "score-down": (a, b) => compare(score(b), score(a)),
  };
  if (orders[byId("order").value]) matching.sort(orders[byId("order").value]);
  show(0);
}

function show(number) {
  const pages = Math.max(1, Math.ceil(matching.length / PER_PAGE));
  page = Math.min(Math.max(number, 0), pages - 1);
  const format = (count) => count.toLocaleString("en");
  byId("count").textContent = `${format(matching.length)} of ${format(data.questions.length)} questions`;
  byId("page").textContent = `Page ${format(page + 1)} of ${format(pages)}`;
  byId("previous").disabled = page === 0;
  byId("next").disabled = page === pages - 1;
  byId("list").replaceChildren(...matching.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(item));
}

function item(question) {
  const ranks = element("span", { class: "ranks" }, ...data.runs.map((run, r) => badge(run, r, question)));
  const details = element("details", {}, element("summary", {}, ranks, data.questions[question][1]));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(about(question));
  });
  return element("li", {}, details);
}

function badge(run, r, question) {
  const rank = run.first[question];
  const hit = isHit(r, question, Number(byId("cutoff").value) || 1);
  const name = several ? `${run.name}: ` : "";
  const text = rank ? `rank ${rank}` : "miss";
  const title = `${name}${rank ? `first hit at rank ${rank}` : "no hit"}`;
  const made = element("span", { class: hit ? "rank hit" : "rank", title }, text);
  if (several) made.prepend(element("span", { class: "swatch", style: `background: var(--series-${r % COLORS})` }), element("span", { class: "spoken" }, name));
  return made;
}

function about(question) {
  const [qid, , answers, relevant] = data.questions[question];
  const box = element("div", { class: "about" });
  if (answers.length) box.append(element("p", {}, element("span", { class: "meta" }, "Answers: "), answers.join(" · ")));
  for (const [docid, ranks] of Object.entries(relevant).slice(0, 5)) {
    const where = data.runs.map((run, r) => (several ? `${run.name}: ` : "") + (ranks[r] ? `rank ${ranks[r]}` : "not ranked"));
    box.append(element("p", {}, element("span", { class: "meta" }, "Judged relevant: "), `${docid} (${where.join(", ")})`));
  }
  if (Object.keys(relevant).length > 5) box.append(element("p", { class: "meta" }, `and ${Object.keys(relevant).length - 5} more`));
  box.append(element("p", { class: "meta" }, `id ${qid}`));
  const columns = element("div", { class: "columns" });
  for (const run of data.runs) {
    const passages = run.ranked[question].map((one, i) => passage(one, i, relevant));
    const column = element("div", {}, element("ol", {}, ...passages));
    if (several) column.prepend(element("h4", {}, run.name));
    if (!passages.length) column.append(element("p", { class: "meta" }, "The ranking lacks this question."));
    columns.append(column);
  }
  box.append(columns);
  return box;
}

function passage([entry, score, spans, rank], place, relevant) {
  const [docid, title, text] = data.passages[entry];
  const isHit = Array.isArray(spans);
  const facts = element("p", { class: "meta" }, `${docid} · score ${score}`);
  if (isHit) facts.append(element("span", { class: "tag" }, " · hit"));
  if (Object.hasOwn(relevant, docid)) facts.append(element("span", { class: "tag" }, " · judged relevant"));
  const [head, body] = marked(title, text, isHit ? spans : []);
  return element(
    "li", { class: isHit ? "passage hit" : "passage" },
    element("span", { class: "place" }, String(rank ?? place + 1)),
    element("div", {}, element("p", {}, element("b", {}, ...head)), element("p", {}, ...body), facts),
  );
}

// Nodes of title and text with the spans highlighted; spans count code points of both and the separator between them.
function marked(title, text, spans) {
  const parts = [[...title], [...text]];
  return parts.map((characters, part) => {
    const offset = part ? parts[0].length + 1 : 0;
    const nodes = [];
    let end = 0;
    for (let i = 0; i < spans.length; i += 2) {
      const [from, to] = [spans[i] - offset, spans[i + 1] - offset];
      if (from < 0 || to > characters.length) continue;
      nodes.push(characters.slice(end, from).join(""), element("mark", {}, characters.slice(from, to).join("")));
      end = to;
    }
    return [...nodes, characters.slice(end).join("")];
  });
}

data.runs.forEach((run, r) => byId("run").append(element("option", { value: r }, run.name)));
byId("run").value = data.runs.length - 1;
byId("run").parentElement.hidden = !several;
for (const [name, { label }] of Object.entries(filters)) byId("filter").append(element("option", { value: name }, label));
for (const id of ["search", "cutoff"]) byId(id).addEventListener("input", update);
for (const id of ["run", "filter", "order"]) byId(id).addEventListener("change", update);
document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
function turn(by) {
  show(page + by);
  byId("list").querySelector("summary").focus();
}
update();
