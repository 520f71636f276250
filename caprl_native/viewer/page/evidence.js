// What the reader made of each question: a table of questions by captions.

const OUTCOMES = {
  right: ["right", "right"], misled: ["wrong", "misled"], abstained: ["partly", "abstained"],
  none: ["missing", "no choice"],
};

/** The questions of a group in the order asked, with the entries of each caption. */
function questionsOf(records) {
  const found = new Map();
  records.forEach((record, i) => {
    for (const entry of record.reader) {
      if (typeof entry.question !== "string") continue;
      const key = JSON.stringify([entry.term, entry.question, [...entry.choices].sort()]);
      if (!found.has(key)) found.set(key, { entry, cells: records.map(() => []) });
      found.get(key).cells[i].push(entry);
    }
  });
  return [...found.values()];
}

const letterOf = (index) => String.fromCharCode(65 + index);
const choiceOf = (entry, letter) => entry.choices[letter?.charCodeAt(0) - 65] ?? null;

/** Shares of right, misled, abstained and no choice; older logs tell right from other alone. */
function outcomeOf({ outcome, letter, right, probabilities }) {
  if (outcome) return { ...outcome, none: Math.max(0, 1 - sum(Object.values(outcome))) };
  if (probabilities) return { right: probabilities[right], misled: 1 - probabilities[right] };
  return letter ? { [letter === right ? "right" : "misled"]: 1 } : { none: 1 };
}

const sum = (values) => values.reduce((a, b) => a + b, 0);
const largest = (outcome) =>
  Object.entries(outcome).reduce((a, b) => (b[1] > a[1] ? b : a), ["none", 0])[0];

function evidenceView(records) {
  const questions = questionsOf(records);
  if (!questions.length) return null;
  const heads = records.map((record) => el("th", { scope: "col" }, captionName(record)));
  return el("section", { class: "evidence" },
    el("h4", {}, "What the reader answered"),
    el("p", { class: "legend" }, "Likeliest, or chosen:", Object.values(OUTCOMES).map(([kind, text]) =>
      el("span", {}, el("span", { class: `mark ${kind}` }), text))),
    el("div", { class: "sheet", tabindex: 0, role: "region", "aria-label": "Answers" },
      el("table", { class: "answers" },
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Question"), heads)),
        el("tbody", {}, questions.map((question, q) => questionRow(question, q))))),
    el("div", { class: "answer-detail", "aria-live": "polite" }));
}

const captionName = ({ rollout }) => String(rollout + 1);

function questionRow({ entry, cells }, q) {
  const right = choiceOf(entry, entry.right);
  return el("tr", {},
    el("th", { scope: "row" }, entry.term ? el("span", { class: "tag" }, entry.term) : null,
      verbatim("span", entry.question), verbatim("span", right ?? "", { class: "gold-note" }),
      entry.weight ? el("span", { class: "muted" }, ` weight ${short(entry.weight)}`) : null),
    cells.map((entriesOfCaption, c) => el("td", {}, entriesOfCaption.map((one, i) =>
      answerButton(one, `${q}/${c}/${i}`)))));
}

function answerButton(entry, at) {
  const outcome = outcomeOf(entry);
  const name = largest(outcome);
  const [kind, text] = OUTCOMES[name];
  const said = entry.probabilities ? `${Math.round(100 * outcome[name])}%` : entry.letter ?? "–";
  return el("button", { class: `answer ${kind}`, "data-answer": at, title: text,
    "aria-label": `${text}, ${said}` }, el("span", { class: `mark ${kind}` }), said);
}

/** A click on an answer shows the choices as the reader saw them, and what it said. */
function onAnswerClick({ target }) {
  const button = target.closest("[data-answer]");
  if (!button || !shown?.records) return;
  const [q, c, i] = button.dataset.answer.split("/").map(Number);
  const entry = questionsOf(shown.records)[q].cells[c][i];
  const box = byId("detail").querySelector(".answer-detail");
  for (const other of byId("detail").querySelectorAll(".answer.open")) other.classList.remove("open");
  button.classList.add("open");
  box.replaceChildren(answerDetail(entry, shown.records[c]));
}

function answerDetail(entry, record) {
  const outcome = outcomeOf(entry);
  return el("div", { class: "caption" },
    el("header", {}, el("h4", {}, `Caption ${captionName(record)}`),
      Object.entries(outcome).filter(([, share]) => share >= 0.005).map(([name, share]) =>
        el("span", { class: `verdict ${OUTCOMES[name][0]}` }, `${OUTCOMES[name][1]} ${short(share)}`)),
      entry.reader === undefined ? null : el("span", { class: "muted" }, `reader ${entry.reader + 1}`)),
    el("div", { class: "asked" }, verbatim("p", entry.question, { class: "question" }),
      el("ol", { class: "choices", "aria-label": "Choices" },
        entry.choices.map((choice, i) => choiceView(entry, choice, letterOf(i)))),
      entry.answer === undefined ? null : el("dl", { class: "reading" },
        el("dt", {}, "It said"), verbatim("dd", String(entry.answer), { class: "mono" }))));
}

function choiceView(entry, choice, letter) {
  const probability = entry.probabilities?.[letter];
  return el("li", { class: letter === entry.right && "gold" },
    el("span", { class: "letter" }, letter), verbatim("span", choice),
    probability === undefined ? null : shareBar(probability),
    letter === entry.letter && el("span", { class: "note" }, "chosen"),
    letter === entry.right && el("span", { class: "gold-note" }, "right"));
}

const shareBar = (share) => el("span", { class: "share" },
  svg("svg", { width: 80, height: 8, "aria-hidden": "true" },
    svg("rect", { class: "track", width: 80, height: 8, rx: 2 }),
    svg("rect", { class: "fill", width: 80 * share, height: 8, rx: 2 })),
  number(share, 2));

/** What terms say that ask no questions: a judge's reasons, say. */
function sayingsOf({ reader }) {
  const others = reader.filter(({ question }) => typeof question !== "string");
  return others.map((entry) => el("dl", { class: "reading" }, Object.entries(entry).map(
    ([name, value]) => [el("dt", {}, name), verbatim("dd", asText(value), { class: "mono" })])));
}
