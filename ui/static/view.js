// The conversation on the screen: draws the turns that the server rendered, patches what changed, and tells the server
// what a person does with a turn.

const welcome = make("div", "welcome");
const turns = makeLog("Messages");
const view = makeScroller("Conversation", welcome, turns);
element.replaceChildren(...view.nodes);

// What is pressed while a change is on its way is done after it, each once.
const SEND = "send";
const pending = new Map();
const afterChange = (key, then) => {
  const mine = Symbol(key);
  pending.set(key, mine);
  whenEnded(() => {
    if (pending.get(key) !== mine) return;
    pending.delete(key);
    then();
  });
};
// The text that it gives back goes into the box.
const undoing = () => document.body.dataset.changing === "undo_message" || pending.has("undo_message");

const act = (name, action) => {
  const { answering, leaving } = document.body.dataset;
  if (answering === "true" || leaving || (name === "undo_message" && undoing())) return false;
  const key = name === "give_thumb" ? `${name} ${action.turn} ${Boolean(action.text)}` : name;
  afterChange(key, () => begin(name, action));
  return true;
};

const drawWelcome = () => {
  const { title, text, groups } = props.welcome;
  welcome.append(make("h2", "", title), make("p", "", text));
  for (const group of groups) {
    const section = make("section", "examples");
    section.append(make("h3", "", group.title));
    if (group.note) section.append(make("p", "", group.note));
    const list = make("div", "cards");
    for (const item of group.items) {
      const card = make("button", "card");
      card.type = "button";
      card.append(make("span", "label", item.label), make("span", "prompt", item.text));
      if (item.system) card.append(make("span", "system", `System text: ${item.system}`));
      card.addEventListener("click", () => act("example", { text: item.text, system: item.system || "" }));
      list.append(card);
    }
    section.append(list);
    welcome.append(section);
  }
};
drawWelcome();

const startEdit = (article, turn) => {
  const box = make("div", "editing");
  const area = make("textarea");
  area.value = turn.text;
  area.setAttribute("aria-label", "Edit your message");
  area.rows = Math.min(12, turn.text.split("\n").length + 1);
  const send = make("button", "primary", "Send");
  const cancel = make("button", "", "Cancel");
  send.type = cancel.type = "button";
  const close = () => draw(article, turn);
  const submit = () => {
    if (area.value.trim()) act("edit_message", { turn: turn.id, text: area.value });
  };
  send.addEventListener("click", submit);
  cancel.addEventListener("click", close);
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  });
  const row = make("div", "row");
  row.append(cancel, send);
  box.append(area, row);
  article.replaceChildren(box);
  area.focus();
};

const askReason = (article, turn, thumb) => {
  act("give_thumb", { turn: turn.id, thumb, text: "" });
  if (!thumb) return;
  const form = make("form", "reason");
  const input = make("input");
  input.placeholder = thumb > 0 ? "What was good? (optional)" : "What was wrong? (optional)";
  input.setAttribute("aria-label", input.placeholder);
  input.maxLength = 500;
  const send = make("button", "", "Add");
  send.type = "submit";
  form.append(input, send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!input.value.trim()) return form.remove();
    if (!act("give_thumb", { turn: turn.id, thumb, text: input.value })) return;
    form.replaceChildren(make("span", "", "Thank you. It goes to this host's owner."));
    setTimeout(() => form.remove(), 2500);
  });
  article.querySelectorAll("form.reason").forEach((each) => each.remove());
  article.append(form);
  input.focus();
};

const branches = (turn) => {
  const box = make("span", "branches");
  if (turn.ids.length > 1) {
    const go = (step) => act("show_branch", { turn: turn.ids[turn.at + step] });
    const earlier = iconButton("earlier", "Earlier version", () => go(-1));
    const later = iconButton("later", "Later version", () => go(1));
    earlier.disabled = turn.at === 0;
    later.disabled = turn.at === turn.ids.length - 1;
    const count = make("span", "count", `${turn.at + 1}/${turn.ids.length}`);
    count.setAttribute("aria-label", `Version ${turn.at + 1} of ${turn.ids.length}`);
    box.append(earlier, count, later);
  }
  return box;
};

const actions = (article, turn) => {
  const bar = make("div", "actions");
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "Actions for this message");
  bar.append(branches(turn), iconButton("copy", "Copy message", (button) => copied(button, turn.text)));
  if (turn.role === "user") {
    bar.append(iconButton("edit", "Edit and send again", () => startEdit(article, turn)));
    if (turn.last) bar.append(iconButton("undo", "Take this message back", () => act("undo_message", {})));
    if (turn.unanswered) bar.append(iconButton("retry", "Answer this message", () => act("answer_again", { turn: turn.id })));
    return bar;
  }
  bar.append(iconButton("retry", "Answer again with the settings as they are now", () => act("answer_again", { turn: turn.id })));
  if (turn.last && turn.cut) bar.append(iconButton("on", "Continue this answer", () => act("continue_answer", {})));
  const thumb = (value) => () => askReason(article, turn, turn.thumb === value ? 0 : value);
  bar.append(iconButton("up", "Good answer (goes to this host's owner)", thumb(1), turn.thumb === 1), iconButton("down", "Bad answer (goes to this host's owner)", thumb(-1), turn.thumb === -1));
  return bar;
};

const draw = (article, turn) => drawMessage(article, turn, turn.id === undefined ? null : () => actions(article, turn));

// Stop may be pressed before the host has begun: it is told again when it has.
let stopping = false;
document.addEventListener("click", (event) => {
  if (event.target.closest?.("#stop")) stopping = !turns.querySelector(".live");
}, true);

let shownThread = null;
const update = () => {
  const value = props.value;
  if (!value || !value.turns) return;
  const busy = Boolean(value.busy);
  const ended = document.body.dataset.answering === "true" && !busy;
  document.body.dataset.answering = String(busy);
  if (value.thread !== shownThread) {
    turns.replaceChildren();
    view.follow = true;
    // What was pressed in the one before is not done to this one, which has other turns of the same numbers.
    for (const key of pending.keys()) if (key !== SEND) pending.delete(key);
  }
  if (value.conversation && value.conversation !== window.guanacoConversation) {
    window.guanacoConversation = value.conversation;
    trigger("keep_conversation");
  }
  if (value.taken) {  // a message was just sent
    view.follow = true;
    trigger("message_taken");
  }
  if (value.system) {
    window.guanacoSystem = value.system;
    trigger("system_set");
  }
  shownThread = value.thread;
  patchTurns(turns, value.turns, value.keep || 0, draw);
  const left = welcome.hidden && !turns.children.length;
  welcome.hidden = turns.children.length > 0;
  if (left) view.top();  // the examples stand there again
  view.grown();
  if (busy && stopping) document.querySelector("#stop").click();
  if (ended) backToBox("#stop", "#message");
};
watch("value", update);
update();

// After every answer, also one that broke off or was refused.
window.guanacoEnded = () => {
  if (document.body.dataset.answering !== "true") return;
  document.body.dataset.answering = "false";
  stopping = false;
  const article = turns.querySelector(".live");
  if (article) brokeOff(article);
  backToBox("#stop", "#message");
};
window.guanacoChanged = () => delete document.body.dataset.changing;
whileAnswering("answering", "#message", () => {
  window.guanacoChanged();
  window.guanacoEnded();
});

const sendsLater = (event, sends) => {
  const { answering, changing, leaving } = document.body.dataset;
  if (!sends || !changing || answering === "true" || leaving) return;
  event.preventDefault();
  event.stopPropagation();
  if (!undoing()) afterChange(SEND, () => document.querySelector("#send").click());
};
document.addEventListener("click", (event) => sendsLater(event, event.target.closest?.("#send")), true);
document.addEventListener("keydown", (event) => {
  sendsLater(event, event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target.closest?.("#message"));
}, true);

// Clearing deletes, so it asks once more.
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("#clear");
  if (!button || (!unsettled() && (button.dataset.sure || !turns.children.length))) return;
  event.preventDefault();
  event.stopPropagation();
  if (button.dataset.sure) {
    return whenIdle(() => {
      button.dataset.sure = "yes";
      button.click();
      delete button.dataset.sure;
    });
  }
  button.dataset.sure = "yes";
  button.setAttribute("aria-label", "Press again to delete this conversation");
  setTimeout(() => {
    delete button.dataset.sure;
    button.removeAttribute("aria-label");
  }, 4000);
}, true);
