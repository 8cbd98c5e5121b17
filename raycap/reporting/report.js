"use strict";
// Shows the gallery and the failures, a page at a time: all rows are columns of the data, only those in view are
// elements. Text becomes part of the page as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  function make(name, attributes = {}, ...content) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...content.filter((each) => each !== null));
    return made;
  }

  const count = (number) => number.toLocaleString("en");
  const wordsOf = (query) => query.toLowerCase().split(/\s+/).filter(Boolean);

  // Text with the words that were searched for marked, on its own in the direction of writing.
  function text(content, words = []) {
    const isolated = make("bdi");
    const lower = content.toLowerCase();
    let at = 0;
    while (words.length && lower.length === content.length) {
      const next = words.map((word) => [lower.indexOf(word, at), word]).filter(([place]) => place >= 0);
      if (!next.length) break;
      const [place, word] = next.reduce((first, each) => (each[0] < first[0] ? each : first));
      isolated.append(content.slice(at, place), make("mark", {}, content.slice(place, place + word.length)));
      at = place + word.length;
    }
    isolated.append(content.slice(at));
    return isolated;
  }

  function choice(label, options, changed) {
    const select = make("select", {}, ...options.map(([value, name]) => make("option", { value }, name)));
    select.addEventListener("change", changed);
    return [make("label", {}, label, select), select];
  }

  // A list of which one page is shown, with what turns the pages.
  class Pages {
    constructor(root, { name, unit, list, controls, draw }) {
      Object.assign(this, { unit, list, draw, rows: [], page: 0, size: 24 });
      this.status = make("p", { class: "status", role: "status" });
      const sizes = [24, 48, 96].map((size) => [size, `${size} a page`]);
      const [sizeLabel, size] = choice("Show", sizes, () => { this.size = Number(size.value); this.show(this.rows); });
      this.number = make("input", { type: "number", min: 1, value: 1, "aria-label": `${name}: page` });
      this.number.addEventListener("change", () => this.turn(Number(this.number.value) - 1));
      this.total = make("span");
      const button = (label, hint, to) => {
        const made = make("button", { type: "button", "aria-label": `${name}: ${hint}` }, label);
        made.addEventListener("click", () => this.turn(to()));
        return made;
      };
      this.back = [button("« First", "first page", () => 0), button("‹ Previous", "previous page", () => this.page - 1)];
      this.on = [button("Next ›", "next page", () => this.page + 1), button("Last »", "last page", () => this.last)];
      const pageLabel = make("label", {}, "Page", this.number, this.total);
      this.nav = make("nav", { class: "pages", "aria-label": `Pages of ${name}` }, ...this.back, pageLabel, ...this.on);
      root.append(make("div", { class: "controls" }, ...controls, sizeLabel), this.status, list, this.nav);
    }

    get last() { return Math.max(0, Math.ceil(this.rows.length / this.size) - 1); }

    show(rows) {
      this.rows = rows;
      this.page = 0;
      this.refresh();
    }

    turn(page) {
      this.page = Math.min(this.last, Math.max(0, Math.trunc(page) || 0));
      this.refresh();
      if (this.list.getBoundingClientRect().top < 0) this.status.scrollIntoView({ block: "start" });
    }

    refresh() {
      const first = this.page * this.size;
      const shown = Array.from(this.rows.slice(first, first + this.size));
      this.list.replaceChildren(...shown.map(this.draw));
      const range = shown.length ? `, ${count(first + 1)} to ${count(first + shown.length)} shown` : "";
      this.status.textContent = `${count(this.rows.length)} ${this.unit}${range}`;
      this.number.value = this.page + 1;
      this.number.max = this.last + 1;
      this.total.textContent = `of ${count(this.last + 1)}`;
      this.back.forEach((each) => each.setAttribute("aria-disabled", this.page === 0));
      this.on.forEach((each) => each.setAttribute("aria-disabled", this.page === this.last));
      this.nav.hidden = this.last === 0;
    }
  }

  function searchField(label, found) {
    const input = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
    let waiting;
    input.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(found, 150); });
    return [make("label", { class: "wide" }, label, input), input];
  }

  // What photos can be sorted by: a score of one run, or how much it differs between two.
  function orders(gallery) {
    const listed = [];
    for (const { label, values } of gallery.scores) {
      if (values.length === 1) listed.push({ label, values: values[0] });
      else {
        const [a, b] = values;
        const difference = a.map((value, row) => (value === null || b[row] === null ? null : b[row] - value));
        listed.push({ label: `${label}, B − A`, values: difference });
        listed.push({ label: `${label} of A`, values: a }, { label: `${label} of B`, values: b });
      }
    }
    return [...listed, { label: "name", values: gallery.ids }];
  }

  function sorted(values, descending) {
    const sign = descending ? -1 : 1;
    const compare = (a, b) => {
      const [one, other] = [values[a], values[b]];
      if (one === null || other === null) return (one === null) - (other === null) || a - b;
      return one < other ? -sign : one > other ? sign : a - b;
    };
    return Uint32Array.from(values.keys()).sort(compare);
  }

  function showGallery(root, gallery) {
    const ordersHere = orders(gallery);
    const isPair = gallery.captions.length === 2;
    let haystack = null;
    let words = [];

    // sorting and searching are apart, as either is quick but both are not
    let order = null;
    function sort() {
      order = sorted(ordersHere[by.value].values, direction.value === "high");
      find();
    }
    function find() {
      words = wordsOf(query.value);
      if (words.length && haystack === null) {
        haystack = gallery.ids.map((id, row) => {
          const people = gallery.references ? gallery.references[row].join("\n") : "";
          return `${id}\n${gallery.captions.map((run) => run[row] ?? "").join("\n")}\n${people}`.toLowerCase();
        });
      }
      pages.show(words.length ? order.filter((row) => words.every((word) => haystack[row].includes(word))) : order);
    }

    function picture(row) {
      const thumbnail = data.thumbnails[row];
      const about = gallery.references?.[row][0] ?? gallery.captions.map((run) => run[row]).find((each) => each) ?? "";
      if (thumbnail === undefined) return make("div", { class: "frame" }, "no picture in this report");
      const source = `data:image/webp;base64,${thumbnail}`;
      return make("div", { class: "frame" }, make("img", { src: source, alt: about || gallery.ids[row] }));
    }

    const figure = (value) => (value === null ? "—" : value.toFixed(3).replace("-", "−"));
    function values(row) {
      const said = gallery.scores.map(({ label, values: runs }) => {
        const each = runs.map((run) => run[row]);
        const change = isPair && each.every((value) => value !== null) ? each[1] - each[0] : null;
        const more = change === null ? "" : ` (${change > 0 ? "+" : ""}${figure(change)})`;
        return make("div", {}, make("dt", {}, label), make("dd", {}, each.map(figure).join(" → ") + more));
      });
      return said.length ? make("dl", { class: "values" }, ...said) : null;
    }

    function draw(row) {
      const said = gallery.captions.map((run, rank) => {
        const badge = isPair ? make("span", { class: `run run-${rank}` }, "AB"[rank]) : null;
        return make("p", { class: "said" }, badge, run[row] === null ? "—" : text(run[row], words));
      });
      const people = gallery.references?.[row].map((each) => make("li", {}, text(each, words))) ?? [];
      const list = people.length ? make("ul", { class: "people", "aria-label": "said by people" }, ...people) : null;
      const name = make("p", { class: "name" }, text(gallery.ids[row], words));
      return make("li", { class: "photo" }, picture(row), make("div", { class: "body" }, ...said, list, values(row), name));
    }

    const [searchLabel, query] = searchField("Search words and names", () => find());
    const [byLabel, by] = choice("Sort by", ordersHere.map(({ label }, at) => [at, label]), sort);
    const [directionLabel, direction] = choice("Order", [["low", "lowest first"], ["high", "highest first"]], sort);
    const list = make("ul", { class: "photos" });
    const controls = [searchLabel, byLabel, directionLabel];
    const pages = new Pages(root, { name: "photos", unit: "photos", list, controls, draw });
    sort();
  }

  function showFailures(root, failures) {
    let words = [];
    const columns = ["image_id", "stage", "error_type", "error_message"].map((name) => failures[name]);
    const all = Uint32Array.from(failures.image_id.keys());
    function find() {
      words = wordsOf(query.value);
      const said = (row) => columns.map((column) => column[row]).join("\n").toLowerCase();
      pages.show(words.length ? all.filter((row) => words.every((word) => said(row).includes(word))) : all);
    }
    function draw(row) {
      const [id, stage, type, message] = columns.map((column) => column[row]);
      const why = make("p", { class: "why" }, text(message, words), " (", text(type, words), ", ", text(stage, words), ")");
      return make("li", {}, make("p", {}, text(id, words)), why);
    }
    const [searchLabel, query] = searchField("Search names and reasons", () => find());
    const list = make("ul", { class: "failed" });
    const pages = new Pages(root, { name: "failures", unit: "failures", list, controls: [searchLabel], draw });
    find();
  }

  const galleryRoot = document.getElementById("photos-here");
  if (galleryRoot) showGallery(galleryRoot, data.gallery);
  const failuresRoot = document.getElementById("failures-here");
  if (failuresRoot) showFailures(failuresRoot, data.failures);
})();
