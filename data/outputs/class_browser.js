"use strict";

// The page of data/browse.py: a tree of classes that opens on demand, a search, and class details.
(() => {
  const data = JSON.parse(document.getElementById("classes").textContent);
  const { names, ids, parents, own, total } = data;
  const MOST_FOUND = 200;
  const MOST_CHILDREN = 300;
  const MOST_IN_OVERVIEW = 30;

  const children = names.map(() => []);
  const roots = [];
  names.forEach((_, c) => (parents[c] < 0 ? roots : children[parents[c]]).push(c));
  const byCount = (a, b) => total[b] - total[a] || a - b;
  [roots, ...children].forEach((list) => list.sort(byCount));
  const searched = names.map((name) => name.toLowerCase());
  const searchedIds = ids.map((id) => id.toLowerCase());

  const number = (value) => value.toLocaleString("en-US");
  const short = (c) => names[c].split(",")[0] || ids[c] || String(c);

  // Strings are appended as text nodes, so no name can become a tag.
  function element(tag, attributes = {}, ...content) {
    const made = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    made.append(...content);
    return made;
  }

  const link = (c, text = short(c)) => element("a", { href: `#${c}`, title: names[c] }, text);
  const count = (c) => element("span", { class: "count" }, number(total[c]));

  // ---- The tree

  const items = new Map(); // class -> its tree item, once drawn

  function branch(classes) {
    const list = element("ul");
    classes.slice(0, MOST_CHILDREN).forEach((c) => list.append(leaf(c)));
    if (classes.length > MOST_CHILDREN) {
      const rest = classes.slice(MOST_CHILDREN);
      const more = element("a", { href: "#" }, `${number(rest.length)} more ...`);
      const item = element("li", {}, element("span", { class: "gap" }), more);
      item.rest = () => item.replaceWith(...rest.map(leaf));
      more.addEventListener("click", (event) => {
        event.preventDefault();
        item.rest();
      });
      list.append(item);
    }
    return list;
  }

  function leaf(c) {
    const item = element("li");
    if (children[c].length) {
      const button = element("button", { "aria-expanded": "false", "aria-label": "open" }, "▸");
      button.addEventListener("click", () => open(c, button.textContent === "▸"));
      item.append(button);
    } else {
      item.append(element("span", { class: "gap" }));
    }
    item.append(link(c), count(c));
    items.set(c, item);
    return item;
  }

  function open(c, wanted) {
    const item = items.get(c);
    const button = item.querySelector("button");
    if (!button || (button.textContent === "▾") === wanted) return;
    button.textContent = wanted ? "▾" : "▸";
    button.setAttribute("aria-expanded", String(wanted));
    if (wanted) {
      item.append(branch(children[c]));
    } else {
      item.querySelector("ul").remove();
    }
  }

  function pathTo(c) {
    const path = [c];
    while (parents[path[0]] >= 0) path.unshift(parents[path[0]]);
    return path;
  }

  function reveal(c) {
    let level = tree.firstChild;
    pathTo(c).forEach((step) => {
      if (!items.get(step)?.isConnected) level.lastChild.rest?.();
      if (step !== c) {
        open(step, true);
        level = items.get(step).querySelector("ul");
      }
    });
    tree.querySelectorAll(".chosen").forEach((item) => item.classList.remove("chosen"));
    items.get(c).classList.add("chosen");
    items.get(c).scrollIntoView({ block: "nearest" });
  }

  // ---- The search

  // Classes by index, id or name: exact matches first, then matches at the start of a word.
  function search(text) {
    const groups = [[], [], []];
    for (let c = 0; c < names.length; c += 1) {
      const at = searched[c].indexOf(text);
      if (String(c) === text || searchedIds[c] === text) groups[0].push(c);
      else if (at >= 0) {
        const called = searched[c].split(",").some((part) => part.trim() === text);
        const begins = at === 0 || " ,-".includes(searched[c][at - 1]);
        groups[called ? 0 : begins ? 1 : 2].push(c);
      }
    }
    groups.forEach((group) => group.sort(byCount));
    return groups.flat();
  }

  function showFound() {
    const text = box.value.trim().toLowerCase();
    tree.hidden = Boolean(text);
    results.hidden = !text;
    results.replaceChildren();
    said.textContent = "";
    if (!text) {
      tree.querySelector(".chosen")?.scrollIntoView({ block: "nearest" });
      return;
    }
    const found = search(text);
    const list = element("ul");
    found.slice(0, MOST_FOUND).forEach((c) => {
      list.append(element("li", {}, link(c, names[c] || short(c)), count(c)));
    });
    results.append(list);
    const most = found.length > MOST_FOUND ? `, the first ${MOST_FOUND} shown` : "";
    said.textContent = `${number(found.length)} classes${most}`;
  }

  // ---- One class, or all

  function images(c) {
    const shown = element("div", { class: "images" });
    data.shown[c].forEach((n) => {
      const name = data.imageNames[n];
      const picked = element("img", { src: data.images[n], alt: "", title: name, loading: "lazy" });
      const base = name.split("/").pop();
      shown.append(element("figure", {}, picked, element("figcaption", { title: name }, base)));
    });
    return shown.children.length ? shown : element("p", {}, "No image could be shown.");
  }

  function partners(c) {
    const table = element("table");
    data.coOccurring[c].forEach(([other, fraction]) => {
      const percent = Math.round(1000 * fraction) / 10;
      const bar = element("span", { class: "bar", style: `width:${Math.max(1, percent)}px` });
      const cell = element("td", { class: "number" }, `${percent} %`);
      table.append(element("tr", {}, element("td", {}, link(other)), cell, element("td", {}, bar)));
    });
    return table;
  }

  const linked = (classes) =>
    element("p", { class: "classes" }, ...classes.flatMap((c) => [chip(c), " "]));
  function chip(c) {
    const made = link(c);
    made.append(count(c));
    return made;
  }

  function showClass(c) {
    const above = pathTo(c).slice(0, -1).map((step) => link(step));
    const path = [element("a", { href: "#" }, "all classes"), ...above].flatMap((a) => [a, " › "]);
    const facts = [`class ${c}`, ids[c], `${number(own[c])} images with this label`];
    if (children[c].length) facts.push(`${number(total[c])} with it or a class below it`);
    const parts = [
      element("p", {}, ...path),
      element("h2", {}, names[c] || short(c)),
      element("p", {}, facts.filter(Boolean).join(" · ")),
      element("h3", {}, "Images, a random sample"),
      images(c),
    ];
    if (children[c].length) {
      parts.push(element("h3", {}, `Directly below it: ${number(children[c].length)}`));
      parts.push(linked(children[c].slice(0, MOST_CHILDREN)));
    }
    if (data.coOccurring[c].length) {
      parts.push(element("h3", {}, "Other labels on its images (without ancestors and descendants)"));
      parts.push(partners(c));
    }
    shown.replaceChildren(...parts);
    shown.scrollTop = 0;
  }

  function showOverview() {
    const all = names.map((_, c) => c).sort(byCount);
    const empty = all.filter((c) => !total[c]);
    const some = all.filter((c) => total[c]);
    const rare = some.slice(MOST_IN_OVERVIEW).reverse();
    const each = (data.labels / Math.max(1, data.rows)).toFixed(2);
    const facts = [
      `${number(data.rows)} images`,
      `${number(names.length)} classes`,
      `${each} labels per image`,
      `${number(data.images.length)} thumbnails`,
    ];
    if (data.missing) facts.push(`${number(data.missing)} images missing or unreadable`);
    const parts = [element("h2", {}, "Overview"), element("p", {}, facts.join(" · "))];
    [
      ["Classes with the most images", some.slice(0, MOST_IN_OVERVIEW)],
      ["Classes with the fewest images", rare.slice(0, MOST_IN_OVERVIEW)],
      [`Classes without images: ${number(empty.length)}`, empty.slice(0, MOST_IN_OVERVIEW)],
    ].forEach(([heading, classes]) => {
      if (classes.length) parts.push(element("h3", {}, heading), linked(classes));
    });
    shown.replaceChildren(...parts);
  }

  function show() {
    const c = location.hash.length > 1 ? Number(location.hash.slice(1)) : -1;
    if (names[c] === undefined) {
      showOverview();
    } else {
      showClass(c);
      reveal(c);
    }
  }

  const box = element("input", {
    type: "search",
    placeholder: "name, id or index",
    "aria-label": "search",
  });
  const said = element("div", { class: "found", "aria-live": "polite" });
  const tree = element("div", {}, branch(roots));
  const results = element("div", { hidden: "" });
  const shown = element("main");
  const list = element("div", { class: "list" }, tree, results);
  document.getElementById("browser").append(element("nav", {}, box, said, list), shown);
  box.addEventListener("input", showFound);
  box.addEventListener("keydown", (event) => {
    const first = results.querySelector("a");
    if (event.key === "Enter" && first) location.hash = first.hash;
  });
  window.addEventListener("hashchange", show);
  if (roots.length === 1) open(roots[0], true);
  show();
})();
