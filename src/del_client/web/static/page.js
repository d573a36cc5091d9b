// Puts the page together: what is typed is read at once, and sent when asked.

import { get, post, useToken } from "./api.js";
import { Chat } from "./chat.js";
import { Dial } from "./dial.js";
import { byId, element, say } from "./dom.js";
import { clearReading, showReading, showSent } from "./panel.js";

const RETRY_MS = 1500;
const draft = byId("draft");
const page = crypto.randomUUID();
let online = false;
let readable = false;
let retry = 0;
let learnt = "";
let answered = null;

const dial = new Dial(() => read());
const chat = new Chat({
  asked: () => dial.asked,
  ended: (latest) => { answered = latest || answered; account(); buttons(); if (draft.value) read(); },
  refused: (text, failure) => {
    if (!draft.value) draft.value = text;
    grow();
    if (!failure.refusal) connect();
  },
});

// --- the server: asked again and again while it is away

async function connect() {
  clearTimeout(retry);
  let facts;
  try {
    facts = await get("/del/dial");
  } catch (failure) {
    return lost(failure);
  }
  const { online: answers, ...lasting } = facts;
  if (JSON.stringify(lasting) !== learnt) dial.learn(facts);
  learnt = JSON.stringify(lasting);
  chat.model = facts.model;
  readable = true;
  online = answers;
  byId("ask-token").hidden = true;
  byId("codec").replaceChildren("The codec, which turns tokens into numbers, is ", element("code", {}, `${facts.codec.slice(0, 16)}…`),
    `: ${facts.dim} coordinates a token, trained for mu ${facts.trained.join(" to ")}.` + (facts.rule ? ` The dial's default is ${facts.rule}.` : ""));
  if (online) status("on", `${facts.model} at ${facts.server}`);
  else {
    status("off", `The server at ${facts.server} doesn't answer. Nothing can be sent; what you write is read all the same.`);
    retry = setTimeout(connect, RETRY_MS);
  }
  account();
  read();
  buttons();
}

// Nothing is known of the server, or this page may not ask.
function lost(failure) {
  online = readable = false;
  const asks = Boolean(failure.needsToken);
  byId("ask-token").hidden = !asks;
  if (asks) byId("token").focus();
  else retry = setTimeout(connect, RETRY_MS);
  status("off", asks ? "Locked: the gateway wants its token" : failure.message);
  clearReading(asks ? "Locked" : "No server: nothing can leave, and nothing can be read");
  buttons();
}

function status(state, text) {
  byId("link").dataset.state = state;
  byId("link").title = text;
  say(byId("link"), text);
}

async function account() {
  try {
    showSent(answered, await get("/del/budget"));
  } catch {
    showSent(answered, null);
  }
}

// --- the reading: one request at a time, the latest draft next

let reading = false;
let changed = false;

async function read() {
  changed = true;
  if (reading || !readable) return;
  reading = true;
  while (changed && readable) {
    changed = false;
    const text = draft.value;
    try {
      const found = await post("/del/reading", { page, draft: text, earlier: chat.said, del: dial.asked });
      if (!changed) {
        showReading(found);
        say(byId("state"), text ? "A preview. Nothing of it has been sent." : "A preview of what you write. Nothing is sent before you say so.");
      }
    } catch (failure) {
      if (failure.offline || failure.needsToken) connect();
      else clearReading(failure.message);
    }
  }
  reading = false;
}

// --- the writer

function grow() {
  if (CSS.supports("field-sizing", "content")) return; // the style sheet does it, and lays out but once
  draft.style.height = "auto";
  draft.style.height = `${Math.min(draft.scrollHeight, 220)}px`;
}

function buttons() {
  byId("send").disabled = !online || chat.busy || !draft.value.trim();
  byId("send").hidden = chat.busy;
  byId("stop").hidden = !chat.busy;
}

async function ask() {
  if (!online || chat.busy || !draft.value.trim()) return;
  const text = draft.value;
  draft.value = "";
  grow();
  const answer = chat.ask(text);
  buttons();
  say(byId("glance"), "Nothing to send yet");
  say(byId("state"), "Sent. What you see is still its preview: the bits that left were drawn anew.");
  await answer;
}

function view(name) {
  document.body.dataset.view = name;
  byId("show-chat").setAttribute("aria-pressed", name === "chat");
  byId("show-leaves").setAttribute("aria-pressed", name === "leaves");
}

draft.addEventListener("input", () => { grow(); buttons(); read(); });
draft.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && chat.busy) chat.stop(); });
byId("composer").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
byId("stop").addEventListener("click", () => { chat.stop(); draft.focus(); });
byId("new").addEventListener("click", () => { chat.forget(); answered = null; buttons(); account(); read(); draft.focus(); });
byId("show-chat").addEventListener("click", () => view("chat"));
byId("show-leaves").addEventListener("click", () => view("leaves"));
byId("glance").addEventListener("click", () => { view("leaves"); byId("leaves").scrollIntoView({ block: "start" }); });
byId("ask-token").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(byId("token").value);
  byId("token").value = "";
  connect();
});

draft.value = "";
connect();
draft.focus();
