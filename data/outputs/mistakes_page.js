"use strict";
// The script of the page that mistakes_page.py writes: filters, sorts and draws the page's data.
// The filters are stored in the address after '#', so a filtered page can be linked to.

const data = JSON.parse(document.getElementById("mistakes").textContent);
const classes = data.classes;
const POSITIVE = 1, PREDICTED = 2, SUSPECT = 4; // bits of a label, as in mistakes_page.py
const CARDS_AT_ONCE = 120;
const ROWS_AT_ONCE = 200;
const DEFAULTS = { class: "", kind: "any", with: "", find: "", sort: "score" };

const images = data.images.map(([number, name, loss, thumbnail, labels]) => ({
  number, name, loss, thumbnail,
  labels: labels.map(([index, score, bits]) => ({
    index, score,
    kind: bits & PREDICTED ? (bits & POSITIVE ? "right" : "wrong") : "missed",
    suspect: Boolean(bits & SUSPECT),
  })),
}));
const tableColumns = [
  ["class", (c) => classes.names[c], "name of the class"],
  ["images", (c) => classes.positives[c], "images that have it as a label"],
  [classes.quality_name, (c) => classes.quality[c], "see docs/metrics.md"],
  ["missed", (c) => classes.missed[c], "labels that are not predicted"],
  ["wrong", (c) => classes.wrong[c], "predictions that are not labels"],
  ["\u2691", (c) => classes.suspect[c], "likely label errors among them"],
];

let state = { ...DEFAULTS };
let cardLimit = CARDS_AT_ONCE;
let sortedBy = null; // column of the class table; null: most mistakes first
let ascending = true;

const byId = (id) => document.getElementById(id);

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function link(text, changes, className = "") {
  const made = element("a", text, className);
  made.href = addressOf({ ...state, ...changes });
  return made;
}

function addressOf(wanted) {
  const differing = Object.entries(wanted).filter(([key, value]) => value !== DEFAULTS[key]);
  return "#" + new URLSearchParams(differing);
}

function readAddress() {
  const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  state = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS)) if (key in given) state[key] = given[key];
  if (!/^\d+$/.test(state.class) || !(state.class in classes.names)) state.class = state.with = "";
  for (const id of ["find", "kind", "sort"]) {
    byId(id).value = state[id];
    if (byId(id).value !== state[id]) byId(id).value = state[id] = DEFAULTS[id];
  }
  cardLimit = CARDS_AT_ONCE;
  draw();
}

/** Goes to another state; `replace`: without adding to the browser's history. */
function change(changes, replace = false) {
  const address = addressOf({ ...state, ...changes });
  if (replace) {
    history.replaceState(null, "", address);
    readAddress();
  } else {
    location.hash = address;
  }
}

/** The mistakes of an image that match the filters; an image without any is not shown. */
function asked(image) {
  if (!image.name.toLowerCase().includes(state.find.toLowerCase())) return [];
  const isWith = (label) => label.kind === "wrong" && String(label.index) === state.with;
  if (state.with && !image.labels.some(isWith)) return [];
  return image.labels.filter((label) =>
    label.kind !== "right"
    && (!state.class || String(label.index) === state.class)
    && (state.kind === "any" || label.kind === state.kind
      || (state.kind === "suspect" && label.suspect)));
}

const wrongness = (label) => (label.kind === "wrong" ? label.score : 1 - label.score);

function shownImages() {
  const order = {
    score: (a, b) => b.confidence - a.confidence,
    loss: (a, b) => b.image.loss - a.image.loss,
    name: (a, b) => (a.image.name < b.image.name ? -1 : Number(a.image.name > b.image.name)),
    number: () => 0,
  };
  return images
    .map((image) => ({ image, found: asked(image) }))
    .filter(({ found }) => found.length)
    .map(({ image, found }) => ({ image, confidence: Math.max(...found.map(wrongness)) }))
    .sort((order[state.sort] ?? order.score))
    .map(({ image }) => image);
}

function card(image) {
  const figure = element("figure");
  const thumbnail = document.createElement("img");
  thumbnail.loading = "lazy";
  thumbnail.alt = "";
  thumbnail.src = image.thumbnail;
  const caption = element("figcaption");
  const name = element("div", image.name, "name");
  name.title = `image ${image.number}, loss ${image.loss}`;
  const list = element("ul");
  for (const label of image.labels) {
    const item = element("li", "", label.kind);
    item.append(element("span", label.kind, "kind"));
    item.append(element("span", `${label.score.toFixed(3)} `, "score"));
    item.append(link(classes.names[label.index], { class: String(label.index), with: "" },
      label.suspect ? "suspect" : ""));
    list.append(item);
  }
  caption.append(name, list);
  figure.append(thumbnail, caption);
  return figure;
}

function drawCards() {
  const found = shownImages();
  byId("cards").replaceChildren(...found.slice(0, cardLimit).map(card));
  byId("more").hidden = found.length <= cardLimit;
  byId("count").textContent = `${found.length.toLocaleString("en")} of `
    + `${images.length.toLocaleString("en")} images`;
  byId("reset").hidden = addressOf(state) === "#";
}

function drawTable() {
  const wanted = byId("find-class").value.toLowerCase();
  const total = (c) => classes.missed[c] + classes.wrong[c];
  const found = classes.names.map((_, c) => c)
    .filter((c) => classes.names[c].toLowerCase().includes(wanted));
  const value = sortedBy === null ? (c) => -total(c) : tableColumns[sortedBy][1];
  const sign = ascending ? 1 : -1;
  found.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === y) return 0;
    if (x === null || y === null) return x === null ? 1 : -1; // not measured: last
    return x < y ? -sign : sign;
  });
  const head = element("tr");
  tableColumns.forEach(([title, , meaning], column) => {
    const cell = element("th", title, column ? "number" : "");
    cell.title = `${meaning}; click to sort`;
    cell.onclick = () => {
      ascending = sortedBy === column ? !ascending : column === 0;
      sortedBy = column;
      drawTable();
    };
    head.append(cell);
  });
  const rows = found.slice(0, ROWS_AT_ONCE).map((c) => {
    const chosen = String(c) === state.class;
    const row = element("tr", "", chosen ? "chosen" : "");
    tableColumns.forEach(([, read], column) => {
      const cell = element("td", column ? String(read(c) ?? "") : "", column ? "number" : "");
      if (!column) cell.append(link(read(c), { class: chosen ? "" : String(c), with: "" }));
      row.append(cell);
    });
    return row;
  });
  document.querySelector("#list table").replaceChildren(head, ...rows);
  const more = found.length - rows.length;
  document.querySelector("#list p").textContent = more > 0 ? `and ${more} more: search above` : "";
}

function drawClass() {
  const place = byId("class");
  place.replaceChildren();
  if (!state.class) return;
  const c = Number(state.class);
  const text = element("div");
  text.append(element("h3", `${classes.names[c]} (class ${c})`));
  const quality = classes.quality[c] === null ? "" : `, ${classes.quality_name} `
    + `${classes.quality[c]}`;
  const threshold = classes.thresholds.length ? `, threshold ${classes.thresholds[c]}` : "";
  text.append(element("p", `a label of ${classes.positives[c]} images${quality}${threshold}; `
    + `missed in ${classes.missed[c]}, wrong in ${classes.wrong[c]}; `
    + `${classes.suspect[c]} of these are likely label errors`));
  const confused = (classes.confusions[c] ?? []);
  if (confused.length) {
    const line = element("p", "wrongly predicted where it is missed: ");
    confused.forEach(([other, count], place) => {
      line.append(place ? ", " : "", link(`${classes.names[other]} (${count})`,
        { class: String(c), kind: "missed", with: String(other) }));
    });
    text.append(line);
  }
  if (state.with) {
    text.append(element("p", `only images with the wrong label ${classes.names[state.with] ?? "?"}; `));
    text.lastChild.append(link("show the others, too", { with: "" }));
  }
  place.append(text);
  const [recall, precision] = classes.curves[c] ?? [[], []];
  if (recall.length) place.append(curve(recall, precision));
}

/** The precision-recall curve, both axes from 0 to 1. */
function curve(recall, precision) {
  const [width, height, left, bottom] = [260, 170, 30, 30];
  const x = (value) => left + value * (width - left - 8);
  const y = (value) => height - bottom - value * (height - bottom - 8);
  const draw = (parent, tag, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const svg = draw(document.createDocumentFragment(), "svg", { width, height, role: "img" });
  for (const value of [0, 0.5, 1]) {
    const grid = { stroke: "#ddd" };
    draw(svg, "line", { x1: x(value), x2: x(value), y1: y(0), y2: y(1), ...grid });
    draw(svg, "line", { x1: x(0), x2: x(1), y1: y(value), y2: y(value), ...grid });
    draw(svg, "text", { x: x(value), y: height - 16, "text-anchor": "middle" }, value);
    draw(svg, "text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, value);
  }
  draw(svg, "text", { x: x(0.5), y: height - 3, "text-anchor": "middle" },
    "recall (across), precision (up)");
  const points = recall.map((value, place) => `${x(value)},${y(precision[place])}`).join(" ");
  draw(svg, "polyline", { points, fill: "none", stroke: "#1a5fb4", "stroke-width": 2 });
  return svg;
}

function draw() {
  drawTable();
  drawClass();
  drawCards();
}

byId("find").oninput = (event) => change({ find: event.target.value }, true);
byId("find-class").oninput = drawTable;
byId("kind").onchange = (event) => change({ kind: event.target.value, with: "" });
byId("sort").onchange = (event) => change({ sort: event.target.value });
byId("more").onclick = () => {
  cardLimit += CARDS_AT_ONCE;
  drawCards();
};
window.onhashchange = readAddress;
readAddress();
