// What the views of runs and measurements share: asking the server past Gradio's queue, numbers in words, and a chart of lines as SVG.

const UNDER_WAY = ["waiting", "starting", "training", "measuring"];
const PHASES = {
  waiting: "Waiting in line", starting: "Starting", training: "Training", measuring: "Measuring", done: "Done", stopped: "Stopped", paused: "Paused",
  failed: "Failed", interrupted: "Interrupted",
};
const button = (className, text, pressed) => {
  const node = make("button", className, text);
  node.type = "button";
  node.addEventListener("click", () => pressed(node));
  return node;
};

// Buttons for what a chart shows, by key and name.
const makeViews = (names, pick) => {
  const node = make("div", "views");
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", "What the chart shows");
  for (const [key, name] of Object.entries(names)) {
    const choice = button("pick", name, () => pick(key));
    choice.dataset.view = key;
    node.append(choice);
  }
  return node;
};

// Calls a named endpoint. What the server refuses in words is thrown with `told`; anything else means that it does not answer.
const askServer = async (endpoint, ...data) => {
  const { root, api_prefix: prefix } = window.gradio_config;
  const answer = await fetch(`${root}${prefix}/run/${endpoint}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ data }),
  });
  const said = await answer.json();
  if (answer.ok) return said.data[0];
  // The message is escaped for Gradio's own display.
  const told = new DOMParser().parseFromString(said.error || "", "text/html").body.textContent;
  throw Object.assign(new Error(told || "The app could not do that; its log says why."), { told: true });
};

// Does what the server is asked for and shows what it refuses. What is told of a person's own action stays until the next one: the end
// of one that was begun before does not take it away.
const makeTried = (trouble, silence) => {
  let begun = 0;
  return async (work, own = true) => {
    if (own) begun++;
    const mine = begun;
    try {
      const done = await work();
      if (own ? mine === begun : trouble.dataset.own === "false") trouble.textContent = "";
      return done;
    } catch (error) {
      if (own || !trouble.textContent) {
        trouble.textContent = error.told ? error.message : silence;
        trouble.dataset.own = String(own);
      }
      return null;
    }
  };
};

// Asks the server again and again while the panel is seen, and at once when it comes into sight; what is given back asks now. `work`
// asks once and says in how many milliseconds to ask next.
const makeLook = (element, work) => {
  let timer = 0;
  let busy = false;
  let again = false;  // asked for while an older answer was on its way
  const look = async () => {
    clearTimeout(timer);
    again = busy;
    if (busy || !element.isConnected) return;
    if (document.hidden || !element.offsetParent) {
      timer = setTimeout(look, 1000);
      return;
    }
    busy = true;
    const wait = await work();
    busy = false;
    timer = setTimeout(look, again ? 0 : wait);
  };
  document.addEventListener("visibilitychange", () => !document.hidden && look());
  new IntersectionObserver((entries) => entries.some((each) => each.isIntersecting) && look()).observe(element);
  return look;
};

// Draws a list anew where `state` has changed. What is being pressed stays until it was, and what has the focus keeps it: `key` is the
// name of the attribute that tells lines apart.
const makeDraw = (list, key, lines) => {
  let last = "";
  const draw = (state) => {
    if (state === last) return;
    if (list.matches(":active")) return void setTimeout(draw, 200, state);
    last = state;
    const active = list.contains(document.activeElement) ? document.activeElement : null;
    const focused = active && [active.closest("li").dataset[key], active.textContent, active.tagName];
    list.replaceChildren(...lines());
    if (!focused) return;
    const item = [...list.children].find((each) => each.dataset[key] === focused[0]);
    [...(item?.querySelectorAll(focused[2]) || [])].find((each) => each.textContent === focused[1])?.focus();
  };
  return draw;
};

// Puts parts into a box in place of those that it has. One that is as before stays, and with it what is open, selected or has the focus.
const redraw = (box, parts) => {
  const old = [...box.children].map((node) => {
    const shut = node.cloneNode(true);
    shut.removeAttribute("open");
    return { node, shut };
  });
  const wanted = parts.map((part) => {
    const at = old.findIndex((each) => each.shut.isEqualNode(part));
    return at < 0 ? part : old.splice(at, 1)[0].node;
  });
  for (const { node } of old) node.remove();
  wanted.forEach((part, at) => {
    if (box.children[at] !== part) box.insertBefore(part, box.children[at] || null);
  });
};

// Losses from the first test to the latest; after the first alone, that of before training, the other is yet to come.
const asChange = (first, latest, tests) => `${asNumber(first)} → ${tests > 1 ? asNumber(latest) : "…"}`;
const asNumber = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && size < 0.001) return value.toExponential(1).replace("e-", "e−");
  if (size < 10) return value.toFixed(size < 0.1 ? 4 : 3);
  return size < 1000 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
};
const asBytes = (value) => {
  const [unit, size] = value >= 1e9 ? ["GB", 1e9] : value >= 1e6 ? ["MB", 1e6] : ["kB", 1e3];
  return `${(value / size).toFixed(value / size < 10 ? 1 : 0)} ${unit}`;
};
const asTime = (seconds) => {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor(whole / 60) % 60).padStart(2, "0")} min`;
};
const asWhen = (seconds) => new Date(1000 * seconds).toLocaleString([], { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
// So many of something whose plural has an s.
const asCount = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

const SVG = "http://www.w3.org/2000/svg";
const drawn = (tag, attributes = {}, text) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
};

// The index of the value nearest to `x` in a rising array.
const nearest = (xs, x) => {
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return high >= 0 && Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
};

// A line as a path. Where there are more points than pixels, a column of pixels keeps its lowest and its highest.
const pathOf = (xs, ys, toX, toY) => {
  let path = "";
  let column = null;
  const put = (x, y) => { path += `${path ? "L" : "M"}${x} ${Math.round(y * 10) / 10}`; };
  const flush = () => {
    if (!column) return;
    put(column.x, column.first);
    if (column.low !== column.first) put(column.x, column.low);
    if (column.high !== column.low) put(column.x, column.high);
    if (column.last !== column.high) put(column.x, column.last);
  };
  const dense = xs.length > 600;
  for (let at = 0; at < xs.length; at++) {
    if (ys[at] === null) continue;
    const x = dense ? Math.round(toX(xs[at])) : Math.round(toX(xs[at]) * 10) / 10;
    const y = toY(ys[at]);
    if (column && column.x === x) {
      column.low = Math.min(column.low, y);
      column.high = Math.max(column.high, y);
      column.last = y;
    } else {
      flush();
      column = { x, first: y, low: y, high: y, last: y };
    }
  }
  flush();
  return path;
};

const ticks = (low, high, about) => {
  const rough = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step || 0);
  return found;
};

// A chart of lines over steps. `draw` takes `lines` ({ name, tone, xs, ys, faint, dots }), `last` (the right end), and a
// spoken `summary`. Arrow keys and the pointer read its numbers.
const makeChart = (label) => {
  const EDGE = { left: 50, right: 14, top: 10, bottom: 24 };
  const node = make("div", "chart");
  node.tabIndex = 0;
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", `${label}: arrow keys read its numbers`);
  const svg = drawn("svg", { role: "img" });
  const tip = make("div", "tip");
  tip.setAttribute("role", "status");
  tip.hidden = true;
  node.append(svg, tip);
  let shown = null;
  let place = null;  // the step that is read
  let scale = null;

  const range = (lines) => {
    let low = Infinity;
    let high = -Infinity;
    for (const line of lines) {
      const values = Float64Array.from(line.ys.filter((each) => each !== null)).sort();
      if (!values.length) continue;
      // Single steps swing: the wildest of them leave the picture so that the rest can be read.
      const cut = line.faint && values.length > 40 ? Math.floor(values.length / 100) : 0;
      low = Math.min(low, values[cut]);
      high = Math.max(high, values[values.length - 1 - cut]);
    }
    if (low > high) return [0, 1];
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
  };

  const draw = (what) => {
    shown = what || shown;
    const width = node.clientWidth;
    const height = node.clientHeight;
    if (!shown || !width) return;
    const began = performance.now();
    const [low, high] = range(shown.lines);
    const last = Math.max(1, shown.last);
    const toX = (step) => EDGE.left + (step / last) * (width - EDGE.left - EDGE.right);
    const toY = (value) => height - EDGE.bottom - ((value - low) / (high - low)) * (height - EDGE.top - EDGE.bottom);
    scale = { toX, toY, last, width, height };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-label", shown.summary);
    const grid = drawn("g", { class: "grid" });
    for (const value of ticks(low, high, 5)) {
      const y = toY(value);
      grid.append(drawn("line", { x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y }));
      grid.append(drawn("text", { x: EDGE.left - 8, y: y + 4, "text-anchor": "end" }, asTick(value, high - low)));
    }
    for (const value of ticks(0, last, Math.max(2, Math.floor(width / 80)))) {
      if (value === Math.round(value)) grid.append(drawn("text", { x: toX(value), y: height - 6, "text-anchor": "middle" }, value.toLocaleString("en")));
    }
    // Below and above the plot nothing is drawn.
    const clip = drawn("svg", { x: 0, y: EDGE.top - 4, width, height: height - EDGE.top - EDGE.bottom + 8, viewBox: `0 ${EDGE.top - 4} ${width} ${height - EDGE.top - EDGE.bottom + 8}` });
    for (const line of shown.lines) {
      clip.append(drawn("path", { class: `line ${line.tone}${line.faint ? " faint" : ""}`, d: pathOf(line.xs, line.ys, toX, toY) }));
      if (line.dots && line.xs.length <= 60) {
        line.xs.forEach((step, at) => line.ys[at] !== null && clip.append(drawn("circle", { class: `dot ${line.tone}`, cx: toX(step), cy: toY(line.ys[at]), r: 3 })));
      }
    }
    const cross = drawn("g", { class: "cross" });
    svg.replaceChildren(grid, clip, cross);
    if (place !== null) point(place);
    performance.clearMeasures("guanaco-chart");
    performance.measure("guanaco-chart", { start: began, end: performance.now() });
  };
  const asTick = (value, span) => value && Math.abs(value) < 0.001 ? value.toExponential(0).replace("e-", "e−")
    : value.toFixed(span < 0.02 ? 4 : span < 0.2 ? 3 : span < 2 ? 2 : span < 20 ? 1 : 0);

  // The line with most points says which steps can be read.
  const finest = () => shown.lines.reduce((most, line) => (line.xs.length > most.xs.length ? line : most), { xs: [] });
  const point = (step) => {
    const cross = svg.querySelector(".cross");
    if (!cross || !finest().xs.length) return;
    place = step;
    const x = scale.toX(step);
    cross.replaceChildren(drawn("line", { x1: x, x2: x, y1: EDGE.top, y2: scale.height - EDGE.bottom }));
    tip.replaceChildren(make("b", "", `Step ${step.toLocaleString("en")}`));
    for (const line of shown.lines) {
      const at = nearest(line.xs, step);
      if (at < 0 || line.ys[at] === null || line.ys[at] === undefined) continue;
      const away = line.xs[at] === step ? "" : ` at ${line.xs[at].toLocaleString("en")}`;
      const row = make("span", `of ${line.tone}${line.faint ? " faint" : ""}`, `${line.name}${away} `);
      row.append(make("i", "", asNumber(line.ys[at])));
      tip.append(row);
      cross.append(drawn("circle", { class: `dot ${line.tone}`, cx: scale.toX(line.xs[at]), cy: scale.toY(line.ys[at]), r: 3.5 }));
    }
    tip.hidden = false;
    const room = node.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(0, Math.min(room, x + 14 > room ? x - tip.offsetWidth - 14 : x + 14))}px`;
  };
  const leave = () => {
    place = null;
    tip.hidden = true;
    svg.querySelector(".cross")?.replaceChildren();
  };
  node.addEventListener("pointermove", (event) => {
    const xs = shown && scale ? finest().xs : [];
    if (!xs.length) return;
    const box = node.getBoundingClientRect();
    const step = ((event.clientX - box.left - EDGE.left) / (scale.width - EDGE.left - EDGE.right)) * scale.last;
    point(xs[nearest(xs, step)]);
  });
  node.addEventListener("pointerleave", leave);
  node.addEventListener("blur", leave);
  node.addEventListener("keydown", (event) => {
    const xs = shown ? finest().xs : [];
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -Math.ceil(xs.length / 20), PageDown: Math.ceil(xs.length / 20), Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") return leave();
    if (!move || !xs.length) return;
    event.preventDefault();
    const at = place === null ? (move > 0 ? -1 : xs.length) : nearest(xs, place);
    point(xs[Math.max(0, Math.min(xs.length - 1, at + move))]);
  });
  new ResizeObserver(() => draw()).observe(node);
  return { node, draw };
};

// A curve of a few points without axes, for a list.
const sparkline = (lines) => {
  const svg = drawn("svg", { class: "spark", viewBox: "0 0 120 32", "aria-hidden": "true", preserveAspectRatio: "none" });
  const values = lines.flatMap((line) => line.points.map(([, value]) => value)).filter((each) => each !== null);
  const last = Math.max(1, ...lines.flatMap((line) => line.points.map(([step]) => step)));
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  for (const { tone, points } of lines) {
    const path = pathOf(points.map(([step]) => step), points.map(([, value]) => value), (step) => 2 + (step / last) * 116, (value) => 29 - ((value - low) / span) * 26);
    svg.append(drawn("path", { class: `line ${tone}`, d: path }));
  }
  return svg;
};
