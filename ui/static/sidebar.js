// The visitor's conversations: search, open, rename, delete, take out, bring in. The store is the browser's; what the
// server says is to be put in or dropped is applied here, one after another, and told to the visitor's other tabs.

const button = (className, text, act, label) => {
  const node = make("button", className, text);
  node.type = "button";
  if (label) {
    node.setAttribute("aria-label", label);
    node.title = label;
  }
  node.addEventListener("click", act);
  return node;
};

let library = null;  // null until the browser's store was read
let unreadable = false;
let deleted = [];  // ids, the last ones: a page that opens may still find such a one as what was open
const waiting = [];
const stored = (id) => (library || []).find((thread) => thread.id === id);
// When each conversation was changed last, also of those that are on their way or no longer stored; Infinity: deleted. What comes later than
// something newer, from here or another tab, is left out: it would bring back what was taken back or deleted. An import is meant to.
const changed = new Map();
const lastChange = (id) => Math.max(changed.get(id) ?? 0, stored(id)?.updated ?? 0);
const notOutdated = ({ put, imported }) => put.filter(({ id, updated }) => imported || updated >= lastChange(id));
const apply = (change) => {
  for (const { id, updated } of change.put) changed.set(id, updated);
  for (const id of change.drop) changed.set(id, id === change.gone ? Infinity : Math.max(lastChange(id), change.emptied ?? 0));
  waiting.push(change);
  trigger("keep");
};
window.guanacoKeep = (browser) => {
  if (library === null) {
    unreadable = Boolean(browser) && !(browser.version === 1 && Array.isArray(browser.threads));
    library = browser && !unreadable ? browser.threads : [];
    if (browser && !unreadable) deleted = browser.deleted ?? [];
    for (const id of deleted) changed.set(id, Infinity);
    if (unreadable) say("The conversations in this browser are of another version of this app. They are left as they are.");
  }
  for (const change of waiting.splice(0)) {
    const put = notOutdated(change);
    const ids = new Set([...change.drop, ...put.map((thread) => thread.id)]);
    const next = [...put, ...library.filter((thread) => !ids.has(thread.id))].sort((a, b) => b.updated - a.updated);
    const size = new TextEncoder().encode(JSON.stringify(next)).length;
    if (put.length && (next.length > props.limits.threads || size > props.limits.store)) {
      say(`This browser's store is full (conversations: ${library.length}). Export and delete some; until then new ones are not kept.`);
    } else library = next;
    deleted = deleted.filter((id) => id !== change.gone && !put.some((thread) => thread.id === id));
    if (change.gone) deleted = [...deleted, change.gone].slice(-props.limits.deleted);
  }
  if (unreadable) {
    window.guanacoKept();
    return browser;
  }
  return { version: 1, threads: library, deleted };
};
// Once it is written, so that a page which opens by then finds what this one shows.
window.guanacoKept = () => {
  draw();
  if (changed.get(open) !== Infinity || left === open) return;
  left = open;
  whenIdle(() => left === open && trigger("open_gone"));
};
let newest;  // of what another tab said on the open conversation
const tabs = "BroadcastChannel" in window ? new BroadcastChannel("guanaco-playground.conversations") : null;
if (tabs) {
  tabs.onmessage = ({ data }) => {
    const put = notOutdated(data);
    const [mine, before] = [put.find((thread) => thread.id === open), stored(open)];
    apply({ ...data, put });
    if (mine && mine.updated > (before?.updated ?? 0)) {
      if (document.body.dataset.answering === "true") return;
      newest = mine;
      whenEnded(() => newest === mine && mine.id === open && !(stored(open)?.updated > mine.updated) && begin("open_chat", { thread: mine }));
    } else if (mine && mine.title !== before?.title) retitle(mine);
  };
}

const act = (name, action, atOnce) => {
  const go = () => {
    say("");
    begin(name, action);
  };
  if (atOnce) go();
  else whenIdle(go);
};

// At once, without the server: what somebody types next is of the new one, however busy the server is.
const begun = (system, drop, gone) => {
  const id = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  // One that is too long is refused with each message, until it is shortened.
  const text = system?.length <= props.limits.system ? system : "";
  const thread = { id, title: "", updated: 0, system: text, turns: [], leaf: -1 };
  return [{ thread: id, turns: [], busy: false }, thread, { put: [], drop, gone, stamp: id, open: id }];
};
window.guanacoNew = (system) => begun(system, []);
window.guanacoCleared = (system, current) => begun(system, current ? [current.id] : [], current?.id);
let renaming;
// The open one may have grown since: it takes the title alone, when nothing under way would undo it.
const retitle = ({ id, title }) => whenEnded(() => {
  renaming = { id, title };
  trigger("open_renamed");
});
window.guanacoRenamed = (current) => current?.id === renaming.id ? { ...current, title: renaming.title } : current;
const fresh = button("new-chat", "New chat", () => {
  search.value = "";
  found = null;
  act("new_chat", {});
});
fresh.disabled = true;  // until what was open when the page was last here is shown
const search = make("input", "search");
search.type = "search";
search.placeholder = "Search conversations";
search.setAttribute("aria-label", "Search conversations");
search.maxLength = 200;
let typing;
search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    trigger("search_chats");
  }, 250);
});
const list = make("nav", "list");
list.setAttribute("aria-label", "Conversations");
const note = make("p", "note");
note.setAttribute("role", "status");
function say(text) {
  note.textContent = text;
}

const file = make("input");
file.type = "file";
file.accept = ".json,.md,application/json,text/markdown";
file.hidden = true;
file.addEventListener("change", async () => {
  const chosen = file.files[0];
  file.value = "";
  if (!chosen) return;
  if (chosen.size > props.limits.file) {
    return say(`The file has ${(chosen.size / 1e6).toFixed(1)} MB; the limit is ${props.limits.file / 1e6} MB. Import it in parts.`);
  }
  const text = await chosen.text();
  act("import_chats", { text }, true);
});
const exportAs = (name) => {
  if (library?.length) act(name, {}, true);
  else say("There is nothing to export yet.");
};
const foot = make("div", "foot");
foot.append(
  button("", "Import", () => file.click(), "Import conversations from a JSON or Markdown file"),
  button("", "Export JSON", () => exportAs("export_json"), "Export all conversations as JSON"),
  button("", "Export Markdown", () => exportAs("export_markdown"), "Export all conversations as Markdown"),
  file,
);
element.replaceChildren(fresh, search, list, note, foot);

const nameOf = (thread) => {
  const words = thread.title || (thread.turns[0] ? thread.turns[0].text.trim().split(/\s+/).join(" ") : "");
  return words.length <= 60 || thread.title ? words : `${words.slice(0, 59).trimEnd()}…`;
};

const startRename = (row, thread) => {
  const input = make("input", "rename");
  input.value = nameOf(thread);
  input.maxLength = 120;
  input.setAttribute("aria-label", "New title");
  let ended = false;
  const end = (save) => {
    if (ended) return;
    ended = true;
    if (save && input.value !== nameOf(thread)) act("rename_chat", { thread: stored(thread.id) ?? thread, text: input.value }, true);
    input.remove();
    draw();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") end(false);
  });
  input.addEventListener("blur", () => end(true));
  row.replaceChildren(input);
  input.focus();
  input.select();
};

const startDelete = (row, thread) => {
  const question = make("span", "sure", "Delete for good?");
  const yes = button("danger", "Delete", () => question.remove() || act("delete_chat", { thread }, thread.id !== open));
  const done = () => {
    question.remove();
    draw();
  };
  const no = button("", "Keep", done);
  row.onkeydown = (event) => event.key === "Escape" && done();
  row.replaceChildren(question, yes, no);
  yes.focus();
};

const day = (seconds) => {
  const midnight = new Date().setHours(0, 0, 0, 0) / 1000;
  if (seconds >= midnight) return "Today";
  if (seconds >= midnight - 86400) return "Yesterday";
  if (seconds >= midnight - 7 * 86400) return "This week";
  return "Earlier";
};

let open = null;
let left = null;  // the open one, once it is deleted and another takes its place
let found = null;
function draw() {
  if (list.querySelector(".rename, .sure")) return;  // drawn when that is answered
  const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") || document.activeElement.innerText : null;
  const nodes = [];
  let heading = "";
  for (const thread of (library || []).filter((each) => !found || found.has(each.id))) {
    if (day(thread.updated) !== heading) {
      heading = day(thread.updated);
      nodes.push(make("h3", "", heading));
    }
    const row = make("div", "chat");
    const name = nameOf(thread);
    const choose = button("open", name, () => {
      // As it is stored by then: an answer under way is kept when it has been stopped.
      if (thread.id !== open || document.body.dataset.changing === "open_chat") whenIdle(() => act("open_chat", { thread: stored(thread.id) ?? thread }, true));
    });
    if (thread.id === open) {
      row.classList.add("current");
      choose.setAttribute("aria-current", "true");
    }
    row.append(
      choose,
      button("tool", "✎", () => startRename(row, thread), `Rename ${name}`),
      button("tool", "✕", () => startDelete(row, thread), `Delete ${name}`),
    );
    nodes.push(row);
  }
  if (!nodes.length) nodes.push(make("p", "empty", found ? "Nothing found." : "Your conversations will be listed here. They stay in this browser."));
  list.replaceChildren(...nodes);
  if (focused) [...list.querySelectorAll("button")].find((each) => [each.getAttribute("aria-label"), each.innerText].includes(focused))?.focus();
}

function update() {
  const value = props.value;
  if (!value || !value.put) return;
  if (value.open && value.open !== open) [open, left] = [value.open, null];
  if (value.renamed?.id === open) retitle(value.renamed);
  if (value.restored) fresh.disabled = false;
  if (value.found !== undefined) found = value.found && search.value.trim() ? new Set(value.found) : null;
  if (value.note !== undefined || value.put.length) say(value.note || "");
  // The one that is stored may have grown since it was renamed.
  const named = value.renamed && stored(value.renamed.id) ? [{ ...stored(value.renamed.id), title: value.renamed.title }] : value.put;
  // What is stored as it is already makes no noise: two tabs would tell each other for ever.
  const put = notOutdated({ ...value, put: named }).filter((thread) => JSON.stringify(thread) !== JSON.stringify(stored(thread.id)));
  if (put.length || value.drop.length || library === null) {
    // A deletion empties the other tabs too; one that has nothing in it for now is only not stored.
    const { drop, gone, emptied, imported } = value;
    const change = { put, drop, gone, emptied, imported };
    apply(change);
    if (tabs && (put.length || drop.length)) tabs.postMessage(change);
  } else window.guanacoKept();
}
watch("value", update);
update();
draw();
