const QUALITY = new Map([
  ["placeholder", "placeholder"],
  ["low_information", "blank"],
  ["dark", "dark"],
  ["light", "too bright"],
  ["blurry", "blurry"],
  ["odd_aspect_ratio", "odd shape"],
  ["odd_size", "odd size"],
]);
// What the page shows at a time: a value, its name, and whether an image belongs to it.
const VIEWS = [
  ["label", "Labels", () => true],
  ["copies", "Duplicates", (rows, row) => rows.near_duplicate_group[row] !== null],
  ["outlier", "Unlike all classes", (rows, row) => rows.kinds[row].includes("outlier")],
  ["quality", "Poor pictures", (rows, row) => rows.kinds[row].some((kind) => QUALITY.has(kind))],
];

/** Strangers and poor pictures are flagged as often as not, but are no examples of a confusion. */
function showsAClass(rows, row) {
  return !rows.kinds[row].some((kind) => kind === "outlier" || QUALITY.has(kind));
}

/** The copies of each picture that are in the page, by the number of their group. */
function groupsOf(rows) {
  const groups = new Map();
  rows.near_duplicate_group.forEach((group, row) => {
    if (group === null) return;
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(row);
  });
  return groups;
}

/** What is wrong with an image beside its label, in few words. */
function kindWords(data, row) {
  const { kinds, near_duplicate_group, near_duplicate_splits } = data.rows;
  const words = [];
  if (near_duplicate_group[row] !== null) {
    const own = data.groups.get(near_duplicate_group[row]);
    if (own.length > 1) words.push(`copy ${own.indexOf(row) + 1} of ${own.length}`);
    if (near_duplicate_splits[row].includes(",")) words.push("leak");
    if (kinds[row].includes("conflicting_duplicate")) words.push("labels differ");
  }
  if (kinds[row].includes("outlier")) words.push("unlike all classes");
  return words.concat(kinds[row].filter((kind) => QUALITY.has(kind)).map((kind) => QUALITY.get(kind)));
}

/** The same, for a corner of the picture. */
function kindMarks(data, row) {
  const group = data.groups.get(data.rows.near_duplicate_group[row]);
  const marks = kindWords(data, row).filter((words) => !words.startsWith("copy "));
  if (group?.length > 1) marks.unshift(`${group.indexOf(row) + 1}/${group.length}`);
  const short = { "labels differ": "≠", "unlike all classes": "unlike" };
  return marks.map((words) => short[words] ?? words).join(" · ");
}

/** The splits that have the picture of a row: "train and test". */
function splitsOf(data, row) {
  return data.rows.near_duplicate_splits[row]?.replace(/, (?=[^,]*$)/, " and ") ?? null;
}

/** The choice between the views of which the page has images. */
function showViews(data, fieldset) {
  const { rows } = data;
  const number = ([, , belongs]) => rows.id.filter((_, row) => belongs(rows, row)).length;
  const there = VIEWS.map((view) => [...view, view[0] === "label" ? rows.is_issue.filter(Boolean).length : number(view)]);
  const shown = there.filter(([value, , , images]) => value === "label" || images > 0);
  fieldset.hidden = shown.length < 2;
  for (const [value, name, , images] of shown) {
    const input = el("input", { type: "radio", name: "view", value });
    input.defaultChecked = value === "label";
    fieldset.append(el("label", {}, input, el("span", {}, name, " ", el("b", {}, count(images)))));
  }
}

/** All copies of the picture of a row, side by side; `choose(row)` makes one of them the current one. */
function copiesOf(data, row, decisionOf, choose) {
  const group = data.rows.near_duplicate_group[row];
  const own = data.groups.get(group) ?? [];
  if (own.length < 2) return [];
  const copy = (other) => {
    const name = data.summary.class_names[data.rows.given_label[other]];
    const decision = decisionOf(other);
    const said = `${isolated(name)}, ${data.rows.split[other]}${decision === null ? "" : `, ${WORDS.get(decision)}`}`;
    const attributes = { type: "button", class: `copy ${decision ?? ""}`, "aria-label": said };
    if (other === row) attributes["aria-current"] = "true";
    const button = el("button", attributes, picture(data.thumbnails[other]), classNamed(name), el("span", { class: "muted" }, data.rows.split[other]));
    button.addEventListener("click", () => choose(other));
    return button;
  };
  const title = el("p", { class: "muted small" }, `The same picture, in ${splitsOf(data, row)}`);
  return [title, el("div", { class: "copy-row" }, ...own.map(copy))];
}
