// Score curves over time, with a playhead that is moved by pointer and keyboard.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 210, LEFT = 44, RIGHT = 14, TOP = 10, BOTTOM = 26;

function element(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

// A round step that gives about `wanted` ticks.
function step(span, wanted) {
  const unit = 10 ** Math.floor(Math.log10(span / wanted));
  return [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= span / wanted);
}

export class Chart {
  // place: the slider element. onSeek: told the seconds that were asked for.
  constructor(place, onSeek) {
    this.place = place;
    this.onSeek = onSeek;
    this.time = 0;
    place.addEventListener("pointerdown", (event) => this.#drag(event));
    place.addEventListener("pointermove", (event) => { if (event.buttons) this.#drag(event); });
    place.addEventListener("keydown", (event) => this.#press(event));
    new ResizeObserver(() => this.draw()).observe(place);
  }

  // curves: {seconds: [...], classes: [{label, scores}]}; seconds: of the whole video.
  show(curves, seconds) {
    this.curves = curves;
    this.seconds = seconds;
    this.place.setAttribute("aria-valuemax", seconds.toFixed(2));
    this.draw();
  }

  draw() {
    const width = this.place.clientWidth;
    if (!this.curves || !width || !this.seconds) return;
    this.across = (t) => LEFT + (t / this.seconds) * (width - LEFT - RIGHT);
    const up = (score) => HEIGHT - BOTTOM - score * (HEIGHT - TOP - BOTTOM);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("height", HEIGHT);
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.setAttribute("aria-hidden", "true");
    for (const score of [0, 0.5, 1]) {
      element(svg, "path", { class: "grid", d: `M${LEFT} ${up(score)}H${width - RIGHT}` });
      element(svg, "text", { x: LEFT - 6, y: up(score) + 4, "text-anchor": "end" }, `${100 * score} %`);
    }
    const tick = step(this.seconds, Math.max(2, Math.floor(width / 110)));
    for (let n = 0; n * tick <= this.seconds * 1.0001; n++)
      element(svg, "text", { x: this.across(n * tick), y: HEIGHT - 6, "text-anchor": "middle" },
        `${Number((n * tick).toFixed(3))} s`);
    this.curves.classes.forEach((curve, i) => {
      const points = this.curves.seconds.map((t, n) => [this.across(t), up(curve.scores[n])]);
      if (points.length === 1) // one window: what it says holds for the whole video
        points.splice(0, 1, [LEFT, points[0][1]], [width - RIGHT, points[0][1]]);
      element(svg, "polyline", { class: `line s${i}`, points: points.map((p) => p.map((v) => v.toFixed(1)).join()).join(" ") });
    });
    this.head = element(svg, "g", {});
    element(this.head, "path", { class: "head", d: `M0 ${TOP}V${HEIGHT - BOTTOM}` });
    element(this.head, "circle", { class: "dot", cx: 0, cy: TOP, r: 4.5 });
    this.place.replaceChildren(svg);
    this.move(this.time);
  }

  move(time) {
    this.time = Math.min(Math.max(time, 0), this.seconds || 0);
    if (!this.head) return;
    this.head.setAttribute("transform", `translate(${this.across(this.time).toFixed(1)} 0)`);
    const near = this.curves.seconds.reduce((best, t, n, all) => Math.abs(t - this.time) < Math.abs(all[best] - this.time) ? n : best, 0);
    const best = this.curves.classes.reduce((a, b) => (b.scores[near] > a.scores[near] ? b : a));
    this.place.setAttribute("aria-valuenow", this.time.toFixed(2));
    this.place.setAttribute("aria-valuetext", `${this.time.toFixed(1)} seconds: ${best.label}, ${Math.round(100 * best.scores[near])} percent`);
  }

  #seek(time) {
    this.move(time);
    this.onSeek(this.time);
  }

  #drag(event) {
    if (!this.curves || event.button > 0) return;
    const box = this.place.getBoundingClientRect();
    this.#seek(((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)) * this.seconds);
  }

  #press(event) {
    if (!this.curves) return;
    const jump = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5 }[event.key];
    if (jump !== undefined) this.#seek(this.time + (jump * this.seconds) / 40);
    else if (event.key === "Home") this.#seek(0);
    else if (event.key === "End") this.#seek(this.seconds);
    else return;
    event.preventDefault();
  }
}
