// Words searched for, and where they stand.

/** 'red "fire truck"' -> ["red", "fire truck"] */
const wordsOf = (query) =>
  [...query.matchAll(/"([^"]+)"|[^\s"]+/g)].map((match) => match[1] ?? match[0]);

function patternOf(query) {
  const escaped = wordsOf(query).map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return escaped.length ? new RegExp(escaped.join("|"), "giu") : null;
}

/** Marks the words searched for in these boxes, without touching the document. */
function highlightIn(boxes, query) {
  if (!window.Highlight) return;
  const pattern = patternOf(query);
  const ranges = pattern ? boxes.flatMap((box) => rangesIn(box, pattern)) : [];
  CSS.highlights.set("found", new Highlight(...ranges));
}

function rangesIn(box, pattern) {
  const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
  const ranges = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    for (const match of node.data.matchAll(pattern)) {
      const range = new Range();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      ranges.push(range);
    }
  }
  return ranges;
}

/** Calls `action` once calls have paused for so many milliseconds. */
function debounced(action, pause) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, pause);
  };
}

/** Parses a data block and lets go of its text. */
function takeJson(id) {
  const value = JSON.parse(byId(id).textContent);
  byId(id).remove();
  return value;
}

// ---- State: all of it is in the URL's hash ----

/** A state with the values that the hash has, where it has some. */
function readHashInto(state, blank) {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(blank)) state[name] = given.get(name) ?? "";
}

function writeHashOf(state, push) {
  const kept = Object.entries(state).filter(([, value]) => value);
  const hash = `#${new URLSearchParams(kept)}`;
  if (hash === (location.hash || "#")) return;
  history[push ? "pushState" : "replaceState"](null, "", hash);
}

// ---- Selects ----

function options(select, pairs, first) {
  const all = [["", first], ...pairs];
  select.replaceChildren(...all.map(([value, text]) => el("option", { value }, text)));
}

/** Shows the state in the form's controls. */
function showControls(form, state) {
  for (const control of form.querySelectorAll("[name]")) {
    const value = state[control.name];
    if (control.value !== value) control.value = value;
    control.classList.toggle("set", value !== "");
  }
}
