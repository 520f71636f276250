// Events.

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
  listenToRows(60, () => {
    list.draw();
    highlight();
  });
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
  listenToItem();
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
