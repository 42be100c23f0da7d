// The live view of one run. It asks for the events that it has not seen, about once a second while the run is under way and on the
// screen, and keeps what it was told; every text of models, data and names is set as text. From a run that is done a way leads on.

const KEPT = "guanaco-run";
const VIEWS = { loss: "Loss", learning_rate: "Learning rate", grad_norm: "Gradient norm" };

const figure = (name) => {
  const node = make("div", "figure");
  const value = make("dd");
  node.append(make("dt", "", name), value);
  return { node, value };
};

// What stays the same for every run is made once.
const hint = make("p", "lead");
const trouble = make("p", "trouble");
trouble.setAttribute("role", "alert");
const other = make("p", "other");
const title = make("h2");
const about = make("p", "about");
const chip = make("span", "state");
chip.setAttribute("role", "status");
const acts = make("div", "acts");
const head = make("header");
const names = make("div");
names.append(title, about);
head.append(names, acts);
const doing = make("p", "doing");
const counted = make("div", "counted");
const count = make("b");
const left = make("span");
counted.append(chip, count, left);
const bar = make("progress");
bar.setAttribute("aria-label", "Steps made");
const figures = make("dl", "figures-row");
const FIGURES = Object.fromEntries([
  ["held", "Held-out loss"], ["loss", "Training loss"], ["pace", "Tokens a second"], ["memory", "Memory"], ["epoch", "Epoch"],
].map(([key, name]) => [key, figure(name)]));
figures.append(...Object.values(FIGURES).map((each) => each.node));

const chart = makeChart("Curves of the run");
const curves = make("section", "curves");
const legend = make("p", "legend");
let view = "loss";
const views = makeViews(VIEWS, (key) => {
  view = key;
  plot();
});
const numbers = makeNumbers(() => run);
const curvesHead = make("div", "curves-head");
curvesHead.append(views, legend);
curves.append(curvesHead, chart.node, numbers.node);

const findings = makeFindings();
const watching = makeWatching();
const log = makeLog();
const commands = makeCommands();
const output = make("details", "output");
const outputText = make("pre");
output.append(make("summary", "", "Its last words"), outputText);
const page = make("div", "of-run");
page.append(head, counted, bar, doing, figures, curves, findings.node, watching.node, output, log.node, commands.node);
element.replaceChildren(trouble, other, hint, page);

const fresh = (name) => ({
  name, offset: 0, phase: "", steps: { step: [], loss: [], grad_norm: [], learning_rate: [], epoch: [] }, tests: [], samples: new Map(), log: [],
  logged: 0, started: null, now: null, saved: 0, doing: null, findings: [], heard: 0,
});
let run = fresh("");
let chosen = "";  // the run that was opened on purpose
try {
  chosen = sessionStorage.getItem(KEPT) || "";
} catch {}
let silent = 0;
let acting = "";
let sure = false;
let failure = "";
// Where it may pass by itself, it is told for a while.
const fail = (text, passing) => {
  failure = text;
  setText(trouble, text);
  if (passing) setTimeout(() => { failure = failure === text ? "" : failure; }, 8000);
};
let watched = false;  // this run was seen under way

const underWay = () => UNDER_WAY.includes(run.phase);
const shortly = (path) => (path.startsWith("/") ? path.split("/").pop() : path);
const lastStep = () => run.steps.step.at(-1) || run.started?.resumed_from || 0;
const total = () => run.started?.steps || 0;

// Steps that a resumed run makes again are forgotten.
const forget = (after) => {
  let keep = run.steps.step.length;
  while (keep && run.steps.step[keep - 1] > after) keep--;
  for (const values of Object.values(run.steps)) values.length = keep;
  run.tests = run.tests.filter(([step]) => step <= after);
  for (const byStep of run.samples.values()) for (const step of [...byStep.keys()]) if (step > after) byStep.delete(step);
  run.saved = Math.min(run.saved, after);
};

const take = (said) => {
  if (said.again || said.run !== run.name) run = fresh(said.run);
  if (said.resumed_from !== null) forget(said.resumed_from);
  const made = said.steps.step.length > 0;
  for (const [name, values] of Object.entries(run.steps)) for (const value of said.steps[name]) values.push(value);
  run.tests.push(...said.tests);
  for (const [step, prompt, text] of said.samples) {
    if (!run.samples.has(prompt)) run.samples.set(prompt, new Map());
    run.samples.get(prompt).set(step, text);
  }
  run.logged += said.log.length;
  run.log = [...run.log, ...said.log].slice(-LOG_LINES);
  if (said.started) run.started = said.started;
  if (said.now) run.now = said.now;
  if (said.saved !== null) run.saved = said.saved;
  if (said.doing) run.doing = said.doing.text ? said.doing : null;
  const changed = { curves: made || said.tests.length > 0 || said.resumed_from !== null || said.started, answers: said.samples.length > 0 || said.resumed_from !== null };
  for (const name of ["id", "offset", "phase", "waiting", "resume_from", "other", "base", "data", "commands", "output"]) run[name] = said[name];
  if (said.findings) run.findings = said.findings;
  run.heard = performance.now() - 1000 * said.age;
  return changed;
};

const setText = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

const show = (changed) => {
  hint.hidden = Boolean(run.name);
  page.hidden = !run.name;
  other.hidden = !run.other;
  if (run.other && other.dataset.run !== run.other) {
    other.dataset.run = run.other;
    other.replaceChildren(make("span", "", `${run.other} is under way. `), button("link", "Show it", () => turn(run.other)));
  }
  if (!run.name) return;
  setText(title, run.id);
  setText(about, [run.base, run.data].filter(Boolean).map(shortly).join(" · "));
  about.title = [run.base, run.data].filter(Boolean).join("\n");
  page.dataset.phase = run.phase;
  setText(chip, acting === "stop" && underWay() ? "Saving" : PHASES[run.phase] || run.phase);
  press();
  const told = [];
  if (run.phase === "waiting" && run.waiting) told.push(`${run.waiting.holder} has the machine. Place ${run.waiting.place} in line.`);
  else if (underWay() && run.doing) told.push(`${run.doing.text}${run.doing.fraction ? `, ${Math.round(100 * run.doing.fraction)}%` : ""} …`);
  else if (run.phase === "training" && !run.steps.step.length) told.push("Tests and sample answers before training, then the first step …");
  else if (run.phase === "training" && lastStep() === total()) told.push("All steps are made. The last tests and sample answers, then the adapter …");
  else if (run.phase === "starting") told.push("Its process starts up …");
  else if (run.phase === "interrupted") told.push("Its process ended without a word, as when it is killed or the machine restarts.");
  else if (!underWay() && run.log.length) told.push(run.log.at(-1).text);
  setText(doing, told.join(" "));
  doing.hidden = !told.length;
  const [first, latest] = [run.tests[0], run.tests.at(-1)];
  setText(FIGURES.held.value, latest ? asChange(first[1], latest[1], run.tests.length) : "–");
  setText(FIGURES.loss.value, asNumber(smoothed().at(-1)));
  setText(FIGURES.pace.value, run.now ? asNumber(run.now.tokens_per_second) : "–");
  setText(FIGURES.memory.value, run.now ? asBytes(run.now.memory) : "–");
  setText(FIGURES.epoch.value, run.steps.epoch.length ? run.steps.epoch.at(-1).toFixed(2) : "–");
  figures.hidden = curves.hidden = !run.steps.step.length && !run.tests.length;
  tick();
  if (changed.curves) plot();
  if (changed.answers) watching.draw(run.samples);
  findings.draw(run.findings);
  log.draw(run.name, run.log, run.logged);
  commands.draw(run.commands || []);
  output.hidden = !run.output;
  setText(outputText, run.output || "");
};

// Between two steps, which may take long, the bar and the time left go on by the clock.
const tick = () => {
  const step = lastStep();
  const steps = total();
  counted.classList.toggle("bare", !steps);
  bar.hidden = !steps;
  let done = step;
  let remaining = null;
  if (run.phase === "training" && run.now && run.steps.step.length && steps > step) {
    const since = (performance.now() - run.heard) / 1000;
    const each = run.now.eta_seconds / (steps - step);
    done += Math.min(0.95, each ? since / each : 0);
    remaining = Math.max(run.now.eta_seconds - since, each * 0.05);
  }
  setText(count, steps ? `Step ${step.toLocaleString("en")} of ${steps.toLocaleString("en")}` : "");
  setText(left, remaining === null ? "" : `about ${asTime(remaining)} left`);
  if (steps) {
    bar.max = steps;
    bar.value = done;
    bar.title = `${((100 * step) / steps).toFixed(1)}%`;
  }
};

const smoothed = () => {
  const losses = run.steps.loss;
  const share = 2 / (1 + Math.max(3, Math.min(100, losses.length / 20)));
  let mean = 0;
  let weight = 0;
  return losses.map((loss) => {
    mean += share * (loss - mean);
    weight += share * (1 - weight);
    return mean / weight;
  });
};

const plot = () => {
  views.querySelectorAll("button").forEach((each) => each.setAttribute("aria-pressed", String(each.dataset.view === view)));
  const { step } = run.steps;
  const lines = view === "loss"
    ? [
      { name: "One step", tone: "train", faint: true, xs: step, ys: run.steps.loss },
      { name: "Training, smoothed", tone: "train", xs: step, ys: smoothed() },
      { name: "Held-out rows", tone: "held", dots: true, xs: run.tests.map(([at]) => at), ys: run.tests.map(([, loss]) => loss) },
    ]
    : [{ name: VIEWS[view], tone: "train", xs: step, ys: run.steps[view] }];
  // The right end moves out by doubling, so that the picture holds still meanwhile.
  let last = total() || lastStep();
  while (last / 2 >= lastStep() && last > 20) last /= 2;
  const summary = `${VIEWS[view]} over ${asCount(lastStep(), "step")}. ` + lines.filter((line) => !line.faint && line.ys.length)
    .map((line) => `${line.name}: ${asNumber(line.ys[0])} at step ${line.xs[0]}, ${asNumber(line.ys.at(-1))} at step ${line.xs.at(-1)}.`).join(" ");
  chart.draw({ lines, last, summary });
  legend.replaceChildren(...lines.filter((line) => line.xs.length).map((line) => make("span", `of ${line.tone}${line.faint ? " faint" : ""}`, line.name)));
  numbers.draw();
};

// The buttons that fit: they stay the same nodes while nothing changes, so that focus is not lost.
const press = () => {
  const lost = Math.max(0, lastStep() - run.saved);
  const wanted = underWay()
    ? [
      ["finetune_stop", run.phase === "waiting" ? "Leave the line" : acting === "stop" ? "Saving …" : "Stop and save", "", acting === "stop"],
      ["finetune_kill", sure ? `${lost ? `The last ${asCount(lost, "step")} will be lost` : "Nothing is lost"}: press again` : "End at once", sure ? "danger" : "quiet", false],
    ]
    : run.resume_from !== null && run.phase
      ? [["finetune_resume", run.resume_from ? `Resume from step ${run.resume_from.toLocaleString("en")}` : "Resume from the beginning", "primary", acting === "resume"]]
      : run.phase === "done" ? [["try", "Try it", "primary", false]] : [];
  const marked = JSON.stringify(wanted);
  if (acts.dataset.of === marked) return;
  acts.dataset.of = marked;
  const had = acts.contains(document.activeElement) ? document.activeElement.dataset.act : "";
  acts.replaceChildren(...wanted.map(([act, text, className, disabled]) => {
    const node = button(className, text, () => pressed(act));
    node.dataset.act = act;
    node.disabled = disabled;
    return node;
  }));
  acts.querySelector(`[data-act=${had || "none"}]`)?.focus();
};
const pressed = async (act) => {
  if (act === "try") {
    window.guanacoAction = { run: run.name };
    return trigger("try_run");
  }
  if (act === "finetune_kill" && !sure) {
    sure = true;
    setTimeout(() => {
      sure = false;
      press();
    }, 6000);
    return press();
  }
  sure = false;
  acting = act.replace("finetune_", "");
  failure = "";
  press();
  try {
    await askServer(act, run.name);
    if (acting !== "stop") acting = "";  // saving takes a while, and is over when the run says so
  } catch (error) {
    acting = "";
    fail(error.told ? error.message : "The app does not answer. Try again in a moment.", !error.told);
  }
  look();
};

const look = makeLook(element, async () => {
  const name = chosen || run.name;
  let wait = 5000;
  try {
    const said = await askServer("finetune_follow", name, name === run.name ? run.offset : 0);
    silent = 0;
    if (name !== (chosen || run.name)) return 0;  // turned to another meanwhile
    if (!said.run) {
      run = fresh("");
      hint.textContent = "Nothing has been trained here yet. A run that you start shows itself here as it learns.";
      show({});
    } else {
      const before = run.phase;
      const another = said.run !== run.name;
      const changed = take(said);
      if (run.phase !== before) acting = acting === "stop" && underWay() ? acting : "";
      if (another) {
        watching.follow();
        changed.curves = changed.answers = true;
      }
      show(changed);
      wait = said.more ? 0 : underWay() ? 1000 : 5000;
      // One that was seen to end stays on the screen, with a way to the next.
      watched = watched || underWay();
      if (!chosen && !watched && run.other) turn(run.other, false);
    }
    setText(trouble, failure);
  } catch (error) {
    silent += 1;
    if (error.told) {  // it was deleted, or never was
      run = fresh("");
      turn("", false);
      fail(error.message, true);
    } else setText(trouble, silent > 1 ? "The app does not answer. A run goes on without it; this looks again by itself." : trouble.textContent);
    wait = Math.min(5000, 1000 * silent);
  }
  return name === (chosen || run.name) ? wait : 0;
});

// Turn to a run; without a name to the one under way, else the latest.
const turn = (name, keep = true) => {
  chosen = keep ? name : "";
  try {
    sessionStorage.setItem(KEPT, chosen);
  } catch {}
  if (!keep && name) run = fresh(name);
  failure = acting = "";
  sure = watched = false;
  look();
};

const clock = setInterval(() => {
  if (!element.isConnected) clearInterval(clock);
  else if (run.phase === "training" && element.offsetParent) tick();
}, 1000);
const update = () => {
  if (!props.value?.open) return;
  turn(props.value.open);
  if (element.getBoundingClientRect().top < 0) element.scrollIntoView();
};
watch("value", update);
page.hidden = other.hidden = true;
if (props.value?.open) update();
else look();
