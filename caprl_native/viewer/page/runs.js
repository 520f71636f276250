// The runs: their metrics, alarms and groups, as far as the page has got them.

const KINDS = { rollouts: "sampled", eval: "held out", blind: "without a caption" };
const data = runs.map(nothingYet);
let cursors = [];
let entries = [];

function nothingYet() {
  return { series: new Map(), meanings: {}, alarms: [], alarmSteps: new Set(), left: 0, last: 0,
    broken: {} };
}

/** Takes what is new of each run; whether groups, and whether metrics or alarms, are among it. */
function takeNews(news) {
  const fresh = { groups: false, metrics: false };
  news.forEach((own, run) => {
    if (own.again) forget(run);
    const of = data[run];
    Object.assign(of.meanings, own.meanings);
    Object.assign(of, { left: own.left, broken: own.broken });
    for (const row of own.metrics) takeMetrics(of, row);
    of.alarms.push(...own.alarms);
    of.alarmSteps = new Set(of.alarms.map(({ step }) => step));
    for (const step of own.steps) for (const e of entriesOf(run, step)) entries.push(e);
    fresh.groups ||= own.again || own.steps.length > 0;
    fresh.metrics ||= own.again || own.metrics.length > 0 || own.alarms.length > 0;
  });
  if (news.length) cursors = news.map(({ cursor }) => cursor);
  return fresh;
}

function forget(run) {
  data[run] = nothingYet();
  entries = entries.filter((entry) => entry.run !== run);
}

function takeMetrics(of, { step, ...values }) {
  of.last = Math.max(of.last, step);
  for (const [name, value] of Object.entries(values)) {
    if (typeof value !== "number") continue;
    if (!of.series.has(name)) of.series.set(name, { steps: [], values: [] });
    const { steps, values: held } = of.series.get(name);
    steps.push(step);
    held.push(value);
  }
}

function entriesOf(run, { kind, step, groups }) {
  return groups.map((about, group) => ({
    run, kind, step, group, about, id: about.id, key: `${run}/${kind}/${step}/${group}`,
  }));
}

/** The numbers of a group's captions under a name; those that are missing are left out. */
const numbersOf = ({ about }, name) =>
  (about[name] ?? about.values[name] ?? []).filter((value) => value !== null);
const meanOf = (values) =>
  values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;

function spreadOf(values) {
  if (values.length < 2) return null;
  const mean = meanOf(values);
  return Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (values.length - 1));
}

const metricNames = () => [...new Set(data.flatMap(({ series }) => [...series.keys()]))];
const meaningOf = (name) => data.map(({ meanings }) => meanings[name]).find(Boolean) ?? null;
const runSwatch = (run) => (runs.length > 1 ? el("span", { class: `swatch run-${run}` }) : null);

// ---- The head of the page ----

function renderHeader() {
  document.title = `${runs.map(({ name }) => name).join(" and ")} · Training run`;
  byId("kicker").textContent = runs.length > 1 ? "Two training runs" : "Training run";
  byId("run-name").replaceChildren(runs.map(({ name }) => name).join(" and "));
  byId("runs").replaceChildren(...runs.map((run, r) => el("li", {},
    runs.length > 1 ? el("b", {}, runSwatch(r), run.name) : null,
    el("span", { class: "mono muted" }, run.folder), el("span", {}, progressOf(r)))));
}

function progressOf(r) {
  const { last, left } = data[r];
  const total = runs[r].steps ? ` of ${number(runs[r].steps)}` : "";
  const done = runs[r].steps && last >= runs[r].steps;
  return [
    live && !done ? el("span", { class: "live" }, "live") : null,
    ` step ${number(last)}${total}`,
    left ? `, ${plural(left, "step file")} still to be indexed` : null,
  ];
}

const MOST_ALARMS = 4;

function renderAlarms() {
  const all = data.flatMap(({ alarms }, run) => alarms.map((alarm) => ({ ...alarm, run })));
  all.sort((a, b) => b.step - a.step);
  const box = byId("alarms");
  box.hidden = !all.length;
  const rest = all.slice(MOST_ALARMS);
  const open = box.querySelector("details")?.open ?? false;
  box.replaceChildren(
    el("p", {}, el("b", {}, plural(all.length, "alarm"))),
    el("ol", { class: "alarms" }, all.slice(0, MOST_ALARMS).map(alarmView)),
    rest.length ? el("details", { open }, el("summary", {}, `${number(rest.length)} earlier`),
      el("ol", { class: "alarms" }, rest.map(alarmView))) : "");
}

const alarmView = ({ step, metric, text, run }) => el("li", {},
  el("button", { class: "link", "data-evidence": JSON.stringify({ metric, step, run }) },
    runSwatch(run), `step ${number(step)}`), " ", text);

function renderTrouble(text = "") {
  const broken = data.flatMap(({ broken: files }) => Object.entries(files));
  const said = [text, ...broken.map(([file, why]) => `${file}: ${why}`)].filter(Boolean);
  byId("trouble").hidden = !said.length;
  byId("trouble").replaceChildren(...said.map((one) => el("p", {}, one)));
}

// ---- Two runs beside each other ----

function renderComparison() {
  if (runs.length < 2) return;
  byId("comparison").hidden = false;
  const told = metricNames().filter((name) => /^(eval\/)?(reward\/.*\/mean|completion\/.*)$/.test(name));
  byId("comparison-table").replaceChildren(
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Metric"),
      el("th", { scope: "col" }, "At step"),
      runs.map((run, r) => el("th", { scope: "col" }, runSwatch(r), run.name)),
      el("th", { scope: "col" }, "Difference"))),
    el("tbody", {}, told.map(comparedRow)));
  renderSettings();
}

/** The values at the last step that both have. */
function comparedRow(name) {
  const own = data.map(({ series }) => series.get(name));
  const step = own.every(Boolean)
    ? own[0].steps.filter((at) => own[1].steps.includes(at)).at(-1) ?? null : null;
  const values = own.map((of) => (step === null ? null : of.values[of.steps.lastIndexOf(step)]));
  const decimals = decimalsOf(Math.max(...values.map(Math.abs)));
  const difference = step === null ? null : values[1] - values[0];
  return el("tr", {}, el("th", { scope: "row", class: "mono" }, breakable(name)),
    el("td", {}, number(step)),
    values.map((value) => el("td", {}, number(value, decimals))),
    el("td", {}, number(difference, decimals, "exceptZero")));
}

/** A name that may go on in another line after its parts. */
const breakable = (name) => name.split(/(?<=[/._])/).flatMap((part) => [part, el("wbr")]);

const decimalsOf = (value) => (value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3);

function renderSettings() {
  const [a, b] = runs.map(({ settings }) => settings);
  const names = [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((k) => a[k] !== b[k]);
  byId("settings").replaceChildren(
    el("summary", {}, `${plural(names.length, "setting")} that differ${names.length === 1 ? "s" : ""}`),
    el("table", { class: "compared-runs" }, el("tbody", {}, names.sort().map((name) =>
      el("tr", {}, el("th", { scope: "row", class: "mono" }, breakable(name)),
        [a, b].map((of) => el("td", { class: "mono" }, of[name] ?? "not set")))))));
}
