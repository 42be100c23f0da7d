// Two answers side by side: the prompt that both answer, a column for each, and the buttons that keep one of them. The
// comparison is the browser's: it goes to the server with every action and comes back with the answers.

const KEPT = "guanaco-comparison";
const NAMES = ["A", "B"];
const hint = make("p", "hint", "One prompt, two answers. Choose for each side the model and the adapters that it is made with, and write a message.");
const earlier = make("p", "earlier");
const shared = makeLog("What both sides answer");
const row = make("div", "sides");
const columns = Object.fromEntries(NAMES.map((name, at) => {
  const side = make("section", "side");
  const title = make("h3");
  const turns = makeLog(`Answers of side ${name}`);
  const keep = make("button", "keep", `Keep ${name} as the conversation`);
  keep.type = "button";
  keep.addEventListener("click", () => act("keep_side", { side: at }));
  side.append(title, turns, keep);
  row.append(side);
  return [name, { title, turns, keep }];
}));
const second = make("div", "second");
const told = make("span");
const giveBack = make("button");
giveBack.type = "button";
giveBack.addEventListener("click", () => trigger("unload_second"));
second.append(told, giveBack);
row.hidden = second.hidden = true;  // until there is something
const view = makeScroller("Comparison", hint, earlier, shared, row);
element.replaceChildren(...view.nodes, second);

const busy = () => document.body.dataset.comparing === "true";
const act = (name, action) => {
  if (busy()) return;
  whenIdle(() => begin(name, action));
};

const draw = (article, turn) => drawMessage(article, turn, turn.text === undefined ? null : () => {
  const bar = make("div", "actions");
  bar.append(iconButton("copy", "Copy message", (button) => copied(button, turn.text)));
  return bar;
});

const update = () => {
  const value = props.value;
  if (!value || !value.columns) return;
  const ended = busy() && !value.busy;
  document.body.dataset.comparing = String(Boolean(value.busy));
  if (value.comparison) {
    window.guanacoComparison = value.comparison;
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(value.comparison));
    } catch {}  // no room: it lives as long as the page
  }
  if (value.shared) {
    hint.hidden = value.shared.length > 0 || Object.values(value.columns).some((each) => each.turns.length);
    row.hidden = !hint.hidden;
    earlier.textContent = value.earlier;
    earlier.hidden = !value.earlier;
    patchTurns(shared, value.shared, 0, draw);
  }
  if (value.second !== undefined) {
    second.hidden = !value.second;
    told.textContent = value.second?.text;
    giveBack.textContent = `Unload ${value.second?.model}`;
  }
  if (value.taken) {
    view.follow = true;
    trigger(value.taken === "chat" ? "chat_taken" : "box_taken");
  }
  for (const [name, column] of Object.entries(value.columns)) {
    const { title, turns, keep } = columns[name];
    if (column.title !== undefined) title.textContent = column.title;
    patchTurns(turns, column.turns, column.keep || 0, draw);
    keep.disabled = Boolean(value.busy);
    keep.hidden = column.kept === undefined ? keep.hidden : !column.kept;
  }
  view.grown();
  if (ended) backToBox("#compare-stop", "#compare-message");
};
watch("value", update);
update();

// At once, without the server: what somebody types next is of the new one. The host makes a new one where it is given none.
window.guanacoNewComparison = ({ comparison, ...empty }) => {
  window.guanacoComparison = null;
  try {
    sessionStorage.removeItem(KEPT);
  } catch {}
  return { ...empty, stamp: Math.random() };
};

window.guanacoCompared = () => {
  if (!busy()) return;
  document.body.dataset.comparing = "false";
  element.querySelectorAll(".live").forEach(brokeOff);
};
whileAnswering("comparing", "#compare-message", window.guanacoCompared);

try {
  const kept = JSON.parse(sessionStorage.getItem(KEPT));
  if (kept && !window.guanacoComparison) {
    window.guanacoComparison = kept;
    trigger("restore_comparison");
  }
} catch {}
