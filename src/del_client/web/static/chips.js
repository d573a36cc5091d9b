// The draft's tokens as chips: a square of bits each, and what an attack takes it for.

import { byId, element, muOf, percent, putRows, say } from "./dom.js";

const list = byId("chips");
const detail = byId("detail");
const MOST_CHARS = 14;

export function showChips(chips, dim) {
  const at = [...list.children].findIndex((entry) => entry.contains(document.activeElement));
  putRows(list, chips, (chip) => element("li", {}, made(chip, dim)));
  const focused = list.children[at]?.firstChild;
  if (focused && focused !== document.activeElement) focused.focus(); // its token changed while it was looked at
  const first = list.querySelector("button");
  if (first && !list.querySelector('button[tabindex="0"]')) first.tabIndex = 0;
  if (!chips.length) say(detail, "");
}

function made(chip, dim) {
  const button = element("button", { type: "button", class: "chip", tabIndex: -1, "aria-label": told(chip) });
  button.addEventListener("focus", () => select(button, chip));
  button.addEventListener("pointerenter", () => say(detail, told(chip)));
  button.dataset.kind = chip.kind ? (chip.leaves === undefined ? "noise" : "stays") : "";
  button.append(element("span", { class: "own" }, short(chip.text)));
  if (chip.leaves !== undefined) {
    button.append(element("span", { class: "stays", "aria-hidden": "true" }, "stays here"));
    button.append(element("span", { class: "guess" }, chip.leaves));
    return button;
  }
  button.dataset.right = chip.right;
  button.append(square(chip, dim));
  button.append(element("span", { class: "guess" }, short(chip.guess)));
  const bar = element("span", { class: "sure", "aria-hidden": "true" });
  bar.style.setProperty("--sure", chip.posterior);
  button.append(bar, element("span", { class: "odds" }, percent(chip.posterior)));
  return button;
}

function told(chip) {
  if (chip.leaves !== undefined)
    return `“${visible(chip.text)}”, a ${chip.kind}, stays on this device: ${chip.leaves} leaves in its stead, in the clear.`;
  const noise = chip.kind ? `, a ${chip.kind} with noise of its own (mu ${muOf(chip.mu)}, ${chip.n} bit)` : "";
  const read = chip.right ? "reads it rightly" : `takes it for “${visible(chip.guess)}”`;
  return `“${visible(chip.text)}”${noise} leaves as ${chip.bits.length / 2} bytes of bits, ${hex(chip.bits)}. ` +
    `The attack ${read}, with a posterior of ${percent(chip.posterior)}.`;
}

const hex = (bits) => (bits.length <= 32 ? bits : `${bits.slice(0, 28)}…`);

// A text as it can be seen; "" is that of a piece of a character, which its last piece shows.
export function visible(text) {
  if (text === "") return "…";
  const trimmed = text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").trim();
  return trimmed || "␣";
}

function short(text) {
  const whole = [...visible(text)];
  return whole.length > MOST_CHARS ? `${whole.slice(0, MOST_CHARS - 1).join("")}…` : whole.join("");
}

// One dot a coordinate, as dark as its level is high: vectors, since a canvas each would be a layer each.
function square(chip, dim) {
  const side = Math.ceil(Math.sqrt(dim));
  const dots = new Map();
  unpacked(chip.bits, chip.n).slice(0, dim).forEach((level, at) => {
    if (level) dots.set(level, `${dots.get(level) || ""}M${at % side} ${Math.floor(at / side)}h1v1h-1z`);
  });
  const drawing = vector("svg", { class: "square", viewBox: `0 0 ${side} ${side}`, "aria-hidden": "true" });
  for (const [level, d] of dots) drawing.append(vector("path", { d, "fill-opacity": level / (2 ** chip.n - 1) }));
  return drawing;
}

function vector(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Integers of n bits, the most significant bit first, without gaps.
function unpacked(hexText, n) {
  const flat = [];
  for (let at = 0; at < hexText.length; at += 2)
    for (let bit = 7, byte = parseInt(hexText.slice(at, at + 2), 16); bit >= 0; bit--) flat.push((byte >> bit) & 1);
  const levels = [];
  for (let at = 0; at + n <= flat.length; at += n) levels.push(flat.slice(at, at + n).reduce((sum, bit) => 2 * sum + bit, 0));
  return levels;
}

function select(button, chip) {
  list.querySelector('button[tabindex="0"]')?.setAttribute("tabindex", "-1");
  button.tabIndex = 0;
  say(detail, told(chip));
}

list.addEventListener("keydown", (event) => {
  const buttons = [...list.querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  const steps = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 };
  const next = buttons[steps[event.key]];
  if (at < 0 || !next) return;
  event.preventDefault();
  next.focus();
});
