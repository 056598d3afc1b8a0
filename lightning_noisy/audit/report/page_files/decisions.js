const WORDS = new Map([
  ["accept", "Accepted"],
  ["keep", "Kept"],
  ["drop", "Dropped"],
  ["unsure", "Unsure"],
]);
const DECISIONS_FORMAT = 1;

/** What was decided, by id; kept in the browser after each change. */
class Decisions {
  #decided = new Map();
  #history = [];
  #saved = true;

  constructor(auditId, complain) {
    this.auditId = auditId;
    this.key = `lightning-noisy-audit:${auditId}`;
    this.complain = complain;
    this.isStored = true;
    this.restore();
  }

  get(id) {
    return this.#decided.get(id) ?? null;
  }

  get canUndo() {
    return this.#history.length > 0;
  }

  get wouldBeLost() {
    return !this.isStored && !this.#saved;
  }

  /** Takes pairs of id and decision (null: none); one step of undo takes all of them back. */
  change(changes) {
    this.#history.push(changes.map(([id]) => [id, this.get(id)]));
    this.#put(changes);
  }

  /** Takes the last change back and gives the ids that it touched. */
  undo() {
    const changes = this.#history.pop() ?? [];
    this.#put(changes);
    return changes.map(([id]) => id);
  }

  #put(changes) {
    for (const [id, decision] of changes) {
      if (decision === null) this.#decided.delete(id);
      else this.#decided.set(id, decision);
    }
    this.#saved = false;
    this.#store();
  }

  #store() {
    if (!this.isStored) return;
    try {
      localStorage.setItem(this.key, JSON.stringify([...this.#decided]));
    } catch {
      this.#notStored();
    }
  }

  #notStored() {
    this.isStored = false;
    this.complain("This browser can’t keep your progress. Save the decisions before you close the page.");
  }

  /** Reads what this browser has kept, of this window or of another one. */
  restore() {
    let kept;
    try {
      kept = localStorage.getItem(this.key);
    } catch {
      return this.#notStored();
    }
    try {
      this.#decided = new Map(kept === null ? [] : JSON.parse(kept).filter(([, decision]) => WORDS.has(decision)));
    } catch {
      this.complain("The progress that this browser has kept can’t be read; the review begins anew.");
    }
  }

  toFile() {
    this.#saved = true;
    const decisions = [...this.#decided].map(([id, decision]) => ({ id, decision }));
    return JSON.stringify({ format: DECISIONS_FORMAT, audit_id: this.auditId, decisions }, null, 1);
  }

  /** Takes what toFile gave, and gives how many decisions it held; throws an Error whose message is for the reader. */
  fromFile(text) {
    const changes = readDecisions(text, this.auditId);
    this.change(changes);
    return changes.length;
  }
}

function readDecisions(text, auditId) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("This file is not JSON. Choose a decisions.json that this page has saved.");
  }
  if (file?.format !== DECISIONS_FORMAT || !Array.isArray(file.decisions)) {
    throw new Error("This file holds no decisions. Choose a decisions.json that this page has saved.");
  }
  if (file.audit_id !== auditId) {
    throw new Error("These decisions belong to another audit. Nothing was loaded; choose the file of this audit.");
  }
  return file.decisions.map((each) => {
    if (typeof each?.id !== "string" || !WORDS.has(each.decision)) {
      throw new Error("This file holds a decision that this page doesn’t know. Nothing was loaded.");
    }
    return [each.id, each.decision];
  });
}
