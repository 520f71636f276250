// Times in a caption.

const CLOCK = String.raw`(?:\d{1,2}:)?\d{1,3}:\d{2}(?:\.\d+)?`;
const TO = String.raw`\s*(?:-|–|—|~|to)\s*`;
const CLOCKS = `${CLOCK}(?:${TO}${CLOCK})?`;
const NUMBER = String.raw`\d+(?:\.\d+)?`;
const UNIT = String.raw`\s*(?:s|secs?|seconds?)`;
const SECONDS = `(?:${NUMBER}(?:${UNIT})?${TO})?${NUMBER}${UNIT}`;
// [00:12 - 00:20], [12s-20s], <12.5 seconds>, 00:12; a bare time of day is none.
const TIMES = new RegExp([
  String.raw`\[\s*(?:${CLOCKS}|${SECONDS})\s*\]`,
  String.raw`<\s*(?:${CLOCKS}|${SECONDS})\s*>`,
  String.raw`(?<![\d:.])${CLOCKS}(?![\d:]|\s*[ap]\.?m\b)`,
].join("|"), "gi");

/** The times in a text: where each stands, its seconds, and whether the two make sense. */
function timesIn(text) {
  return [...text.matchAll(TIMES)].map((match) => {
    const parts = match[0].match(/\d+(?::\d+)*(?:\.\d+)?/g).map((part) => part.split(":"));
    const fields = parts.map((part) => part.map(Number));
    const seconds = fields.map((own) => own.reduce((total, field) => 60 * total + field, 0));
    const [start, end] = [seconds[0], seconds.at(-1)];
    const sixties = fields.every((own) => own.slice(1).every((field) => field < 60));
    return { at: match.index, text: match[0], start, end, valid: sixties && end >= start };
  });
}

/** How long the time line is, and what of the times it can show. */
function timelineOf(text, item) {
  const video = item.media.find((medium) => medium.kind === "video");
  const times = video ? timesIn(text) : [];
  const last = Math.max(0, ...times.filter((time) => time.valid).map((time) => time.end));
  const extent = video?.duration || last;
  // Half a second: durations are rounded.
  for (const time of times) time.drawn = time.valid && extent > 0 && time.start <= extent + 0.5;
  return { times, extent, known: Boolean(video?.duration) };
}

const MOST_LANES = 6;

/** A lane for each time, so that those that overlap lie above each other. */
function lanesOf(times, shortest) {
  const ends = [];
  return times.map((time) => {
    const free = ends.findIndex((end) => end <= time.start);
    const lane = free < 0 ? ends.length : free;
    ends[lane] = Math.max(time.end, time.start + shortest);
    return lane % MOST_LANES;
  });
}

function timelineView({ times, extent, known }, name) {
  const drawn = times.filter((time) => time.drawn);
  if (!drawn.length) return null;
  const lanes = lanesOf(drawn, extent / 100);
  const box = el("div", { class: "lanes" },
    drawn.map((time, i) => segment(time, lanes[i], extent, times.indexOf(time))));
  box.style.height = `${14 * (Math.max(...lanes) + 1) + 4}px`;
  return el("div", { class: "timeline", role: "group", "aria-label": `Times in ${name}` },
    box, axis(extent), el("p", {}, timesNote(times, known)));
}

function place(node, share) {
  node.style.left = `${100 * Math.min(1, share)}%`;
  return node;
}

function segment({ start, end }, lane, extent, index) {
  const text = end > start ? `${clock(start)} to ${clock(end)}` : clock(start);
  const button = el("button", {
    class: "segment", "data-time": index, "data-middle": (start + end) / 2,
    "aria-pressed": "false", "aria-label": text, title: text,
  });
  const shown = Math.max(0, Math.min(end, extent) - start);
  button.style.top = `${2 + 14 * lane}px`;
  button.style.width = `${(100 * shown) / extent}%`;
  return place(button, start / extent);
}

const STEPS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];

function axis(extent) {
  const step = STEPS.find((candidate) => extent / candidate <= 6) ?? extent;
  const count = Math.max(1, Math.ceil(extent / step - 0.75)); // the end's own text needs room
  const ticks = Array.from({ length: count }, (_, i) => i * step);
  return el("div", { class: "axis", "aria-hidden": "true" },
    ticks.map((at) => [place(el("i"), at / extent), place(el("span", {}, clock(at)), at / extent)]),
    el("span", { class: "last" }, clock(extent)));
}

function timesNote(times, known) {
  const valid = times.filter((time) => time.valid);
  const ordered = valid.every((time, i) => i === 0 || valid[i - 1].start <= time.start);
  const late = valid.filter((time) => !time.drawn).length;
  return [
    `${plural(times.length, "time")}, ${ordered ? "in order" : "not in order"}`,
    times.length > valid.length && `${times.length - valid.length} not valid`,
    late > 0 && `${late} after the end`,
    !known && "the video's duration is not known",
  ].filter(Boolean).join("; ");
}

/** A caption's text; each time is a button, and holds what follows up to the next one. */
function timedText(text, { times }) {
  const pieces = [text.slice(0, times[0]?.at ?? text.length)];
  times.forEach((time, i) => {
    const rest = text.slice(time.at + time.text.length, times[i + 1]?.at ?? text.length);
    pieces.push(el("span", { class: "passage", "data-time": i }, timeButton(time, i), rest));
  });
  return verbatim("div", pieces, { class: "text" });
}

function timeButton(time, index) {
  const button = { class: "time", "data-time": index, "aria-pressed": "false" };
  if (time.drawn) return el("button", button, time.text);
  const why = time.valid ? "after the end of the video" : "not a valid time";
  return el("span", { class: "time undrawn", title: why }, time.text);
}

/** Hovering or focusing a time, on the line or in the text, lights up all that belongs to it. */
function onTimeHover(event) {
  const over = event.target.closest("button[data-time]");
  for (const node of byId("detail").querySelectorAll(".hot")) node.classList.remove("hot");
  if (over) for (const node of partsOf(over)) node.classList.add("hot");
}

const partsOf = (node) =>
  node.closest(".caption").querySelectorAll(`[data-time="${node.dataset.time}"]`);

/** A click marks a time until the next click, and brings its text into sight. */
function onTimeClick(event) {
  const clicked = event.target.closest("button[data-time]");
  if (!clicked) return;
  const marks = !clicked.classList.contains("marked");
  const caption = clicked.closest(".caption");
  for (const node of caption.querySelectorAll(".marked")) setMarked(node, false);
  if (marks) for (const node of partsOf(clicked)) setMarked(node, true);
  nearestFrame(caption.querySelector(".segment.marked"));
  if (clicked.matches(".segment.marked")) {
    caption.querySelector(".passage.marked").scrollIntoView({ block: "nearest" });
  }
}

function setMarked(node, marked) {
  node.classList.toggle("marked", marked);
  if (node.matches("button")) node.setAttribute("aria-pressed", marked);
}

/** Points out the frame of the strip that is nearest to the middle of a segment. */
function nearestFrame(marked) {
  const frames = [...byId("detail").querySelectorAll(".frame-times [data-at]")];
  for (const frame of frames) frame.classList.remove("near");
  if (!marked || !frames.length) return;
  const distance = (frame) => Math.abs(frame.dataset.at - marked.dataset.middle);
  frames.reduce((a, b) => (distance(b) < distance(a) ? b : a)).classList.add("near");
}
