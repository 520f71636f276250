// Events, and the start.

TOOLS.other = () => update({ item: byId("others-form").other.value });

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
  listenToRows(live ? 250 : 100, () => list.draw());
}

function listenToDetail() {
  const detail = byId("detail");
  listenToItem();
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
