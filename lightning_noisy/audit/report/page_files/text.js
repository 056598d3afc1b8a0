"use strict";

// Characters that are not seen, or that turn the text around them: shown by their number. Joiners are part of words.
const HIDDEN = /(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu;
const LONGEST_NAME = 60;

function plain(text) {
  const number = (sign) => `⟨U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  return String(text).replace(HIDDEN, number);
}

function short(text, most = LONGEST_NAME) {
  const signs = Array.from(plain(text).slice(0, 4 * most));
  if (signs.join("").trim() === "") return "(empty name)";
  return signs.length > most ? `${signs.slice(0, most - 1).join("").trimEnd()}…` : signs.join("");
}

/** A name as an element of its own direction; the whole name is its title. */
function named(text, most = LONGEST_NAME) {
  const bdi = el("bdi", { title: plain(text) });
  bdi.textContent = short(text, most);
  return bdi;
}

// The class names come again on each tile.
const classElements = new Map();

function classNamed(name) {
  if (!classElements.has(name)) classElements.set(name, named(name));
  return classElements.get(name).cloneNode(true);
}

/** A name for an attribute or an option, where there can be no element: isolated by characters. */
function isolated(text, most) {
  return `\u2068${short(text, most)}\u2069`;
}

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1%";
  if (share < 1 && share > 0.999) return ">99.9%";
  return `${(100 * share).toFixed(share < 0.1 || share > 0.99 ? 1 : 0).replace(/\.0$/, "")}%`;
}

/** Without decimals, where there is little room. */
function percentShort(share) {
  if (share > 0 && share < 0.005) return "<1%";
  if (share < 1 && share >= 0.995) return ">99%";
  return `${Math.round(100 * share)}%`;
}

const percentFine = (share) => `${(100 * share).toFixed(1)}%`;
const count = (number) => number.toLocaleString("en");
const images = (number) => `${count(number)} ${number === 1 ? "image" : "images"}`;
const byId = (id) => document.getElementById(id);

/** The picture of a row, or a note that there is none. */
function picture(thumbnail) {
  if (thumbnail === null) return el("div", { class: "missing" }, icon("missing"), el("span", {}, "Can’t be read"));
  const [side, webp] = thumbnail;
  const tiny = side <= 64 ? "tiny" : "";
  return el("img", { class: tiny, alt: "", decoding: "async", draggable: "false", src: `data:image/webp;base64,${webp}` });
}
