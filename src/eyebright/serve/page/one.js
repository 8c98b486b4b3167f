// One picture: the answer, its likeliest classes, and the heat over it.

import { explain, ranked, Refused } from "./server.js";
import { percent, round, t } from "./words.js";

const $ = (id) => document.getElementById(id);
const SQUARE = 0.04; // share outside the middle square that is not worth a word

let model = null;
let entry = null; // {file, name, result, error, heat: Map of label to Blob}
let loaded = null; // the entry whose picture the browser has read
let label = null; // whose heat is asked for
let wanted = true; // heat, for all pictures of this visit
let asking = null; // {of, name, control}: the heat that is on its way
let drawn = null; // the heat that lies over the picture
const urls = { picture: null, heat: null };

function source(kind, image, blob) {
  if (urls[kind]) URL.revokeObjectURL(urls[kind]);
  urls[kind] = blob && URL.createObjectURL(blob);
  if (blob) image.src = urls[kind];
  else image.removeAttribute("src");
}

export function prepare(card) {
  model = card;
  $("heat-toggle").onclick = () => {
    wanted = !wanted;
    drawHeat();
  };
  $("heat-strength").oninput = () => ($("heat").style.opacity = $("heat-strength").value / 100);
  $("heat-strength").oninput();
  $("picture").onload = () => {
    loaded = entry;
    measure();
  };
  $("picture").onerror = () => {
    if (!$("picture").hasAttribute("src")) return;
    $("picture").hidden = true;
    $("unseen").hidden = false;
    draw();
  };
}

/** Show a picture with whatever is known of it by now. */
export function show(given) {
  const other = entry !== given;
  entry = given;
  if (other) {
    label = loaded = null;
    $("cut").hidden = $("unseen").hidden = true;
    $("picture").hidden = false;
    source("picture", $("picture"), given.file);
    $("cut").querySelector("img").src = urls.picture;
  }
  draw();
}

export function hide() {
  stopAsking();
  entry = loaded = null;
  source("picture", $("picture"), null);
  source("heat", $("heat"), null);
  drawn = null;
  $("cut").querySelector("img").removeAttribute("src");
}

function measure() {
  const { naturalWidth: width, naturalHeight: height } = $("picture");
  const whole = $("cut").querySelector(".whole");
  const part = Math.min(width, height) / Math.max(width, height);
  whole.classList.toggle("tall", height > width);
  whole.style.setProperty("--part", part);
  $("cut").hidden = 1 - part < SQUARE;
  $("cut").querySelector("p").textContent = t("cut", { share: percent(1 - part, 0) });
}

export function draw() {
  if (!entry) return;
  const { result, error, name } = entry;
  $("name").textContent = name;
  $("picture").alt = name;
  $("busy").hidden = Boolean(result || error);
  $("verdict").hidden = !(result || error);
  $("unseen").textContent = t(error ? "unseen_bad" : "unseen");
  $("kicker").hidden = !result;
  for (const id of ["bars", "rest", "belief"]) $(id).hidden = !result;
  if (result) drawResult(result);
  else if (error) drawError(error);
  if (loaded) measure(); // until then, its width is that of the picture before
  drawHeat();
}

function drawError(error) {
  $("answer").textContent = t("no_answer");
  $("answer").classList.add("unsure");
  $("why").replaceChildren(made("span", error.says()));
}

function drawResult({ prediction, probability, probabilities, calibrated, answer, set }) {
  const likeliest = ranked(probabilities).slice(0, 5);
  const unsure = answer === null;
  $("kicker").textContent = t("kicker");
  $("answer").textContent = unsure ? t("not_sure") : prediction;
  $("answer").classList.toggle("unsure", unsure);
  const leans = { label: prediction, percent: percent(probability) };
  const why = [t(unsure ? "kicker_leans" : "why", leans)];
  if (unsure && model.promise) {
    const { threshold, risk } = model.promise;
    why.push(t("why_not", { threshold: round(threshold), right: round(1 - risk) }));
  } else if (calibrated && probability < 0.5) why.push(t("odds"));
  if (set) why.push(set.length ? t("among", { classes: set.join(t("comma")) }) : t("among_none"));
  $("why").replaceChildren(...why.map((text) => made("span", text)));
  $("bars").replaceChildren(...likeliest.map(([name, share]) => bar(name, share)));
  const others = model.classes.length - likeliest.length;
  const left = 1 - likeliest.reduce((sum, [, share]) => sum + share, 0);
  const rest = { n: others, percent: percent(Math.max(0, left)) };
  $("rest").textContent = others > 0 ? t("rest", rest) : "";
  const sure = probability >= 0.995 ? "believed_most" : "believed";
  const about = { percent: percent(probability, 0) };
  $("belief").textContent = t(calibrated ? sure : "unbelieved", about);
}

export function made(tag, text = "", name = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  return element;
}

/** A bar as long as its share. */
export function track(share) {
  const outer = made("span", "", "track");
  const inner = made("span", "", "fill");
  inner.style.width = `${Math.min(1, share) * 100}%`;
  outer.append(inner);
  return outer;
}

function bar(name, share) {
  const item = made("li");
  const row = made(model.explain ? "button" : "div", "", "bar");
  row.append(made("span", name, "label"), track(share), made("span", percent(share), "share"));
  if (model.explain) {
    row.type = "button";
    row.dataset.label = name;
    row.title = t("heat_ask", { label: name, percent: percent(share) });
    row.onclick = () => {
      label = name;
      wanted = true;
      drawHeat();
    };
  }
  item.append(row);
  return item;
}

function drawHeat() {
  const offered = Boolean(model.explain && entry.result);
  $("heat-tools").hidden = !offered;
  const of = label ?? entry.result?.prediction;
  const blob = offered && wanted ? entry.heat.get(of) : undefined;
  for (const row of $("bars").querySelectorAll("button"))
    row.setAttribute("aria-pressed", String(wanted && row.dataset.label === of));
  $("heat-toggle").setAttribute("aria-pressed", String(wanted));
  $("heat-strength").disabled = !wanted;
  const over = blob instanceof Blob ? blob : null;
  if (drawn !== over) source("heat", $("heat"), over);
  drawn = over;
  $("heat").hidden = !over;
  $("heat-state").textContent = heatState(offered, of, blob);
  if (offered && wanted && blob === undefined) fetchHeat(entry, of);
  else stopAsking();
}

function heatState(offered, of, blob) {
  if (!offered || !wanted) return "";
  if (blob instanceof Refused) return t("heat_no", { why: blob.says() });
  return blob ? t("heat_for", { label: of }) : t("heat_wait");
}

async function fetchHeat(of, name) {
  if (asking?.of === of && asking.name === name) return;
  stopAsking();
  const mine = (asking = { of, name, control: new AbortController() });
  try {
    of.heat.set(name, await explain(of.file, name, mine.control.signal));
  } catch (error) {
    if (mine.control.signal.aborted) return; // another picture or class is asked for by now
    if (!(error instanceof Refused)) throw error;
    of.heat.set(name, error);
  }
  if (asking === mine) asking = null;
  if (entry === of) drawHeat();
}

function stopAsking() {
  asking?.control.abort();
  asking = null;
}
