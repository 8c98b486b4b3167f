// Talking to the server: the token, waiting while it is busy, waiting until it is there again.

import { t } from "./words.js";

const PROBE_MS = 3000; // between two tries while the server is gone
const MOST_WAITS = 6; // for a busy server, before it is said to be too busy
const MOST_BREAKS = 3; // of a connection to a server that is there, before the file is blamed
const GONE = [502, 504]; // what a proxy says in its place
const PHRASES = {
  0: "unsent", 400: "bad", 401: "closed", 403: "forbidden", 408: "unsent", 413: "big",
  415: "bad", 422: "bad", 429: "crowded", 500: "broken", 503: "crowded",
};

/** What the page does when the server is gone, busy or closed; page.js fills it in. */
export const told = { gone: () => {}, busy: () => {}, token: async () => null };

/** An answer that is none; `says()` in the reader's language. */
export class Refused extends Error {
  constructor(status, detail = "") {
    super(detail);
    this.status = status;
    this.detail = detail;
  }

  says() {
    const key = PHRASES[this.status] ?? "odd";
    const phrase = t(key, { status: this.status });
    return this.detail ? t("told", { phrase, detail: this.detail }) : phrase;
  }
}

/** Classes and probabilities, the likeliest first: objects put names such as "7" in an order of their own. */
export const ranked = (probabilities) =>
  Object.entries(probabilities ?? {}).sort((a, b) => b[1] - a[1]);

let token = sessionStorage.getItem("token");

/** Take the token out of the address, where neither history nor bookmarks need it. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  keep(given);
  history.replaceState(null, "", location.pathname + location.search);
}

function keep(given) {
  token = given;
  sessionStorage.setItem("token", given);
}

// A header takes visible ASCII only; what else was typed is no token, and the server says so.
const authorization = () =>
  token && /^[\x21-\x7e]+$/.test(token) ? { Authorization: `Bearer ${token}` } : {};

export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

async function isThere() {
  try {
    const answer = await fetch("model", { cache: "no-store", headers: authorization() });
    return !GONE.includes(answer.status);
  } catch {
    return false;
  }
}

let search = null; // shared by all that wait

function untilThere() {
  search ??= (async () => {
    if (await isThere()) return;
    told.gone(true);
    do await pause(PROBE_MS);
    while (!(await isThere()));
    told.gone(false);
  })().finally(() => (search = null));
  return search;
}

const aborted = (signal) =>
  new Promise((_, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });

let opening = null; // one dialog, whoever asks

/** Fetch, and wait where waiting helps. Throws `Refused`, or what the signal was aborted with. */
export async function ask(path, init = {}) {
  const { signal } = init;
  let breaks = 0;
  for (let waits = 0; ; ) {
    let answer = null;
    const used = token;
    try {
      const headers = { ...init.headers, ...authorization() };
      answer = await fetch(path, { ...init, headers, cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
    }
    if (!answer || GONE.includes(answer.status)) {
      if (++breaks > MOST_BREAKS) throw new Refused(0);
      await Promise.race([untilThere(), aborted(signal)]);
      await pause(300, signal);
    } else if (answer.ok) {
      return answer;
    } else if (answer.status === 401) {
      if (used === token) {
        opening ??= told.token(Boolean(used)).finally(() => (opening = null));
        const given = await opening;
        if (given === null) throw new Refused(401, await detailOf(answer));
        if (given) keep(given);
      }
    } else if ((answer.status === 429 || answer.status === 503) && ++waits <= MOST_WAITS) {
      const seconds = Number(answer.headers.get("Retry-After")) || 2;
      await countDown(Math.min(60, Math.max(1, Math.ceil(seconds))), signal);
    } else {
      throw new Refused(answer.status, await detailOf(answer));
    }
  }
}

async function detailOf(answer) {
  try {
    const { error } = await answer.json();
    return typeof error === "string" ? error : "";
  } catch {
    return "";
  }
}

async function countDown(seconds, signal) {
  try {
    for (; seconds > 0; seconds--) {
      told.busy(seconds);
      await pause(1000, signal);
    }
  } finally {
    told.busy(0);
  }
}

async function json(answer) {
  try {
    return await answer.json();
  } catch {
    throw new Refused(answer.status, "");
  }
}

export const model = async () => json(await ask("model"));

const kind = (file) => (file.type.startsWith("image/") ? file.type : "application/octet-stream");

export async function predict(file, signal) {
  const headers = { "Content-Type": kind(file) };
  const answer = await ask("predict?top=5", { method: "POST", body: file, headers, signal });
  const { predictions } = await json(answer);
  if (predictions[0].error !== undefined) throw new Refused(422, predictions[0].error);
  return predictions[0];
}

export async function predictMany(files, signal) {
  const form = new FormData();
  for (const file of files) form.append("pictures", file, file.name);
  const answer = await ask("predict?top=2", { method: "POST", body: form, signal });
  const { predictions } = await json(answer);
  if (predictions.length !== files.length) throw new Refused(answer.status);
  return predictions;
}

export async function explain(file, label, signal) {
  const headers = { "Content-Type": kind(file) };
  const path = `explain?label=${encodeURIComponent(label)}`;
  return (await ask(path, { method: "POST", body: file, headers, signal })).blob();
}
