// Elements and numbers.

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
