// The list of groups.

const ROW = 60; // pixels
const rowsBox = byId("rows");
let range = [0, 1]; // of the shown number, over all groups

const list = longList(rowsBox, {
  height: ROW,
  row: listRow,
  isOpen: (entry) => entry.key === state.item,
  open: (entry) => update({ item: entry.key }),
  nothing: "No group matches.",
});

/** Shows the groups that the filters leave; `stays`: what is in sight stays there. */
function showList(stays = false) {
  range = valuesExtent(entries.map((entry) => numbersOf(entry, shownNumber())));
  range[0] = Math.min(0, range[0]);
  const found = chosenEntries();
  list.show(found, stays ? placeInSight(found) : 0);
  const words = searching ? ["Searching"]
    : [`${number(found.length)} of ${plural(entries.length, "group")}`,
      hits && !hits.complete ? "; not all were searched" : ""];
  byId("count").replaceChildren(...words);
  byId("shown-number").textContent = `bars: ${state.number || "reward"} of each caption`;
  if (!stays) list.reveal();
  list.draw();
}

/** Where to scroll so that the first row in sight is the same as before. */
function placeInSight(found) {
  const at = Math.floor(rowsBox.scrollTop / ROW);
  const first = list.found[at];
  const now = at && first ? found.indexOf(first) : 0;
  return now > 0 ? now * ROW + (rowsBox.scrollTop % ROW) : 0;
}

function listRow(entry, at, total) {
  const values = numbersOf(entry, shownNumber());
  const spread = spreadOf(values);
  const { cut, failed } = entry.about;
  return el("div", {
    class: "row", role: "option", id: `row-${entry.key.replaceAll("/", "-")}`,
    "data-key": entry.key, "aria-posinset": at + 1, "aria-setsize": total,
  },
    bars(entry),
    el("span", { class: "id", dir: "auto" }, runSwatch(entry.run), entry.id.slice(0, 200)),
    el("span", { class: "marks" }, el("b", {}, compact(meanOf(values)))),
    el("span", { class: "snippet" }, `step ${number(entry.step)} · ${KINDS[entry.kind]}`,
      spread === null ? "" : ` · spread ${compact(spread)}`,
      cut.length ? el("span", { class: "cut" }, ` · ${number(cut.length)} cut`) : "",
      failed.length ? el("span", { class: "gap" }, ` · ${number(failed.length)} failed`) : ""));
}

/** A bar for each caption of a group. */
function bars({ about, run }) {
  const values = about[shownNumber()] ?? about.values[shownNumber()] ?? [];
  const [low, high] = range;
  const height = (value) => 2 + (34 * (value - low)) / (high - low || 1);
  const wide = 64 / Math.max(values.length, 4);
  return svg("svg", { class: `bars run-${run}`, width: 64, height: 38, "aria-hidden": "true" },
    values.slice(0, 64).map((value, i) => (value === null
      ? svg("rect", { class: "no-bar", x: i * wide, y: 35, width: wide - 1, height: 3 })
      : svg("rect", { class: "dot", x: i * wide, y: 38 - height(value),
        width: Math.max(1, wide - 1), height: height(value) }))));
}

const highlight = () => highlightIn([byId("detail")], state.q);
