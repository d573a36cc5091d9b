// A reading on the panel: figures, meters, spans. Knows nothing of where readings come from.

import { showChips, visible } from "./chips.js";
import { byId, bytes, deltaOf, element, figure, figureUp, muOf, percent, percentUp, putRows, sameMu, say } from "./dom.js";

export function showReading(reading) {
  showChips(reading.chips, reading.dim);
  showReadAs(reading.chips);
  say(byId("verdict"), reading.verdict.text);
  byId("verdict").dataset.protection = reading.verdict.protection;
  const warning = byId("warning");
  warning.hidden = !reading.warning;
  say(warning, reading.warning || "");
  showOdds(reading);
  showEpsilon(reading);
  showSpans(reading);
  showBytes(reading);
  say(byId("glance"), glance(reading));
}

// Nothing can be read, for that reason.
export function clearReading(text) {
  showChips([], 0);
  showReadAs([]);
  say(byId("glance"), text);
  say(byId("state"), text);
}

function glance(reading) {
  const { private: count } = reading.tokens;
  const stays = reading.chips.filter((chip) => chip.leaves !== undefined).length;
  if (!count && !stays) return "Nothing to send yet";
  const read = reading.chips.filter((chip) => chip.right).length;
  const wire = (reading.tokens.earlier ? "About " : "") + bytes(reading.bytes.wire);
  return `${wire} would leave, ${bytes(reading.bytes.payload)} of it noisy bits` +
    (count ? `; an attack on single tokens would read ${read} of ${count}` : "") +
    (stays ? `; ${stays} ${stays > 1 ? "spans stay" : "span stays"} here` : "");
}

function showReadAs(chips) {
  const words = chips.map((chip) => (chip.leaves === undefined ? [chip.guess, chip.right, chip.posterior] : [chip.leaves, "public", 1]));
  putRows(byId("read-as"), words.length ? words : [null], (row) => {
    if (row === null) return element("span", { class: "small" }, "Write something to see it.");
    const [text, known, sure] = row;
    const [, before, rest] = /^(\s*)(.*)$/s.exec(text);
    const word = element("span", { class: "word", "data-known": known }, rest);
    word.style.setProperty("--sure", sure);
    return [document.createTextNode(before), word];
  });
}

function showOdds(reading) {
  const { privacy, verdict, tokens, chips } = reading;
  const read = chips.filter((chip) => chip.right).length;
  const row = verdict.row;
  const rows = [
    ["An attack on one token at a time would read, of this preview", tokens.private ? read / tokens.private : null,
      tokens.private ? `${read} of ${tokens.private}` : "–", "read"],
    measured(row, reading.mu),
    ["Proven cap: no attack on a token alone names it more often", privacy.cap_prior, percentUp(privacy.cap_prior), "cap"],
    ["The same, were all tokens equally common", privacy.cap_uniform, percentUp(privacy.cap_uniform), "cap"],
  ];
  meters(byId("odds"), rows.filter(Boolean));
}

function measured(row, mu) {
  if (!row) return ["No attack was measured at so many bits", null, "?", "read"];
  const where = sameMu(row.mu, mu) ? "at this mu" : row.mu > mu ? `at mu ${row.mu}, the next that was measured` :
    `at mu ${row.mu}, the weakest noise measured: expect more here`;
  return [`The strongest attack that was measured read, of other texts ${where}`, row.attack, percent(row.attack), "read"];
}

function showEpsilon({ privacy, tokens }) {
  const delta = `at ${deltaOf(privacy.delta)}`;
  figures(byId("epsilon"), [
    ["one token", figureUp(privacy.epsilon_token), delta],
    [tokens.private ? `this message, ${tokens.private} private tokens` : "this message", tokens.private ? figureUp(privacy.epsilon_prompt) : "0", delta],
    ...privacy.secrets.map((row) => [`a ${row.kind}, all ${row.tokens} tokens of it`, figureUp(row.epsilon), delta]),
  ]);
}

function showSpans({ chips, privacy, tokens }) {
  const rows = [];
  for (const chip of chips) {
    if (chip.leaves === undefined) continue;
    rows.push(["stays", `“${visible(chip.text)}”`, `${chip.kind}: nothing of it leaves; ${chip.leaves} does, in the clear`]);
  }
  for (const row of privacy.secrets) {
    const chip = chips.find((one) => one.kind === row.kind && one.leaves === undefined);
    rows.push(["noise", row.kind, `noise of its own, mu ${chip ? muOf(chip.mu) : "?"}: from all its bits no attack names ${row.named} more often than ${percentUp(row.cap)}`]);
  }
  if (tokens.public) rows.push(["public", "in the clear", `${tokens.public} token ids: the chat's template, placeholders and answers`]);
  if (tokens.earlier) rows.push(["public", "sent again", `${tokens.earlier} private tokens of earlier messages: the very same bits, no new epsilon`]);
  if (!rows.some(([how]) => how !== "public")) rows.unshift(["none", "", "No sensitive span was found. Mark one with {{double braces}} and it stays here."]);
  putRows(byId("spans"), rows, ([how, what, text]) =>
    element("li", { "data-how": how }, ...(what ? [element("b", {}, what), " "] : []), text));
}

function showBytes({ bytes: size, tokens }) {
  const most = Math.max(size.fp16, size.wire, size.text, 1);
  meters(byId("bytes"), [
    ["Your text", size.text / most, bytes(size.text), "plain"],
    [`Noisy bits of ${tokens.private} tokens`, size.payload / most, bytes(size.payload), "own"],
    ["All that is sent, ids and frame", size.wire / most, (tokens.earlier ? "about " : "") + bytes(size.wire), "own"],
    ["As fp16 embeddings", size.fp16 / most, bytes(size.fp16), "plain"],
  ]);
}

function meters(list, rows) {
  putRows(list, rows, ([name, share, value, how]) => {
    const bar = element("span", { class: "meter", "data-how": how, "aria-hidden": "true" });
    bar.style.setProperty("--share", share ?? 0);
    return [element("dt", {}, name), element("dd", {}, bar, element("span", { class: "value" }, value))];
  });
}

function figures(list, rows) {
  putRows(list, rows, ([name, value, note]) =>
    [element("dt", {}, name), element("dd", {}, element("b", {}, value), note ? element("span", { class: "small" }, ` ${note}`) : "")]);
}

export function showSent(latest, budget) {
  const rows = [];
  if (latest) {
    rows.push(["time to first token", latest.first === null ? "–" : `${Math.round(latest.first)} ms`, ""]);
    rows.push(["speed", latest.speed === null ? "–" : `${figure(latest.speed)} tokens/s`, latest.tokens === null ? "" : `over ${latest.tokens} tokens`]);
    if (latest.conversation) rows.push(["all of this chat", `epsilon ${figureUp(latest.conversation)}`, ""]);
    if (latest.charged !== null) rows.push(["charged for it", `epsilon ${figureUp(latest.charged)}`, `for ${latest.chargedTokens} tokens`]);
  } else rows.push(["answers", "none yet", ""]);
  if (budget) {
    const { today, left } = budget;
    rows.push(["given away today", today ? `epsilon ${figureUp(today.epsilon)}` : "nothing",
      today ? `for ${today.tokens} tokens, at ${deltaOf(budget.delta)}` : ""]);
    for (const one of left) rows.push([`left today of ${one.quantity} ${figure(one.bound)}`, figure(one.left), one.tokens === null ? "" : `or ${one.tokens} tokens at mu ${muOf(one.mu)}`]);
    if (!left.length) rows.push(["left today", "no limit", "is set by the policy"]);
  }
  figures(byId("sent"), rows);
}
