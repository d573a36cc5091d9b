// Requests to this gateway, and nothing else. Knows nothing of what is shown.

let token = "";

export class Failure extends Error {
  constructor(status, error) {
    super(error.message || `the gateway answered ${status}`);
    this.status = status;
    this.type = error.type || "";
    this.code = error.code || "";
  }
  get offline() { return this.status === 0 || this.status === 503; }
  // The device's own: a policy's limit for a day comes as OpenAI's word for a quota that is used up.
  get refusal() { return this.type === "privacy_refusal" || this.code === "insufficient_quota"; }
  get needsToken() { return this.status === 401; }
}

export function useToken(text) { token = text.trim(); }

export async function get(path) { return (await request(path, {})).json(); }

export async function post(path, body, signal) { return (await send(path, body, signal)).json(); }

export function send(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function request(path, options) {
  const headers = { ...options.headers, ...(token && { authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, { message: "The gateway on this device doesn't answer. Is it running?" });
  }
  if (response.ok) return response;
  let body = {};
  try { body = await response.json(); } catch { /* no JSON: the status has to do */ }
  throw new Failure(response.status, body.error || {});
}

// The objects of a stream of server-sent events, until it says [DONE]. Throws Failure for one that is an error.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Failure(0, { message: "The answer broke off: the gateway closed the connection." });
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Failure(event.error.code === "server_unavailable" ? 503 : 500, event.error);
      yield event;
    }
  }
}
