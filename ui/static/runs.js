// The list of runs with small curves; several laid over each other, with what their recipes differ in and what they answer. Every
// text of models, data and names is set as text.

const VIEWS = { tests: "Held-out loss", curve: "Training loss" };

const trouble = make("p", "trouble");
trouble.setAttribute("role", "alert");
const head = make("header");
const space = make("p", "space");
head.append(make("h2", "", "Runs"), space);
const hint = make("p", "lead");
const list = make("ul", "list");
const sideBySide = make("section", "compared");
const chart = makeChart("Losses of the chosen runs");
const comparedHead = make("h3");
const legend = make("p", "legend");
const details = make("div", "side-by-side");
let view = "tests";
const views = makeViews(VIEWS, (key) => {
  view = key;
  plot();
});
const chartHead = make("div", "curves-head");
chartHead.append(views, legend);
sideBySide.append(comparedHead, chartHead, chart.node, details);
element.replaceChildren(head, trouble, hint, list, sideBySide);

let rows = [];
const marked = new Set();
let sure = null;  // the run that is about to be deleted, with what that takes away
let compared = null;
let asked = 0;

const act = (name, run) => {
  window.guanacoAction = { run };
  trigger(name);
};
const tried = makeTried(trouble, "The app does not answer. This looks again by itself.");

const rowOf = (run) => {
  const item = make("li", run.status);
  item.dataset.run = run.name;
  const check = make("input");
  check.type = "checkbox";
  check.checked = marked.has(run.name);
  check.setAttribute("aria-label", `Compare ${run.id}`);
  check.addEventListener("change", () => {
    marked[check.checked ? "add" : "delete"](run.name);
    for (const name of marked) if (marked.size > props.most && name !== run.name) marked.delete(name);
    list.querySelectorAll("input").forEach((each) => { each.checked = marked.has(each.closest("li").dataset.run); });
    compare();
  });
  const name = make("div", "name");
  const state = make("span", "state", PHASES[run.status] || run.status);
  name.append(button("link", run.id, () => act("open_run", run.name)), make("small", "", [run.base, run.data].filter(Boolean).join(" · ")));
  const facts = make("div", "facts");
  const made = run.steps && run.step < run.steps ? `${run.step.toLocaleString("en")} of ${asCount(run.steps, "step")}` : asCount(run.step, "step");
  facts.append(state, make("span", "", made));
  const losses = make("div", "losses");
  if (run.held_out) losses.append(make("span", "", asChange(...run.held_out, run.tests.length)), make("small", "", "held-out loss"));
  else if (run.loss !== null) losses.append(make("span", "", asNumber(run.loss)), make("small", "", "training loss"));
  const aside = make("div", "aside");
  aside.append(make("span", "", asWhen(run.when)), make("small", "", asBytes(run.bytes)));
  const spark = sparkline([{ tone: "train", points: run.curve }, { tone: "held", points: run.tests }]);
  const acts = make("div", "acts");
  if (sure?.run === run.name) {
    acts.append(button("danger", "Delete it", () => remove(run)), button("quiet", "Keep it", () => {
      sure = null;
      draw();
    }));
    item.append(check, name, facts, losses, spark, aside, acts, make("p", "warning", sure.text));
  } else {
    acts.append(button("quiet", "Clone", () => act("clone_run", run.name)));
    const away = button("quiet", "Delete", () => remove(run));
    away.disabled = UNDER_WAY.includes(run.status);
    away.title = away.disabled ? "It is under way: stop it first" : "";
    acts.append(away);
    item.append(check, name, facts, losses, spark, aside, acts);
  }
  return item;
};

// The first press asks what that takes away.
const remove = async (run) => {
  const really = sure?.run === run.name;
  const said = await tried(() => askServer("finetune_delete", run.name, really));
  sure = said && !said.deleted ? said : null;
  if (said?.deleted) {
    marked.delete(run.name);
    compare();
  }
  draw();
  if (said && !said.deleted) list.querySelector(".danger")?.focus();
  look();
};

const drawList = makeDraw(list, "run", () => rows.map(rowOf));
const draw = () => {
  hint.hidden = rows.length > 0;
  drawList(JSON.stringify([rows, sure]));
};

// `own` where a person asked for it; the list asks by itself where it tells of news.
const compare = async (own = true) => {
  const names = [...marked];
  asked += 1;
  const mine = asked;
  if (!names.length) {
    compared = null;
    sideBySide.hidden = true;
    return;
  }
  const said = await tried(() => askServer("finetune_compare", names), own);
  if (!said || mine !== asked) return;
  compared = said;
  sideBySide.hidden = false;
  comparedHead.textContent = names.length > 1 ? `${names.length} runs over each other` : "One run; mark another to lay it over this one";
  plot();
  redraw(details, [...(names.length > 1 ? [recipesOf(said)] : []), ...(said.answers.length ? [answersOf(said)] : [])]);
};

const plot = () => {
  if (!compared) return;
  views.querySelectorAll("button").forEach((each) => each.setAttribute("aria-pressed", String(each.dataset.view === view)));
  const lines = compared.runs.map((run, at) => ({
    name: run.id, tone: `tone-${at}`, dots: view === "tests", xs: run[view].map(([step]) => step), ys: run[view].map(([, loss]) => loss),
  }));
  const end = Math.max(1, ...lines.flatMap((line) => line.xs.at(-1) || 0));
  const summary = `${VIEWS[view]}. ` + lines.filter((line) => line.xs.length)
    .map((line) => `${line.name}: from ${asNumber(line.ys[0])} to ${asNumber(line.ys.at(-1))} at step ${line.xs.at(-1)}.`).join(" ");
  chart.draw({ lines, last: end, summary });
  legend.replaceChildren(...lines.map((line) => make("span", `of ${line.tone}`, line.xs.length ? line.name : `${line.name}: none`)));
};

const heads = (runs) => runs.map((run, at) => make("th", `of tone-${at}`, run.id));
const tableOf = (caption, first, runs, body) => {
  const table = make("table", "figures");
  const head = make("tr");
  head.append(make("th", "", first), ...heads(runs));
  table.append(make("caption", "", caption), head, ...body);
  const box = make("div", "scrolls");
  box.append(table);
  return box;
};
const recipesOf = ({ runs, recipes }) => {
  if (!recipes.length) return make("p", "lead", "Their recipes are the same.");
  return tableOf("What their recipes differ in", "", runs, recipes.map(({ key, title, values }) => {
    const row = make("tr");
    const name = make("th", "", title);
    name.scope = "row";
    name.append(make("small", "", key));
    row.append(name, ...values.map((value) => make("td", "", value)));
    return row;
  }));
};
const answersOf = ({ runs, answers }) => {
  const box = make("div", "answers-of");
  box.append(make("h3", "", "What they answer"));
  for (const { prompt, runs: told } of answers) {
    const card = make("article");
    const sides = make("div", "sides");
    const base = told.find((each) => each?.[0].step === 0)?.[0];
    if (base) {
      const side = make("div");
      side.append(make("small", "", "Before training"), make("p", base.text ? "" : "none", base.text || "It said nothing."));
      sides.append(side);
    }
    told.forEach((each, at) => {
      const side = make("div");
      const end = each?.at(-1);
      const called = make("small", `of tone-${at}`, `${runs[at].id}${end ? `, step ${end.step.toLocaleString("en")}` : ""}`);
      side.append(called, make("p", end?.text ? "" : "none", end ? end.text || "It said nothing." : "Not asked."));
      sides.append(side);
    });
    card.append(make("h4", "", prompt), sides);
    box.append(card);
  }
  return box;
};

// What the list tells of those that are laid over each other.
const toldOfMarked = () => JSON.stringify(rows.filter((run) => marked.has(run.name)));

const look = makeLook(element, async () => {
  const said = await tried(() => askServer("finetune_runs"), false);
  if (said) {
    const before = toldOfMarked();
    rows = said.runs;
    hint.textContent = said.off || "No runs yet. Each run you train is kept here, with its curve, its recipe and its answers.";
    space.textContent = rows.length ? `${asBytes(said.bytes)} on disk, ${asBytes(said.free)} free` : "";
    for (const name of marked) if (!rows.some((run) => run.name === name)) marked.delete(name);
    draw();
    if (toldOfMarked() !== before) compare(false);
  }
  return rows.some((run) => UNDER_WAY.includes(run.status)) ? 4000 : 15000;
});
sideBySide.hidden = true;
look();
