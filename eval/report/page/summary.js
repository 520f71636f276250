// The summary table.

const everyN = new Set(runs.flatMap((run) => Object.values(run.benchmarks).map(({ n }) => n)));
const several = Math.max(...everyN) > 1;
const bestName = `Best of ${everyN.size === 1 ? [...everyN][0] : "n"}`;

/** The columns that a run has in the summary: a heading and a cell each. */
function runColumns(r) {
  const columns = [{ name: "Score", cell: (b, f) => withInterval(f.mean, f.mean_ci, b.decimals) }];
  if (r > 0) columns.push({ name: "Difference", cell: differenceCell });
  if (several) columns.push({ name: bestName, cell: bestCell });
  columns.push({ name: "Items", cell: itemsCell }, { name: "Missing", cell: missingCell },
    { name: "Caption length", cell: lengthCell });
  return columns;
}

/** To the first run: over the items that both have where that was worked out, else of the means. */
function differenceCell(b, f) {
  if (f.incomparable) return el("span", { class: "ci words" }, f.incomparable);
  const first = b.inRuns[0]?.mean ?? null;
  const ofMeans = first === null || f.mean === null ? null : f.mean - first;
  const title = f.items_in_both === undefined ? null : `over ${plural(f.items_in_both, "item")}`;
  const ci = f.difference_ci
    && el("span", { class: "ci" }, ` ${interval(f.difference_ci, b.decimals, "exceptZero")}`);
  return [
    el("span", { title }, number(f.difference ?? ofMeans, b.decimals, "exceptZero")), ci ?? null,
  ];
}

function bestCell(b, f) {
  if (f.best === null) return "–";
  return [number(f.best, b.decimals),
    el("span", { class: "ci" }, ` ${interval(f.best_ci, b.decimals)}`)];
}

const itemsCell = (b, f) =>
  f.scored === f.items ? number(f.items) : `${number(f.scored)} of ${number(f.items)}`;
const missingCell = (b, f) =>
  lacks(f) ? el("span", { class: "cut", title: lackText(f) }, number(lacks(f))) : "0";

function lengthCell(b, f) {
  const [[value, unit] = [null, ""]] = lengths(f);
  return [number(value), el("span", { class: "unit" }, ` ${unit}`)];
}

/** The mean length of captions in tokens and in characters, as far as they are known. */
const lengths = (f) => [[f.caption_tokens, "tokens"], [f.caption_characters, "characters"]]
  .filter(([value]) => (value ?? null) !== null);

function renderSummary() {
  const columns = runs.map((_, r) => runColumns(r));
  byId("summary-table").classList.toggle("compared", runs.length > 1);
  byId("summary-table").append(summaryHead(columns),
    el("tbody", {}, [...benchmarks.values()].map((b) => summaryRow(b, columns))));
  byId("summary-note").append(
    "Score: the mean over an item's captions, then over items, with its interval." +
    (several ? ` ${bestName}: each item's best caption.` : "") +
    (runs.length > 1 ? ` Difference: to ${runs[0].run}.` : ""));
}

function summaryHead(columns) {
  const rows = runs.length > 1 ? 2 : 1;
  const head = [
    el("th", { scope: "col", rowspan: rows, class: "name" }, "Benchmark"),
    el("th", { scope: "col", rowspan: rows, class: "plot" }, "0 to 100"),
  ];
  const headings = columns.flatMap((own, r) => own.map(({ name }, i) =>
    el("th", { scope: "col", class: i === 0 && "group" }, name)));
  if (rows === 1) return el("thead", {}, el("tr", {}, head, headings));
  const groups = runs.map((run, r) =>
    el("th", { scope: "colgroup", colspan: columns[r].length, class: "group" },
      swatch(r), run.run));
  return el("thead", {}, el("tr", {}, head, groups), el("tr", {}, headings));
}

function summaryRow(b, columns) {
  const open = el("button", { class: "link", "data-benchmark": b.name }, b.title);
  const cells = columns.flatMap((own, r) => own.map(({ cell }, i) =>
    el("td", { class: i === 0 && "group" }, b.inRuns[r] ? cell(b, b.inRuns[r]) : "–")));
  return el("tr", {},
    el("th", { scope: "row", class: "name" }, open, " ", el("span", { class: "tag" }, b.modality),
      el("span", { class: "muted" }, measure(b))),
    el("td", { class: "plot" }, el("div", {}, forest(b),
      b.top === 100 ? null : el("span", { class: "scale muted" }, `0 to ${short(b.top)}`))),
    cells);
}

/** A dot with a whisker per run, on a scale from 0 to the benchmark's top. */
function forest(b) {
  const height = 14 + 9 * (runs.length - 1);
  const x = (value) => `${(100 * value) / b.top}%`;
  const track = svg("rect", { class: "track", width: "100%", height, rx: 3 });
  const quarters = ["25%", "50%", "75%"].map((at) => line(at, 0, at, height, "track-line"));
  const marks = b.inRuns.map((f, r) => {
    if (!f || f.mean === null) return null;
    const y = 7 + 9 * r;
    return svg("g", { class: `run-${r % 5}` },
      f.mean_ci ? line(x(f.mean_ci[0]), y, x(f.mean_ci[1]), y, "whisker") : null,
      svg("circle", { class: "dot", cx: x(f.mean), cy: y, r: 3.5 }));
  });
  return svg("svg", { height, "aria-hidden": "true" }, track, quarters, marks);
}

const line = (x1, y1, x2, y2, name) => svg("line", { x1, y1, x2, y2, class: name });

// ---- One benchmark: its figures and its groups ----

function renderBenchmarks() {
  const few = benchmarks.size <= 2;
  byId("benchmark-list").append(...[...benchmarks.values()].map((b) => benchmarkSection(b, few)));
}

function benchmarkSection(b, open) {
  const scores = b.inRuns.map((f, r) =>
    f ? el("span", {}, swatch(r), withInterval(f.mean, f.mean_ci, b.decimals), " ") : null);
  const kinds = [...new Set(b.inRuns.flatMap((f) => Object.keys(f?.groups ?? {})))];
  return el("details", { class: "benchmark", "data-benchmark": b.name, open },
    el("summary", {}, el("h3", {}, b.title), el("span", { class: "tag" }, b.modality),
      el("span", { class: "muted" }, measure(b)), el("span", { class: "figure" }, scores)),
    el("div", { class: "body" }, b.inRuns.map((f, r) => (f ? keyFigures(b, f, r) : null)),
      el("div", { class: "figures" }, metricsTable(b), kinds.map((kind) => groupBars(b, kind))),
      brokenRows(b)));
}

const MOST_BROKEN = 100;

/** The annotation rows of the run itself that are no items, and why. */
function brokenRows(b) {
  const broken = b.inRuns[0]?.broken ?? [];
  if (!broken.length) return null;
  const rest = broken.length - MOST_BROKEN;
  return el("details", { class: "broken" },
    el("summary", {}, `${plural(broken.length, "row")} of the annotations left out`),
    el("ul", {}, broken.slice(0, MOST_BROKEN).map(({ source, reason }) =>
      el("li", {}, el("span", { class: "mono" }, source), ` ${reason}`)),
    rest > 0 && el("li", {}, `and ${number(rest)} more`)));
}

function keyFigures(b, f, r) {
  const fact = (name, value) =>
    value ? el("div", {}, el("dt", {}, name), el("dd", {}, value)) : null;
  const length = lengths(f).map(([value, unit]) => `${number(value)} ${unit}`).join(", ");
  const show = el("button", { class: "link", "data-show": JSON.stringify({ benchmark: b.name }) },
    "Show the items");
  return el("dl", { class: "key" },
    runs.length > 1 ? el("div", {}, swatch(r), el("b", {}, runs[r].run)) : null,
    fact("Items", number(f.items)), fact("Scored", number(f.scored)),
    fact("Missing", lackText(f) || "nothing"), fact("Captions per item", number(f.n)),
    f.n > 1 ? fact(`Best of ${f.n}`, bestText(b, f)) : null,
    fact("Caption length", length), r === 0 ? show : null);
}

const bestText = (b, f) =>
  f.best === null ? "–" : `${number(f.best, b.decimals)} ${interval(f.best_ci, b.decimals)}`;

function metricsTable(b) {
  const metrics = [...new Set(b.inRuns.flatMap((f) => Object.keys(f?.metrics ?? {})))];
  if (!metrics.length) return null;
  return el("table", { class: "bars" }, el("caption", {}, "Further metrics"),
    runs.length > 1 && el("thead", {}, el("tr", {}, el("th", {}),
      runs.map((run, r) => el("th", { scope: "col" }, swatch(r), run.run)))),
    el("tbody", {}, metrics.map((metric) => el("tr", {}, el("th", { scope: "row" }, metric),
      b.inRuns.map((f) => el("td", {}, number(f?.metrics?.[metric], b.decimals)))))));
}

/** Bars of one kind of group, e.g. of each duration: a row per value and run. */
function groupBars(b, kind) {
  const values = [...new Set(b.inRuns.flatMap((f) => Object.keys(f?.groups?.[kind] ?? {})))];
  return el("table", { class: "bars" }, el("caption", {}, kind),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Value"),
      el("th", { scope: "col", class: "count" }, "Items"),
      el("th", {}, el("span", { class: "unseen" }, "Score, drawn")),
      el("th", { scope: "col" }, measure(b)))),
    el("tbody", {}, values.flatMap((value) => groupRows(b, kind, value))));
}

function groupRows(b, kind, value) {
  const figures = b.inRuns.map((f) => f?.groups?.[kind]?.[value] ?? null);
  const show = JSON.stringify({ benchmark: b.name, kind, value });
  const present = figures.map((f, r) => [f, r]).filter(([f]) => f);
  return present.map(([f, r], i) => el("tr", { class: i === 0 && "first" },
    i > 0 ? null : el("th", { scope: "row", rowspan: present.length },
      el("button", { class: "link", "data-show": show, title: "Show these items" }, value)),
    el("td", { class: "count muted" }, number(f.items)),
    el("td", { class: "plot" }, bar(b, f, r)),
    el("td", { class: "value" }, withInterval(f.mean, f.mean_ci, b.decimals))));
}

function bar(b, f, r) {
  const x = (value) => `${(100 * value) / b.top}%`;
  const overall = b.inRuns[r].mean;
  return svg("svg", { height: 14, "aria-hidden": "true", class: `run-${r % 5}` },
    line("0%", 0, "0%", 14, "grid-line"), line("100%", 0, "100%", 14, "grid-line"),
    f.mean === null ? null : svg("rect", { class: "bar", y: 2, width: x(f.mean), height: 10 }),
    overall === null ? null : line(x(overall), -2, x(overall), 16, "mean-line"),
    f.mean_ci ? whisker(x(f.mean_ci[0]), x(f.mean_ci[1])) : null);
}

const whisker = (from, to) => [line(from, 7, to, 7, "whisker"), line(from, 4, from, 10, "whisker"),
  line(to, 4, to, 10, "whisker")];
