// The open group: what was seen, what was said of it, and what that earned.

let shown = null; // {entry, records}

async function showDetail() {
  const entry = state.item ? entries.find(({ key }) => key === state.item) : undefined;
  byId("browser").classList.toggle("open", Boolean(entry));
  list.select();
  if (entry === shown?.entry) return;
  shown = entry ? { entry, records: null } : null;
  byId("detail").scrollTop = 0;
  byId("detail").replaceChildren(entry ? groupHead(entry) : hint());
  if (entry) await fillDetail(entry);
}

async function fillDetail(entry) {
  const box = el("article", { class: "item" }, groupHead(entry), groupFacts(entry));
  try {
    const records = await source.records(entry);
    if (shown?.entry !== entry) return;
    shown.records = records;
    box.append(...groupParts(entry, records).filter(Boolean));
    showPictures(entry, box);
  } catch (error) {
    box.append(el("p", { class: "gap" }, error.message));
  }
  if (shown?.entry !== entry) return;
  byId("detail").replaceChildren(box);
  if (matchMedia("(max-width: 860px)").matches) goTo("items"); // it is in the list's place
  compareOthers(true);
  highlight();
}

/** Puts the pictures in their places when they have come: a clip may take a while to decode. */
async function showPictures(entry, box) {
  try {
    const media = await source.media(entry);
    box.querySelector(".media").replaceChildren(...media.map(mediumView));
  } catch (error) {
    box.querySelector(".media").replaceChildren(el("p", { class: "gap" }, error.message));
  }
}

/** What the records say of their media, without pictures. */
function mediaOf(entry, { media, media_refs: refs, seconds }) {
  return media.map((name, i) => {
    const kind = refs?.[i].kind ?? entry.about.kind;
    return { kind, name, picture: null, times: [], missing: "…",
      duration: kind === "video" ? seconds ?? null : null };
  });
}

function hint() {
  const key = (text) => el("kbd", {}, text);
  return el("p", { class: "hint muted" },
    "Choose a group from the list. ", key("↑"), " ", key("↓"), " move through it, ",
    key("/"), " searches, ", key("Esc"), " closes the group.");
}

function groupHead(entry) {
  const tool = (name, text, label) =>
    el("button", { class: "plain", "data-tool": name, "aria-label": label }, text);
  return el("header", { class: "item-head" },
    el("h3", { class: "verbatim" }, runSwatch(entry.run), entry.id),
    el("span", { class: "tag" }, `step ${number(entry.step)}`),
    el("span", { class: "tag" }, KINDS[entry.kind]),
    el("div", { class: "tools" }, tool("previous", "↑ Previous", "Previous group"),
      tool("next", "↓ Next", "Next group"), tool("close", "Close", "Close the group")));
}

function groupFacts(entry) {
  const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  const totals = numbersOf(entry, "total");
  const means = Object.keys(entry.about.values)
    .map((name) => fact(name, compact(meanOf(numbersOf(entry, name)))));
  return el("dl", { class: "facts" }, fact("Mean reward", compact(meanOf(totals))),
    fact("Spread", compact(spreadOf(totals))),
    runs.length > 1 ? fact("Run", runs[entry.run].name) : null, means);
}

function groupParts(entry, records) {
  const { prompt, context, source: from } = records[0];
  const media = mediaOf(entry, records[0]);
  const item = { media };
  return [
    el("div", { class: "premise" }, el("div", { class: "media" }, media.map(mediumView)),
      el("details", { class: "prompt" }, el("summary", {}, "Prompt and source"),
        verbatim("p", prompt), context ? verbatim("p", context) : null,
        el("p", { class: "mono muted" }, from))),
    el("section", { class: "captions", "aria-label": "Captions" },
      records.map((record) => captionView(record, item, records, entry.kind === "rollouts"))),
    evidenceView(records),
    othersView(entry, records),
  ];
}

function mediumView({ kind, name, picture, times, duration, missing }) {
  const isStrip = kind === "video" && times.length > 0;
  const image = picture ? el("img", { src: picture, alt: isStrip ? `frames of ${name}` : name })
    : el("div", { class: "absent" }, missing ?? "no picture");
  const marks = isStrip && picture && el("ol", { class: "frame-times", "aria-label": "Frame times" },
    times.map((at) => el("li", { "data-at": at }, clock(at < 60 ? at : Math.round(at)))));
  return el("figure", { class: kind },
    el("div", { class: "frames" }, el("div", { class: "reel" }, image, marks)),
    el("figcaption", {}, name, duration !== null && ` · ${clock(duration)}`));
}

function captionView(record, item, records, isTrained) {
  const { caption, failure, tokens, finish_reason: finish, advantage, total } = record;
  const name = `Caption ${captionName(record)}`;
  const timeline = timelineOf(caption, item);
  const totals = records.map((r) => r.total).filter((value) => value !== null);
  const isBest = records.length > 1 && total === Math.max(...totals) && new Set(totals).size > 1;
  const sign = advantage > 0 ? "right" : advantage < 0 ? "wrong" : "missing";
  return el("section", { class: `caption ${isBest ? "best" : ""}`, "aria-label": name },
    el("header", {}, el("h4", {}, name), el("b", { class: "total" }, rewardText(total)),
      isTrained && el("span", { class: `verdict ${sign}`, title: "its advantage" },
        `advantage ${number(advantage, 2, "exceptZero")}`),
      isBest && el("span", { class: "tag" }, "best"),
      el("span", { class: "muted" }, plural(tokens, "token")),
      finish === "length" && el("span", { class: "cut" }, "cut off")),
    rewardsView(record),
    failure ? el("p", { class: "gap" }, `No reward: ${failure}`) : null,
    timelineView(timeline, name),
    caption ? timedText(caption, timeline) : null,
    sayingsOf(record));
}

const rewardText = (value) => (value !== null && Math.abs(value) < 0.0005 ? "0" : compact(value));

/** Each term's value, with what it is made of. */
function rewardsView({ rewards, parts, figures }) {
  const row = (name, value, kind) => el("div", { class: kind }, el("dt", {}, name),
    el("dd", {}, rewardText(value)));
  const terms = Object.entries(rewards).flatMap(([term, value]) => [row(term, value, "term"),
    ...partsOfTerm(term, parts).map(([name, part]) => row(name, part, "part"))]);
  const others = Object.entries(parts).filter(([name]) => !(name.split("/")[0] in rewards));
  const rest = [...others, ...Object.entries(figures ?? {})]
    .map(([name, value]) => row(name.replace(/^caption\//, "").replaceAll("_", " "), value, "part"));
  return el("dl", { class: "rewards" }, terms, rest);
}

const partsOfTerm = (term, parts) => Object.entries(parts)
  .filter(([name]) => name.startsWith(`${term}/`))
  .map(([name, value]) => [name.slice(term.length + 1), value]);
