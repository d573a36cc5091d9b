// The dial: mu in steps, and bits. It stands at the gateway's default until it is turned.

import { byId, element, percent, say } from "./dom.js";

const STEPS = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13.5, 15, 17.5, 20, 25, 30, 35, 40, 50, 60];
const BITS = [1, 2, 3, 4, 6, 8];
const slider = byId("mu");
const back = byId("default");

export class Dial {
  constructor(turned) {
    this.turned = turned;
    this.facts = null;
    slider.addEventListener("input", () => this.changed());
    back.addEventListener("click", () => { this.reset(); turned(); });
  }

  // Facts of the codec; the dial keeps its place if it was turned already.
  learn(facts) {
    const before = this.facts && this.moved ? this.setting : null;
    this.facts = facts;
    const known = facts.measured.map((row) => row.mu);
    this.steps = [...new Set([...STEPS, ...known, facts.default.mu])].sort((one, other) => one - other);
    slider.max = this.steps.length - 1;
    slider.disabled = false;
    byId("measured").replaceChildren(...known.map((mu) => element("option", { value: this.steps.indexOf(mu) })));
    byId("bits").replaceChildren(...[...new Set([...BITS, facts.default.bits])].sort((a, b) => a - b).map((n) => this.choice(n)));
    if (before) this.put(before);
    else this.reset();
  }

  choice(n) {
    const input = element("input", { type: "radio", name: "bits", value: n, id: `bits-${n}` });
    input.addEventListener("change", () => this.changed());
    return element("span", {}, input, element("label", { htmlFor: input.id }, String(n)));
  }

  reset() { this.put(this.facts.default); }

  put({ mu, bits }) {
    slider.value = this.steps.reduce((best, step, at) => (Math.abs(step - mu) < Math.abs(this.steps[best] - mu) ? at : best), 0);
    for (const input of document.getElementsByName("bits")) input.checked = Number(input.value) === bits;
    this.tell();
  }

  get setting() {
    const chosen = [...document.getElementsByName("bits")].find((input) => input.checked);
    return { mu: this.steps[slider.value], bits: Number(chosen.value) };
  }

  // Whether it stands elsewhere than by itself.
  get moved() {
    const { mu, bits } = this.setting;
    return mu !== this.facts.default.mu || bits !== this.facts.default.bits;
  }

  // What requests name: nothing where the device's default holds.
  get asked() { return this.facts && this.moved ? this.setting : {}; }

  changed() {
    this.tell();
    this.turned();
  }

  tell() {
    const { mu, bits } = this.setting;
    const row = this.facts.measured.find((one) => one.mu === mu && one.bits === bits);
    const note = this.moved ? "" : ", the default";
    say(byId("mu-value"), `mu ${mu}${note}`);
    slider.setAttribute("aria-valuetext", `mu ${mu}${note}${row ? `, attacks read ${percent(row.attack)}` : ""}`);
    slider.style.setProperty("--at", slider.value / slider.max);
    back.hidden = !this.moved;
  }
}
