// Many pictures: sent a few at a time, shown as a table, downloaded as CSV.

import { csv } from "./csv.js";
import { made, track } from "./one.js";
import { megabytes, nameOf, thumbnail } from "./pictures.js";
import { predictMany, ranked, Refused } from "./server.js";
import { number, percent, t } from "./words.js";

const $ = (id) => document.getElementById(id);
const BATCH = 16; // pictures a request, as far as the server takes them
const PAGE = 50; // rows in the document at once, so that 10,000 files are no burden
const COLUMNS = [
  ["picture", "name"],
  ["class", "label"],
  ["probability", "probability"],
  ["runner_up", "second"],
];
const FILTERS = ["all", "unsure", "errors"];

let model = null;
let open = () => {};
let say = () => {};
let rows = []; // {file, name, result, error: a text or Refused, thumb}
let sort = { by: null, down: false };
let filter = "all";
let first = 0; // row of the page that is shown
let running = null;

export function prepare(card, opened, said) {
  [model, open, say] = [card, opened, said];
  $("stop").onclick = () => (running ? running.abort() : run());
  $("csv").onclick = download;
  $("previous").onclick = () => turn(-PAGE);
  $("next").onclick = () => turn(PAGE);
}

export function start(files) {
  running?.abort();
  rows = files.map((file) => ({ file, name: nameOf(file), result: null, error: null }));
  [sort, filter, first] = [{ by: null, down: false }, "all", 0];
  const most = model.limits.body_bytes;
  for (const row of rows)
    if (row.file.size > most)
      row.error = () => t("large_row", { size: megabytes(row.file.size), most: megabytes(most) });
  run();
}

export const stop = () => running?.abort();
export const isFilled = () => rows.length > 0;
const isDone = (row) => row.result || row.error;
const isUnsure = (row) => row.result?.answer === null;
const shownBy = { all: () => true, unsure: isUnsure, errors: (row) => row.error };
const second = (row) => ranked(row.result?.probabilities)[1];
const because = (row) => (typeof row.error === "function" ? row.error() : row.error);

function nextBatch(from) {
  const most = Math.max(1, Math.min(BATCH, model.limits.pictures || BATCH));
  const batch = [];
  let room = model.limits.body_bytes * 0.9; // multipart has headers of its own
  for (; from < rows.length && batch.length < most; from++) {
    if (isDone(rows[from])) continue;
    if (batch.length && rows[from].file.size > room) break;
    room -= rows[from].file.size;
    batch.push(rows[from]);
  }
  return [batch, from];
}

async function run() {
  const mine = (running = new AbortController());
  draw();
  try {
    for (let batch, from = 0; ; ) {
      [batch, from] = nextBatch(from);
      if (!batch.length) break;
      await look(batch, mine.signal);
      if (running !== mine) return;
      draw();
    }
    say(t("finished", { total: number(rows.length) }));
  } catch (error) {
    if (error instanceof Refused) say(error.says(), true);
    else if (!mine.signal.aborted) throw error;
  } finally {
    if (running === mine) {
      running = null;
      draw();
    }
  }
}

/** Fill in a batch. What fails as a whole is sent one by one, so that each error finds its file. */
async function look(batch, signal) {
  try {
    const predictions = await predictMany(batch.map((row) => row.file), signal);
    predictions.forEach((found, i) => {
      if (found.error === undefined) batch[i].result = found;
      else batch[i].error = found.error;
    });
  } catch (error) {
    if (!(error instanceof Refused) || [401, 403, 429, 503].includes(error.status)) throw error;
    if (batch.length > 1) for (const row of batch) await look([row], signal);
    else batch[0].error = () => error.says();
  }
}

function listed() {
  const list = rows.filter(shownBy[filter]);
  if (!sort.by) return list;
  const order = new Intl.Collator("en", { numeric: true }).compare;
  const key = {
    name: (row) => row.name,
    label: (row) => row.result?.prediction,
    probability: (row) => row.result?.probability,
    second: (row) => second(row)?.[0],
  }[sort.by];
  const sign = sort.down ? -1 : 1;
  return list.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // last
    return sign * (typeof x === "number" ? x - y : order(x, y));
  });
}

function turn(by) {
  first = Math.max(0, first + by);
  draw();
  $("many").scrollIntoView({ block: "start" });
}

export function draw() {
  if (!rows.length) return;
  const done = rows.filter(isDone).length;
  const rest = done < rows.length;
  $("many-title").textContent = t("many", { n: number(rows.length) });
  $("stop").hidden = !rest;
  $("stop").textContent = t(running ? "stop" : "go_on");
  $("csv").disabled = !done;
  $("progress").hidden = !rest;
  $("meter").max = rows.length;
  $("meter").value = done;
  $("count").textContent = t("count", { done: number(done), total: number(rows.length) });
  const held = document.activeElement?.dataset?.key; // buttons are made anew: the focus stays
  drawFilter();
  drawHead();
  const list = listed();
  if (first >= list.length) first = Math.max(0, Math.floor((list.length - 1) / PAGE) * PAGE);
  const part = list.slice(first, first + PAGE);
  $("rows").replaceChildren(...part.map(line));
  $("none").hidden = list.length > 0;
  $("pager").hidden = list.length <= PAGE;
  $("previous").disabled = first === 0;
  $("next").disabled = first + PAGE >= list.length;
  const last = first + part.length;
  const where = { first: number(first + 1), last: number(last), total: number(list.length) };
  $("page-of").textContent = t("page_of", where);
  if (!held) return;
  const same = $("many").querySelector(`[data-key="${CSS.escape(held)}"]`);
  same?.focus({ preventScroll: true });
}

function drawFilter() {
  const offered = FILTERS.filter((name) => name !== "unsure" || model.promise);
  $("filter").replaceChildren(...offered.map((name) => {
    const button = made("button", `${t(name)} `);
    button.append(made("small", number(rows.filter(shownBy[name]).length)));
    button.type = "button";
    button.dataset.key = `filter ${name}`;
    button.setAttribute("aria-pressed", String(filter === name));
    button.onclick = () => {
      [filter, first] = [name, 0];
      draw();
    };
    return button;
  }));
}

function drawHead() {
  $("head").replaceChildren(...COLUMNS.map(([word, by]) => {
    const head = made("th", "", by);
    const button = made("button", t(word));
    head.scope = "col";
    if (sort.by === by) head.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    button.type = "button";
    button.dataset.key = `sort ${by}`;
    button.onclick = () => {
      sort = { by, down: sort.by === by && !sort.down };
      first = 0;
      draw();
    };
    head.append(button);
    return head;
  }));
}

function wide(text, kind) {
  const cell = made("td", text, kind);
  cell.colSpan = 2; // and not the last, which narrow screens leave out
  return cell;
}

function line(row) {
  const element = made("tr");
  const name = made("th", "", "name");
  name.scope = "row";
  const button = made("button", "", "row");
  button.type = "button";
  button.dataset.key = `row ${rows.indexOf(row)}`;
  button.disabled = !isDone(row);
  button.onclick = () => open(row);
  button.append(thumb(row), made("span", row.name));
  name.append(button);
  element.append(name);
  if (row.error) {
    element.append(wide(because(row), "error"), made("td", "", "second"));
  } else if (!row.result) {
    element.append(wide(t("yet"), "soft"), made("td", "", "second"));
  } else {
    const { prediction, probability } = row.result;
    const label = isUnsure(row) ? t("leans", { label: prediction }) : prediction;
    const share = made("td", percent(probability), "probability");
    share.append(track(probability));
    const next = second(row);
    const runner = made("td", next ? `${next[0]} ` : "", "second");
    if (next) runner.append(made("small", percent(next[1])));
    element.append(made("td", label, isUnsure(row) ? "label unsure" : "label"), share, runner);
  }
  return element;
}

/** Made when a row is first shown, so that thousands of files are not all decoded here. */
export function thumb(row) {
  const image = made("img", "", "thumb");
  image.alt = "";
  row.thumb ??= thumbnail(row.file);
  row.thumb.then((url) => (url ? (image.src = url) : image.classList.add("blank")));
  return image;
}

function download() {
  const promised = model.promise ? ["answer"] : [];
  // As `eyebright predict -o` names them.
  const likely = ["label", "probability", "label_2", "probability_2"];
  const head = ["picture", ...likely, ...promised, "error"];
  const list = rows.filter(isDone).map((row) => {
    const { prediction, probability, answer } = row.result ?? {};
    const [label, share] = second(row) ?? [];
    const answered = model.promise ? [answer] : [];
    const found = [prediction, probability, label, share, ...answered];
    return [row.name, ...found, row.error ? because(row) : ""];
  });
  const url = URL.createObjectURL(new Blob([csv([head, ...list])], { type: "text/csv" }));
  const link = made("a");
  link.href = url;
  link.download = "eyebright.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
