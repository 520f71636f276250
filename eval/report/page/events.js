// Events.

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

function onPageClick({ target }) {
  const { goto: part, show: shows } = target.closest("[data-goto], [data-show]")?.dataset ?? {};
  if (part) goTo(part);
  if (!shows) return;
  update({ ...BLANK, ...JSON.parse(shows) });
  goTo("items");
}

function openBenchmark(name) {
  const section = [...document.querySelectorAll(".benchmark")]
    .find(({ dataset }) => dataset.benchmark === name);
  section.open = true;
  section.scrollIntoView({ block: "start" });
  section.querySelector("summary").focus({ preventScroll: true });
}

function setAllOpen(open) {
  for (const section of document.querySelectorAll(".benchmark")) section.open = open;
}

function listenToTables() {
  byId("open-all").addEventListener("click", () => setAllOpen(true));
  byId("close-all").addEventListener("click", () => setAllOpen(false));
  byId("summary-table").addEventListener("click", ({ target }) => {
    const { benchmark } = target.closest("[data-benchmark]")?.dataset ?? {};
    if (benchmark !== undefined) openBenchmark(benchmark);
  });
}

function listenToItems() {
  const prepare = () => setTimeout(() => entries.forEach(haystack));
  form.q.addEventListener("focus", prepare, { once: true });
  form.q.addEventListener("input", debounced(() => update({ q: form.q.value }), 60));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target !== form.q) onFilter(event);
  });
  byId("clear").addEventListener("click", (event) => {
    event.preventDefault();
    update({ ...BLANK, item: state.item });
  });
  rowsBox.addEventListener("scroll", () => requestAnimationFrame(() => {
    list.draw();
    highlight();
  }));
  rowsBox.addEventListener("click", ({ target }) => {
    const row = target.closest(".row");
    if (row) update({ item: row.dataset.key });
  });
  rowsBox.addEventListener("keydown", onListKey);
  new ResizeObserver(() => list.draw()).observe(rowsBox);
}

function listenToDetail() {
  const detail = byId("detail");
  for (const name of ["mouseover", "mouseleave", "focusin", "focusout"]) {
    detail.addEventListener(name, onTimeHover);
  }
  detail.addEventListener("click", onTimeClick);
  detail.addEventListener("click", onTool);
}

// ---- Start: the figures at once, the items when they have all arrived ----

function startFigures() {
  renderHeader();
  renderBanner();
  renderSummary();
  renderBenchmarks();
  byId("legend").append(...Object.entries(VERDICTS).map(([kind, text]) =>
    el("span", {}, el("span", { class: `mark ${kind}` }), text)));
  listenToTables();
}

function startItems() {
  readItems();
  setUpFilters();
  readHash();
  show(true);
  listenToItems();
  listenToDetail();
  document.addEventListener("click", onPageClick);
  document.addEventListener("keydown", onPageKey);
  window.addEventListener("popstate", () => {
    readHash();
    show(true);
  });
  if (location.hash.length > 1) goTo("items");
}

startFigures();
document.addEventListener("DOMContentLoaded", startItems);
