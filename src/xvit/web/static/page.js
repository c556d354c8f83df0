// The page: a video goes to the service, its answers come onto the page.

import { Chart } from "./chart.js";

const about = JSON.parse(document.getElementById("about").textContent);
const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const width = (share) => `${(100 * share).toFixed(1)}%`;
const RECORD_SECONDS = 4;

let video = null; // the File that is shown
let found = {}; // the service's answers about it
let running = null; // the request that can be stopped
let generation = 0; // answers to an earlier video are dropped

const chart = new Chart(at("chart"), jump);

function make(parent, name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text; // never HTML: names are anybody's
  parent.append(made);
  return made;
}

class Refusal extends Error {}

// POST a form with the video; resolves with JSON. onProgress: the share that was sent.
function post(path, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    running = request;
    request.open("POST", path);
    const token = sessionStorage.getItem("token");
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.upload.onload = () => onProgress(1);
    request.onload = () => {
      if (request.status === 200) resolve(request.response);
      else reject(Object.assign(new Refusal(request.response?.detail ?? `the service answers ${request.status}`), { status: request.status, after: Number(request.getResponseHeader("Retry-After")) }));
    };
    request.onerror = () => reject(new Refusal("the service cannot be reached; is it still running?"));
    request.onabort = () => reject(new Refusal("stopped"));
    const form = new FormData();
    form.append("video", video, video.name);
    request.send(form);
  });
}

async function ask(path, doing) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await post(path, (share) => progress(share < 1 ? `Sending ${video.name}` : doing, share < 1 ? share : null));
    } catch (err) {
      if (err.status === 401) await askToken();
      else if (err.status === 429 && attempt < 3) {
        progress("Others are first; waiting for a place", null);
        await new Promise((done) => setTimeout(done, 1000 * Math.min(err.after || 1, 10)));
      } else throw err;
    }
  }
}

function askToken() {
  sessionStorage.removeItem("token");
  at("token").hidden = false;
  at("secret").focus();
  return new Promise((resolve) => {
    at("token").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem("token", at("secret").value);
      at("token").hidden = true;
      resolve();
    };
  });
}

// share: 0 … 1, or null where nobody knows; no text hides the bar.
function progress(text, share) {
  at("progress").hidden = !text;
  if (!text) return;
  if (at("status").textContent !== text) at("status").textContent = text;
  if (share === null) at("bar").removeAttribute("value");
  else at("bar").value = share;
}

function fail(text) {
  progress("");
  at("error").hidden = !text;
  at("error").textContent = text;
}

async function analyse(file) {
  running?.abort();
  const mine = ++generation;
  fail("");
  video = file;
  found = {};
  for (const id of ["result", "when", "segments-part", "looks", "unplayable"]) at(id).hidden = true;
  at("srt").disabled = true;
  if (file.size > about.limits.max_bytes)
    return fail(`${file.name} is larger than ${about.limits.max_bytes / 2 ** 20} MB`);
  try {
    const prediction = await ask(`predict?views=${at("views").value}`, "Looking at its frames");
    if (mine !== generation) return;
    found.prediction = prediction;
    showPrediction(prediction);
    const timeline = await ask("timeline", "Following the scores through time");
    if (mine !== generation) return;
    found.timeline = timeline;
    showTimeline(timeline);
    progress("");
  } catch (err) {
    if (mine === generation) fail(err instanceof Refusal ? err.message : `this page fails: ${err}`);
  }
}

function showPrediction(answer) {
  if (at("player").src) URL.revokeObjectURL(at("player").src);
  at("player").hidden = false;
  at("player").srcObject = null;
  at("player").src = URL.createObjectURL(video);
  at("best").replaceChildren();
  const tasks = new Set(answer.predictions.map((entry) => entry.task));
  let task = null;
  for (const entry of answer.predictions) {
    const row = make(at("best"), "li");
    if (tasks.size > 1 && entry.task !== task) make(row, "span", "task", `task ${(task = entry.task) + 1}`);
    make(row, "span", "name", entry.label);
    make(make(row, "span", "track"), "span").style.width = width(entry.score);
    make(row, "span", "share", percent(entry.score));
  }
  const rate = answer.fps ? `, ${answer.seconds.toFixed(1)} s at ${Number(answer.fps.toFixed(2))} frames a second` : "";
  at("facts").textContent = `${answer.video}: ${answer.num_frames} frames of ${answer.width} × ${answer.height}${rate}`;
  at("result").hidden = false;
}

function showTimeline(answer) {
  const { curves, segments } = answer;
  const seconds = Math.max(answer.seconds ?? 0, curves.seconds.at(-1) ?? 0);
  at("legend").replaceChildren();
  curves.classes.forEach((curve, i) => {
    const row = make(at("legend"), "li");
    const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    swatch.setAttribute("viewBox", "0 0 28 8");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", `line s${i}`);
    path.setAttribute("d", "M0 4H28");
    swatch.append(path);
    row.append(swatch, curve.label);
  });
  at("when").hidden = false;
  chart.move(0);
  chart.show(curves, seconds);
  at("segments").replaceChildren();
  for (const segment of segments) {
    const button = make(make(at("segments"), "li"), "button");
    button.type = "button";
    make(button, "span", "time", `${segment.start.toFixed(1)} – ${segment.end.toFixed(1)} s`);
    make(button, "span", "label", segment.label);
    make(button, "span", "share", percent(segment.score));
    button.addEventListener("click", () => jump(segment.start));
  }
  at("segments-part").hidden = false;
  at("srt").disabled = false;
  follow();
}

function jump(seconds) {
  // A hair before the end: a player that reached the end of its file shows nothing more.
  const end = Number.isFinite(at("player").duration) ? at("player").duration - 0.01 : seconds;
  at("player").currentTime = Math.min(seconds, end);
  chart.move(seconds);
  mark(seconds);
}

function follow() {
  if (!found.timeline || at("player").seeking) return;
  chart.move(at("player").currentTime);
  mark(at("player").currentTime);
}

function mark(seconds) {
  const now = found.timeline?.segments.findIndex((s) => seconds >= s.start && seconds < s.end) ?? -1;
  at("segments").querySelectorAll("button").forEach((button, i) => {
    button.classList.toggle("now", i === now);
    if (i === now) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  });
}

async function explain() {
  const mine = generation;
  fail("");
  at("why").disabled = true;
  try {
    const answer = await ask("explain", "Finding out where it looked");
    if (mine !== generation) return;
    found.explanation = answer;
    showLooks(answer);
    progress("");
  } catch (err) {
    if (mine === generation) fail(err.message);
  } finally {
    at("why").disabled = false;
  }
}

function showLooks(answer) {
  at("looks-text").textContent = `What spoke for “${answer.label}”: red where most did. The bar is each frame's share of the decision.`;
  at("frames").replaceChildren();
  const most = Math.max(...answer.frames.map((frame) => frame.share));
  answer.frames.forEach((frame, i) => {
    const row = make(at("frames"), "li");
    const picture = make(row, "button", "picture");
    picture.type = "button";
    const when = frame.seconds === null ? `frame ${i + 1}` : `${frame.seconds.toFixed(1)} s`;
    picture.setAttribute("aria-label", `Jump to ${when}`);
    for (const source of [frame.picture, frame.map]) Object.assign(make(picture, "img"), { src: source, alt: "" });
    picture.addEventListener("click", () => { if (frame.seconds !== null) jump(frame.seconds); });
    make(make(row, "span", "track"), "span").style.width = width(most ? frame.share / most : 0);
    row.lastChild.style.display = "block";
    const line = make(row, "p", "quiet");
    make(line, "span", "", when);
    make(line, "span", "", percent(frame.share));
  });
  strengthen();
  at("looks").hidden = false;
  at("looks").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

function strengthen() {
  for (const map of at("frames").querySelectorAll("img + img")) map.style.opacity = at("strength").value / 100;
}

function save(text, ending, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = video.name.replace(/\.[^.]*$/, "") + ending;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function record() {
  fail("");
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder)
    return fail("this browser gives pages a camera over https or on localhost only");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (err) {
    return fail(err.name === "NotAllowedError" ? "the browser does not allow this page the camera" : `no camera: ${err.message}`);
  }
  for (const id of ["result", "when", "segments-part", "looks", "unplayable"]) at(id).hidden = true;
  const recorder = new MediaRecorder(stream), pieces = [];
  let wanted = true;
  recorder.ondataavailable = (event) => pieces.push(event.data);
  const whole = new Promise((done) => { recorder.onstop = done; });
  running = { abort() { wanted = false; if (recorder.state !== "inactive") recorder.stop(); } };
  recorder.start();
  const started = performance.now();
  while (wanted && performance.now() - started < 1000 * RECORD_SECONDS) {
    const passed = (performance.now() - started) / 1000;
    progress(`Recording, ${Math.ceil(RECORD_SECONDS - passed)} s left`, passed / RECORD_SECONDS);
    await new Promise((done) => setTimeout(done, 100));
  }
  if (recorder.state !== "inactive") recorder.stop();
  await whole;
  for (const track of stream.getTracks()) track.stop();
  running = null;
  progress("");
  if (wanted) analyse(new File(pieces, "webcam.webm", { type: recorder.mimeType }));
}

async function get(path) {
  const token = sessionStorage.getItem("token");
  const reply = await fetch(path, token ? { headers: { Authorization: `Bearer ${token}` } } : {});
  if (reply.status !== 401) return reply;
  await askToken();
  return get(path);
}

async function sample() {
  fail("");
  progress("Rendering a sample", null);
  const reply = await get(`sample?seed=${Math.floor(Math.random() * 1e6)}`);
  if (!reply.ok) return fail((await reply.json().catch(() => ({}))).detail ?? `the service answers ${reply.status}`);
  analyse(new File([await reply.blob()], "sample.mp4", { type: "video/mp4" }));
}

at("file").addEventListener("change", (event) => {
  const file = event.target.files[0];
  if (file) analyse(file);
  event.target.value = ""; // the same file can be chosen again
});
at("drop").addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
at("drop").addEventListener("dragleave", () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) analyse(file);
});
at("webcam").addEventListener("click", record);
at("sample").addEventListener("click", sample);
at("stop").addEventListener("click", () => running?.abort());
at("why").addEventListener("click", explain);
at("strength").addEventListener("input", strengthen);
at("json").addEventListener("click", () => save(JSON.stringify({ ...found, explanation: undefined }, null, 1), ".json", "application/json"));
at("srt").addEventListener("click", () => save(found.timeline.srt, ".srt", "application/x-subrip"));
at("player").addEventListener("timeupdate", follow);
at("player").addEventListener("seeked", follow);
at("player").addEventListener("error", () => {
  if (!at("player").getAttribute("src")) return;
  at("player").hidden = true;
  at("unplayable").hidden = false;
});

if (!about.token || sessionStorage.getItem("token")) {
  get("labels").then((reply) => reply.json()).then(({ tasks }) => {
    at("classes").textContent = `knows ${tasks.map((names) => names.length).join(" + ")} classes.`;
    at("classes").title = tasks.flat().slice(0, 200).join(", ");
  }).catch(() => {});
}
