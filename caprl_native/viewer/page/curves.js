// Curves: a chart for each metric, with what it means.

const WIDTH = 300; // of the drawing's own units; it is stretched to the room that there is
const HEIGHT = 90;
const MOST_POINTS = 400; // of a line; of more the lowest and highest in between are drawn
const SECTIONS = {
  reward: "Reward", eval: "Held out", completion: "Captions", caption: "Captions",
  policy: "Update", mismatch: "Trainer and engine", data: "Data", perf: "Speed", time: "Time",
};
const charts = new Map(); // metric -> its parts
let hovered = null; // the step under the pointer, in all charts

const sectionOf = (name) => SECTIONS[name.split("/")[0]] ?? "Others";

function renderCurves() {
  const fresh = metricNames().filter((name) => !charts.has(name));
  for (const name of fresh) charts.set(name, newChart(name));
  if (fresh.length) layOutCharts();
  const extent = stepsExtent();
  for (const chart of charts.values()) drawChart(chart, extent);
  filterCurves();
}

function layOutCharts() {
  const sections = new Map([...new Set(Object.values(SECTIONS)), "Others"].map((s) => [s, []]));
  for (const [name, { figure }] of charts) sections.get(sectionOf(name)).push(figure);
  byId("charts").replaceChildren(...[...sections].filter(([, own]) => own.length)
    .map(([title, own]) => el("section", { class: "charts-of" }, el("h3", {}, title),
      el("div", { class: "charts" }, own))));
}

function newChart(name) {
  const lines = runs.map((_, run) => svg("path", { class: `curve run-${run}` }));
  const dots = runs.map((_, run) => svg("path", { class: `dots run-${run}` }));
  const alarms = svg("path", { class: "alarm-line" });
  const cross = svg("path", { class: "cross" });
  const drawing = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": name,
  }, alarms, cross, lines, dots);
  const [value, top, bottom, first, last] = ["value", "top", "bottom", "first", "last"]
    .map((part) => el("span", { class: part }));
  const meaning = el("p", { class: "meaning" });
  const open = el("button", { class: "name mono link", "data-evidence": JSON.stringify({
    metric: name }), title: "The captions of its last step" }, breakable(name));
  const plot = el("div", { class: "plot", "data-metric": name }, drawing, top, bottom);
  const figure = el("figure", { class: "chart" }, el("figcaption", {}, open, value), plot,
    el("div", { class: "steps" }, first, last), meaning);
  return { name, figure, lines, dots, alarms, cross, value, top, bottom, first, last, meaning };
}

function stepsExtent() {
  const all = data.flatMap(({ series }) => [...series.values()])
    .flatMap(({ steps }) => [steps[0], steps.at(-1)]);
  return all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
}

function drawChart(chart, [from, to]) {
  const own = data.map(({ series }) => series.get(chart.name) ?? { steps: [], values: [] });
  const [low, high] = valuesExtent(own.map(({ values }) => values));
  const x = (step) => 4 + (WIDTH - 8) * (to > from ? (step - from) / (to - from) : 0.5);
  const y = (value) => HEIGHT - 4 - ((HEIGHT - 8) * (value - low)) / (high - low || 1);
  Object.assign(chart, { x, from, to, own });
  own.forEach((of, run) => {
    const points = thinned(of).map(([step, value]) => [x(step).toFixed(1), y(value).toFixed(1)]);
    chart.lines[run].setAttribute("d", points.map((p, i) => `${i ? "L" : "M"}${p}`).join(""));
    const few = points.length <= 40 ? points : points.slice(-1);
    chart.dots[run].setAttribute("d", few.map((p) => `M${p}h0`).join(""));
  });
  const alarms = data.flatMap(({ alarms: all }) => all.filter((a) => a.metric === chart.name));
  chart.alarms.setAttribute("d", alarms.map((a) => `M${x(a.step).toFixed(1)} 0V${HEIGHT}`).join(""));
  writeLabels(chart, low, high);
}

function valuesExtent(lists) {
  let [low, high] = [Infinity, -Infinity];
  for (const values of lists) {
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return [0, 1];
  if (low !== high) return [low, high];
  return low < 0 ? [1.5 * low, 0] : [0, 1.5 * high || 1];
}

/** The points of a line, of many the lowest and the highest of each stretch, in their order. */
function thinned({ steps, values }) {
  const points = steps.map((step, i) => [step, values[i]]);
  if (points.length <= MOST_POINTS) return points;
  const size = Math.ceil((2 * points.length) / MOST_POINTS);
  const kept = [];
  for (let at = 0; at < points.length; at += size) {
    const stretch = points.slice(at, at + size);
    const low = stretch.reduce((a, b) => (b[1] < a[1] ? b : a));
    const high = stretch.reduce((a, b) => (b[1] > a[1] ? b : a));
    kept.push(...[low, high].sort((a, b) => a[0] - b[0]));
  }
  return kept;
}

function compact(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && (size < 0.001 || size >= 1e7)) return value.toExponential(1).replace("-", "−");
  return number(value, Number.isInteger(value) ? 0 : decimalsOf(size));
}

function writeLabels(chart, low, high) {
  const { name, own, from, to } = chart;
  const known = meaningOf(name);
  chart.top.textContent = compact(high);
  chart.bottom.textContent = compact(low);
  chart.first.textContent = `step ${number(from)}`;
  chart.last.textContent = number(to);
  chart.meaning.replaceChildren(known ? known.text : "No meaning is declared for it.", " ",
    el("span", { class: "reduced" }, known ? `${known.reduced}.` : ""));
  chart.meaning.classList.toggle("undeclared", !known);
  chart.value.replaceChildren(...own.map(({ values }, run) =>
    el("b", { class: `run-${run} ink` }, compact(values.at(-1)))));
}

// ---- The pointer ----

/** The series' step that is nearest to a place in the chart, from 0 to 1. */
function stepAt({ own, from, to }, share) {
  const wanted = from + share * (to - from);
  const all = own.flatMap(({ steps }) => steps);
  return all.length
    ? all.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a)) : null;
}

function stepUnder(event) {
  const plot = event.target.closest(".plot[data-metric]");
  if (!plot) return null;
  const chart = charts.get(plot.dataset.metric);
  const box = plot.querySelector("svg").getBoundingClientRect();
  return { chart, step: stepAt(chart, (event.clientX - box.left) / box.width) };
}

function onChartMove(event) {
  const under = stepUnder(event);
  if (hovered && (!under || hovered.chart !== under.chart)) writeValues(hovered.chart, null);
  if (under?.step !== hovered?.step) {
    for (const chart of charts.values()) crossAt(chart, under?.step ?? null);
  }
  if (under) writeValues(under.chart, under.step);
  hovered = under;
}

function crossAt(chart, step) {
  const d = step === null ? "" : `M${chart.x(step).toFixed(1)} 0V${HEIGHT}`;
  chart.cross.setAttribute("d", d);
}

function writeValues({ own, value }, step) {
  const at = ({ steps, values }) => (step === null ? values.at(-1) : values[steps.lastIndexOf(step)]);
  value.replaceChildren(
    step === null ? "" : el("span", { class: "muted" }, `step ${number(step)} `),
    ...own.map((of, run) => el("b", { class: `run-${run} ink` }, compact(at(of)))));
}

function filterCurves() {
  const wanted = byId("metric-search").value.trim().toLowerCase();
  for (const { name, figure } of charts.values()) {
    const text = `${name} ${meaningOf(name)?.text ?? ""}`.toLowerCase();
    figure.hidden = !text.includes(wanted);
  }
  for (const section of document.querySelectorAll(".charts-of")) {
    section.hidden = !section.querySelector(".chart:not([hidden])");
  }
}

/** Opens the captions that a number is made of. */
function showEvidence({ metric, step, run }) {
  const shows = { ...meaningOf(metric)?.shows };
  if (shows.number === "total") delete shows.number; // what is shown unless told otherwise
  const at = step ?? Math.max(...data.map(({ series }) => series.get(metric)?.steps.at(-1) ?? 0));
  const kind = metric.startsWith("eval/") ? "eval" : "rollouts";
  update({ ...BLANK, kind, ...shows, step: String(at),
    run: run === undefined || runs.length < 2 ? "" : String(run) });
  goTo("items");
}
