// Photo or camera -> request -> answer on the page.

import { Camera } from "/web/camera.js";
import { showPeople, showStages } from "/web/lists.js";
import { drawScene, jointAt } from "/web/skeleton.js";
import { uprightPicture } from "/web/upright.js";

const byId = (id) => document.getElementById(id);
const canvas = byId("canvas");
const context = canvas.getContext("2d");
const QUERY = ["model", "detector", "decode", "min_score"];
const MAX_CANVAS_HEIGHT = 0.72;
const SUMMARY_MS = 1000;
const NOT_OURS = {
  title: "Something else answered",
  detail: "The answer is none of the service's; a proxy before it may have limits of its own, or not reach it.",
};

// `turn` numbers the requests, so that a late answer never replaces a newer one; `asked` can end the last of them.
const state = { photo: null, picture: null, answer: null, active: -1, scale: 1, turn: 0, asked: null, camera: null, key: null, summed: 0, others: 0, listing: null };

byId("file").addEventListener("change", (event) => choose(event.target.files[0]));
byId("file").addEventListener("click", (event) => { event.target.value = ""; }); // the same photo again is a choice too
byId("options").addEventListener("submit", (event) => event.preventDefault());
byId("access").addEventListener("submit", useKey);
byId("download").addEventListener("click", download);
byId("camera").addEventListener("click", toggleCamera);
for (const id of [...QUERY, "flip_test"]) byId(id).addEventListener("change", ask);
for (const id of ["min_score", "min_keypoint_score"]) byId(id).addEventListener("input", showValue);
byId("detect_every").addEventListener("input", showValue);
byId("detect_every").addEventListener("change", () => { if (state.camera) ask(); });
byId("min_keypoint_score").addEventListener("input", show);
for (const type of ["pointermove", "pointerdown"]) canvas.addEventListener(type, point);
canvas.addEventListener("pointerleave", ({ pointerType }) => { // a finger leaves as soon as it has pointed
  if (pointerType === "mouse") byId("tip").hidden = true;
});
window.addEventListener("resize", show);
for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, drag);
listModels();
checkReady();

function drag(event) {
  event.preventDefault();
  byId("drop").classList.toggle("over", event.type === "dragover");
  const { items, files } = event.dataTransfer;
  if (event.type !== "drop" || !files.length) return;
  byId("file").value = ""; // it would name another photo
  const folders = [...items].filter(({ kind }) => kind === "file")
    .map((item) => Boolean(item.webkitGetAsEntry()?.isDirectory));
  const photos = [...files].filter((_, index) => !folders[index]);
  if (photos.length) choose(...photos);
  else showProblem({ title: "That is a folder", detail: "Drop a photo; `posegate predict` takes folders." });
}

// Options have changed: the photo is asked for again, a camera's stream begins anew.
async function ask() {
  if (!state.camera) return estimate();
  stopCamera();
  return startCamera();
}

async function toggleCamera() {
  return state.camera ? stopCamera() : startCamera();
}

async function startCamera() {
  const ours = (act) => (...values) => { if (state.camera === camera) act(...values); };
  const camera = new Camera({
    onResult: ours(showLive),
    onProblem: ours((problem) => { showProblem(problem); if (camera.over) endCamera(); }),
    onSummary: ours(() => { // of a stream that is still ours: nobody here asked for its end
      showProblem({ title: "The service ended the stream", detail: "It is stopping. Start the camera again once it is ready." });
      endCamera();
    }),
  });
  state.camera = camera;
  byId("camera").setAttribute("aria-pressed", "true");
  byId("camera").textContent = "Stop the camera";
  showProblem(null);
  const options = Object.fromEntries(QUERY.map((id) => [id, byId(id).value]).filter(([, value]) => value));
  try {
    await camera.start({
      ...options,
      min_score: Number(options.min_score),
      detect_every: Number(byId("detect_every").value),
      flip_test: byId("flip_test").checked,
    });
  } catch (error) {
    if (state.camera !== camera) return;
    showProblem({ title: "No camera", detail: String(error.message ?? error) });
    endCamera();
  }
  if (state.camera === camera) turnTo({ photo: null, active: -1 });
}

// What is shown next: whatever was asked for before is not waited for any longer.
function turnTo(shown) {
  state.turn += 1;
  byId("view").classList.remove("busy");
  Object.assign(state, shown);
}

function stopCamera() {
  state.camera.stop();
  endCamera();
}

function endCamera() {
  state.camera?.release();
  state.camera = null;
  byId("camera").setAttribute("aria-pressed", "false");
  byId("camera").textContent = "Use the camera";
}

function showLive(picture, answer, { fps, age, drops }) {
  state.picture?.close?.();
  Object.assign(state, { picture, answer });
  byId("problem").hidden = true;
  byId("live").hidden = false;
  byId("live").textContent = `${fps.toFixed(1)} frames/s, age ${age.toFixed(0)} ms, ${drops} dropped`;
  summarize();
  show();
}

async function choose(file, ...others) {
  if (!file) return;
  if (state.camera) stopCamera();
  byId("live").hidden = true;
  turnTo({ photo: file, picture: null, answer: null, active: -1, others: others.length });
  tellOfWork();
  show();
  try {
    const picture = await uprightPicture(file);
    if (state.photo === file) state.picture = picture;
  } catch {
    // The service says what is wrong with it; there is nothing to draw on.
  }
  if (state.photo !== file) return;
  show();
  await estimate();
}

function tellOfWork() {
  showProblem(null);
  byId("summary").textContent = "Looking for people…";
}

async function estimate() {
  if (!state.photo) return;
  const turn = ++state.turn;
  state.asked?.abort(); // a held arrow key asks many times a second
  state.asked = new AbortController();
  const query = new URLSearchParams(QUERY.map((id) => [id, byId(id).value]).filter(([, value]) => value));
  query.set("flip_test", byId("flip_test").checked);
  byId("view").classList.add("busy");
  tellOfWork();
  const outcome = await request(`/v1/poses?${query}`, {
    method: "POST", body: state.photo, signal: state.asked.signal,
    headers: { "Content-Type": "application/octet-stream" }, // a browser goes by the file's name, the service by its bytes
  });
  if (turn !== state.turn) return;
  byId("view").classList.remove("busy");
  state.answer = outcome.answer ?? null;
  showProblem(outcome.problem);
  if (state.answer) summarize();
  show();
}

// As fetch, with the API key once it was given; the field for it appears when the service asks.
async function request(url, { headers, ...options } = {}) {
  try {
    const key = state.key && { "X-API-Key": state.key };
    const response = await fetch(url, { ...options, headers: { ...headers, ...key } });
    if (response.status === 401) byId("access").hidden = false;
    const ours = response.ok ? "application/json" : "application/problem+json";
    if (!response.headers.get("Content-Type")?.startsWith(ours)) return { problem: { ...NOT_OURS, status: response.status } };
    const content = await response.json();
    return response.ok ? { answer: content } : { problem: content };
  } catch (error) {
    const unreadable = await options.body?.slice(0, 1).arrayBuffer().then(() => false, () => true);
    const problem = unreadable
      ? { title: "The photo can no longer be read", detail: "Its file was changed or removed; choose it again." }
      : { title: "No answer from the service", detail: String(error.message ?? error) };
    return { problem };
  }
}

function show() {
  const { picture, answer } = state;
  const minimum = Number(byId("min_keypoint_score").value);
  byId("view").hidden = !picture;
  byId("tip").hidden = true;
  if (picture) {
    const room = { width: byId("view").parentElement.clientWidth, height: window.innerHeight * MAX_CANVAS_HEIGHT };
    const size = { width: answer?.image.width ?? picture.naturalWidth ?? picture.width, height: answer?.image.height ?? picture.naturalHeight ?? picture.height };
    const shrink = Math.min(room.width / size.width, Math.max(room.height, 240) / size.height);
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(size.width * shrink * ratio));
    canvas.height = Math.max(1, Math.round(size.height * shrink * ratio));
    canvas.style.width = `${canvas.width / ratio}px`;
    state.scale = canvas.width / size.width;
    drawScene(context, picture, answer, { scale: state.scale, minimum, active: state.active });
  }
  byId("download").disabled = !answer;
  byId("legend").hidden = !(picture && answer);
  const count = answer?.people.length;
  canvas.setAttribute("aria-label", answer ? `Photo with ${count} skeleton${count === 1 ? "" : "s"}` : "Photo");
  if (!answer) {
    byId("stages").tBodies[0].replaceChildren();
    byId("stages").deleteTFoot();
    byId("people").replaceChildren();
    return;
  }
  showStages(byId("stages"), answer);
  showPeople(byId("people"), answer, { minimum, highlight });
}

// Screen readers speak every change: a stream's times are left to the table, and its people wait their turn.
function summarize() {
  const { people, image, total_ms: total, model } = state.answer;
  const summary = byId("summary");
  const found = `${people.length === 1 ? "1 person" : `${people.length} people`} in ${image.width} × ${image.height} px`;
  const now = performance.now();
  if (!state.photo && (summary.textContent === found || now - state.summed < SUMMARY_MS)) return;
  state.summed = now;
  const first = state.others ? `First of ${state.others + 1} photos: ` : "";
  summary.textContent = state.photo ? `${first}${found}, ${total.toFixed(1)} ms in ${model}` : found;
}

function highlight(index) {
  state.active = index;
  if (!state.picture) return;
  const minimum = Number(byId("min_keypoint_score").value);
  drawScene(context, state.picture, state.answer, { scale: state.scale, minimum, active: index });
}

function point(event) {
  const tip = byId("tip");
  tip.hidden = true;
  if (!state.answer) return;
  const ratio = canvas.width / canvas.clientWidth / state.scale;
  const x = event.offsetX * ratio - 0.5;
  const y = event.offsetY * ratio - 0.5;
  const minimum = Number(byId("min_keypoint_score").value);
  const joint = jointAt(state.answer, x, y, { minimum, reach: 14 * ratio });
  if (!joint) return;
  tip.textContent = `${joint.name.replaceAll("_", " ")}  ${joint.score.toFixed(2)}`;
  tip.hidden = false; // it has no width before
  const half = tip.offsetWidth / 2;
  const middle = canvas.offsetLeft + (joint.x + 0.5) / ratio;
  tip.style.left = `${Math.max(half, Math.min(middle, tip.parentElement.clientWidth - half))}px`;
  tip.style.top = `${canvas.offsetTop + (joint.y + 0.5) / ratio}px`;
}

function showValue(event) {
  const { id, step, value } = event.target;
  byId(`${id}_value`).textContent = Number(value).toFixed(step < 1 ? 2 : 0);
}

function showProblem(problem) {
  const box = byId("problem");
  box.hidden = !problem;
  if (!problem) return;
  const title = Object.assign(document.createElement("strong"), { textContent: problem.title });
  const foot = Object.assign(document.createElement("small"), {
    textContent: [problem.status, problem.type, problem.request_id && `request ${problem.request_id}`]
      .filter(Boolean).join(" ").replace(" request", ", request"),
  });
  box.replaceChildren(title, problem.detail, document.createElement("br"), foot);
  if (!state.answer) byId("summary").textContent = "No answer.";
}

// The key stays in this page's memory, as its UTF-8 bytes: fetch sends one byte for each character.
async function useKey(event) {
  event.preventDefault();
  const key = byId("key").value.trim();
  if (/[\0-\x08\n-\x1f\x7f]/.test(key)) {
    showProblem({ title: "This key cannot be sent", detail: "It holds control characters, which no HTTP header may." });
    return;
  }
  state.key = String.fromCharCode(...new TextEncoder().encode(key));
  showProblem(null);
  byId("summary").textContent = "No photo yet.";
  await listModels();
  await estimate();
}

// Asked for once at a time: a second list would undo what was chosen meanwhile.
function listModels() {
  state.listing ??= readModels().finally(() => { state.listing = null; });
  return state.listing;
}

async function readModels() {
  const { answer, problem } = await request("/v1/models");
  if (problem) return showProblem(problem);
  const { models } = answer;
  for (const [id, task] of [["model", "pose"], ["detector", "detect"]]) {
    const cards = models.filter((card) => card.task === task);
    byId(id).replaceChildren(...cards.map((card) => new Option(card.name, card.name, card.default, card.default)));
  }
}

// The networks could not be asked for, though no key is missing.
function unlisted() {
  return !byId("model").options.length && byId("access").hidden;
}

async function checkReady() {
  const badge = byId("ready");
  try {
    const response = await fetch("/readyz");
    const content = await response.json();
    if (response.ok && unlisted()) await listModels();
    badge.textContent = response.ok ? "ready" : "not ready";
    badge.title = content.detail ?? "";
    badge.className = response.ok ? "badge good" : "badge bad";
  } catch {
    badge.textContent = "unreachable";
    badge.className = "badge bad";
  }
  setTimeout(checkReady, badge.textContent === "ready" && !unlisted() ? 15000 : 1500);
}

function download() {
  const url = URL.createObjectURL(new Blob([JSON.stringify(state.answer, null, 1)], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: url, download: "poses.json" }).click();
  URL.revokeObjectURL(url);
}
