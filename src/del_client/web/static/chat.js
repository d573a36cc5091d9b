// The conversation: what was said, sent and streamed. Kept in this tab's memory alone.

import { Failure, events, post, send } from "./api.js";
import { byId, bytes, deltaOf, element, figureUp, muOf } from "./dom.js";
import { rich } from "./rich.js";

const log = byId("log");
const TRIES = 5;
const PAUSE_MS = 150;
const AGAIN = "If its bits were drawn and charged before it failed, the same message goes out as the same bits, at no new cost.";

export class Chat {
  // ended(latest): after each answer, null where none began; refused(text): what was not sent goes back to the writer.
  constructor({ asked, ended, refused }) {
    Object.assign(this, { asked, ended, refused });
    this.forget();
  }

  get busy() { return this.running !== null; }

  forget() {
    this.running?.abort();
    this.running = null;
    this.said = [];
    this.key = crypto.randomUUID();
    log.replaceChildren(byId("welcome") || this.welcome);
    this.welcome = log.firstElementChild;
  }

  stop() { this.running?.abort(); }

  async ask(text) {
    this.welcome.remove();
    const own = log.appendChild(bubble("own", "You"));
    own.body.textContent = text;
    const theirs = log.appendChild(bubble("theirs", "Answer"));
    theirs.node.setAttribute("aria-busy", "true");
    log.scrollTop = log.scrollHeight;
    const running = (this.running = new AbortController());
    const said = [...this.said, { role: "user", content: text }];
    const course = { started: performance.now(), first: null, ended: null, text: "", tokens: null, figures: null, reason: "" };
    let failure = null;
    try {
      await this.stream(said, course, theirs, running.signal);
    } catch (error) {
      failure = error;
    }
    course.ended = performance.now();
    theirs.node.removeAttribute("aria-busy");
    if (this.running !== running) return; // another conversation has begun
    const atEnd = nearEnd();
    await this.settle(said, course, own, theirs, failure);
    if (atEnd) log.scrollTop = log.scrollHeight;
    this.running = null;
    this.ended(failure && course.first === null ? null : latest(course));
  }

  async stream(said, course, theirs, signal) {
    const body = { ...this.body(said), stream: true, stream_options: { include_usage: true } };
    const noise = this.asked();
    if (Object.keys(noise).length) body.del = noise;
    const shown = follow(theirs.body, () => course.text);
    for await (const event of events(await send("/v1/chat/completions", body, signal))) {
      const choice = event.choices[0];
      if (choice?.delta.content) {
        course.first ??= performance.now();
        course.text += choice.delta.content;
        shown();
      }
      if (choice?.finish_reason) course.reason = choice.finish_reason;
      if (event.usage) course.tokens = event.usage.completion_tokens;
      if (event.del) course.figures = event.del;
    }
  }

  body(said) { return { model: this.model, messages: said, prompt_cache_key: this.key }; }

  async settle(said, course, own, theirs, failure) {
    theirs.body.replaceChildren(rich(course.text));
    if (failure?.name === "AbortError") return this.stopped(said, course, own, theirs);
    if (failure) return this.failed(failure, course, own, theirs, said.at(-1).content);
    this.said = [...said, { role: "assistant", content: course.text }];
    if (!course.text) theirs.note("The answer is empty.");
    if (course.reason === "length") theirs.note("Cut: this is the longest answer that is allowed.");
    own.note(sent(course.figures));
  }

  // What came so far is part of the conversation if the gateway knows it word for word; else a next turn would be
  // charged for it, so the exchange is left out.
  async stopped(said, course, own, theirs) {
    const whole = [...said, { role: "assistant", content: course.text }];
    const known = course.text !== "" && (await this.known(whole));
    if (known) this.said = whole;
    theirs.node.dataset.ended = "stopped";
    theirs.note(known ? "Stopped. The server generates no more of it." :
      "Stopped. The server generates no more of it, and this exchange is not part of what follows.");
    own.note("Its bits may have been sent and charged: see today's account.");
  }

  async known(said) {
    for (let tries = 0; tries < TRIES; tries++) {
      try {
        if ((await post("/del/known", this.body(said))).known) return true;
      } catch { return false; }
      await new Promise((done) => setTimeout(done, PAUSE_MS));
    }
    return false;
  }

  failed(failure, course, own, theirs, text) {
    if (!(failure instanceof Failure)) failure = new Failure(500, { message: String(failure) });
    if (course.text) {
      theirs.node.dataset.ended = "broken";
      theirs.note(`It broke off: ${failure.message} This exchange is not part of what follows.`);
      return;
    }
    theirs.node.remove();
    own.node.remove();
    const kind = failure.refusal ? "refused" : failure.offline ? "offline" : "failed";
    const titles = { refused: "Refused on this device. Nothing was sent.", offline: "The server can't be reached.", failed: "This could not be asked." };
    log.append(element("div", { class: "bubble notice", role: "alert", "data-kind": kind },
      element("b", {}, titles[kind]), element("p", {}, failure.message),
      ...(kind === "refused" ? [] : [element("p", { class: "small" }, AGAIN)])));
    this.refused(text, failure);
  }
}

function bubble(side, name) {
  const body = element("div", { class: "body", dir: "auto" });
  const foot = element("div", { class: "foot" });
  const node = element("article", { class: `bubble ${side}` }, element("h3", { class: "who" }, name), body, foot);
  const note = (text) => { if (text) foot.append(element("p", {}, text)); };
  return Object.assign(node, { node, body, note });
}

const nearEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;

// Shows a growing text once a frame, and stays at its end for a reader who is there.
function follow(body, text) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const atEnd = nearEnd();
      body.replaceChildren(rich(text()));
      if (atEnd) log.scrollTop = log.scrollHeight;
    });
  };
}

function sent(figures) {
  if (!figures) return "";
  if (!figures.private_tokens) return "Sent in the clear: no privacy.";
  return `Sent: ${bytes(figures.payload_bytes)} of bits, ${bytes(figures.wire_bytes)} in all; ${figures.charged_tokens} tokens ` +
    `drawn at mu ${muOf(figures.mu)}, epsilon ${figureUp(figures.epsilon_charged)} at ${deltaOf(figures.delta)}.`;
}

function latest({ started, first, ended, tokens, figures }) {
  const seconds = first === null ? 0 : (ended - first) / 1000;
  return {
    first: first === null ? null : first - started,
    speed: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null,
    tokens,
    charged: figures ? figures.epsilon_charged : null,
    conversation: figures ? figures.epsilon_prompt : null,
    chargedTokens: figures ? figures.charged_tokens : 0,
  };
}
