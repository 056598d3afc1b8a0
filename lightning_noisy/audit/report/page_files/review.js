const data = JSON.parse(byId("data").textContent);
const { rows, summary } = data;
data.groups = groupsOf(rows);
const filters = byId("filters");
const field = (name) => filters.elements.namedItem(name);
const decisions = new Decisions(summary.audit_id, complain);
const grid = new Grid(byId("grid"), (row) => makeTile(data, row, decisions.get(rows.id[row])), select);
const rowOf = new Map(rows.id.map((id, row) => [id, row]));
const total = rows.id.length;
let hasFlags = false;

function complain(sentence) {
  byId("notice").textContent = sentence;
  byId("notice").hidden = sentence === "";
}

function announce(sentence) {
  byId("live").textContent = sentence;
}

/* Filters */

const ORDERS = {
  rank: (a, b) => rows.rank[a] - rows.rank[b],
  given: (a, b) => rows.given_label[a] - rows.given_label[b],
  suggested: (a, b) => rows.suggested_label[a] - rows.suggested_label[b],
  p_given: (a, b) => rows.p_given[a] - rows.p_given[b],
  p_given_down: (a, b) => rows.p_given[b] - rows.p_given[a],
  p_suggested_down: (a, b) => rows.p_suggested[b] - rows.p_suggested[a],
};

function share(name, otherwise) {
  const value = field(name).valueAsNumber;
  return Number.isNaN(value) ? otherwise : value / 100;
}

function passing() {
  const chosen = (name) => field(name).value;
  const [given, suggested, state, flag] = ["given", "suggested", "state", "flag"].map(chosen);
  const [low, high] = [share("low", 0), share("high", 1)];
  const belongs = VIEWS.find(([value]) => value === view())[2];
  const fits = (row) =>
    belongs(rows, row) &&
    (given === "" || rows.given_label[row] === Number(given)) &&
    (suggested === "" || rows.suggested_label[row] === Number(suggested)) &&
    (flag === "" || view() !== "label" || rows.is_issue[row] === (flag === "yes")) &&
    (state === "" || (decisions.get(rows.id[row]) ?? "open") === state) &&
    rows.p_given[row] >= low &&
    rows.p_given[row] <= high;
  const kept = Array.from(rows.id.keys()).filter(fits);
  const together = (a, b) => (view() === "copies" ? rows.near_duplicate_group[a] - rows.near_duplicate_group[b] : 0);
  return kept.sort((a, b) => together(a, b) || ORDERS[chosen("sort")](a, b) || ORDERS.rank(a, b));
}

function view() {
  return field("view").value || "label";
}

/** Applies filters and order; the current row stays current where it is still shown, else its place does. */
function refill({ stay = true, focus = false } = {}) {
  const hadFocus = byId("grid-area").contains(document.activeElement);
  const before = grid.shown[grid.current];
  const wanted = stay ? before : undefined;
  const shown = passing();
  let place = wanted === undefined ? 0 : shown.indexOf(wanted);
  if (place < 0) place = Math.min(grid.current, shown.length - 1);
  grid.current = shown.length ? place : -1;
  grid.show(shown);
  byId("flag-field").hidden = !hasFlags || view() !== "label";
  byId("shown").textContent = `${images(shown.length)} shown`;
  byId("clear").hidden = !isFiltered();
  byId("empty").hidden = shown.length > 0;
  byId("empty").textContent = total === 0 ? "There is no image in this audit." : "No image passes these filters.";
  select(grid.current, focus || hadFocus);
}

function isFiltered() {
  if (view() !== "label") return true;
  return ["given", "suggested", "state", "flag", "low", "high"].some((name) => {
    const input = field(name);
    return input.value !== (input.options ? [...input.options].find((option) => option.defaultSelected)?.value ?? "" : input.defaultValue);
  });
}

function fillClasses(name, labels) {
  const counts = new Map();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  const options = [...counts].sort((a, b) => a[0] - b[0]);
  const text = ([label, number]) => `${isolated(summary.class_names[label], 40)} (${count(number)})`;
  field(name).replaceChildren(el("option", { value: "" }, "All classes"));
  field(name).append(...options.map((each) => el("option", { value: each[0] }, text(each))));
}

function fillStates() {
  const states = [["", "All"], ["open", "Not reviewed"], ...WORDS];
  field("state").replaceChildren(...states.map(([value, text]) => el("option", { value }, text)));
  const flagged = rows.is_issue.filter(Boolean).length;
  const flags = [["yes", "Flagged only", flagged], ["no", "Not flagged", total - flagged], ["", "All", total]];
  const options = flags.map(([value, text, number]) => el("option", { value }, `${text} (${count(number)})`));
  field("flag").replaceChildren(...options);
  options[flagged > 0 ? 0 : 2].defaultSelected = true;
  hasFlags = flagged > 0 && flagged < total;
}

function embedded() {
  const flagged = rows.is_issue.filter(Boolean).length;
  if (flagged < summary.issues) return `The ${count(flagged)} most suspicious of ${count(summary.issues)} flagged images are in this page.`;
  const others = total > flagged ? `, and the next ${count(total - flagged)} of ${count(summary.images - summary.issues)} others` : "";
  return `All ${count(flagged)} flagged images are in this page${others}.`;
}

function choose({ given, suggested }) {
  filters.reset();
  field("given").value = given;
  field("suggested").value = suggested ?? "";
  // A pair of which the page holds no image is no option.
  if (field("given").selectedIndex < 0 || field("suggested").selectedIndex < 0) filters.reset();
  refill({ stay: false });
  byId("review").scrollIntoView();
  select(grid.current, true);
}

/* Selection and decisions */

function select(place, focus = true) {
  // Who decides by the buttons of the panel stays on them.
  const inPanel = byId("selection").contains(document.activeElement);
  grid.select(place, { focus: focus && !inPanel, scroll: focus });
  if (focus && !inPanel && grid.shown.length === 0) byId("empty").focus();
  const row = grid.shown[place] ?? null;
  showSelection(data, row, row === null ? null : decisions.get(rows.id[row]));
  const copies = row === null ? [] : copiesOf(data, row, (other) => decisions.get(rows.id[other]), goTo);
  byId("copies").hidden = copies.length === 0;
  byId("copy-list").replaceChildren(...copies);
}

/** Selects a row that may be hidden by the filters. */
function goTo(row) {
  if (!grid.shown.includes(row)) {
    filters.reset();
    for (const input of filters.elements.view) input.checked = input.value === "copies";
    refill({ stay: false });
  }
  select(grid.shown.indexOf(row));
}

/** Keeps the current copy and drops the others of its picture: one step of undo. */
function keepOne() {
  const row = grid.shown[grid.current];
  const group = row === undefined ? null : rows.near_duplicate_group[row];
  if (group === null) return;
  const own = data.groups.get(group);
  const before = decisions.get(rows.id[row]);
  decisions.change(own.map((other) => [rows.id[other], other !== row ? "drop" : before === "accept" ? before : "keep"]));
  showProgress();
  if (field("state").value !== "") refill({ focus: true });
  else {
    for (const other of own) if (grid.shown.includes(other)) grid.refresh(grid.shown.indexOf(other));
    const beyond = Math.max(...own.map((other) => grid.shown.indexOf(other))) + 1;
    select(view() === "copies" ? Math.min(beyond, grid.shown.length - 1) : grid.current);
  }
  announce(`Kept one of ${images(own.length)}, the others are dropped. ${byId("progress-text").textContent}`);
}

function decide(decision) {
  const row = grid.shown[grid.current];
  if (row === undefined) return;
  const id = rows.id[row];
  const isTakenBack = decisions.get(id) === decision;
  decisions.change([[id, isTakenBack ? null : decision]]);
  const [given, suggested] = [rows.given_label[row], rows.suggested_label[row]].map((label) => isolated(summary.class_names[label]));
  const said = { accept: `Accepted: ${given} becomes ${suggested}`, keep: `Kept: ${given}`, drop: `Dropped: ${given}`, unsure: `Unsure: ${given}` };
  const text = isTakenBack ? "Decision taken back" : said[decision];
  afterChange(row, !isTakenBack);
  announce(`${text}. ${byId("progress-text").textContent}`);
}

function undo() {
  if (!decisions.canUndo) return;
  const ids = decisions.undo();
  const row = rowOf.get(ids[0]);
  if (row !== undefined && ids.length === 1) {
    const place = grid.shown.indexOf(row);
    if (place >= 0) grid.current = place;
    afterChange(row, false);
    const again = grid.shown.indexOf(row);
    if (again >= 0) select(again);
  } else {
    refill();
  }
  showProgress();
  if (!decisions.canUndo) {
    byId("undo").blur();
    select(grid.current);
  }
  announce(`Undone. ${byId("progress-text").textContent}`);
}

function afterChange(row, moveOn) {
  showProgress();
  const place = grid.shown.indexOf(row);
  if (field("state").value !== "") return refill({ focus: true });
  grid.refresh(place);
  select(moveOn ? Math.min(place + 1, grid.shown.length - 1) : place);
}

function showProgress() {
  const counts = new Map();
  for (const id of rows.id) {
    const decision = decisions.get(id);
    if (decision !== null) counts.set(decision, (counts.get(decision) ?? 0) + 1);
  }
  const reviewed = [...counts.values()].reduce((sum, number) => sum + number, 0);
  const parts = [...WORDS].filter(([decision]) => counts.has(decision));
  const words = parts.map(([decision, word]) => `${count(counts.get(decision))} ${word.toLowerCase()}`);
  byId("progress").max = Math.max(total, 1);
  byId("progress").value = reviewed;
  byId("progress-text").textContent = [`${count(reviewed)} of ${count(total)} reviewed`, ...words].join(" · ");
  byId("undo").disabled = !decisions.canUndo;
}

/* Files */

function save() {
  const link = el("a", { download: "decisions.json" });
  link.href = URL.createObjectURL(new Blob([decisions.toFile()], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function load() {
  const [file] = byId("file").files;
  if (!file) return;
  try {
    const number = decisions.fromFile(await file.text());
    complain("");
    refill();
    showProgress();
    announce(`${count(number)} decisions loaded. ${byId("progress-text").textContent}`);
  } catch (error) {
    complain(error.message);
  }
  byId("file").value = "";
}

/* Keys */

const DECISION_KEYS = new Map([["a", "accept"], ["k", "keep"], ["d", "drop"], ["u", "unsure"]]);

function target(key) {
  const last = grid.shown.length - 1;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns };
  if (key === "Home") return 0;
  if (key === "End") return last;
  if (!(key in steps)) return null;
  const place = grid.current + steps[key];
  if (key === "ArrowDown" && place > last) return Math.floor(grid.current / grid.columns) < Math.floor(last / grid.columns) ? last : grid.current;
  return place < 0 || place > last ? grid.current : place;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
  if (event.key === "?") return byId("help").showModal();
  if (!event.target.closest("#grid-area, #selection")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const place = target(key);
  if (place !== null) select(place);
  else if (DECISION_KEYS.has(key) && !event.repeat) decide(DECISION_KEYS.get(key));
  else if (key === "o") keepOne();
  else if (key === "z") undo();
  else return;
  event.preventDefault();
}

/* The page */

showOverview(data, choose);
showViews(data, byId("views"));
fillClasses("given", rows.given_label);
fillClasses("suggested", rows.suggested_label);
fillStates();
const lost = data.thumbnails.filter((thumbnail) => thumbnail === null).length;
byId("embedded").textContent = embedded() + (lost ? ` ${count(lost)} can’t be read any more.` : "");
refill({ stay: false });
showProgress();

filters.addEventListener("input", () => refill({ stay: false }));
filters.addEventListener("submit", (event) => event.preventDefault());
byId("clear").addEventListener("click", () => {
  filters.reset();
  refill({ stay: false, focus: true });
});
for (const button of document.querySelectorAll("[data-decision]")) {
  button.addEventListener("click", () => decide(button.dataset.decision));
}
byId("undo").addEventListener("click", undo);
byId("keep-one").addEventListener("click", keepOne);
byId("save").addEventListener("click", save);
byId("load").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", load);
byId("help-button").addEventListener("click", () => byId("help").showModal());
byId("start").addEventListener("click", () => {
  byId("review").scrollIntoView();
  const open = grid.shown.findIndex((row) => decisions.get(rows.id[row]) === null);
  select(open < 0 ? grid.current : open);
});
document.addEventListener("keydown", onKey);
addEventListener("storage", (event) => {
  if (event.key !== decisions.key) return;
  decisions.restore();
  refill();
  showProgress();
});
addEventListener("beforeunload", (event) => {
  if (decisions.wouldBeLost) event.preventDefault();
});
new ResizeObserver(([entry]) => {
  document.documentElement.style.setProperty("--bar", `${Math.ceil(entry.target.offsetHeight)}px`);
}).observe(filters);
