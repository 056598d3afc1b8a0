/** Name and probability of both labels; `decision` strikes through what it refuses. */
function labels(data, row, decision, write) {
  const { rows, summary } = data;
  const given = summary.class_names[rows.given_label[row]];
  const suggested = summary.class_names[rows.suggested_label[row]];
  const line = (kind, name, share) =>
    el("div", { class: `label ${kind}` }, el("span", { class: "label-name" }, classNamed(name)), el("span", { class: "label-share" }, write(share)));
  const refuses = { accept: "refuses-given", keep: "refuses-suggested", drop: "refuses-both" }[decision] ?? "";
  return el("div", { class: `labels ${refuses}` }, line("given", given, rows.p_given[row]), line("suggested", suggested, rows.p_suggested[row]));
}

function spoken(data, row, decision) {
  const { rows, summary } = data;
  const given = isolated(summary.class_names[rows.given_label[row]]);
  const suggested = isolated(summary.class_names[rows.suggested_label[row]]);
  const state = decision === null ? "Not reviewed" : WORDS.get(decision);
  const beside = kindWords(data, row).map((words) => ` ${words[0].toUpperCase()}${words.slice(1)}.`).join("");
  const lost = data.thumbnails[row] === null ? " The image can’t be read." : "";
  return `Rank ${rows.rank[row]}: given ${given}, ${percent(rows.p_given[row])}; suggested ${suggested}, ${percent(rows.p_suggested[row])}. ${state}.${beside}${lost}`;
}

function makeTile(data, row, decision) {
  const frame = el("div", { class: "frame" }, picture(data.thumbnails[row]));
  if (decision !== null) frame.append(el("span", { class: `mark ${decision}` }, icon(decision), WORDS.get(decision)));
  const marks = kindMarks(data, row);
  if (marks) frame.append(el("span", { class: "beside" }, marks));
  const tile = el("article", { class: `tile ${decision ?? ""}`, role: "article", "aria-label": spoken(data, row, decision) });
  tile.append(frame, labels(data, row, decision, percentShort));
  return tile;
}

/** The panel of the current image: large, with its details; null empties it. */
function showSelection(data, row, decision) {
  const none = row === null;
  byId("preview").replaceChildren(none ? el("p", { class: "muted" }, "No image selected") : picture(data.thumbnails[row]));
  byId("preview-names").replaceChildren(...(none ? [] : [labels(data, row, decision, percent)]));
  byId("details").replaceChildren(...(none ? [] : details(data, row)));
  for (const button of document.querySelectorAll("[data-decision]")) {
    button.disabled = none;
    button.setAttribute("aria-pressed", String(button.dataset.decision === decision));
  }
}

function details(data, row) {
  const { rows } = data;
  const facts = [
    ["Rank", count(rows.rank[row])],
    ["Flagged", rows.is_issue[row] ? "yes" : "no"],
    ["The same picture is in", splitsOf(data, row)],
    ["Beside the label", kindWords(data, row).join(", ") || null],
    ["Classifier alone, given label", percent(rows.clean_probability[row])],
    ["Id", rows.id[row]],
    ["File", rows.path[row]],
    ["Split", rows.split[row]],
  ];
  const known = facts.filter(([name, value]) => value !== null && !(name === "File" && value === rows.id[row]));
  return known.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, named(value, 160))));
}
