// Runs and their benchmarks.


const runs = JSON.parse(byId("summaries-data").textContent);
const names = [...new Set(runs.flatMap((run) => Object.keys(run.benchmarks)))];
const benchmarks = new Map(names.map((name) => [name, readBenchmark(name)]));

/** A benchmark's figures in each run (null where it was not run), its scale and decimals. */
function readBenchmark(name) {
  const inRuns = runs.map((run) => run.benchmarks[name] ?? null);
  const { title, modality, metric, unit, full } = inRuns.find(Boolean);
  const top = unit === "%" ? 100 : full ?? niceCeiling(highest(inRuns));
  const decimals = top > 10 ? 1 : top > 1 ? 2 : 3;
  const whole = fullScore(unit, full);
  return { name, title, modality, metric, unit, inRuns, top, decimals, full: whole };
}

/** The highest figure that is drawn anywhere. */
function highest(inRuns) {
  const groups = inRuns.flatMap((f) => Object.values(f?.groups ?? {}).flatMap(Object.values));
  return Math.max(...[...inRuns, ...groups].flatMap((f) =>
    [f?.mean, f?.mean_ci?.[1]].map((value) => value ?? 0)));
}

/** The score of an answer that is wholly right; points have no known one unless it is given. */
function fullScore(unit, full) {
  return full ?? (unit === "points" ? Infinity : 1);
}

function niceCeiling(value) {
  const power = 10 ** Math.ceil(Math.log10(value || 1));
  return [0.1, 0.2, 0.5, 1].map((step) => step * power).find((step) => step >= value);
}

const measure = (b) => (b.unit ? `${b.metric}, ${b.unit}` : b.metric);
const lacks = (figures) => Object.values(figures.missing).reduce((a, b) => a + b, 0);

/** {captions: 3, media: 0, ...} -> "3 captions", or "" */
const lackText = (figures) =>
  Object.entries(figures.missing).filter(([, count]) => count)
    .map(([what, count]) => `${number(count)} ${count === 1 ? singular(what) : what}`).join(", ");
const singular = (what) => ({ media: "medium" })[what] ?? what.replace(/s$/, "");
const swatch = (r) => (runs.length > 1 ? el("span", { class: `swatch run-${r % 5}` }) : null);

function renderHeader() {
  document.title = `${runs[0].run} · Caption evaluation`;
  byId("run-name").append(runs[0].run);
  const fact = (name, value) =>
    value ? el("span", {}, el("span", { class: "muted" }, name), value) : null;
  byId("runs").append(...runs.map((run, r) => el("li", {},
    runs.length > 1 ? el("b", {}, swatch(r), run.run) : null,
    fact("Captioner", run.captioner), fact("Reader", run.reader), fact("Judge", run.judge),
    fact("Rule", run.rule))));
}

function renderBanner() {
  const incomplete = runs.filter((run) => !run.complete);
  if (!incomplete.length) return;
  const banner = byId("banner");
  banner.hidden = false;
  for (const run of incomplete) {
    const own = Object.values(run.benchmarks);
    const [items, scored] = ["items", "scored"].map((key) => own.reduce((n, b) => n + b[key], 0));
    const which = run === runs[0] ? "This run" : `The run ${run.run}`;
    banner.append(
      el("p", {}, el("b", {}, `${which} is incomplete. `),
        `${number(scored)} of ${number(items)} items are scored; figures are of these.`),
      el("ul", {}, own.filter(lacks).map((b) =>
        el("li", {}, `${b.title}: `, `${lackText(b)} missing`))));
  }
}
