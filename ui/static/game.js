// The blind game: the server draws what is on the board; this picks, keys and hands each action on. Nothing here knows a key to
// the answers before the server tells it.

const KEPT = "guanaco-game";
const STEPS = ["guess", "confidence", "preference"];
const board = make("div", "table");
const told = make("p", "told");
told.setAttribute("role", "status");
element.replaceChildren(told, board);
copiesCode(board);

let session = "";
try {
  session = localStorage.getItem(KEPT) || "";
} catch {}  // without storage a game lives as long as the page
let busy = false;
let picks = {};

const act = (name, action = {}) => {
  if (busy) return;
  busy = true;
  window.guanacoAction = { session, ...action };
  trigger(name);
};
window.guanacoGameDone = (failed) => {
  busy = false;
  if (failed && board.dataset.phase === "working") act("open_game");  // the message says why, and the way goes on
};

const find = (selector) => board.querySelector(selector);
const game = () => find("[data-game]")?.dataset.game || "";
const press = (selector) => {
  const button = find(selector);
  if (button && !button.disabled) button.click();
  return Boolean(button);
};

const mark = () => {
  for (const step of STEPS) {
    board.querySelectorAll(`[data-${step}]`).forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset[step] === picks[step])));
  }
  const next = STEPS.find((step) => picks[step] === undefined);
  board.querySelectorAll(".ask").forEach((ask) => ask.classList.toggle("now", ask.dataset.step === next));
  board.querySelectorAll(".answer").forEach((answer) => answer.classList.toggle("picked", answer.dataset.side === picks.guess));
  if (find("[data-act=reveal]")) {
    find("[data-act=reveal]").disabled = Boolean(next);
    find("[data-act=undo]").disabled = next === STEPS[0];
  }
};
const pick = (step, value) => {
  picks[step] = value;
  mark();
};
const undo = () => {
  const last = [...STEPS].reverse().find((step) => picks[step] !== undefined);
  delete picks[last];
  mark();
};

const ACTS = {
  reveal: () => act("guess_round", { round: find("[data-round]").dataset.round, guess: picks.guess, confidence: Number(picks.confidence), preference: picks.preference }),
  skip: () => act("skip_round", { round: find("[data-round]").dataset.round }),
  undo,
  next: () => act("next_round", { game: game() }),
  card: () => act("show_card", { game: game() }),
  leave: () => act("show_card", { game: game() }),
  again: () => act("open_game"),
  resume: () => act("resume_game"),
  fetch: () => act("fetch_answers"),
  stop: () => trigger("stop_duel"),
};

// What another tab has just made is what is to be played.
window.guanacoPlay = () => act("open_game");
const chooseMade = () => {
  const made = [...board.querySelectorAll("input[name=deck]")].find((each) => each.value === window.guanacoDeck);
  if (made) made.checked = true;
};

// What the chosen deck allows: lengths and categories.
const offer = () => {
  const chosen = find("input[name=deck]:checked");
  if (!chosen) return;
  const names = Object.keys(JSON.parse(chosen.dataset.categories));
  const box = find(".categories .picks");
  box.replaceChildren(...names.map((name) => {
    const label = make("label");
    const input = make("input");
    input.type = "checkbox";
    input.name = "category";
    input.value = name;
    label.append(input, make("span", "", name));
    return label;
  }));
  find(".categories").hidden = names.length < 2;
  find(".catches").hidden = chosen.dataset.catches === "0";
  offerLengths();
};
const offerLengths = () => {
  const deck = find("input[name=deck]:checked").dataset;
  const chosen = [...board.querySelectorAll("input[name=category]:checked")].map((each) => each.value);
  find(".categories summary span").textContent = chosen.join(", ") || "all";
  const counts = JSON.parse(deck.categories);
  const count = chosen.length ? chosen.reduce((sum, name) => sum + counts[name], 0) : Number(deck.count);
  const before = find("input[name=length]:checked")?.value;
  const lengths = props.limits.lengths.filter((each) => each <= count);
  find(".lengths").replaceChildren(...(lengths.length ? lengths : [count]).map((length, at) => {
    const label = make("label");
    const input = make("input");
    input.type = "radio";
    input.name = "length";
    input.value = length;
    input.checked = before === String(length) || at === 0;
    label.append(input, make("span", "", String(length)));
    return label;
  }));
};

// A file as text. What is too large or no UTF-8 is told before anything is sent.
const text = async (input) => {
  if (!input.files.length) return "";
  const file = input.files[0];
  const most = props.limits.bytes;
  if (file.size > most) throw `${file.name} has ${file.size.toLocaleString()} bytes; the limit is ${most.toLocaleString()}.`;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw `${file.name} is not UTF-8. Save it as UTF-8 and try again.`;
  }
};
const FORMS = {
  begin: (form) => {
    const data = new FormData(form);
    act("begin_game", {
      deck: data.get("deck"), length: Number(data.get("length")), mode: data.get("mode"), categories: data.getAll("category"),
      catches: data.get("catches") !== null, player: data.get("player"),
    });
  },
  add: async (form) => {
    const [first, second, questions] = await Promise.all([form.first, form.second, form.questions].map(text));
    act("add_deck", { first_name: form.first.files[0].name, first, second_name: form.second.files[0].name, second, questions, skip_bad: form.skip_bad.checked });
  },
  replay: async (form) => act("open_replay", { replay: await text(form.replay), player: find("input[name=player]").value }),
  duel: (form) => act("begin_duel", Object.fromEntries(new FormData(form))),
};

board.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  for (const step of STEPS) if (button.dataset[step] !== undefined) return pick(step, button.dataset[step]);
  if (button.dataset.act) ACTS[button.dataset.act]();
});
board.addEventListener("submit", (event) => {
  event.preventDefault();
  Promise.resolve(FORMS[event.target.dataset.form](event.target)).catch((error) => { told.textContent = String(error); });
});
board.addEventListener("change", (event) => {
  if (event.target.name === "deck") offer();
  if (event.target.name === "category") offerLengths();
});

document.addEventListener("keydown", (event) => {
  if (!element.isConnected || !element.offsetParent || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  if (event.target.closest("input:not([type=radio]):not([type=checkbox]), textarea, select, summary, [role=tab]")) return;
  const key = event.key.toLowerCase();
  const onButton = event.target.closest("button:not([data-guess], [data-confidence], [data-preference]), a");
  if (key === "enter" && !onButton) return void (press("[data-act=reveal], [data-act=next], [data-act=card], [data-act=again]") && event.preventDefault());
  if (!find(".round")) return;
  const side = { a: "left", b: "right" }[key];
  if (side) pick(picks.guess === undefined || picks.confidence === undefined ? "guess" : "preference", side);
  else if (/^[1-5]$/.test(key)) board.querySelectorAll("[data-confidence]")[Number(key) - 1].click();
  else if (key === "t") pick("preference", "tie");
  else if (key === "n") pick("preference", "both bad");
  else if (key === "u") undo();
  else if (key === "s") press("[data-act=skip]");
});

const update = () => {
  const value = props.value;
  if (!value || value.html === undefined) return;
  busy = false;
  session = value.session || session;
  try {
    localStorage.setItem(KEPT, session);
  } catch {}
  const phase = board.dataset.phase;
  board.innerHTML = value.html;  // every text in it was escaped or rendered by the server
  board.dataset.phase = value.phase;
  told.textContent = value.told || "";
  picks = {};
  if (value.phase === "setup") {
    chooseMade();
    offer();
  }
  mark();
  if (phase && phase !== value.phase || value.phase === "round") element.scrollIntoView({ block: "nearest" });
  if (phase && value.phase !== "working") {
    board.tabIndex = -1;
    board.focus({ preventScroll: true });
  }
};
watch("value", update);
update();
if (!props.value || props.value.html === undefined) act("open_game");
