// Elements and figures.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.flat(3).filter((child) => (child ?? false) !== false));
  return node;
}

/** An HTML element. Children are nodes or texts; a text is never parsed. */
const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);
const verbatim = (tag, text, attributes = {}) =>
  el(tag, { dir: "auto", ...attributes, class: `verbatim ${attributes.class ?? ""}` }, text);

const formats = new Map();

/** A number with so many decimals, or a dash where there is none. */
function number(value, decimals = 0, signDisplay = "auto") {
  if (value === null || value === undefined) return "–";
  const name = `${decimals} ${signDisplay}`;
  if (!formats.has(name)) {
    const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
    formats.set(name, new Intl.NumberFormat("en", { ...digits, signDisplay }));
  }
  return formats.get(name).format(value).replace("-", "−");
}

const short = (value) => number(value, Number.isInteger(value) ? 0 : 2);
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const interval = (ci, decimals, sign) =>
  ci ? `(${number(ci[0], decimals, sign)} to ${number(ci[1], decimals, sign)})` : "";
const withInterval = (value, ci, decimals) => [
  el("b", {}, number(value, decimals)),
  ci ? el("span", { class: "ci" }, ` ${interval(ci, decimals)}`) : null,
];

/** 75.5 -> "1:15.5", 3675 -> "1:01:15" */
function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const [whole, rest] = [Math.floor(tenths / 10), tenths % 10];
  const two = (value) => String(value).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return (h ? `${h}:${two(m)}` : m) + `:${two(s)}` + (rest ? `.${rest}` : "");
}

/** A text as it is, anything else as JSON: on one line where that is short. */
function asText(value) {
  if (typeof value === "string") return value;
  const flat = JSON.stringify(value);
  return flat.length <= 80 ? flat : JSON.stringify(value, null, 1);
}

// ---- Runs and their benchmarks ----

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
