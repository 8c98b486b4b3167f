// What is known of the model: how often it is right, where it is weak, what it is not for.

import { made, track } from "./one.js";
import { number, percent, round, t } from "./words.js";

const FOLD = 24; // classes that are shown without asking
const $ = (id) => document.getElementById(id);

const bare = (share) => (share * 100).toFixed(1);
const partOf = (evaluation) => t(evaluation.split === "test" ? "test" : "val");

export function draw(model) {
  const { evaluation } = model;
  $("model-name").textContent = model.name;
  document.title = `${model.name} – eyebright`;
  let known = t("lead_untested");
  if (evaluation) {
    const { value, low, high } = evaluation.accuracy;
    const span = { low: bare(low), high: percent(high) };
    const on = { n: number(evaluation.n), split: partOf(evaluation) };
    known = t("lead_right", { value: percent(value), ...on, ...span });
  }
  $("lead").textContent = t("lead", { n: number(model.classes.length), known });
  $("version").textContent = t("version", { version: model.version });
  const left = made("div");
  left.append(...accuracy(evaluation), ...promise(model.promise), ...knows(model));
  const right = made("div");
  right.append(...weakest(evaluation), ...confused(evaluation));
  const parts = [pair(left, right), pair(limits(model)), facts(model)];
  $("card").replaceChildren(made("h2", t("about")), ...parts);
  $("card").hidden = false;
}

function pair(...parts) {
  const two = made("div", "", "two");
  for (const part of parts) if (part.childElementCount) part.classList.add("card");
  two.append(...parts.filter((part) => part.childElementCount));
  return two;
}

function accuracy(evaluation) {
  if (!evaluation)
    return [made("p", t("untested"), "headline small"), made("p", t("untested_why"), "soft")];
  const { value, low, high } = evaluation.accuracy;
  return [
    made("p", percent(value), "headline"),
    made("p", t("accuracy", { n: number(evaluation.n), split: partOf(evaluation) })),
    made("p", t("interval", { low: percent(low), high: percent(high) }), "soft"),
    ...leaked(evaluation),
  ];
}

function leaked({ trained_on_too: n }) {
  return n ? [made("p", t("leaked", { n: number(n) }), "warning")] : [];
}

function promise(promised) {
  if (!promised) return [];
  const { threshold, risk, answered, n } = promised;
  const shares = { threshold: round(threshold), right: round(1 - risk), answered: round(answered) };
  const text = t("promise_says", { ...shares, n: number(n) });
  return [made("h3", t("promise")), made("p", text, "soft")];
}

function weakest(evaluation) {
  if (!evaluation?.weakest?.length) return [];
  const list = made("ul", "", "bars");
  for (const { class: name, recall } of evaluation.weakest) {
    const item = made("li", "", "bar");
    const span = { low: bare(recall.low), high: bare(recall.high) };
    const share = t("found", { value: percent(recall.value), ...span });
    item.append(made("span", name, "label"), track(recall.value), made("span", share, "share"));
    list.append(item);
  }
  return [made("h3", t("weakest")), made("p", t("weakest_soft"), "soft"), list];
}

function confused(evaluation) {
  if (!evaluation?.confused?.length) return [];
  const list = made("ul", "", "plain");
  for (const { true: truth, predicted, count, of } of evaluation.confused) {
    const item = made("li");
    item.append(made("span", t("confused_row", { true: truth, predicted })));
    const share = t("confused_of", { count: number(count), of: number(of) });
    item.append(made("span", share, "soft"));
    list.append(item);
  }
  return [made("h3", t("confused")), list];
}

function knows({ classes }) {
  const parts = [made("h3", t("knows"))];
  const chips = made("ul", "", "chips");
  chips.append(...classes.map((name) => made("li", name)));
  if (classes.length <= FOLD) parts.push(chips);
  else {
    const fold = made("details");
    const some = made("p", `${classes.slice(0, FOLD / 2).join(" · ")} …`, "soft");
    fold.append(made("summary", t("knows_all", { n: number(classes.length) })), chips);
    parts.push(some, fold);
  }
  return parts;
}

function limits({ classes }) {
  const part = made("div");
  const list = made("ul", "", "limits");
  const n = number(classes.length);
  const texts = [t("limit_other", { n }), t("limit_several"), t("limit_unlike"), t("limit_grave")];
  list.append(...texts.map((text) => made("li", text)));
  part.append(made("h3", t("limits")), list);
  return part;
}

function facts(model) {
  const temperature = model.temperature?.toFixed(2);
  const pairs = [
    [t("architecture"), model.architecture],
    [t("imgsz"), t("pixels", { n: model.imgsz })],
    [t("recipe"), model.recipe],
    [t("calibrated"), model.calibrated ? t("calibrated_yes", { temperature }) : t("calibrated_no")],
    [t("tta"), t(model.tta === "mirror" ? "yes" : "no")],
    [t("weights"), model.weights_sha256.slice(0, 12)],
  ];
  const list = made("dl", "", "facts");
  list.setAttribute("aria-label", t("facts"));
  for (const [term, value] of pairs) {
    const item = made("div");
    item.append(made("dt", term), made("dd", value));
    list.append(item);
  }
  return list;
}
