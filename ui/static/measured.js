// What was measured and what is being: a list, and one result or two beside each other, with what was published. Every text of models,
// data and names is set as text.

const trouble = make("p", "trouble");
trouble.setAttribute("role", "alert");
const hint = make("p", "lead");
const list = make("ul", "list");
const result = make("section", "result");
result.hidden = true;
element.replaceChildren(trouble, hint, list, result);

let rows = [];
let marked = [];  // ids, those that are shown
let sure = "";
let asked = 0;
let shown = "";

const tried = makeTried(trouble, "The app does not answer. A measurement goes on without it; this looks again by itself.");

const acted = async (endpoint, id) => {
  await tried(() => askServer(endpoint, id));
  sure = "";
  look();
};

const actsOf = (row) => {
  const acts = make("div", "acts");
  if (UNDER_WAY.includes(row.status)) {
    acts.append(button("", row.status === "waiting" ? "Leave the line" : "Stop", () => acted("measure_stop", row.id)));
    return acts;
  }
  if (row.status !== "done") acts.append(button("", "Go on", () => acted("measure_resume", row.id)));
  if (sure === row.id) {
    acts.append(button("danger", "Delete it", () => acted("measure_delete", row.id)), button("quiet", "Keep it", () => {
      sure = "";
      draw();
    }));
    return acts;
  }
  acts.append(button("quiet", "Delete", () => {
    sure = row.id;
    draw();
    list.querySelector(".danger")?.focus();
  }));
  return acts;
};

const rowOf = (row) => {
  const item = make("li", row.status);
  item.dataset.id = row.id;
  const check = make("input");
  check.type = "checkbox";
  check.checked = marked.includes(row.id);
  check.setAttribute("aria-label", `Show ${row.what} of ${row.of}`);
  check.addEventListener("change", () => mark(check.checked ? [...marked, row.id].slice(-props.most) : marked.filter((id) => id !== row.id)));
  const name = make("div", "name");
  name.append(button("link", row.of, () => mark([row.id])), make("small", "", row.what || row.id));
  const state = make("div", "facts");
  state.append(make("span", "state", PHASES[row.status] || row.status), make("small", "", asWhen(row.when)));
  const told = make("div", "told");
  if (UNDER_WAY.includes(row.status) && row.fraction !== null && row.fraction !== undefined) {
    const bar = make("progress");
    bar.value = row.fraction;
    bar.setAttribute("aria-label", "Measured so far");
    told.append(bar);
  }
  told.append(make("span", "", row.words || (row.items ? `${row.done.toLocaleString("en")} of ${row.items.toLocaleString("en")}` : "")));
  item.append(check, name, state, told, actsOf(row));
  return item;
};

const drawList = makeDraw(list, "id", () => rows.map(rowOf));
const draw = () => drawList(JSON.stringify([rows, marked, sure]));

const mark = (ids) => {
  marked = ids;
  draw();
  show();
};

// Rows of dots on one scale. The figures stand beside them as text, so that the picture is not needed.
const plotOf = (figure) => {
  const plot = make("div", "plot");
  const legend = make("p", "legend");
  legend.append(...figure.series.map((name, at) => make("span", `of tone-${at}`, name)));
  const asShare = (value) => `${value.toFixed(figure.unit ? 1 : 2)}${figure.unit}`;
  const place = (value) => `${Math.min(100, Math.max(0, (100 * value) / figure.most))}%`;
  for (const row of figure.rows) {
    if (row.head) plot.append(make("p", "head", row.head));
    const line = make("div", "row");
    const track = make("div", "track");
    track.setAttribute("aria-hidden", "true");
    if (figure.chance !== null) {
      const chance = make("i", "chance");
      chance.style.left = place(figure.chance);
      track.append(chance);
    }
    for (const dot of row.dots) {
      if (dot.low !== null) {
        const span = make("i", `span tone-${dot.series}`);
        span.style.left = place(dot.low);
        span.style.width = `calc(${place(dot.high)} - ${place(dot.low)})`;
        track.append(span);
      }
      const point = make("i", `point tone-${dot.series}`);
      point.style.left = place(dot.value);
      point.title = `${figure.series[dot.series]}: ${asShare(dot.value)}`;
      track.append(point);
    }
    const values = make("div", "values");
    values.append(...row.dots.map((dot) => {
      const value = make("span", `of tone-${dot.series}`, asShare(dot.value));
      value.append(make("span", "unseen", ` ${figure.series[dot.series]}`));
      if (dot.low !== null) value.append(make("small", "", ` ${dot.low.toFixed(figure.unit ? 0 : 2)}–${dot.high.toFixed(figure.unit ? 0 : 2)}`));
      return value;
    }));
    line.append(make("div", "what", row.name), track, values);
    plot.append(line);
  }
  const under = [];
  if (figure.chance !== null) under.push(`The dashed line is at ${asShare(figure.chance)}: chance.`);
  if (figure.rows.some((row) => row.dots.some((dot) => dot.low !== null))) under.push("Bars are 95% intervals.");
  if (figure.caption) under.push(figure.caption);
  return [legend, plot, make("p", "under", under.join(" "))];
};

const detailsOf = (one) => {
  const box = make("details");
  box.append(make("summary", "", `${asCount(one.details.length, "single figure")} of ${one.of}`));
  const table = make("table", "figures");
  const head = make("tr");
  head.append(...["", "Share", "95% interval", "Of"].map((text) => make("th", "", text)));
  table.append(head, ...one.details.map((each) => {
    const row = make("tr");
    const percent = (value) => `${(100 * value).toFixed(1)}%`;
    row.append(make("td", "", each.name), make("td", "", percent(each.share)), make("td", "", `${percent(each.low)} – ${percent(each.high)}`), make("td", "", each.of.toLocaleString("en")));
    return row;
  }));
  const scrolls = make("div", "scrolls");
  scrolls.append(table);
  box.append(scrolls);
  return box;
};

const groupsOf = (compared) => {
  const box = make("details");
  box.append(make("summary", "", "By group"));
  const table = make("table", "figures");
  const head = make("tr");
  const ways = Object.keys(Object.values(compared.groups)[0].counted);
  head.append(...["", ...ways.map((way) => way[0].toUpperCase() + way.slice(1)), "p"].map((text) => make("th", "", text)));
  table.append(head, ...Object.entries(compared.groups).map(([name, each]) => {
    const row = make("tr");
    row.append(make("td", "", name.replaceAll("_", " ")), ...ways.map((way) => make("td", "", each.counted[way].toLocaleString("en"))), make("td", "", each.p === null ? "–" : each.p.toPrecision(2)));
    return row;
  }));
  const scrolls = make("div", "scrolls");
  scrolls.append(table);
  box.append(scrolls);
  return box;
};

const partsOf = (said) => {
  const parts = [];
  const head = make("header");
  head.append(make("h2", "", said.measurements[0].what || said.measurements[0].id));
  parts.push(head);
  for (const one of said.measurements) {
    const words = one.words || PHASES[one.status] || one.status;
    parts.push(make("p", "words", said.measurements.length > 1 ? `${one.of}: ${words}` : words));
  }
  if (said.compared) {
    parts.push(make("p", "paired", said.compared.words));
    if (Object.keys(said.compared.groups).length > 1) parts.push(groupsOf(said.compared));
  }
  if (said.figure) parts.push(...plotOf(said.figure));
  for (const one of said.measurements) if (one.details.length) parts.push(detailsOf(one));
  for (const text of new Set(said.measurements.flatMap((one) => [...one.told, ...one.caveats]))) parts.push(make("p", "caveat", text));
  for (const one of said.measurements) {
    const facts = make("p", "made");
    facts.textContent = [one.of, ...one.facts].join(" · ");
    parts.push(facts);
    if (one.status !== "done" && !UNDER_WAY.includes(one.status)) parts.push(make("code", "command", one.command));
  }
  return parts;
};

// `own` where a person asked for it; the list asks by itself where it tells of news.
const show = async (own = true) => {
  asked += 1;
  const mine = asked;
  if (!marked.length) {
    result.hidden = true;
    shown = "";
    return;
  }
  const said = await tried(() => askServer("measure_show", marked), own);
  if (!said || mine !== asked) return;
  const state = JSON.stringify(said);
  result.hidden = false;
  if (state === shown) return;
  shown = state;
  redraw(result, partsOf(said));
};

// What the list tells of those that are shown.
const toldOf = (ids) => JSON.stringify(rows.filter((row) => ids.includes(row.id)).map((row) => [row.id, row.status, row.words]));

const look = makeLook(element, async () => {
  const known = marked;
  const said = await tried(() => askServer("measure_list"), false);
  if (said) {
    const before = toldOf(marked);
    rows = said.rows;
    hint.textContent = said.off || (rows.length ? "" : "Nothing has been measured yet. What you measure is kept here, with what it was made with.");
    hint.hidden = !hint.textContent;
    // What was begun after this list was asked for is not in it yet.
    const there = marked.filter((id) => !known.includes(id) || rows.some((row) => row.id === id));
    if (there.length !== marked.length) mark(there);
    else if (toldOf(marked) !== before) show(false);
    draw();
  }
  return rows.some((row) => UNDER_WAY.includes(row.status)) ? 1000 : 10000;
});
const opened = () => {
  if (!props.value?.open) return;
  marked = props.value.open.slice(-props.most);
  show();
  look();
};
watch("value", opened);
if (props.value?.open) opened();
else look();
