// The list: only the rows in sight are in the document.

const ROW = 74; // pixels
const MARGIN = 6; // rows kept above and below those in sight
const rowsBox = byId("rows");

const list = {
  found: [],
  drawn: new Map(), // position -> row

  show(found) {
    this.found = found;
    this.drawn.clear();
    const runway = el("div", { role: "presentation" });
    runway.style.height = `${found.length * ROW}px`;
    rowsBox.replaceChildren(runway);
    if (!found.length) rowsBox.replaceChildren(el("p", { class: "nothing" }, "No item matches."));
    rowsBox.scrollTop = 0;
    byId("count").replaceChildren(`${number(found.length)} of ${plural(entries.length, "item")}`);
    this.reveal();
    this.draw();
  },

  position() {
    return this.found.findIndex((entry) => entry.key === state.item);
  },

  draw() {
    const from = Math.max(0, Math.floor(rowsBox.scrollTop / ROW) - MARGIN);
    const seen = Math.ceil(rowsBox.clientHeight / ROW) + 2 * MARGIN;
    const to = Math.min(this.found.length, from + seen);
    for (const [at, row] of this.drawn) {
      if (at >= from && at < to) continue;
      row.remove();
      this.drawn.delete(at);
    }
    for (let at = from; at < to; at += 1) {
      if (this.drawn.has(at)) continue;
      this.drawn.set(at, rowsBox.appendChild(listRow(this.found[at], at, this.found.length)));
    }
    this.select();
  },

  select() {
    let active = "";
    for (const [at, row] of this.drawn) {
      const open = this.found[at].key === state.item;
      row.setAttribute("aria-selected", open);
      if (open) active = row.id;
    }
    rowsBox.setAttribute("aria-activedescendant", active);
  },

  /** Scrolls as little as brings the open item's row into sight. */
  reveal() {
    const at = this.position();
    if (at < 0) return;
    const lowest = (at + 1) * ROW - rowsBox.clientHeight;
    rowsBox.scrollTop = Math.min(Math.max(rowsBox.scrollTop, lowest), at * ROW);
  },

  /** Opens the item so many rows on from the open one. */
  move(by) {
    if (!this.found.length) return;
    const at = Math.min(Math.max(this.position() + by, 0), this.found.length - 1);
    update({ item: this.found[at].key });
    this.reveal();
    this.draw();
  },
};

function listRow(entry, at, total) {
  const { item } = entry;
  const row = el("div", {
    class: "row", role: "option", id: `row-${entry.index}`, "data-key": entry.key,
    "aria-posinset": at + 1, "aria-setsize": total,
  },
    thumb(item),
    el("span", { class: "name" }, item.id, ` · ${benchmarks.get(item.benchmark)?.title ?? ""}`),
    el("span", { class: "marks" }, entry.marks.slice(0, 8).map(mark),
      item.mean === null ? "–" : short(item.mean)),
    el("span", { class: "question", dir: "auto" }, oneLine(item.question) || "(no question)"),
    el("span", { class: "snippet", dir: "auto" }, snippet(item)));
  row.style.top = `${at * ROW}px`;
  row.style.height = `${ROW}px`;
  return row;
}

const mark = (verdict) =>
  el("span", { class: `mark ${verdict}` }, el("span", { class: "unseen" }, VERDICTS[verdict]));
const oneLine = (text) => text.slice(0, 300).replace(/\s+/g, " ").trim();

function thumb({ media }) {
  const source = media.length && media[0].picture !== null ? picture(media[0].picture) : null;
  if (source) return el("img", { class: "thumb", src: source, alt: "" });
  return el("div", { class: "thumb" });
}

/** A caption's beginning, or what surrounds the first word searched for. */
function snippet({ captions }) {
  const texts = captions.map((caption) => caption.text).filter((text) => text !== null);
  const pattern = foundPattern();
  const hit = pattern ? texts.find((text) => text.search(pattern) >= 0) : undefined;
  if (hit === undefined) return oneLine(texts[0] ?? "no caption");
  const at = hit.search(pattern);
  return at < 30 ? oneLine(hit) : `… ${oneLine(hit.slice(at - 24).replace(/^\S{0,20}\s/, ""))}`;
}

function foundPattern() {
  const escaped = wordsOf(state.q).map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return escaped.length ? new RegExp(escaped.join("|"), "giu") : null;
}

/** Marks the words searched for, without touching the document. */
function highlight() {
  if (!window.Highlight) return;
  const pattern = foundPattern();
  const ranges = pattern ? [rowsBox, byId("detail")].flatMap((box) => rangesIn(box, pattern)) : [];
  CSS.highlights.set("found", new Highlight(...ranges));
}

function rangesIn(box, pattern) {
  const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
  const ranges = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    for (const match of node.data.matchAll(pattern)) {
      const range = new Range();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      ranges.push(range);
    }
  }
  return ranges;
}
