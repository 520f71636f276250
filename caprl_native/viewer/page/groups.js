// Groups of captions: filters, search and sorting.

const BLANK = { q: "", run: "", kind: "", step: "", show: "", medium: "", number: "", sort: "",
  item: "" };
const state = { ...BLANK };
const form = byId("filters");
let hits = null; // of the search: {query, keys, complete}; null: nothing is searched for
let searching = false;

const isAlike = (entry) => {
  const totals = numbersOf(entry, "total");
  return totals.length > 1 && Math.max(...totals) === Math.min(...totals);
};
const SHOWS = {
  cut: ["cut off", (entry) => entry.about.cut.length > 0],
  failed: ["without a reward", (entry) => entry.about.failed.length > 0],
  alarm: ["of a step with an alarm", (entry) => data[entry.run].alarmSteps.has(entry.step)],
  alike: ["all rewarded alike", isAlike],
};
const FILTERS = {
  run: (entry, wanted) => entry.run === Number(wanted),
  kind: (entry, wanted) => entry.kind === wanted,
  step: (entry, wanted) => entry.step === Number(wanted),
  show: (entry, wanted) => SHOWS[wanted][1](entry),
  medium: (entry, wanted) => entry.about.kind === wanted,
};

const latest = (a, b) => b.step - a.step || a.run - b.run || a.group - b.group;
const SORTS = {
  earliest: "earliest step first",
  low: "worst mean first",
  high: "best mean first",
  spread: "most spread first",
  alike: "least spread first",
  change: "runs differ most first",
};
const FIGURES = {
  low: (entry) => meanOf(numbersOf(entry, shownNumber())),
  high: (entry) => meanOf(numbersOf(entry, shownNumber())),
  spread: (entry) => spreadOf(numbersOf(entry, shownNumber())),
  alike: (entry) => spreadOf(numbersOf(entry, shownNumber())),
  change: (entry) => changeOf(entry),
};
const shownNumber = () => state.number || "total";

/** How far the other run's captions of the same sample and step are from these. */
function changeOf(entry) {
  const other = twinOf(entry);
  const means = [entry, other].map((one) => one && meanOf(numbersOf(one, shownNumber())));
  return means.some((mean) => mean === null || mean === undefined)
    ? null : Math.abs(means[0] - means[1]);
}

const placeOf = (entry) => `${entry.kind}/${entry.step}/${entry.id}`;
let twins = new Map(); // by place, entries
let samples = new Map(); // by id, entries

function indexEntries() {
  twins = Map.groupBy(runs.length > 1 ? entries : [], placeOf);
  samples = Map.groupBy(entries, ({ id }) => id);
}

const twinOf = (entry) => twins.get(placeOf(entry))?.find(({ run }) => run !== entry.run);

function chosenEntries() {
  const active = Object.keys(FILTERS).filter((name) => state[name]);
  const found = entries.filter((entry) =>
    active.every((name) => FILTERS[name](entry, state[name]))
    && (!hits || hits.keys.has(entry.key)));
  return sorted(found);
}

function sorted(found) {
  if (!state.sort) return found.sort(latest);
  if (state.sort === "earliest") return found.sort((a, b) => latest(b, a));
  const figures = new Map(found.map((entry) => [entry, FIGURES[state.sort](entry)]));
  const sign = ["low", "alike"].includes(state.sort) ? 1 : -1;
  return found.sort((a, b) =>
    nullsLast(figures.get(a), figures.get(b), sign) || latest(a, b));
}

function nullsLast(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (a - b);
}

// ---- State ----

function readHash() {
  readHashInto(state, BLANK);
  if (!(state.sort in SORTS)) state.sort = "";
  if (!(state.show in SHOWS)) state.show = "";
  if (!/^\d*$/.test(state.step)) state.step = "";
}

/** Changes the state and shows what follows from it. */
function update(changes) {
  const opens = Boolean(changes.item) && !state.item;
  const refilters = Object.keys(changes).some((name) => name !== "item");
  Object.assign(state, changes);
  writeHashOf(state, opens);
  show(refilters);
}

function show(refilters) {
  if (refilters) {
    showControls(form, state);
    findHits();
    showList();
  }
  showDetail();
  highlight();
}

/** Asks for the groups that have the words, unless it is known which these are. */
async function findHits() {
  const query = state.q.trim();
  if (!query) hits = null;
  if (!query || hits?.query === query) return;
  hits = { query, keys: hits?.keys ?? new Set(), complete: true };
  searching = true;
  try {
    const found = await source.search(query);
    if (state.q.trim() !== query) return;
    hits = { query, ...found };
  } catch (error) {
    renderTrouble(`The search failed: ${error.message}`);
  }
  searching = false;
  showList();
  highlight();
}

// ---- The filters' form ----

let offered = ""; // what the selects offer

function setUpFilters() {
  const numbers = new Set(entries.flatMap((entry, i) =>
    (i % 97 && entries.length > 1000 ? [] : Object.keys(entry.about.values))));
  const shown = (pairs) => pairs.map(([key, [text]]) => [key, text]);
  const sorts = Object.entries(SORTS).filter(([key]) => key !== "change" || runs.length > 1);
  const kinds = Object.entries(KINDS).filter(([kind]) => entries.some((e) => e.kind === kind));
  const offers = JSON.stringify([[...numbers], kinds]);
  if (offers === offered) return; // a select that is open stays so
  offered = offers;
  options(form.run, runs.map(({ name }, run) => [run, name]), "both");
  options(form.kind, kinds, "all");
  options(form.show, shown(Object.entries(SHOWS)), "all");
  options(form.medium, ["image", "video"].map((kind) => [kind, kind]), "any");
  options(form.number, ["advantage", "tokens", ...numbers].map((name) => [name, name]), "reward");
  options(form.sort, sorts, "latest step first");
  form.run.closest("label").hidden = runs.length < 2;
  showControls(form, state);
}

function onFilter({ target }) {
  if (target.name === "step" && !/^\d*$/.test(target.value)) target.value = "";
  update({ [target.name]: target.value });
}
