// The conversation on the screen: draws the turns that the server rendered, patches what changed, and tells the server
// what a person does with a turn. Only `block` holds HTML; it is the server's own, everything else is set as text.

const ICONS = {
  copy: "M9 9h10v11H9zM5 15V4h10",
  retry: "M4 4v6h6M5 15a8 8 0 1 0 1-8L4 10",
  edit: "M4 20l1-5L16 4l4 4L9 19zM14 6l4 4",
  undo: "M9 5 4 10l5 5M4 10h10a6 6 0 0 1 0 12h-2",
  on: "M5 4l8 8-8 8zM13 4l8 8-8 8z",
  up: "M7 11v9H3v-9zM7 11l4-8c2 0 3 1 3 3v4h6l-2 10H7",
  down: "M7 13V4H3v9zM7 13l4 8c2 0 3-1 3-3v-4h6L18 4H7",
  earlier: "M15 5l-7 7 7 7",
  later: "M9 5l7 7-7 7",
};

const iconButton = (icon, label, act, pressed) => {
  const button = make("button", `icon ${icon}`);
  button.type = "button";
  button.title = label;
  button.setAttribute("aria-label", label);
  if (pressed !== undefined) button.setAttribute("aria-pressed", String(pressed));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[icon]);
  svg.append(path);
  button.append(svg);
  button.addEventListener("click", () => act(button));
  return button;
};

const copied = async (button, text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // no clipboard on plain http: the old way
    const area = make("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.classList.add("done");
  const label = button.getAttribute("aria-label");
  if (label) button.setAttribute("aria-label", "Copied");
  setTimeout(() => {
    button.classList.remove("done");
    if (label) button.setAttribute("aria-label", label);
  }, 1500);
};

const scroller = make("div", "scroller");
scroller.tabIndex = 0;
scroller.setAttribute("role", "region");
scroller.setAttribute("aria-label", "Conversation");
const welcome = make("div", "welcome");
const log = make("div", "turns");
log.setAttribute("role", "log");
log.setAttribute("aria-label", "Messages");
const toEnd = make("button", "to-end", "↓");
toEnd.type = "button";
toEnd.setAttribute("aria-label", "Go to the end of the conversation");
toEnd.hidden = true;
scroller.append(welcome, log);
element.replaceChildren(scroller, toEnd);

const act = (name, action) => {
  if (document.body.dataset.answering === "true") return false;
  window.guanacoAction = action;
  trigger(name);
  return true;
};

const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
let follow = true;
scroller.addEventListener("scroll", () => {
  follow = atEnd();
  toEnd.hidden = follow;
}, { passive: true });
toEnd.addEventListener("click", () => {
  follow = true;
  scroller.scrollTop = scroller.scrollHeight;
});

log.addEventListener("click", (event) => {
  const button = event.target.closest(".copy-code");
  if (button) copied(button, button.closest(".code").querySelector("pre").innerText);
});

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

const patchBlocks = (body, blocks) => {
  body.__blocks = body.__blocks || [];
  while (body.children.length > blocks.length) body.lastChild.remove();
  blocks.forEach((block, index) => {
    if (index < body.children.length && body.__blocks[index] === block) return;
    const node = index < body.children.length ? body.children[index] : body.appendChild(make("div", "block"));
    node.innerHTML = block;
  });
  body.__blocks = blocks;
};

const draw = (article, turn) => {
  const focused = article.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  const user = turn.role === "user";
  const name = user ? "You" : "Assistant";
  article.className = `turn message ${user ? "user" : "bot"}${turn.live ? " live" : ""}`;
  article.setAttribute("aria-label", name);
  article.setAttribute("aria-busy", String(Boolean(turn.live)));
  let body = article.querySelector(":scope > .body");
  const reason = article.querySelector(":scope > form.reason");
  if (!body) body = make("div", "body");
  if (user) body.textContent = turn.text;
  else patchBlocks(body, turn.blocks);
  const parts = [body];
  if (turn.line) {
    const line = make("div", `line${turn.failed ? " failed" : ""}`, turn.line);
    if (turn.failed) line.setAttribute("role", "alert");
    parts.push(line);
  }
  if (!turn.live) {
    const under = make("div", "under");
    if (turn.facts) {
      const facts = make("div", "facts", turn.facts);
      facts.title = turn.detail;
      under.append(facts);
    }
    if (turn.id !== undefined) under.append(actions(article, turn));
    parts.push(under);
  }
  if (reason) parts.push(reason);
  for (const child of [...article.children]) if (!parts.includes(child)) child.remove();
  parts.forEach((part, index) => {
    if (article.children[index] !== part) article.insertBefore(part, article.children[index] || null);
  });
  if (focused && !article.contains(document.activeElement)) {
    const again = [...article.querySelectorAll("button")].find((each) => each.getAttribute("aria-label") === focused);
    (again || article.querySelector(".actions button"))?.focus();
  }
};
const box = () => document.querySelector("#message textarea");

let shownThread = null;
const update = () => {
  const value = props.value;
  if (!value || !value.turns) return;
  const busy = Boolean(value.busy);
  const ended = document.body.dataset.answering === "true" && !busy;
  document.body.dataset.answering = String(busy);
  const kept = value.keep || 0;
  if (value.thread !== shownThread) {
    log.replaceChildren();
    follow = true;
  }
  if (value.conversation && value.conversation !== window.guanacoConversation) {
    window.guanacoConversation = value.conversation;
    trigger("keep_conversation");
  }
  if (value.taken) {  // a message was just sent
    follow = true;
    trigger("message_taken");
  }
  if (value.system) {
    window.guanacoSystem = value.system;
    trigger("system_set");
  }
  shownThread = value.thread;
  value.turns.forEach((turn, index) => {
    const key = JSON.stringify(turn);
    let article = log.children[kept + index];
    if (!article) article = log.appendChild(make("article"));
    else if (article.__key === key) return;
    else if (article.__id !== turn.id || article.__role !== turn.role) {
      const same = article.__role === turn.role && article.classList.contains("live");
      if (!same) article.replaceChildren();
    }
    article.__key = key;
    article.__id = turn.id;
    article.__role = turn.role;
    draw(article, turn);
  });
  while (log.children.length > kept + value.turns.length) log.lastChild.remove();
  welcome.hidden = log.children.length > 0;
  if (follow && log.children.length) scroller.scrollTop = scroller.scrollHeight;
  // Where focus was lost with the Stop button it goes on to the box; not on phones, whose keyboard would cover the answer.
  const lost = document.activeElement === document.body || document.activeElement?.closest("#stop");
  if (ended && lost && matchMedia("(hover: hover)").matches) box()?.focus();
};
watch("value", update);
update();

// After every answer, also one that broke off because the host is gone: what stands there stays, and can be answered again.
window.guanacoEnded = () => {
  if (document.body.dataset.answering !== "true") return;
  document.body.dataset.answering = "false";
  const article = log.querySelector(".live");
  if (!article) return;
  article.classList.remove("live");
  article.querySelector(".line")?.remove();
  const line = make("div", "line failed", "The answer broke off: the host does not answer. Your messages are kept in this browser; reload the page when it is back.");
  line.setAttribute("role", "alert");
  article.append(line);
};

// Gradio does not end an event whose host is gone, so the page asks.
setInterval(() => {
  if (document.body.dataset.answering === "true") fetch("./", { method: "HEAD", cache: "no-store" }).catch(window.guanacoEnded);
}, 3000);

// One answer at a time: Enter waits while one is on its way, and what was typed stays.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && document.body.dataset.answering === "true" && event.target.closest?.("#message")) {
    event.preventDefault();
    event.stopPropagation();
  }
}, true);

// Clearing deletes, so it asks once more.
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("#clear");
  if (!button || button.dataset.sure || !log.children.length) return;
  event.preventDefault();
  event.stopPropagation();
  button.dataset.sure = "yes";
  button.setAttribute("aria-label", "Press again to delete this conversation");
  setTimeout(() => {
    delete button.dataset.sure;
    button.removeAttribute("aria-label");
  }, 4000);
}, true);
