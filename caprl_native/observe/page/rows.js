// Long lists: only the rows in sight are in the document.

const MARGIN = 6; // rows kept above and below those in sight

/**
 * A list of entries in a box that scrolls. `height`: of a row, pixels; `row`: makes the row of an
 * entry; `isOpen`: whether it is the one that is shown beside the list; `nothing`: the text of an
 * empty list; `open`: opens an entry.
 */
function longList(box, { height, row, isOpen, open, nothing }) {
  const list = {
    found: [],
    drawn: new Map(), // position -> row

    /** Shows these entries from the top, or where `scrollTop` says. */
    show(found, scrollTop = 0) {
      this.found = found;
      this.drawn.clear();
      const runway = el("div", { role: "presentation" });
      runway.style.height = `${found.length * height}px`;
      box.replaceChildren(found.length ? runway : el("p", { class: "nothing" }, nothing));
      box.scrollTop = scrollTop;
    },

    position() {
      return this.found.findIndex(isOpen);
    },

    draw() {
      const from = Math.max(0, Math.floor(box.scrollTop / height) - MARGIN);
      const seen = Math.ceil(box.clientHeight / height) + 2 * MARGIN;
      const to = Math.min(this.found.length, from + seen);
      for (const [at, drawn] of this.drawn) {
        if (at >= from && at < to) continue;
        drawn.remove();
        this.drawn.delete(at);
      }
      for (let at = from; at < to; at += 1) {
        if (!this.drawn.has(at)) this.drawn.set(at, box.appendChild(this.placed(at)));
      }
      this.select();
    },

    placed(at) {
      const made = row(this.found[at], at, this.found.length);
      made.style.top = `${at * height}px`;
      made.style.height = `${height}px`;
      return made;
    },

    select() {
      let active = "";
      for (const [at, drawn] of this.drawn) {
        const isActive = isOpen(this.found[at]);
        drawn.setAttribute("aria-selected", isActive);
        if (isActive) active = drawn.id;
      }
      box.setAttribute("aria-activedescendant", active);
    },

    /** Scrolls as little as brings the open entry's row into sight. */
    reveal() {
      const at = this.position();
      if (at < 0) return;
      const lowest = (at + 1) * height - box.clientHeight;
      box.scrollTop = Math.min(Math.max(box.scrollTop, lowest), at * height);
    },

    /** Opens the entry so many rows on from the open one. */
    move(by) {
      if (!this.found.length) return;
      const at = Math.min(Math.max(this.position() + by, 0), this.found.length - 1);
      open(this.found[at]);
      this.reveal();
      this.draw();
    },
  };
  return list;
}

/** How far a key moves in the list of this box; undefined: it does not. */
function rowsMovedBy(key, box, height) {
  const page = Math.floor(box.clientHeight / height);
  const keys = {
    ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity,
  };
  return keys[key];
}
