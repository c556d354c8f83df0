"use strict";
for (const figure of document.querySelectorAll(".confusion")) {
  const { names, cells, similar } = JSON.parse(figure.querySelector("script").textContent);
  const canvas = figure.querySelector("canvas"), status = figure.querySelector(".status");
  const count = names.length, at = new Map(cells.map(([r, c, n]) => [r * count + c, n]));
  const videos = new Array(count).fill(0), right = new Array(count).fill(0);
  for (const [r, c, n] of cells) { videos[r] += n; if (r === c) right[r] += n; }
  const accuracy = videos.map((n, k) => (n ? right[k] / n : 2));
  const listed = names.map((_, k) => k);
  const orders = { listed, similar, worst: [...listed].sort((a, b) => accuracy[a] - accuracy[b] || a - b) };
  let order = listed, place = listed, top = 0, left = 0, shown = count, cursor = [0, 0], grip = null, geometry;

  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
  const setWindow = (newTop, newLeft, size) => {
    shown = clamp(Math.round(size), Math.min(4, count), count);
    top = clamp(Math.round(newTop), 0, count - shown);
    left = clamp(Math.round(newLeft), 0, count - shown);
    draw();
  };
  const zoom = (factor, [row, column] = cursor) => {
    const size = clamp(Math.round(shown * factor), Math.min(4, count), count);
    setWindow(row - (row - top) * size / shown, column - (column - left) * size / shown, size);
  };
  const shorten = (pen, text, room) => {
    if (pen.measureText(text).width <= room) return text;
    while (text.length > 1 && pen.measureText(text + "…").width > room) text = text.slice(0, -1);
    return text + "…";
  };

  function draw() {
    const width = canvas.clientWidth, scale = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
    const style = getComputedStyle(canvas), colour = name => style.getPropertyValue(name).trim();
    const font = `12px ${style.fontFamily}`;
    pen.font = font;
    const named = (width * 0.7) / shown >= 14;
    const longest = named ? Math.max(...names.map(n => pen.measureText(n).width)) : 0;
    const margin = named ? Math.min(longest + 10, width * 0.3) : 8, side = Math.min((width - margin - 2) / shown, 64);
    const height = margin + side * shown + 2;
    canvas.style.height = height + "px";
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    pen.scale(scale, scale);
    pen.font = font;
    pen.fillStyle = colour("--panel");
    pen.fillRect(margin, margin, side * shown, side * shown);
    const gap = side > 8 ? 1 : 0, least = Math.max(side - gap, 2);
    for (const [r, c, n] of cells) {
      const row = place[r] - top, column = place[c] - left;
      if (row < 0 || column < 0 || row >= shown || column >= shown) continue;
      const share = n / videos[r], x = margin + column * side, y = margin + row * side;
      pen.globalAlpha = 0.12 + 0.88 * Math.sqrt(share);
      pen.fillStyle = colour(r === c ? "--right" : "--wrong");
      pen.fillRect(x, y, least, least);
      pen.globalAlpha = 1;
      if (side >= 20) {
        pen.fillStyle = colour(share > 0.3 ? "--paper" : "--ink");
        pen.textAlign = "center";
        pen.textBaseline = "middle";
        pen.fillText(n, x + side / 2, y + side / 2, side - 2);
      }
    }
    if (named) {
      pen.fillStyle = colour("--quiet");
      pen.textBaseline = "middle";
      for (let k = 0; k < shown; k++) {
        const middle = margin + (k + 0.5) * side;
        pen.textAlign = "right";
        pen.fillText(shorten(pen, names[order[top + k]], margin - 8), margin - 5, middle);
        pen.save();
        pen.translate(middle, margin - 5);
        pen.rotate(-Math.PI / 2);
        pen.textAlign = "left";
        pen.fillText(shorten(pen, names[order[left + k]], margin - 8), 0, 0);
        pen.restore();
      }
    }
    pen.strokeStyle = colour("--ink");
    if (document.activeElement === canvas) {
      const size = Math.max(side, 4), x = margin + (cursor[1] - left) * side, y = margin + (cursor[0] - top) * side;
      pen.strokeRect(x, y, size, size);
    }
    geometry = { margin, side };
  }

  function tell() {
    const r = order[cursor[0]], c = order[cursor[1]], n = at.get(r * count + c) || 0;
    const share = videos[r] ? ` (${(100 * n / videos[r]).toFixed(1)} %)` : "";
    const what = r === c ? `${names[r]} recognised` : `${names[r]} taken for ${names[c]}`;
    status.textContent = `${what}: ${n} of ${videos[r]} videos${share}`;
  }
  const cellUnder = event => {
    const box = canvas.getBoundingClientRect(), { margin, side } = geometry;
    const row = Math.floor((event.clientY - box.top - margin) / side) + top;
    const column = Math.floor((event.clientX - box.left - margin) / side) + left;
    return row >= top && column >= left && row < top + shown && column < left + shown ? [row, column] : null;
  };

  figure.querySelector("select").addEventListener("change", event => {
    order = orders[event.target.value];
    place = [];
    order.forEach((k, position) => { place[k] = position; });
    draw();
  });
  for (const button of figure.querySelectorAll("button")) button.addEventListener("click", () => {
    if (button.dataset.zoom === "reset") setWindow(0, 0, count);
    else zoom(button.dataset.zoom === "in" ? 0.5 : 2, [top + shown / 2, left + shown / 2]);
  });
  canvas.addEventListener("keydown", event => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key in moves) {
      cursor = cursor.map((value, axis) => clamp(value + moves[event.key][axis], 0, count - 1));
      setWindow(clamp(top, cursor[0] - shown + 1, cursor[0]), clamp(left, cursor[1] - shown + 1, cursor[1]), shown);
      tell();
    } else if (event.key === "+" || event.key === "=") zoom(0.5);
    else if (event.key === "-") zoom(2);
    else if (event.key === "Escape") setWindow(0, 0, count);
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", event => {
    if (grip) {
      setWindow(grip.top - (event.clientY - grip.y) / geometry.side, grip.left - (event.clientX - grip.x) / geometry.side, shown);
      return;
    }
    const cell = cellUnder(event);
    if (cell) { cursor = cell; tell(); }
  });
  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    grip = { x: event.clientX, y: event.clientY, top, left };
  });
  canvas.addEventListener("pointerup", () => { grip = null; });
  canvas.addEventListener("pointercancel", () => { grip = null; });
  canvas.addEventListener("dblclick", event => { const cell = cellUnder(event); if (cell) zoom(0.5, cell); });
  canvas.addEventListener("wheel", event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const cell = cellUnder(event);
    if (cell) zoom(event.deltaY < 0 ? 0.7 : 1.4, cell);
  }, { passive: false });
  for (const change of ["focus", "blur"]) canvas.addEventListener(change, draw);
  for (const medium of ["(prefers-color-scheme: dark)", "print"]) matchMedia(medium).addEventListener("change", draw);
  draw();
  let drawnWidth = figure.clientWidth;
  new ResizeObserver(() => requestAnimationFrame(() => {
    if (figure.clientWidth === drawnWidth) return;
    drawnWidth = figure.clientWidth;
    draw();
  })).observe(figure);
}
