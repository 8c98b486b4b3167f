// A photo from the camera, where the browser has one.

import { t } from "./words.js";

const $ = (id) => document.getElementById(id);
const REASONS = {
  NotAllowedError: "lens_denied",
  SecurityError: "lens_denied",
  NotFoundError: "lens_none",
  OverconstrainedError: "lens_none",
};

let stream = null;
let says = "lens_wait";

/** Offer the camera. Without a secure address a phone still takes photos through a file field. */
export function prepare(taken) {
  const live = Boolean(navigator.mediaDevices?.getUserMedia);
  $("camera").hidden = !live && !matchMedia("(pointer: coarse)").matches;
  $("camera").onclick = () => (live ? open() : $("capture").click());
  $("put-away").onclick = () => $("lens").close();
  $("lens").onclose = close;
  $("video").onplaying = () => {
    $("shoot").disabled = false;
    say("lens_square");
    $("shoot").focus();
  };
  $("shoot").onclick = async () => {
    const photo = await shoot();
    $("lens").close();
    taken(photo);
  };
}

export const draw = () => ($("lens-says").textContent = t(says));

function say(key) {
  says = key;
  draw();
}

async function open() {
  say("lens_wait");
  $("shoot").disabled = true;
  $("lens").showModal();
  try {
    const wish = { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 960 } };
    const found = await navigator.mediaDevices.getUserMedia({ video: wish, audio: false });
    if (!$("lens").open) return found.getTracks().forEach((track) => track.stop());
    stream = found;
    $("video").srcObject = stream;
  } catch (error) {
    say(REASONS[error.name] ?? "lens_busy");
  }
}

function close() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = $("video").srcObject = null;
}

async function shoot() {
  const video = $("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  const time = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
  return new File([blob], `${t("camera")} ${time}.jpg`, { type: "image/jpeg" });
}
