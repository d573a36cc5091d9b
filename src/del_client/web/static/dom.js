// Elements made of text alone: no markup is ever parsed.

export const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("data-") || key.startsWith("aria-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

// Writes only what differs, so that nothing flickers and no reader hears the same again.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Puts rows in a list's place, each made of what it shows; those that show the same as before stay as they are.
export function putRows(list, rows, make) {
  const keys = rows.map((row) => JSON.stringify(row));
  const shown = lists.get(list) || [];
  keys.forEach((key, index) => {
    const old = shown[index];
    if (old?.key === key) return;
    const nodes = [make(rows[index])].flat();
    if (old) old.nodes[0].before(...nodes);
    else list.append(...nodes);
    old?.nodes.forEach((node) => node.remove());
    shown[index] = { key, nodes };
  });
  for (const gone of shown.splice(keys.length)) gone.nodes.forEach((node) => node.remove());
  lists.set(list, shown);
}
const lists = new WeakMap();

export const bytes = (count) => (count < 10000 ? `${count.toLocaleString("en")} B` : `${(count / 1000).toFixed(1)} kB`);
export function percent(share) {
  if (share > 0.99 && share < 1) return ">99%";
  return `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;
}
// Bounds are rounded up, so that they stay bounds.
export const percentUp = (share) => `${Math.min(100, Math.ceil(1000 * share - 1e-9) / 10)}%`;
// Noise is a whole number on the wire, so a mu comes back a little off.
export const muOf = (mu) => String(+mu.toPrecision(3));
export const sameMu = (one, other) => Math.abs(one / other - 1) < 1e-3;
export const deltaOf = (delta) => `delta ${delta.toExponential().replace("e-0", "e-")}`;
export const figure = (value) => (value >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3)));
export const figureUp = (value) => {
  if (!Number.isFinite(value) || value === 0) return String(value);
  const unit = 10 ** Math.max(-2, Math.floor(Math.log10(value)) - 3);
  return figureOf(Math.ceil(value / unit - 1e-9) * unit);
};
const figureOf = (value) => (value >= 1000 ? Math.ceil(value).toLocaleString("en") : String(+value.toFixed(2)));
