// The list of apps, the picture, the tables and the events, from the present view `S.view`.
const S = { view: null, points: [], sparks: {}, wanted: "", filter: "", tab: "workers", page: 0, sorts: {}, layout: "", hover: null };
const MAX_APPS = 60, MAX_NODES = 10, MAX_ROWS = 40, MAX_EDGES = 40;

function renderApps() {
  const apps = S.view.apps, all = Object.keys(apps);
  const named = all.filter((name) => name.toLowerCase().includes(S.filter));
  const list = $("apps");
  // Nothing moves under a hand: the order is renewed only while nobody points at the list.
  if (!list.matches(":hover, :focus-within") || !S.order || S.filter !== S.orderFilter) {
    S.order = named.sort((a, b) => stateOf(apps[a].state)[3] - stateOf(apps[b].state)[3] || COLLATOR.compare(a, b));
    S.orderFilter = S.filter;
  }
  const there = new Set(S.order);
  const order = S.order.filter((name) => apps[name]).concat(named.filter((name) => !there.has(name)));
  const shown = order.slice(0, MAX_APPS);
  put($("appsCount"), all.length);
  put($("appsNote"), named.length > shown.length ? shown.length + " of " + named.length + " shown: filter for the others"
    : named.length === 0 && all.length ? "No app has this name." : named.length < all.length ? named.length + " of " + all.length + " apps" : "");
  $("frame").classList.toggle("single", all.length < 2);
  if (all.length < 2) return;
  sync(list, shown, (name) => {
    const item = make("li"), button = add(item, "button");
    button.type = "button";
    button.addEventListener("click", () => choose(name));
    item.parts = [add(button, "b"), add(button, "span", "who", name), add(button, "span", "of"), add(button, "canvas"), add(button, "span", "rate")];
    item.parts[0].setAttribute("aria-hidden", "true");
    item.parts[3].setAttribute("aria-hidden", "true");
    item.button = button;
    return item;
  }, (item, name) => {
    const app = apps[name], [colour, sign, word] = stateOf(app.state);
    const [mark, , of, , rate] = item.parts;
    kind(mark, colour); put(mark, sign);
    put(of, app.ready + "/" + app.desired);
    put(rate, isNumber(app.rps) ? count(app.rps) + "/s" : "–");
    const label = name + ", " + word + ", " + app.ready + " of " + app.desired + " workers ready";
    if (item.button.title !== label) { item.button.title = label; item.button.setAttribute("aria-label", label); }
    const current = String(name === S.view.open.app);
    if (item.button.getAttribute("aria-current") !== current) item.button.setAttribute("aria-current", current);
  });
  // All texts are written before the first canvas is measured.
  for (const name of shown) strip(list.known.get(name).parts[3], apps[name].strip, S.sparks[name] || []);
}

const TILES = [
  ["Requests / s", "rps", (app) => [count(app.rps), ""]],
  ["Median latency", "p50", (app) => latency(app.p50)],
  ["99th percentile", "p99", (app) => latency(app.p99)],
  ["Errors (5xx)", "errors", (app) => [percent(app.errors), isNumber(app.errors) ? "%" : ""]],
  ["In flight", "inFlight", (app) => [count(app.inFlight), ""]],
  ["Waiting", "queued", (app) => [count(app.queued), ""]],
  ["Workers ready", "workers", (app) => [app.ready, "of " + app.desired]],
  ["Restarts", "restarts", (app) => [count(app.restarts), ""]],
];
function renderHead(app) {
  const name = S.view.open.app, [colour, sign, word] = stateOf(app.state);
  put($("name"), name);
  kind($("badge"), "badge " + colour);
  put($("badge").firstElementChild, sign);
  put($("badge").lastElementChild, word);
  put($("reason"), app.reason);
  sync($("tiles"), TILES.map((tile) => tile[1]), (key) => {
    const tile = make("div");
    add(tile, "dt", "", TILES.find((tile) => tile[1] === key)[0]);
    const value = add(tile, "dd");
    value.id = "figure-" + key;
    tile.parts = [value.appendChild(document.createTextNode("")), add(value, "small")];
    return tile;
  }, (tile, key) => {
    const [value, unit] = TILES.find((tile) => tile[1] === key)[2](app);
    put(tile.parts[0], value);
    put(tile.parts[1], unit ? " " + unit : "");
  });
  const letter = { ok: "ok", warn: "!", bad: "x", calm: "-", grey: "?" }[colour];
  const title = letter + " " + name + " – ScaledApp";
  if (document.title !== title) {
    document.title = title;
    const fill = encodeURIComponent(COLOURS[{ ok: "green", warn: "amber", bad: "red", calm: "blue" }[colour] || "edge"]);
    $("icon").href = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect x='2' y='2' width='12' height='12' rx='3' fill='" + fill + "'/%3E%3C/svg%3E";
  }
}

// Those of a column that are shown: all that are not well, and others in their own order up to the
// limit. The rest is one node.
function chosen(all, stateAt) {
  if (all.length <= MAX_NODES) return [all, []];
  const ill = all.filter((key) => stateAt(key) !== "ok").slice(0, MAX_NODES - 1);
  const shown = new Set(ill);
  for (const key of all) if (shown.size < MAX_NODES - 1) shown.add(key);
  return [all.filter((key) => shown.has(key)), all.filter((key) => !shown.has(key))];
}
function node(item) {
  const box = item.appendChild(make("div", "node")), title = add(box, "b");
  item.box = box;
  item.sign = add(title, "i");
  item.sign.setAttribute("aria-hidden", "true");
  item.name = title.appendChild(document.createTextNode(""));
  item.lines = [add(box, "span", "more"), add(box, "span")];
  return item;
}
function setNode(item, state, name, first, second) {
  const [colour, sign, word] = stateOf(state);
  kind(item.box, "node is-" + colour);
  kind(item.sign, colour); put(item.sign, sign);
  put(item.name, wrapping(name));
  put(item.lines[0], first.includes("/s") ? first : wrapping(first));
  const late = ["ok", "plain", "published", "none"].includes(state) ? second : word + (second ? ", " + second : "");
  put(item.lines[1], late.includes("·") ? late : wrapping(late));
}
const REST = "\u0000rest";
const ageText = (it) => it.age > 0 ? " (" + it.age + " s old)" : "";
const rateText = (rate) => isNumber(rate) ? count(rate) + " req/s" : "rate unknown";

function renderChain(app) {
  const open = S.view.open;
  const slots = Object.keys(open.slots).sort(COLLATOR.compare);
  const balancers = slots.map((slot) => open.slots[slot].by).filter((name, at, all) => all.indexOf(name) === at && open.balancers[name]);
  const pods = Object.keys(open.pods).sort((a, b) => open.pods[a].order - open.pods[b].order);
  const [lbs, moreLbs] = chosen(balancers, (name) => open.balancers[name].state);
  const shownSlots = slots.filter((slot) => lbs.includes(open.slots[slot].by));
  const [shownPods, morePods] = chosen(pods, (name) => open.pods[name].state);
  const fresh = () => node(make("li"));
  const withRest = (shown, rest) => rest.length ? shown.concat(REST) : shown;
  sync($("clients"), ["clients"], fresh, (item) => setNode(item, "plain", "Clients", isNumber(app.rps) ? count(app.rps) + "/s" : "", ""));
  sync($("dns"), ["dns"], fresh, (item) => {
    const of = slots.length ? open.dns.published + " of " + (slots.length === 1 ? "1 address" : slots.length + " addresses") : "";
    setNode(item, open.dns.state, open.hostname || "no name", open.hostname ? of : "", (open.dns.problem || open.dns.address) + ageText(open.dns));
  });
  sync($("slots"), withRest(shownSlots, moreLbs), fresh, (item, slot) => {
    if (slot === REST) return setNode(item, "ok", "+ " + plural(slots.length - shownSlots.length, "slot"), "", "");
    const it = open.slots[slot];
    setNode(item, it.dns, "Slot " + slot, it.address, it.dns === "none" ? "" : it.dns === "published" ? "in DNS" : "");
  });
  sync($("balancers"), withRest(lbs, moreLbs), fresh, (item, name) => {
    if (name === REST) return setNode(item, "ok", "+ " + plural(moreLbs.length, "balancer"), "all well", "");
    const it = open.balancers[name], late = joined(latency(it.p99));
    setNode(item, it.state, name, rateText(it.rps), (it.problem || "p99 " + late + " · " + it.inFlight + " in flight") + ageText(it));
  });
  sync($("pods"), withRest(shownPods, morePods), () => {
    const item = make("li", "pod");
    node(item);
    item.strip = add(add(item, "div", "workers"), "canvas", "cells");
    item.strip.setAttribute("aria-hidden", "true");
    return item;
  }, (item, name) => {
    if (name === REST) {
      const ready = morePods.reduce((sum, pod) => sum + open.pods[pod].ready, 0), desired = morePods.reduce((sum, pod) => sum + open.pods[pod].desired, 0);
      setNode(item, ready < desired ? "degraded" : "ok", "+ " + plural(morePods.length, "pod"), ready + " of " + desired + " ready", "");
      return;
    }
    const it = open.pods[name];
    setNode(item, it.state, name, it.ready + " of " + it.desired + " ready", (it.problem || (it.dispatch === "request" ? rateText(it.rps) + " · " : "") + count(it.inFlight) + " in flight" + (it.queued > 0 ? ", " + it.queued + " wait" : "")) + ageText(it));
  });
  for (const [name, item] of $("pods").known) {
    if (name === REST) cells(item.strip, morePods.map((pod) => open.pods[pod].strip).join(""));
    else cells(item.strip, open.pods[name].strip, loadsOf(name, open.pods[name].strip.length));
  }
  const heads = document.querySelectorAll("#chain h3 span");
  put(heads[0], slots.length); put(heads[1], balancers.length);
  put($("podsCount"), pods.length); put($("workersCount"), app.ready + " of " + app.desired + " ready");
  renderEdges(app, open, shownSlots, lbs, shownPods, moreLbs.length > 0, morePods.length > 0);
}
function loadsOf(pod, slots) {
  const loads = [];
  for (let slot = 0; slot < slots; slot++) {
    const worker = S.view.open.workers[pod + "/" + slot];
    loads.push(worker ? worker[3] : 0);
  }
  return loads;
}

// The lines between neighbours: [from, to, rate]. Beyond a number of them they meet in one point.
function renderEdges(app, open, slots, lbs, pods, restLbs, restPods) {
  const at = (list, key) => { const item = $(list).known.get(key); return item && item.box; };
  const edges = [];
  const link = (id, from, to, rate, bus) => { if (from && to) edges.push({ id, from, to, rate: isNumber(rate) ? rate : 0, bus }); };
  link("c", at("clients", "clients"), at("dns", "dns"), app.rps);
  const all = slots.concat(restLbs ? [REST] : []);
  for (const slot of all) {
    const it = open.slots[slot], lb = it ? it.by : REST, rate = it && open.balancers[lb] ? open.balancers[lb].rps : 0;
    link("d" + slot, at("dns", "dns"), at("slots", slot), it && it.dns !== "published" ? 0 : rate);
    link("s" + slot, at("slots", slot), at("balancers", lb), rate);
  }
  const names = lbs.concat(restLbs ? [REST] : []), ends = pods.concat(restPods ? [REST] : []);
  const rateOf = (pod) => open.pods[pod] ? open.pods[pod].rps : 0;
  if (names.length * ends.length > MAX_EDGES) {
    for (const lb of names) link("b" + lb, at("balancers", lb), $("pods"), open.balancers[lb] ? open.balancers[lb].rps : 0, "to");
    for (const pod of ends) link("p" + pod, $("balancers"), at("pods", pod), rateOf(pod), "from");
  } else {
    const sum = names.reduce((sum, lb) => sum + (open.balancers[lb] && isNumber(open.balancers[lb].rps) ? open.balancers[lb].rps : 0), 0);
    for (const lb of names) for (const pod of ends) {
      const part = sum && open.balancers[lb] && isNumber(open.balancers[lb].rps) ? open.balancers[lb].rps / sum : 0;
      link("b" + lb + " " + pod, at("balancers", lb), at("pods", pod), isNumber(rateOf(pod)) ? rateOf(pod) * part : 0);
    }
  }
  for (const pod of ends) { const item = $("pods").known.get(pod); link("w" + pod, item.box, item.strip, rateOf(pod)); }
  const chain = $("chain"), size = chain.clientWidth + "x" + chain.clientHeight + " " + edges.map((edge) => edge.id).join();
  const moved = size !== S.layout;
  S.layout = size;
  const origin = moved ? chain.getBoundingClientRect() : null;
  const most = Math.max(1, app.rps || 0);
  const svg = $("edges");
  // Many moving points cost too much to draw.
  svg.classList.toggle("many", edges.filter((edge) => edge.rate > 0.05).length > 16);
  sync(svg, edges.flatMap((edge) => edge.rate > 0.05 ? [edge.id, edge.id + "\u0000flow"] : [edge.id]), (key) => {
    const path = document.createElementNS(SVG, "path");
    path.fresh = true;
    if (key.endsWith("\u0000flow")) path.setAttribute("class", "flow");
    return path;
  }, (path, key) => {
    const isFlow = key.endsWith("\u0000flow"), edge = edges.find((edge) => edge.id === (isFlow ? key.slice(0, -5) : key));
    if (moved || path.fresh) { path.setAttribute("d", line(edge, origin || chain.getBoundingClientRect())); path.fresh = false; }
    if (isFlow) return;
    const width = edge.rate > 0.05 ? 1.5 + 6 * Math.sqrt(edge.rate / most) : 1;
    if (path.shown !== width) { path.style.strokeWidth = width.toFixed(1); path.shown = width; }
    const name = edge.rate > 0.05 ? "" : "none";
    if (path.getAttribute("class") !== name) path.setAttribute("class", name);
  });
}
function line(edge, origin) {
  const from = edge.from.getBoundingClientRect(), to = edge.to.getBoundingClientRect();
  let [x1, y1, x2, y2] = [from.right - origin.left, from.top + from.height / 2 - origin.top, to.left - origin.left - (edge.to.tagName === "CANVAS" ? 4 : 0), to.top + to.height / 2 - origin.top];
  if (edge.to.tagName === "CANVAS") y2 = y1;
  if (edge.bus) {
    const middle = ($("balancers").getBoundingClientRect().right + $("pods").getBoundingClientRect().left) / 2 - origin.left;
    const centre = $("pods").getBoundingClientRect(), y = centre.top + centre.height / 2 - origin.top;
    if (edge.bus === "to") [x2, y2] = [middle, y]; else [x1, y1] = [middle, y];
  }
  const bend = (x2 - x1) * 0.5;
  return "M" + [x1, y1].map(Math.round) + "C" + [x1 + bend, y1, x2 - bend, y2, x2, y2].map(Math.round);
}

// The tables. A column is [title, value for the order, text, left-aligned].
const TABLES = {
  workers: {
    title: "Workers", rows: () => S.view.open.workers, state: (row) => row[0],
    columns: [
      ["Worker", (row, key) => key, (row, key) => key, true],
      ["State", (row) => stateOf(row[0])[3], (row) => row[0], true],
      ["PID", (row) => row[1], (row) => row[1] ?? "–"],
      ["In flight", (row) => row[3], (row) => row[3]],
      ["req/s", (row) => row[4], (row) => count(row[4])],
      ["CPU", (row) => row[5], (row) => isNumber(row[5]) ? Math.round(row[5]) + " %" : "–"],
      ["Memory", (row) => row[6], (row) => memory(row[6])],
      ["Restarts", (row) => row[7], (row) => row[7]],
      ["Up", (row) => row[8] === null ? null : -row[8], (row) => row[8] === null ? "–" : span(S.view.now / 1000 - row[8])],
      ["Gen", (row) => row[2], (row) => row[2] ?? "–"],
      ["Last end in this slot", (row) => row[9], (row) => row[9] ?? "", true],
    ],
  },
  pods: {
    title: "Pods", rows: () => S.view.open.pods, state: (row) => row.state,
    columns: [
      ["Pod", (row) => row.order, (row, key) => key, true],
      ["State", (row) => stateOf(row.state)[3], (row) => row.state, true],
      ["Ready", (row) => row.ready - row.desired, (row) => row.ready + "/" + row.desired],
      ["In flight", (row) => row.inFlight, (row) => count(row.inFlight)],
      ["Waiting", (row) => row.queued, (row) => count(row.queued)],
      ["req/s", (row) => row.rps, (row) => count(row.rps)],
      ["Memory", (row) => row.rss, (row) => memory(row.rss)],
      ["Restarts", (row) => row.restarts, (row) => row.restarts],
      ["Gen", (row) => row.generation, (row) => row.generation],
      ["Age", (row) => row.age, (row) => row.age ? row.age + " s" : "fresh"],
      ["Address, problem", (row) => row.address, (row) => row.problem || row.address + (row.node ? " on " + row.node : ""), true],
    ],
  },
  balancers: {
    title: "Balancers", rows: () => S.view.open.balancers, state: (row) => row.state,
    columns: [
      ["Balancer", (row, key) => key, (row, key) => key, true],
      ["State", (row) => stateOf(row.state)[3], (row) => row.state, true],
      ["req/s", (row) => row.rps, (row) => count(row.rps)],
      ["p50", (row) => row.p50, (row) => joined(latency(row.p50))],
      ["p99", (row) => row.p99, (row) => joined(latency(row.p99))],
      ["Errors", (row) => row.errors, (row) => isNumber(row.errors) ? percent(row.errors) + " %" : "–"],
      ["In flight", (row) => row.inFlight, (row) => row.inFlight],
      ["Waiting", (row) => row.queued, (row) => row.queued],
      ["Connections", (row) => row.connections, (row) => row.connections],
      ["Restarts", (row) => row.restarts, (row) => row.restarts],
      ["Address, problem", (row, key) => key, (row, key) => row.problem || slotOf(key), true],
    ],
  },
};
function slotOf(balancer) {
  const slots = Object.entries(S.view.open.slots).filter(([, slot]) => slot.by === balancer);
  return slots.map(([number, slot]) => slot.address + " (slot " + number + (slot.dns === "published" ? ", in DNS" : slot.dns === "withheld" ? ", withheld from DNS" : "") + ")").join(", ");
}
function renderTabs() {
  sync($("tabs"), Object.keys(TABLES), (key) => {
    const tab = make("button");
    tab.type = "button";
    tab.id = "tab-" + key;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "panel");
    tab.addEventListener("click", () => { S.tab = key; S.page = 0; render(); });
    return tab;
  }, (tab, key) => {
    put(tab, TABLES[key].title + " " + Object.keys(TABLES[key].rows()).length);
    const selected = String(key === S.tab);
    if (tab.getAttribute("aria-selected") !== selected) { tab.setAttribute("aria-selected", selected); tab.tabIndex = key === S.tab ? 0 : -1; }
  });
  $("panel").setAttribute("aria-labelledby", "tab-" + S.tab);
}
function renderTable() {
  renderTabs();
  const table = TABLES[S.tab], rows = table.rows(), [head, body] = $("table").children;
  const sort = S.sorts[S.tab] || [0, 1], by = table.columns[sort[0]][1];
  if (head.shown !== S.tab) {
    head.shown = S.tab;
    head.replaceChildren();
    body.replaceChildren();
    body.known = new Map();
    const line = add(head, "tr");
    head.cells = table.columns.map(([title, , , left], at) => {
      const cell = add(line, "th", left ? "left" : "");
      cell.scope = "col";
      const button = add(cell, "button", "", title);
      button.type = "button";
      button.addEventListener("click", () => {
        const now = S.sorts[S.tab] || [0, 1];
        S.sorts[S.tab] = [at, now[0] === at ? -now[1] : at === 0 || table.columns[at][3] ? 1 : -1];
        render();
      });
      return cell;
    });
  }
  head.cells.forEach((cell, at) => {
    const order = at === sort[0] ? (sort[1] > 0 ? "ascending" : "descending") : null;
    if (cell.getAttribute("aria-sort") !== order) { if (order) cell.setAttribute("aria-sort", order); else cell.removeAttribute("aria-sort"); }
  });
  const compare = (a, b) => {
    const [one, other] = [by(rows[a], a), by(rows[b], b)];
    if (one === other) return COLLATOR.compare(a, b);
    if (!isNumber(one) && !isNumber(other)) return sort[1] * COLLATOR.compare(String(one ?? ""), String(other ?? ""));
    return !isNumber(one) ? 1 : !isNumber(other) ? -1 : sort[1] * (one - other);
  };
  const keys = Object.keys(rows).sort(compare), pages = Math.max(1, Math.ceil(keys.length / MAX_ROWS));
  S.page = Math.min(S.page, pages - 1);
  const shown = keys.slice(S.page * MAX_ROWS, (S.page + 1) * MAX_ROWS);
  sync(body, shown, () => {
    const line = make("tr");
    line.cells2 = table.columns.map(([, , , left]) => add(line, "td", left ? "left" : ""));
    return line;
  }, (line, key) => {
    const row = rows[key];
    kind(line, row.age > 0 ? "old" : "");
    table.columns.forEach(([title, , text], at) => {
      const cell = line.cells2[at], value = text(row, key);
      if (title === "State") {
        const [colour, sign, word] = stateOf(value);
        kind(cell, "left " + colour);
        put(cell, sign + " " + word);
      } else put(cell, value);
      if (at === table.columns.length - 1 && cell.title !== String(value)) cell.title = value;
    });
  });
  const [text, back, on] = $("pager").children;
  $("pager").hidden = pages < 2;
  put(text, shown.length + " of " + keys.length + " shown, page " + (S.page + 1) + " of " + pages);
  back.disabled = S.page === 0;
  on.disabled = S.page === pages - 1;
}
function renderEvents() {
  const events = S.view.events, all = $("eventsAll").checked;
  const keys = Object.keys(events).filter((key) => all || events[key][2] === S.view.open.app);
  keys.sort((a, b) => events[b][0] - events[a][0] || b - a);
  const shown = keys.slice(0, 40);
  sync($("events"), shown, (key) => {
    const [at, importance, app, text] = events[key], item = make("li");
    const isWarning = importance === "warning";
    const sign = add(item, "b", isWarning ? "warn" : "grey");
    add(sign, "span", "", isWarning ? "▲" : "·").setAttribute("aria-hidden", "true");
    if (isWarning) add(sign, "span", "hidden", "Warning: ");
    const time = add(item, "time", "", clock(at));
    time.dateTime = new Date(at).toISOString();
    add(item, "p", "", (all ? app + ": " : "") + text);
    return item;
  }, () => {});
  put($("eventsNote"), keys.length === 0 ? "Nothing has happened since the dashboard was started." : shown.length < keys.length ? shown.length + " of " + keys.length + " shown" : "");
}
