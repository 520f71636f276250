// The open item.

let shown = null;

function showDetail() {
  const entry = state.item ? entries.find(({ key }) => key === state.item) : undefined;
  byId("browser").classList.toggle("open", Boolean(entry));
  list.select();
  if (entry === shown) return;
  shown = entry;
  byId("detail").replaceChildren(entry ? itemView(entry) : hint());
  byId("detail").scrollTop = 0;
}

function hint() {
  const key = (text) => el("kbd", {}, text);
  return el("p", { class: "hint muted" },
    "Choose an item from the list. ", key("↑"), " ", key("↓"), " move through it, ",
    key("/"), " searches, ", key("Esc"), " closes the item.");
}

function itemView(entry) {
  const { item } = entry;
  return el("article", { class: "item" }, itemHead(entry), itemFacts(entry),
    el("div", { class: "premise" }, el("div", { class: "media" }, item.media.map(mediumView)),
      el("div", { class: "asked" },
        verbatim("p", item.question, { class: "question" }), choicesView(item), goldView(item))),
    captionsOf(item, 0, item.captions),
    (item.others ?? []).map(({ run, captions }) => captionsOf(item, run, captions)));
}

/** A run's captions; where the item has another run's, too, each under its run's name. */
function captionsOf(item, r, captions) {
  const run = item.others?.length ? runs[r].run : "";
  const views = captions.map((caption, i) => captionView(item, caption, i, run));
  return el("section", { class: "of-run", "aria-label": run ? `Captions of ${run}` : "Captions" },
    run ? el("h4", { class: "run-name" }, swatch(r), run) : null,
    el("div", { class: "captions" }, views));
}

function itemHead({ item }) {
  const tool = (name, text, label) =>
    el("button", { class: "plain", "data-tool": name, "aria-label": label }, text);
  return el("header", { class: "item-head" },
    el("h3", { class: "verbatim" }, item.id),
    el("span", { class: "tag" }, benchmarks.get(item.benchmark)?.title ?? item.benchmark),
    el("div", { class: "tools" }, tool("previous", "↑ Previous", "Previous item"),
      tool("next", "↓ Next", "Next item"), tool("close", "Close", "Close the item")));
}

function itemFacts({ item }) {
  const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  return el("dl", { class: "facts" },
    fact("Mean", item.mean === null ? "–" : short(item.mean)),
    item.captions.length > 1 && fact("Best", item.best === null ? "–" : short(item.best)),
    Object.entries(item.groups).map(([kind, value]) => fact(kind, String(value))),
    fact("Source", el("span", { class: "mono" }, item.source)));
}

function mediumView(medium) {
  const source = medium.picture === null ? null : picture(medium.picture);
  const isStrip = medium.kind === "video" && medium.times.length > 0;
  const alt = isStrip ? `${medium.times.length} frames of ${medium.path}` : medium.path;
  const image = source ? el("img", { src: source, alt })
    : el("div", { class: "absent" }, "no picture");
  const times = isStrip && source && el("ol", { class: "frame-times", "aria-label": "Frame times" },
    medium.times.map((at) => el("li", { "data-at": at }, clock(at < 60 ? at : Math.round(at)))));
  return el("figure", { class: medium.kind },
    el("div", { class: "frames" }, el("div", { class: "reel" }, image, times)),
    el("figcaption", {}, medium.path, medium.duration !== null && ` · ${clock(medium.duration)}`));
}

/** Which choice a text, letter or number stands for; -1 if none. Numbers count from 0. */
function choiceIndex(value, choices) {
  if (Number.isInteger(value)) return value >= 0 && value < choices.length ? value : -1;
  if (typeof value !== "string") return -1;
  const plain = value.trim().toLowerCase();
  const whole = choices.findIndex((choice) => choice.trim().toLowerCase() === plain);
  const letter = plain.match(/^\W*([a-z])(?:[.):]|\W*$)/)?.[1];
  if (whole >= 0 || !letter) return whole;
  const index = letter.charCodeAt(0) - "a".charCodeAt(0);
  return index < choices.length ? index : -1;
}

const goldIndices = ({ answer, choices }) =>
  [answer].flat().map((one) => choiceIndex(one, choices)).filter((index) => index >= 0);

function chosenBy(item, index) {
  const by = item.captions.map((c, i) => [c.verdict?.said ?? c.answer?.text ?? null, i + 1])
    .filter(([said]) => choiceIndex(said, item.choices) === index).map(([, number]) => number);
  return by.length ? `chosen by caption${by.length > 1 ? "s" : ""} ${by.join(", ")}` : null;
}

function choicesView(item) {
  if (!item.choices.length) return null;
  const gold = goldIndices(item);
  return el("ol", { class: "choices", "aria-label": "Choices" }, item.choices.map((choice, i) => {
    const chosen = chosenBy(item, i);
    return el("li", { class: gold.includes(i) && "gold" },
      el("span", { class: "letter" }, String.fromCharCode(65 + i)), verbatim("span", choice),
      chosen && el("span", { class: "note" }, chosen),
      gold.includes(i) && el("span", { class: "gold-note" }, "gold"));
  }));
}

function goldView(item) {
  if (goldIndices(item).length || item.answer === null || item.answer === undefined) return null;
  return el("div", { class: "choices" }, el("div", {},
    el("span", { class: "gold-note" }, "Gold "), verbatim("span", asText(item.answer))));
}

function captionView(item, caption, index, run) {
  const name = `caption ${index + 1}${run && ` of ${run}`}`;
  const kind = captionVerdict(caption, benchmarks.get(item.benchmark)?.full ?? 1);
  const timeline = timelineOf(caption.text ?? "", item);
  return el("section", { class: "caption", "aria-label": name },
    el("header", {}, el("h4", {}, `Caption ${index + 1}`), verdictView(caption, kind),
      el("span", { class: "muted" }, captionSize(caption)),
      caption.finish === "length" && el("span", { class: "cut" }, "cut at the length limit")),
    caption.text === null
      ? el("p", { class: "gap" }, `No caption: ${caption.missing ?? "not written yet"}`)
      : [timelineView(timeline, name), timedText(caption.text, timeline)],
    readingView(caption));
}

const verdictView = ({ verdict }, kind) => el("span", { class: `verdict ${kind}` },
  el("span", { class: `mark ${kind}` }), VERDICTS[kind],
  kind === "partly" && el("span", {}, short(verdict.score)));

function captionSize({ text, tokens }) {
  const characters = text === null ? null : plural(text.length, "character");
  return [tokens === null ? null : plural(tokens, "token"), characters].filter(Boolean).join(", ");
}

/** What was made of the caption: the answer, what was understood of it, and the judge's reply. */
function readingView({ answer, verdict, judge, text }) {
  const row = (name, value, attributes = { class: "mono" }) =>
    (value ?? null) !== null && [el("dt", {}, name), verbatim("dd", value, attributes)];
  const detail = Object.keys(verdict?.detail ?? {}).length ? asText(verdict.detail) : null;
  const unread = answer?.missing && text !== null ? answer.missing : null;
  const rows = [
    row("Answer", answer?.text), row("No answer", unread, { class: "gap" }),
    row("Understood as", verdict?.said), row("Judge's reply", judge?.text),
    row("No judgement", judge?.missing, { class: "gap" }), row("Detail", detail),
  ];
  return rows.some(Boolean) ? el("dl", { class: "reading" }, rows) : null;
}
