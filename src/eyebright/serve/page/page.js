// The page: pictures come in, one is shown or many are listed; words follow the reader.

import * as camera from "./camera.js";
import * as card from "./card.js";
import * as many from "./many.js";
import * as one from "./one.js";
import { filesOf, isPicture, megabytes, nameOf } from "./pictures.js";
import * as server from "./server.js";
import { language, percent, speak, t } from "./words.js";

const $ = (id) => document.getElementById(id);
const MOST_SEEN = 100; // pictures in the history

let model = null;
let seen = []; // entries of one.js with a thumbnail, the latest first
let current = null;
let message = null; // makes the text, so that it follows the language
let asking = null;
let early = null; // files that came before the model was known

function draw() {
  const touch = matchMedia("(pointer: coarse)").matches;
  const keys = /mac|iphone|ipad/i.test(navigator.platform) ? "⌘V" : "Ctrl+V";
  const empty = document.body.dataset.view === "empty";
  speak(language);
  $("invite").textContent = t(!empty && !touch ? "another" : touch ? "invite_touch" : "invite");
  $("paste-hint").textContent = t(touch ? "paste_touch" : "paste", { keys });
  for (const name of ["en", "zh"]) $(name).setAttribute("aria-pressed", String(language === name));
  $("message").hidden = !message;
  if (message) $("message").querySelector("p").textContent = message();
  camera.draw();
  if (model) card.draw(model);
  one.draw();
  many.draw();
  drawHistory();
}

function view(name) {
  document.body.dataset.view = name;
  $("one").hidden = name !== "one";
  $("many").hidden = name !== "many";
  $("back").hidden = !many.isFilled();
  if (name !== "one") one.hide();
}

function tell(text) {
  message = text;
  draw();
}

const say = (text) => ($("live").textContent = text);

function take(files, why = "no_file") {
  if (!model) return (early = files);
  message = null;
  if (!files.length) return tell(() => t(why));
  if (files.length > 1) {
    asking?.abort();
    view("many");
    many.start(files);
    return draw();
  }
  many.stop();
  const [file] = files;
  const most = model.limits.body_bytes;
  if (file.size > most)
    return tell(() => {
      const sizes = { size: megabytes(file.size), most: megabytes(most) };
      return t("large", { name: nameOf(file), ...sizes });
    });
  return look({ file, name: nameOf(file), result: null, error: null, heat: new Map() });
}

function show(entry) {
  current = entry;
  message = null;
  view("one");
  one.show(entry);
  draw();
}

async function look(entry) {
  asking?.abort();
  const mine = (asking = new AbortController());
  show(entry);
  $("one").scrollIntoView({ block: "nearest" });
  say(t("looking"));
  try {
    entry.result = await server.predict(entry.file, mine.signal);
  } catch (error) {
    if (mine.signal.aborted) return;
    if (!(error instanceof server.Refused)) throw error;
    entry.error = error;
  }
  if (mine.signal.aborted) return;
  seen = [entry, ...seen].slice(0, MOST_SEEN);
  show(entry);
  say(entry.error ? entry.error.says() : heard(entry));
}

function heard({ name, result: { prediction: label, probability, answer } }) {
  return t(answer === null ? "heard_unsure" : "heard", { name, label, percent: percent(probability) });
}

/** A row of the table, looked at alone. */
async function open(row) {
  const says = () => (typeof row.error === "function" ? row.error() : row.error);
  const full = (row.full ??= { ...row, heat: new Map(), error: row.error && { says } });
  show(full);
  $("back").focus();
  if (!row.result || full.asked) return;
  full.asked = true; // a row knows two classes only; the others are asked for when it is looked at
  try {
    full.result = await server.predict(row.file);
    if (current === full && document.body.dataset.view === "one") show(full);
  } catch (error) {
    if (!(error instanceof server.Refused)) throw error;
    full.asked = false;
  }
}

function drawHistory() {
  $("history").hidden = !seen.length;
  $("strip").replaceChildren(...seen.map((entry) => {
    const item = one.made("li");
    const button = one.made("button");
    const { result, name } = entry;
    const answered = result?.answer === null ? t("not_sure") : result?.prediction;
    const label = result ? answered : t("failed");
    button.type = "button";
    button.setAttribute("aria-label", t("again", { name, label }));
    if (entry === current && document.body.dataset.view === "one")
      button.setAttribute("aria-current", "true");
    button.onclick = () => {
      asking?.abort();
      show(entry);
      $("strip").querySelector("[aria-current]")?.focus({ preventScroll: true });
      $("one").scrollIntoView({ block: "nearest" });
      say(result ? heard(entry) : entry.error.says());
    };
    const unsure = !result || result.answer === null;
    button.append(many.thumb(entry), one.made("span", label, unsure ? "unsure" : ""));
    item.append(button);
    return item;
  }));
}

function forget() {
  seen = [];
  message = current = null;
  if (document.body.dataset.view === "one") view("empty");
  draw();
  $("choose").focus();
}

function askToken(wrong) {
  return new Promise((resolve) => {
    const dialog = $("ask");
    $("ask-says").textContent = t(wrong ? "token_wrong" : "token_why");
    $("token").value = "";
    let given = null;
    $("token-form").onsubmit = (event) => {
      event.preventDefault(); // the page may send no form anywhere, and this is only asked here
      given = $("token").value.trim();
      if (given) dialog.close();
    };
    $("give-not").onclick = () => dialog.close();
    dialog.onclose = () => resolve(given || null);
    if (!dialog.open) dialog.showModal();
    $("token").focus();
  });
}

function listen() {
  const carries = ({ dataTransfer: carried }) =>
    carried?.types.some((kind) => kind === "Files" || kind === "text/uri-list");
  let depth = 0; // dragenter of a child comes before dragleave of its parent
  const over = (by) => {
    depth = Math.max(0, depth + by);
    $("over").hidden = !depth;
  };
  addEventListener("dragenter", (event) => carries(event) && over(1));
  addEventListener("dragleave", (event) => carries(event) && over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", async (event) => {
    event.preventDefault(); // else the browser would leave for the file
    over(-Infinity);
    const items = [...event.dataTransfer.items];
    const folder = items.some((item) => item.webkitGetAsEntry?.()?.isDirectory);
    take(await filesOf(event.dataTransfer), folder ? "empty_folder" : "no_file");
  });
  addEventListener("paste", (event) => {
    if (event.target.closest?.("input, dialog")) return;
    const files = [...event.clipboardData.files];
    if (files.length || event.clipboardData.types.length) take(files);
  });
  addEventListener("hashchange", server.takeToken);
  for (const [button, input] of [["choose", "files"], ["folder", "directory"]])
    $(button).onclick = () => $(input).click();
  for (const id of ["files", "capture", "directory"])
    $(id).onchange = () => {
      let files = [...$(id).files];
      if (id === "directory")
        files = files.filter((file) => isPicture(file) && !file.name.startsWith("."));
      $(id).value = ""; // the same file may be chosen again
      take(files, "empty_folder");
    };
  $("folder").hidden = matchMedia("(pointer: coarse)").matches;
  $("message").querySelector("button").onclick = () => tell(null);
  $("back").onclick = () => {
    message = null;
    view("many");
    draw();
  };
  $("clear").onclick = forget;
  for (const name of ["en", "zh"])
    $(name).onclick = () => {
      speak(name);
      draw();
    };
}

async function begin() {
  server.takeToken();
  Object.assign(server.told, {
    gone: (is) => ($("gone").hidden = !is),
    busy(seconds) {
      $("waiting").hidden = !seconds;
      $("waiting").querySelector("span").textContent = t("busy", { seconds });
    },
    token: askToken,
  });
  camera.prepare((photo) => take([photo]));
  listen();
  draw();
  try {
    model = await server.model();
  } catch (error) {
    if (!(error instanceof server.Refused)) throw error;
    return tell(() => error.says());
  }
  one.prepare(model);
  many.prepare(model, open, (text, loud) => (loud ? tell(() => text) : say(text)));
  draw();
  if (early) take(early);
}

begin();
