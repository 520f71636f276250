// Items: what filters, search and sorting need to know of each.

const VERDICTS = { right: "right", partly: "partly right", wrong: "wrong", missing: "missing" };
let entries = [];
let pictures = null;

function readItems() {
  const items = takeJson("items-data");
  entries = items.map((item, index) => {
    const full = benchmarks.get(item.benchmark)?.full ?? 1;
    const marks = item.captions.map((caption) => captionVerdict(caption, full));
    return {
      item, index, marks,
      key: `${item.benchmark}/${item.id}`.toWellFormed(),
      verdicts: itemVerdicts(marks),
      length: mean(item.captions.filter((c) => c.text !== null).map((c) => c.text.length)),
      haystack: null,
    };
  });
}

const picture = (key) => (pictures ??= takeJson("pictures-data"))[key] ?? null;
const mean = (values) =>
  values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;

function captionVerdict({ verdict }, full) {
  if (!verdict) return "missing";
  return verdict.score >= full ? "right" : verdict.score <= 0 ? "wrong" : "partly";
}

/** Right or wrong: all captions that have a verdict; missing: some caption has none. */
function itemVerdicts(marks) {
  const judged = new Set(marks.filter((mark) => mark !== "missing"));
  const found = new Set();
  if (judged.size) found.add(judged.size === 1 ? [...judged][0] : "partly");
  if (marks.length === 0 || marks.includes("missing")) found.add("missing");
  return found;
}

/** All texts of an item in lower case; made at the first search and kept. */
function haystack(entry) {
  const { id, question, choices, captions } = entry.item;
  const written = captions.flatMap((c) => [c.text ?? "", c.answer?.text ?? ""]);
  entry.haystack ??= [id, question, ...choices, ...written].join("\n").toLowerCase();
  return entry.haystack;
}

// ---- State: filters, search, sorting and the open item; all of it is in the URL's hash ----

const BLANK = { q: "", benchmark: "", verdict: "", kind: "", value: "", finish: "", media: "",
  sort: "", item: "" };
const state = { ...BLANK };

const FILTERS = {
  benchmark: (entry, wanted) => entry.item.benchmark === wanted,
  verdict: (entry, wanted) => entry.verdicts.has(wanted),
  kind: (entry, wanted) => Object.hasOwn(entry.item.groups, wanted),
  value: (entry, wanted) => String(entry.item.groups[state.kind]) === wanted,
  finish: (entry, wanted) => entry.item.captions.some((c) => (c.finish ?? "none") === wanted),
  media: (entry, wanted) => entry.item.media.some((medium) => medium.kind === wanted),
};

const collator = new Intl.Collator("en", { numeric: true });
const ascending = (figure) => (a, b) => nullsLast(figure(a), figure(b), 1);
const descending = (figure) => (a, b) => nullsLast(figure(a), figure(b), -1);
const score = (entry) => entry.item.mean;
const length = (entry) => entry.length;
const SORTS = {
  id: ["id", (a, b) => collator.compare(a.item.id, b.item.id)],
  lowest: ["score, lowest first", ascending(score)],
  highest: ["score, highest first", descending(score)],
  longest: ["captions, longest first", descending(length)],
  shortest: ["captions, shortest first", ascending(length)],
};

function nullsLast(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (a - b);
}

function chosenEntries() {
  const active = Object.keys(FILTERS).filter((name) => state[name]);
  const words = wordsOf(state.q).map((word) => word.toLowerCase());
  const found = entries.filter((entry) =>
    active.every((name) => FILTERS[name](entry, state[name])) &&
    words.every((word) => haystack(entry).includes(word)));
  return state.sort ? found.sort(SORTS[state.sort][1]) : found;
}

function readHash() {
  readHashInto(state, BLANK);
  if (!(state.sort in SORTS)) state.sort = "";
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
  if (refilters) showFilters();
  if (refilters) showList();
  showDetail();
  highlight();
}

// ---- The filters' form ----

const form = byId("filters");

const same = (value) => [value, value];

function groupKinds() {
  const own = entries.filter((e) => !state.benchmark || e.item.benchmark === state.benchmark);
  return [...new Set(own.flatMap((entry) => Object.keys(entry.item.groups)))];
}

function groupValues() {
  const own = entries.filter((e) => !state.benchmark || e.item.benchmark === state.benchmark);
  const values = own.map((e) => e.item.groups[state.kind]).filter((value) => value !== undefined);
  return [...new Set(values.map(String))].sort(collator.compare);
}

/** Fills the selects that do not depend on other ones. */
function setUpFilters() {
  const own = [...new Set(entries.map((entry) => entry.item.benchmark))];
  const finishes = [...new Set(entries.flatMap((e) => e.item.captions.map((c) => c.finish)))];
  const ended = { stop: "by itself (stop)", length: "cut (length)" };
  options(form.benchmark, own.map((name) => [name, benchmarks.get(name)?.title ?? name]), "all");
  options(form.verdict, Object.entries(VERDICTS), "any");
  options(form.finish, finishes.map((f) => [f ?? "none", ended[f] ?? f ?? "not known"]), "any way");
  options(form.media, ["image", "video"].map(same), "any");
  options(form.sort, Object.entries(SORTS).map(([key, [text]]) => [key, text]), "file order");
}

function showFilters() {
  options(form.kind, groupKinds().map(same), "any");
  options(form.value, state.kind ? groupValues().map(same) : [], "any");
  form.value.disabled = !state.kind;
  showControls(form, state);
}

function onFilter({ target }) {
  const changes = { [target.name]: target.value };
  if (target.name === "benchmark") Object.assign(changes, { kind: "", value: "" });
  if (target.name === "kind") changes.value = "";
  update(changes);
}
