// The list of items.

const ROW = 74; // pixels
const rowsBox = byId("rows");

const list = longList(rowsBox, {
  height: ROW,
  row: listRow,
  isOpen: (entry) => entry.key === state.item,
  open: (entry) => update({ item: entry.key }),
  nothing: "No item matches.",
});

function showList() {
  const found = chosenEntries();
  list.show(found);
  byId("count").replaceChildren(`${number(found.length)} of ${plural(entries.length, "item")}`);
  list.reveal();
  list.draw();
}

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
  const pattern = patternOf(state.q);
  const hit = pattern ? texts.find((text) => text.search(pattern) >= 0) : undefined;
  if (hit === undefined) return oneLine(texts[0] ?? "no caption");
  const at = hit.search(pattern);
  return at < 30 ? oneLine(hit) : `… ${oneLine(hit.slice(at - 24).replace(/^\S{0,20}\s/, ""))}`;
}

const highlight = () => highlightIn([rowsBox, byId("detail")], state.q);
