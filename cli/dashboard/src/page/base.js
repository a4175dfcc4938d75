// Small things that all parts of the page use. Texts of apps are hostile: they become text nodes only.
const $ = (id) => document.getElementById(id);
const COLLATOR = new Intl.Collator("en", { numeric: true });
// Formatters are costly to make, so each is made once.
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const SVG = "http://www.w3.org/2000/svg";
// For each state: the class of its colour, its sign, its word, and its rank: the worst comes first.
const STATES = {
  down: ["bad", "✕", "down", 0], lost: ["bad", "✕", "no answer", 1], degraded: ["warn", "▲", "degraded", 2],
  unknown: ["grey", "?", "unknown", 3], draining: ["calm", "◆", "draining", 4], idle: ["grey", "○", "idle", 5],
  ok: ["ok", "●", "ok", 6],
  Ready: ["ok", "●", "ready", 6], Starting: ["warn", "▲", "starting", 2], Draining: ["calm", "◆", "draining", 4],
  Stopping: ["calm", "◆", "stopping", 4], CrashLoop: ["bad", "✕", "waits after a crash", 0],
  plain: ["plain", "", "", 6],
  published: ["ok", "●", "published", 6], withheld: ["warn", "▲", "withheld", 2], none: ["grey", "○", "no name", 5],
};
const stateOf = (word) => STATES[word] || STATES.unknown;

function make(tag, kind, text) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  if (text !== undefined) node.textContent = text;
  return node;
}
function add(parent, tag, kind, text) {
  return parent.appendChild(make(tag, kind, text));
}
// Writes only what differs, so that nothing is laid out again for the same text.
function put(node, text) {
  if (node.shown !== text) { node.textContent = text; node.shown = text; }
}
function kind(node, name) {
  if (node.kind !== name) { node.className = name; node.kind = name; }
}
// Gives a list one child for each key, in this order. A child stays the same node while its key
// stays, so that an update takes away neither the focus nor a selection.
function sync(parent, keys, begin, update) {
  const known = parent.known || (parent.known = new Map());
  const wanted = new Set(keys);
  for (const [key, node] of known) {
    if (!wanted.has(key)) { node.remove(); known.delete(key); }
  }
  let place = parent.firstElementChild;
  for (const key of keys) {
    let node = known.get(key);
    if (!node) { node = begin(key); known.set(key, node); }
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
    update(node, key);
  }
}
const isNumber = (value) => typeof value === "number" && isFinite(value);
function count(value) {
  if (!isNumber(value)) return "–";
  if (value >= 1e6) return (value / 1e6).toFixed(1) + "M";
  if (value >= 1e5) return Math.round(value / 1e3) + "k";
  if (value >= 100) return WHOLE.format(value);
  return value >= 10 ? value.toFixed(value % 1 ? 1 : 0) : String(Math.round(value * 100) / 100);
}
// A latency in milliseconds, with its unit.
function latency(value) {
  if (!isNumber(value)) return ["–", ""];
  return value >= 1000 ? [(value / 1000).toFixed(1), "s"] : [count(value >= 10 ? Math.round(value) : value), "ms"];
}
const joined = (pair) => pair[1] ? pair[0] + " " + pair[1] : pair[0];
const percent = (value) => isNumber(value) ? (value > 0 && value < 0.01 ? "<0.01" : count(value)) : "–";
const memory = (value) => isNumber(value) ? (value >= 1024 ? (value / 1024).toFixed(1) + " GiB" : Math.round(value) + " MiB") : "–";
function span(seconds) {
  if (!isNumber(seconds) || seconds < 0) return "–";
  if (seconds < 60) return Math.round(seconds) + " s";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min";
  if (seconds < 172800) return Math.floor(seconds / 3600) + " h";
  return Math.floor(seconds / 86400) + " d";
}
// Lets a name or an address wrap after its dots and colons instead of anywhere.
const wrapping = (text) => text.replace(/[.:\/]/g, "$&\u200b");
const clock = (milliseconds) => TIME.format(milliseconds);
const plural = (number, word) => number + " " + word + (number === 1 ? "" : "s");
// RFC 7396.
function merge(target, patch) {
  for (const key of Object.keys(patch)) {
    const value = patch[key];
    if (value === null) delete target[key];
    else if (typeof value === "object" && !Array.isArray(value)) {
      const inner = Object.hasOwn(target, key) ? target[key] : undefined;
      const isObject = inner !== null && typeof inner === "object" && !Array.isArray(inner);
      target[key] = merge(isObject ? inner : {}, value);
    } else target[key] = value;
  }
  return target;
}
