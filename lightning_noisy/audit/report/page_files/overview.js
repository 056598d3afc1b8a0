const FIRST_CLASSES = 15;
const PAIR_EXAMPLES = 5;

/** The head of the page; `choose({given, suggested})` filters the images below. */
function showOverview(data, choose) {
  const { summary } = data;
  byId("facts").textContent = `${images(summary.images)}, ${count(summary.class_names.length)} classes`;
  byId("caution").textContent = summary.caution;
  byId("caution").hidden = !summary.caution;
  byId("findings").append(...summary.findings.map((sentence) => el("li", {}, sentence)));
  byId("found").hidden = summary.findings.length === 0;
  showRate(summary);
  showClasses(summary, choose);
  showMatrix(summary, choose);
  showAlike(data, choose);
  showSplit(data, choose);
  showPairs(data, choose);
}

/** Pairs of classes that look like one: examples of both, side by side. */
function showAlike(data, choose) {
  const { summary, rows, thumbnails } = data;
  byId("alike").hidden = summary.similar_classes.length === 0;
  for (const [one, other, separability, confused] of summary.similar_classes) {
    const examples = [one, other].map((label) => {
      const own = rows.id.map((_, row) => row).filter((row) => rows.given_label[row] === label && thumbnails[row] !== null);
      return el("span", { class: "pair-examples" }, ...own.slice(-PAIR_EXAMPLES).map((row) => picture(thumbnails[row])));
    });
    const [first, second] = [one, other].map((label) => summary.class_names[label]);
    const facts = `AUROC ${separability.toFixed(2)}, ${percent(confused)} confused`;
    const button = el(
      "button",
      { type: "button", class: "pair alike", "aria-label": `${isolated(first)} and ${isolated(second)}: ${facts}. Show the first` },
      el("span", { class: "pair-names" }, named(first), el("span", { class: "arrow" }, "="), named(second)),
      el("span", { class: "pair-count muted" }, facts),
      ...examples,
    );
    button.addEventListener("click", () => choose({ given: one }));
    byId("alike-pairs").append(button);
  }
}

/** Classes that look like two: examples from the middle of both groups. */
function showSplit(data, choose) {
  const { summary, rows, thumbnails } = data;
  byId("split").hidden = summary.split_classes.length === 0;
  for (const [label, share, crossing, groups] of summary.split_classes) {
    const examples = groups.map((ids) => {
      const own = rows.id.map((_, row) => row).filter((row) => ids.includes(rows.id[row]) && thumbnails[row] !== null);
      return el("span", { class: "pair-examples" }, ...own.map((row) => picture(thumbnails[row])));
    });
    const name = summary.class_names[label];
    const facts = `groups of ${percent(1 - share)} and ${percent(share)}, ${percent(crossing)} of the usual neighbours over the gap`;
    const button = el(
      "button",
      { type: "button", class: "pair alike", "aria-label": `${isolated(name)}: ${facts}. Show the first` },
      el("span", { class: "pair-names" }, named(name)),
      el("span", { class: "pair-count muted" }, facts),
      ...examples,
    );
    button.addEventListener("click", () => choose({ given: label }));
    byId("split-classes").append(button);
  }
}

function showRate(summary) {
  const [value, low, high] = summary.errors;
  byId("rate").textContent = percentFine(value);
  byId("rate-interval").textContent = `between ${percentFine(low)} and ${percentFine(high)}`;
  byId("rate-facts").textContent =
    `${count(summary.issues)} of ${images(summary.images)} flagged by ${summary.judge}. The lower end believes the labels as far as ` +
    "the noise tells, the upper end not at all.";
}

function showClasses(summary, choose) {
  const order = summary.classes.map((_, number) => number).filter((number) => summary.classes[number][0] > 0);
  order.sort((a, b) => summary.classes[b][2] - summary.classes[a][2] || a - b);
  const first = order.slice(0, order.length <= FIRST_CLASSES + 3 ? order.length : FIRST_CLASSES);
  const top = Math.max(...first.map((number) => summary.classes[number][4]), 0.01);
  const end = Math.min(1, Math.ceil(top * 20) / 20);
  const bar = (number) => classBar(summary, number, end, choose);
  byId("classes").append(...first.map(bar));
  byId("classes-axis").textContent = `Estimated share of its labels that are wrong, and between which it lies. Full width: ${percent(end)}.`;
  if (first.length === order.length) return;
  const more = byId("all-classes");
  more.textContent = `Show all ${count(order.length)} classes`;
  more.hidden = false;
  more.addEventListener("click", () => {
    byId("classes").append(...order.slice(first.length).map(bar));
    more.remove();
  });
}

function classBar(summary, number, end, choose) {
  const [total, issues, value, low, high] = summary.classes[number];
  const name = summary.class_names[number];
  const at = (share) => `${(100 * Math.min(share / end, 1)).toFixed(2)}%`;
  const fill = el("span", { class: "bar-fill" });
  fill.style.width = at(value);
  const whisker = el("span", { class: "bar-whisker" });
  whisker.style.left = at(low);
  whisker.style.width = `calc(${at(high)} - ${at(low)})`;
  const label = `${isolated(name)}: ${percentFine(value)} estimated wrong, between ${percentFine(low)} and ${percentFine(high)}, ${count(issues)} of ${images(total)} flagged. Show them`;
  const button = el(
    "button",
    { type: "button", class: "bar", "aria-label": label, title: `${count(issues)} of ${images(total)} flagged` },
    el("span", { class: "bar-name" }, named(name)),
    el("span", { class: "bar-track" }, fill, whisker),
    el("span", { class: "bar-value" }, percentFine(value)),
    el("span", { class: "bar-range muted" }, `${percentFine(low)} – ${percentFine(high)}`),
  );
  button.addEventListener("click", () => choose({ given: number }));
  return el("div", { role: "listitem" }, button);
}

function showMatrix(summary, choose) {
  const shown = summary.matrix_classes;
  const total = summary.class_names.length;
  const all = shown.length === total;
  byId("matrix-note").textContent = all
    ? "What the images of each true class were labelled as, in percent."
    : `What the images of each true class were labelled as, in percent: the ${shown.length} classes of the most confused pairs, of ${count(total)}.`;
  if (shown.length === 0) return;
  const wrong = summary.matrix.flatMap((row, i) => row.filter((_, j) => i !== j));
  const most = Math.max(...wrong, 0.001);
  byId("matrix").append(matrixTable(summary, most, choose));
  byId("matrix-legend").textContent =
    `Diagonal: labelled right. Elsewhere the shade grows with the share, up to ${percent(most)}.` +
    (all ? "" : " Labels outside of these classes are not shown.");
}

function matrixTable(summary, most, choose) {
  const shown = summary.matrix_classes;
  const withNumbers = shown.length <= 12;
  const heading = (number, scope) => {
    const inner = el("span", {}, named(summary.class_names[number], 24));
    return el("th", { scope, class: `${scope}-name` }, inner);
  };
  const head = el("tr", {}, el("td", { colspan: 2 }), ...shown.map((number) => heading(number, "col")));
  const axis = el("tr", {}, el("td", { colspan: 2 }), el("th", { class: "axis", colspan: shown.length, scope: "colgroup" }, "Given label"));
  const side = el("th", { class: "axis side", rowspan: shown.length, scope: "rowgroup" }, el("span", {}, "True class"));
  const rows = shown.map((truth, i) => {
    const cells = shown.map((given, j) => matrixCell(summary, truth, given, summary.matrix[i][j], most, withNumbers));
    return el("tr", {}, ...(i === 0 ? [side] : []), heading(truth, "row"), ...cells);
  });
  const table = el("table", { class: withNumbers ? "with-numbers" : "compact" }, el("thead", {}, axis, head), el("tbody", {}, ...rows));
  table.addEventListener("click", (event) => {
    const { truth, given } = event.target.closest("td[data-given]")?.dataset ?? {};
    if (given !== undefined && given !== truth) choose({ given: Number(given), suggested: Number(truth) });
  });
  return table;
}

function matrixCell(summary, truth, given, share, most, withNumber) {
  const names = summary.class_names;
  const title = `${short(names[truth])} labelled ${short(names[given])}: ${percent(share)}`;
  const cell = el("td", { title, "data-given": given, "data-truth": truth, class: truth === given ? "right" : "wrong" });
  cell.style.setProperty("--heat", (truth === given ? share : Math.min(share / most, 1)).toFixed(3));
  const number = share === 0 ? "0" : percent(share).replace("%", "");
  cell.append(el("span", { class: withNumber ? (share < 0.005 ? "faint" : "") : "unseen" }, number));
  return cell;
}

function showPairs(data, choose) {
  const { summary, rows, thumbnails } = data;
  if (summary.pairs.length === 0) byId("pairs").append(el("p", { class: "muted" }, "No label is flagged."));
  for (const [given, suggested, total] of summary.pairs) {
    const examples = [];
    for (let i = 0; i < rows.id.length && examples.length < PAIR_EXAMPLES; i++) {
      const fits = rows.is_issue[i] && rows.given_label[i] === given && rows.suggested_label[i] === suggested;
      if (fits && showsAClass(rows, i) && thumbnails[i] !== null) examples.push(picture(thumbnails[i]));
    }
    byId("pairs").append(pairButton(summary, given, suggested, total, examples, choose));
  }
}

function pairButton(summary, given, suggested, total, examples, choose) {
  const [from, to] = [summary.class_names[given], summary.class_names[suggested]];
  const none = el("span", { class: "muted small" }, "No example in this page");
  const button = el(
    "button",
    { type: "button", class: "pair", "aria-label": `Given ${isolated(from)}, suggested ${isolated(to)}: ${images(total)}. Show them` },
    el("span", { class: "pair-names" }, el("span", { class: "given" }, named(from)), el("span", { class: "arrow" }, "→"), el("span", { class: "suggested" }, named(to))),
    el("span", { class: "pair-count muted" }, images(total)),
    el("span", { class: "pair-examples" }, ...(examples.length ? examples : [none])),
  );
  button.addEventListener("click", () => choose({ given, suggested }));
  return button;
}
