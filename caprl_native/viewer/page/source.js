// Where the data come from: the server that sent this page, or the blocks of this file.

const { live, runs } = JSON.parse(byId("runs-data").textContent);

async function ask(what, parameters) {
  const reply = await fetch(`${what}?${new URLSearchParams(parameters)}`);
  if (!reply.ok) throw new Error(await reply.text());
  return reply.json();
}

const named = ({ run, kind, step, group }) => ({ run, kind, step, group });

const fromServer = {
  news: (cursors) => ask("news", { cursors: JSON.stringify(cursors) }),
  records: (entry) => ask("group", named(entry)),
  media: (entry) => ask("media", named(entry)),

  /** Keys of the groups in which all words are; null where the time was not enough for all. */
  async search(query) {
    const found = await Promise.all(runs.map((_, run) => ask("search", { run, q: query })));
    return {
      keys: new Set(found.flatMap((of, run) => of.found.map((at) => [run, ...at].join("/")))),
      complete: found.every(({ complete }) => complete),
    };
  },
};

/** A file's groups: their lines by key, parsed when they are asked for. */
const fromFile = {
  lines: null,
  haystacks: new Map(),
  pictures: null,

  async news(cursors) {
    if (cursors.length) return [];
    const lines = byId("groups-data").textContent.split("\n").filter(Boolean);
    byId("groups-data").remove();
    this.lines = new Map(lines.map((line) => line.split("\t", 2)));
    return takeJson("news-data");
  },

  parsed(entry) {
    const line = this.lines.get(entry.key);
    if (!line) throw new Error("Of this group the file holds the numbers alone.");
    return JSON.parse(line);
  },

  async records(entry) {
    return this.parsed(entry).records;
  },

  async media(entry) {
    this.pictures ??= takeJson("pictures-data");
    return this.pictures[this.parsed(entry).media];
  },

  async search(query) {
    const words = wordsOf(query).map((word) => word.toLowerCase());
    const keys = new Set();
    let rested = performance.now();
    for (const [key, line] of this.lines) {
      if (!this.haystacks.has(key)) {
        const texts = JSON.parse(line).records.flatMap(textsOf);
        this.haystacks.set(key, texts.join("\n").toLowerCase());
      }
      if (words.every((word) => this.haystacks.get(key).includes(word))) keys.add(key);
      if (performance.now() - rested > 30) {
        await new Promise((go) => setTimeout(go));
        rested = performance.now();
      }
    }
    return { keys, complete: true };
  },
};

/** What is searched: as `_texts` of search.py. */
function textsOf({ id, caption, failure, media, reader }) {
  const said = reader.flatMap(({ question, choices, answer }) => [question, ...choices ?? [], answer]);
  return [id, caption, failure ?? "", ...media, ...said.filter((text) => typeof text === "string")];
}

const source = live ? fromServer : fromFile;
