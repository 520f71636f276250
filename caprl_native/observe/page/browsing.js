// A list beside the item that is chosen in it: keys, clicks, filters.
//
// The page has `state` ({ item, q, ... }), `update`, `BLANK` (no filter), `form`, `onFilter`, `list`,
// `rowsBox` and `ROW` (pixels).

function onListKey(event) {
  const by = rowsMovedBy(event.key, rowsBox, ROW);
  if (event.key === "Enter" && state.item) byId("detail").focus();
  else if (by !== undefined) list.move(by);
  else return;
  event.preventDefault();
}

const TOOLS = {
  previous: () => list.move(-1),
  next: () => list.move(1),
  close: closeItem,
};

function closeItem() {
  update({ item: "" });
  list.reveal();
  list.draw();
  rowsBox.focus();
}

function onTool({ target }) {
  const name = target.closest("[data-tool]")?.dataset.tool;
  if (!name) return;
  TOOLS[name]();
  byId("detail").querySelector(`[data-tool="${name}"]`)?.focus();
}

function onPageKey(event) {
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    form.q.focus();
  }
  if (event.key === "Escape" && !typing && state.item) closeItem();
}

function goTo(id) {
  byId(id).scrollIntoView({ block: "start" });
}

function listenToRows(pause, onScroll) {
  form.q.addEventListener("input", debounced(() => update({ q: form.q.value }), pause));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target !== form.q) onFilter(event);
  });
  byId("clear").addEventListener("click", (event) => {
    event.preventDefault();
    update({ ...BLANK, item: state.item });
  });
  rowsBox.addEventListener("scroll", () => requestAnimationFrame(onScroll));
  rowsBox.addEventListener("click", ({ target }) => {
    const row = target.closest(".row");
    if (row) update({ item: row.dataset.key });
  });
  rowsBox.addEventListener("keydown", onListKey);
  new ResizeObserver(() => list.draw()).observe(rowsBox);
}

function listenToItem() {
  const detail = byId("detail");
  for (const name of ["mouseover", "mouseleave", "focusin", "focusout"]) {
    detail.addEventListener(name, onTimeHover);
  }
  detail.addEventListener("click", onTimeClick);
  detail.addEventListener("click", onTool);
}
