// What is drawn on canvases: cells of workers, sparks and plots. Each has a table or a text beside it.
let COLOURS = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["bg", "panel", "line", "edge", "text", "soft", "green", "amber", "red", "blue", "tint"]) {
    COLOURS[name] = style.getPropertyValue("--" + name).trim();
  }
  COLOURS.font = "12px " + getComputedStyle(document.body).fontFamily;
}
// Prepares a canvas for its size on the screen, and returns its context with that size.
function begin(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const g = canvas.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, width, height);
  return g;
}
// The width of a canvas. It is measured only after a change of the layout, because measuring between
// changes of texts would lay out the page again each time.
let LAYOUT = 0;
function widthOf(canvas) {
  if (canvas.layout !== LAYOUT || !canvas.wide) { canvas.wide = canvas.clientWidth; canvas.layout = LAYOUT; }
  return canvas.wide;
}
// One worker: a square with an edge. Each state has a shape of its own, so that colour is not needed.
function cell(g, letter, x, y, size, load) {
  const inner = size - 1;
  const colour = { o: COLOURS.green, s: COLOURS.amber, d: COLOURS.blue, x: COLOURS.red }[letter] || COLOURS.soft;
  g.lineWidth = 1.4;
  g.strokeStyle = colour;
  g.fillStyle = colour;
  g.setLineDash(letter === "?" ? [2, 2] : []);
  g.beginPath();
  g.roundRect(x + 0.7, y + 0.7, inner - 0.4, inner - 0.4, Math.min(4, size / 4));
  if (letter === "o") {
    g.globalAlpha = 0.2;
    g.fill();
    g.globalAlpha = 1;
    g.stroke();
    if (load > 0) {
      const filled = Math.min(1, 0.25 + load * 0.19) * inner;
      g.save();
      g.clip();
      g.fillRect(x, y + size - filled, size, filled);
      g.restore();
    }
    return;
  }
  if (letter === "x") {
    g.fill();
    g.strokeStyle = COLOURS.panel;
    g.lineWidth = Math.max(1.4, size / 9);
    const [a, b] = [size * 0.3, size * 0.68];
    g.beginPath();
    g.moveTo(x + a, y + a); g.lineTo(x + b, y + b); g.moveTo(x + b, y + a); g.lineTo(x + a, y + b);
    g.stroke();
    return;
  }
  g.stroke();
  g.setLineDash([]);
  g.beginPath();
  if (letter === "s") g.arc(x + size / 2, y + size / 2, size / 6, 0, 7);
  if (letter === "d") { g.moveTo(x + size * 0.28, y + size * 0.72); g.lineTo(x + size * 0.72, y + size * 0.28); }
  if (letter === "s") g.fill(); else g.stroke();
}
// The cells of a pod, in as many rows as fit its width.
function cells(canvas, strip, loads) {
  const width = widthOf(canvas);
  if (!width) return;
  const size = strip.length > 128 ? 8 : strip.length > 48 ? 12 : strip.length > 16 ? 17 : 24;
  const gap = size > 12 ? 4 : 2;
  const columns = Math.max(1, Math.floor((width + gap) / (size + gap)));
  const height = Math.ceil(Math.max(1, strip.length) / columns) * (size + gap);
  if (canvas.shownHeight !== height) { canvas.style.height = height + "px"; canvas.shownHeight = height; }
  const g = begin(canvas, width, height);
  for (let at = 0; at < strip.length; at++) {
    cell(g, strip[at], (at % columns) * (size + gap), Math.floor(at / columns) * (size + gap), size, loads ? loads[at] : 0);
  }
}
// All workers of an app in one line, with the rate of the last minute behind them.
function strip(canvas, letters, rates) {
  const [width, height] = [widthOf(canvas), 14];
  if (!width) return;
  const g = begin(canvas, width, height);
  const most = Math.max(1, ...rates.filter(isNumber));
  g.strokeStyle = COLOURS.blue;
  g.lineWidth = 1.2;
  g.globalAlpha = 0.75;
  g.beginPath();
  let open = false;
  rates.forEach((rate, at) => {
    if (!isNumber(rate)) { open = false; return; }
    const [x, y] = [width - (rates.length - 1 - at) * (width / 59), 8.4 - 7.4 * rate / most];
    if (open) g.lineTo(x, y); else g.moveTo(x, y);
    open = true;
  });
  g.stroke();
  g.globalAlpha = 1;
  const step = Math.min(9, width / Math.max(1, letters.length));
  for (let at = 0; at < letters.length; at++) {
    const letter = letters[at];
    if (letter === "|") continue;
    // Where single workers cannot be told apart, a run of equal ones is one line.
    let end = at + 1;
    while (step <= 3 && letters[end] === letter) end++;
    g.fillStyle = { o: COLOURS.green, s: COLOURS.amber, d: COLOURS.blue, x: COLOURS.red }[letter] || COLOURS.edge;
    const tall = letter === "o" ? 3 : 6;
    g.fillRect(at * step, height - tall, Math.max(0.8, (end - at) * step - (step > 3 ? 1.5 : 0.4)), tall);
    at = end - 1;
  }
}
// The next round number above, so that an axis ends with it.
function round(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  for (const step of [1, 2, 4, 6, 8, 10]) if (value <= step * power) return step * power;
  return 10 * power;
}
// How many seconds the plots show: no more than there is to see, so that the first minutes fill them too.
function shownSpan(points, now) {
  const age = points.length ? now - points[0][0] : 0;
  return [120, 300, 600].find((span) => age <= span) || 900;
}
// A plot of the last seconds. `lines` are [column of a point, colour, dash]; the first is filled.
function plot(canvas, points, now, lines, bars, least, at) {
  const [width, height] = [widthOf(canvas), 132];
  if (!width) return;
  const g = begin(canvas, width, height);
  const [left, bottom, top] = [38, height - 18, 6];
  const inner = width - left - 4;
  const span = shownSpan(points, now);
  let most = least;
  for (const point of points) for (const [column] of lines) if (isNumber(point[column])) most = Math.max(most, point[column]);
  const end = round(most);
  const x = (time) => left + inner * (1 - (now - time) / span);
  const y = (value) => bottom - (bottom - top) * value / end;
  g.font = COLOURS.font.replace("12px", "11px");
  g.textBaseline = "middle";
  g.textAlign = "right";
  g.lineWidth = 1;
  for (const part of [0, 0.5, 1]) {
    g.strokeStyle = COLOURS.line;
    g.beginPath();
    g.moveTo(left, Math.round(y(end * part)) + 0.5);
    g.lineTo(width - 4, Math.round(y(end * part)) + 0.5);
    g.stroke();
    g.fillStyle = COLOURS.soft;
    g.fillText(count(end * part), left - 7, y(end * part));
  }
  g.textBaseline = "alphabetic";
  const labels = { 120: [2, 1], 300: [5, 3, 1], 600: [10, 5], 900: [15, 10, 5] }[span];
  for (const minutes of labels.concat(0)) {
    const isFirst = minutes === labels[0];
    g.textAlign = isFirst ? "left" : minutes ? "center" : "right";
    g.fillText(isFirst ? "−" + minutes + " min" : minutes ? "−" + minutes : "now", x(now - minutes * 60), height - 3);
  }
  g.save();
  g.beginPath();
  g.rect(left, 0, inner + 4, height);
  g.clip();
  lines.forEach(([column, colour, dash], order) => {
    g.strokeStyle = g.fillStyle = COLOURS[colour];
    g.setLineDash(dash);
    g.lineWidth = 1.6;
    if (bars) {
      for (const point of points) if (point[column] > 0) g.fillRect(x(point[0]) - 2, y(point[column]), 3.5, bottom - y(point[column]));
      return;
    }
    let from = null, last = null;
    const path = new Path2D();
    const area = new Path2D();
    const close = () => { if (from !== null) { area.lineTo(x(last), bottom); area.lineTo(x(from), bottom); } from = null; };
    for (const point of points) {
      // A gap of several seconds was not seen, and no line leads over it.
      if (!isNumber(point[column]) || (last !== null && point[0] - last > 5)) close();
      if (!isNumber(point[column])) continue;
      if (from === null) { path.moveTo(x(point[0]), y(point[column])); area.moveTo(x(point[0]), y(point[column])); from = point[0]; }
      path.lineTo(x(point[0]), y(point[column]));
      area.lineTo(x(point[0]), y(point[column]));
      last = point[0];
    }
    close();
    if (order === 0) { g.globalAlpha = 0.1; g.fill(area); g.globalAlpha = 1; }
    g.stroke(path);
  });
  g.setLineDash([]);
  if (at) {
    g.strokeStyle = COLOURS.edge;
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(Math.round(x(at)) + 0.5, top);
    g.lineTo(Math.round(x(at)) + 0.5, bottom);
    g.stroke();
  }
  g.restore();
}
