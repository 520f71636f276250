// Events, and the start.

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
  close: closeGroup,
  other: () => update({ item: byId("others-form").other.value }),
};

function closeGroup() {
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
  if (event.key === "Escape" && !typing && state.item) closeGroup();
}

function goTo(id) {
  byId(id).scrollIntoView({ block: "start" });
}

function onPageClick(event) {
  const { goto: part, evidence } = event.target
    .closest("[data-goto], [data-evidence]")?.dataset ?? {};
  if (part) goTo(part);
  if (evidence) showEvidence(JSON.parse(evidence));
  const under = stepUnder(event);
  if (under?.step !== undefined && under?.step !== null) {
    showEvidence({ metric: under.chart.name, step: under.step });
  }
}

function listenToCurves() {
  byId("charts").addEventListener("pointermove", onChartMove);
  byId("charts").addEventListener("pointerleave", onChartMove);
  byId("metric-search").addEventListener("input", debounced(filterCurves, 60));
}

function listenToList() {
  form.q.addEventListener("input", debounced(() => update({ q: form.q.value }), live ? 250 : 100));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target !== form.q) onFilter(event);
  });
  byId("clear").addEventListener("click", (event) => {
    event.preventDefault();
    update({ ...BLANK, item: state.item });
  });
  rowsBox.addEventListener("scroll", () => requestAnimationFrame(() => list.draw()));
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
  detail.addEventListener("click", onAnswerClick);
  detail.addEventListener("submit", (event) => event.preventDefault());
  detail.addEventListener("change", ({ target }) => compareOthers(target.name === "other"));
}

// ---- News ----

const PAUSE_MS = 1500;

function showNews(news, first) {
  const fresh = takeNews(news);
  renderHeader();
  renderTrouble();
  document.body.classList.toggle("no-captions", !entries.length);
  if (fresh.metrics) {
    renderAlarms();
    renderComparison();
    renderCurves();
  }
  if (!fresh.groups) return;
  indexEntries();
  setUpFilters();
  if (first) return;
  if (state.q) hits = { ...hits, query: null };
  findHits();
  showList(true);
}

async function poll() {
  try {
    showNews(await source.news(cursors), false);
    byId("runs").classList.remove("lost");
  } catch (error) {
    byId("runs").classList.add("lost");
    renderTrouble(`No news: ${error.message}`);
  }
  const waits = data.some(({ left }) => left > 0); // until all files are indexed
  setTimeout(poll, waits ? 50 : document.hidden ? 3 * PAUSE_MS : PAUSE_MS);
}

async function start() {
  renderHeader();
  showNews(await source.news([]), true);
  readHash();
  show(true);
  listenToCurves();
  listenToList();
  listenToDetail();
  document.addEventListener("click", onPageClick);
  document.addEventListener("keydown", onPageKey);
  window.addEventListener("popstate", () => {
    readHash();
    show(true);
  });
  if (location.hash.length > 1) goTo("items");
  document.documentElement.dataset.ready = "";
  if (live) setTimeout(poll, PAUSE_MS);
}

document.addEventListener("DOMContentLoaded", start);
