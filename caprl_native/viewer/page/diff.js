// Captions of one sample at other steps, or of the other run: what has changed between them.

const MOST_CELLS = 4e6; // of the table of common words; longer texts are not compared word by word

const wordsWithBlanks = (text) => text.match(/\S+\s*|^\s+/g) ?? [];

/** [["same" | "gone" | "new", text], ...]; null where the texts are too long. */
function wordDiff(before, after) {
  const [a, b] = [wordsWithBlanks(before), wordsWithBlanks(after)];
  const [x, y] = [a, b].map((words) => words.map((word) => word.trim()));
  let start = 0;
  while (start < x.length && start < y.length && x[start] === y[start]) start += 1;
  let [i, j] = [x.length, y.length];
  while (i > start && j > start && x[i - 1] === y[j - 1]) [i, j] = [i - 1, j - 1];
  if ((i - start + 1) * (j - start + 1) > MOST_CELLS) return null;
  const middle = common(x.slice(start, i), y.slice(start, j)).map(([kind, at]) =>
    [kind, kind === "new" ? b[start + at] : a[start + at]]);
  const kept = (words) => words.map((word) => ["same", word]);
  return [...kept(b.slice(0, start)), ...middle, ...kept(b.slice(j))];
}

/** The longest common row of words, and what stands between: [kind, place in x or in y]. */
function common(x, y) {
  const wide = y.length + 1;
  const table = new Uint16Array((x.length + 1) * wide);
  for (let i = x.length - 1; i >= 0; i -= 1) {
    for (let j = y.length - 1; j >= 0; j -= 1) {
      table[i * wide + j] = x[i] === y[j] ? table[(i + 1) * wide + j + 1] + 1
        : Math.max(table[(i + 1) * wide + j], table[i * wide + j + 1]);
    }
  }
  const found = [];
  let [i, j] = [0, 0];
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) {
      found.push(["same", i]);
      [i, j] = [i + 1, j + 1];
    } else if (j >= y.length
      || (i < x.length && table[(i + 1) * wide + j] >= table[i * wide + j + 1])) {
      found.push(["gone", i]);
      i += 1;
    } else {
      found.push(["new", j]);
      j += 1;
    }
  }
  return found;
}

const DIFF_TAGS = { same: "span", gone: "del", new: "ins" };

function diffView(before, after) {
  const pieces = wordDiff(before, after);
  if (!pieces) return el("p", { class: "gap" }, "Both are too long to be compared word by word.");
  const joined = [];
  for (const [kind, text] of pieces) {
    if (joined.at(-1)?.[0] === kind) joined.at(-1)[1] += text;
    else joined.push([kind, text]);
  }
  return verbatim("div", joined.map(([kind, text]) => el(DIFF_TAGS[kind], {}, text)),
    { class: "text diff" });
}

// ---- Which two are compared ----

/** Other groups of the same sample: the open one's successors and predecessors, the other run's. */
const othersOf = (entry) => (samples.get(entry.id) ?? [])
  .filter((other) => other !== entry && other.kind !== "blind")
  .sort((a, b) => a.run - b.run || a.kind.localeCompare(b.kind) || a.step - b.step);

function successorOf(entry, others) {
  const same = others.filter((other) => other.run === entry.run && other.kind === entry.kind);
  return twinOf(entry) ?? same.find((other) => other.step > entry.step) ?? same.at(-1) ?? others[0];
}

const groupName = ({ run, kind, step }) =>
  `${runs.length > 1 ? `${runs[run].name}, ` : ""}step ${number(step)}, ${KINDS[kind]}`;

function bestOf(records) {
  const totals = records.map(({ total }) => total ?? -Infinity);
  return totals.indexOf(Math.max(...totals));
}

const captionOption = ({ total }, i) => [i, `caption ${i + 1} (${compact(total)})`];

function othersView(entry, records) {
  const others = othersOf(entry);
  if (!others.length || entry.kind === "blind") return null;
  const first = successorOf(entry, others);
  const select = (name, pairs, chosen) => el("select", { name, "aria-label": name },
    pairs.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
  return el("section", { class: "others" },
    el("h4", {}, `The same sample elsewhere (${number(others.length)})`),
    el("form", { class: "filters", id: "others-form" },
      el("label", {}, "Caption here", select("here", records.map(captionOption), bestOf(records))),
      el("label", {}, "Compared with", select("other", others.map((o) => [o.key, groupName(o)]),
        first.key)),
      el("label", {}, "Its caption", select("there", [], 0)),
      el("button", { class: "plain", type: "button", "data-tool": "other" }, "Open it")),
    el("div", { id: "others-diff" }));
}

/** Shows the difference that the form asks for; `fresh`: another group was chosen. */
async function compareOthers(fresh) {
  const chooser = byId("others-form");
  if (!chooser || !shown?.records) return;
  const { entry, records } = shown;
  const other = othersOf(entry).find(({ key }) => key === chooser.other.value);
  try {
    const theirs = await source.records(other);
    if (shown?.entry !== entry || chooser.other.value !== other.key) return;
    if (fresh) fillCaptions(chooser.there, theirs);
    const [here, there] = [records[chooser.here.value], theirs[chooser.there.value]];
    byId("others-diff").replaceChildren(comparedView(entry, here, other, there));
  } catch (error) {
    byId("others-diff").replaceChildren(el("p", { class: "gap" }, error.message));
  }
}

function fillCaptions(select, records) {
  select.replaceChildren(...records.map(captionOption).map(([value, text]) =>
    el("option", { value }, text)));
  select.value = bestOf(records);
}

/** The earlier one's words that are gone, and the later one's that are new. */
function comparedView(entry, here, other, there) {
  const isLater = entry.run === other.run ? other.step >= entry.step : other.run > entry.run;
  const pair = [[entry, here], [other, there]];
  const [[a, before], [b, after]] = isLater ? pair : pair.reverse();
  const side = (group, { total }) => `${groupName(group)}: ${compact(total)}`;
  return el("div", { class: "caption" },
    el("header", {}, el("span", {}, el("del", {}, side(a, before))), el("span", {}, "→"),
      el("span", {}, el("ins", {}, side(b, after)))),
    diffView(before.caption, after.caption));
}
