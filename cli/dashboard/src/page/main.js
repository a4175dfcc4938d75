// Connects, applies frames, draws once for each, and handles keys.
const PLOTS = [
  ["Requests per second", [[1, "blue", []]], false, 1, (point) => [count(point[1]) + "/s"]],
  ["Latency", [[3, "amber", [5, 3]], [2, "blue", []]], false, 1, (point) => ["p50 " + joined(latency(point[2])), "p99 (dashed) " + joined(latency(point[3]))]],
  ["In flight and waiting", [[4, "blue", []], [5, "red", [5, 3]]], false, 4, (point) => [count(point[4]) + " in flight", count(point[5]) + " waiting (dashed)"]],
  ["Restarts of workers", [[6, "red", []]], true, 2, (point) => [count(point[6])]],
];
let token = "", paused = false, seen = 0, reading = null, lost = "", spokenAt = -1e9, spoken = {};

function renderPlots() {
  const now = S.view.now / 1000;
  sync($("plots"), PLOTS.map((plot) => plot[0]), (title) => {
    const figure = make("figure"), caption = add(figure, "figcaption");
    add(caption, "b", "", title);
    figure.note = add(caption, "span");
    figure.canvas = add(figure, "canvas");
    figure.canvas.setAttribute("aria-hidden", "true");
    figure.canvas.addEventListener("pointermove", (event) => {
      const part = (event.offsetX - 38) / (figure.canvas.clientWidth - 42);
      S.hover = part >= 0 && part <= 1 ? S.view.now / 1000 - shownSpan(S.points, S.view.now / 1000) * (1 - part) : null;
      renderPlots();
    });
    figure.canvas.addEventListener("pointerleave", () => { S.hover = null; renderPlots(); });
    return figure;
  }, (figure, title) => {
    const [, lines, bars, least, text] = PLOTS.find((plot) => plot[0] === title);
    const app = S.view.apps[S.view.open.app];
    let point = [now, app.rps, app.p50, app.p99, app.inFlight, app.queued, 0];
    if (S.hover !== null) {
      point = S.points.find((one) => one[0] >= S.hover - 0.5);
      if (point && point[0] > S.hover + 5) point = undefined;
    } else if (bars) point[6] = S.points.reduce((sum, one) => sum + one[6], 0);
    const when = S.hover !== null ? clock(S.hover * 1000) + "  " : "";
    put(figure.note, when + (point ? text(point).join(", ") : "–") + (bars && S.hover === null && point ? " in 15 min" : ""));
    plot(figure.canvas, S.points, now, lines, bars, least, S.hover);
  });
  if ($("minutes").open) renderMinutes();
}
function renderMinutes() {
  const titles = ["Minute", "req/s", "p50", "highest p99", "most in flight", "most waiting", "restarts"];
  sync($("minutesHead"), ["head"], () => { const line = make("tr"); titles.forEach((title) => add(line, "th", "", title).scope = "col"); return line; }, () => {});
  const minutes = new Map();
  for (const point of S.points) {
    const minute = Math.floor(point[0] / 60);
    if (!minutes.has(minute)) minutes.set(minute, []);
    minutes.get(minute).push(point);
  }
  const of = (points, column) => points.map((point) => point[column]).filter(isNumber);
  const mean = (numbers) => numbers.length ? numbers.reduce((a, b) => a + b, 0) / numbers.length : null;
  const most = (numbers) => numbers.length ? Math.max(...numbers) : null;
  sync($("minutesBody"), [...minutes.keys()].reverse(), () => { const line = make("tr"); titles.forEach(() => add(line, "td")); return line; }, (line, minute) => {
    const points = minutes.get(minute);
    const texts = [clock(minute * 60000).slice(0, 5), count(mean(of(points, 1))), joined(latency(mean(of(points, 2)))), joined(latency(most(of(points, 3)))), count(most(of(points, 4))), count(most(of(points, 5))), count(of(points, 6).reduce((a, b) => a + b, 0))];
    texts.forEach((text, at) => put(line.children[at], text));
  });
}
function renderLegend() {
  sync($("legend"), ["o ready, fills with requests in flight", "s starting", "d draining or stopping", "x waits after a crash", "? unknown"], (key) => {
    const item = make("span");
    item.canvas = add(item, "canvas");
    item.append(key.slice(2));
    return item;
  }, (item, key) => cell(begin(item.canvas, 14, 14), key[0], 0, 0, 14, key[0] === "o" ? 2 : 0));
}

function render() {
  if (!S.view || document.hidden) return;
  const app = S.view.apps[S.view.open.app];
  $("app").hidden = !app;
  $("empty").hidden = Boolean(app) || !S.view.listed;
  put($("origin"), S.view.title);
  renderApps();
  if (app) {
    renderHead(app);
    renderChain(app);
    renderPlots();
    renderTable();
    renderEvents();
  } else document.title = "ScaledApp";
  renderState();
}
// Whether figures are live; old ones are never shown as if they were new.
function renderState() {
  const age = (performance.now() - seen) / 1000, isLate = seen > 0 && age > 3 && !paused;
  const problem = lost || (S.view && S.view.problem) || "";
  kind($("live"), paused || isLate || lost || !seen ? "live" : "live on");
  put($("liveText"), paused ? "paused at " + clock(S.view ? S.view.now : Date.now()) : lost ? "not connected" : isLate ? span(age) + " old" : seen ? "live" : "connecting");
  $("app").classList.toggle("stale", isLate || Boolean(lost));
  document.documentElement.classList.toggle("still", paused || isLate || Boolean(lost));
  $("banner").hidden = !problem && !isLate;
  put($("banner"), problem || (isLate ? "No figures for " + span(age) + ": these are old." : ""));
}
// One sentence at most every ten seconds for those who listen.
function speak() {
  const now = performance.now(), apps = S.view.apps, said = [];
  if (now - spokenAt < 10000) return;
  for (const name of Object.keys(apps)) {
    const app = apps[name], before = spoken[name];
    if (before) {
      const more = app.restarts - before[1];
      if (app.state !== before[0]) said.push(name + " is " + stateOf(app.state)[2] + (app.reason ? ": " + app.reason : ""));
      else if (more > 0) said.push(name + ": " + plural(more, "worker") + " restarted");
    }
    spoken[name] = [app.state, app.restarts];
  }
  if (!said.length) return;
  spokenAt = now;
  put($("said"), said.length > 3 ? said.length + " apps have changed" : said.join("; "));
}

function apply(frame) {
  if (frame.snapshot) {
    S.view = frame.snapshot;
    S.points = frame.points;
    S.sparks = frame.sparks;
    S.most = frame.most;
  } else if (S.view) {
    merge(S.view, frame.patch);
    S.points.push(...frame.points);
    if (S.points.length > S.most) S.points.splice(0, S.points.length - S.most);
    if (frame.points.length) for (const name of Object.keys(S.view.apps)) {
      const rates = S.sparks[name] || (S.sparks[name] = []);
      rates.push(S.view.apps[name].rps);
      if (rates.length > 60) rates.shift();
    }
    for (const name of Object.keys(S.sparks)) if (!S.view.apps[name]) delete S.sparks[name];
  }
  seen = performance.now();
  lost = "";
  if (!paused) { render(); speak(); }
}
async function read(signal) {
  const answer = await fetch("/api/v1/stream?app=" + encodeURIComponent(S.wanted), { headers: { Authorization: "Bearer " + token }, cache: "no-store", signal });
  if (!answer.ok) throw Object.assign(new Error(await answer.text()), { status: answer.status });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the stream has ended");
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines) if (line) apply(JSON.parse(line));
  }
}
async function connect() {
  if (reading) reading.abort();
  const mine = reading = new AbortController();
  while (!mine.signal.aborted && !document.hidden) {
    try { await read(mine.signal); } catch (error) {
      if (mine.signal.aborted) return;
      lost = error.status === 401 ? "The token is missing or of an earlier run: open the address that the dashboard has printed."
        : error.status ? error.message : "The dashboard does not answer. It is asked again each second; if it was ended, start it again.";
      renderState();
      if (error.status === 401) return;
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}
function choose(name) {
  if (name === S.view.open.app) return;
  S.wanted = name;
  S.page = 0;
  S.layout = "";
  setPaused(false);
  connect();
}
function setPaused(now) {
  paused = now;
  $("pause").setAttribute("aria-pressed", String(now));
  put($("pause"), now ? "Go on" : "Pause");
  if (now) renderState(); else render();
}
function setTheme(theme) {
  document.documentElement.style.colorScheme = theme === "system" ? "light dark" : theme;
  const word = { system: "Auto", light: "Light", dark: "Dark" }[theme];
  put($("theme"), word);
  $("theme").setAttribute("aria-label", "Theme: " + word);
  try { localStorage.setItem("theme", theme); } catch { /* Storage may be forbidden. */ }
  redraw();
}
function redraw() {
  readColours();
  S.layout = "";
  LAYOUT++;
  renderLegend();
  if (!paused) render();
}
function start() {
  const given = new URLSearchParams(location.hash.slice(1)).get("t");
  try {
    if (given) sessionStorage.setItem("token", given);
    token = given || sessionStorage.getItem("token") || "";
  } catch { token = given || ""; }
  if (given) history.replaceState(null, "", location.pathname);
  let theme = "system";
  try { theme = localStorage.getItem("theme") || "system"; } catch { /* As above. */ }
  setTheme(["light", "dark"].includes(theme) ? theme : "system");
  const next = () => setTheme({ system: "dark", dark: "light", light: "system" }[(localStorage.getItem("theme") || "system")]);
  $("theme").addEventListener("click", next);
  $("pause").addEventListener("click", () => setPaused(!paused));
  $("help").addEventListener("click", () => $("keys").showModal());
  $("filter").addEventListener("input", (event) => { S.filter = event.target.value.trim().toLowerCase(); render(); });
  $("eventsAll").addEventListener("change", () => { $("events").replaceChildren(); $("events").known = new Map(); render(); });
  $("minutes").addEventListener("toggle", () => render());
  $("pager").children[1].addEventListener("click", () => { S.page--; render(); });
  $("pager").children[2].addEventListener("click", () => { S.page++; render(); });
  $("tabs").addEventListener("keydown", (event) => {
    const keys = Object.keys(TABLES), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    S.tab = keys[(keys.indexOf(S.tab) + step + keys.length) % keys.length];
    S.page = 0;
    render();
    $("tab-" + S.tab).focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || (event.target.matches && event.target.matches("input[type=search]"))) return;
    const act = { p: () => setPaused(!paused), t: next, "/": () => $("filter").focus(), "?": () => $("keys").showModal() }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  document.addEventListener("visibilitychange", () => { if (document.hidden) { if (reading) reading.abort(); } else connect(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(() => { S.layout = ""; LAYOUT++; if (!paused) render(); }).observe($("main"));
  setInterval(renderState, 1000);
  connect();
}
start();
