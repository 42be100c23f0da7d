// What the page's scripts share: an element with a class and a text, copying, and waiting for the chat. It stands before each of them.

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

// Puts a text into the clipboard, and says so on the button.
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

// The buttons of code blocks within a node.
const copiesCode = (node) => node.addEventListener("click", (event) => {
  const button = event.target.closest(".copy-code");
  if (button) copied(button, button.closest(".code").querySelector("pre").innerText);
});

// What the server gives to these is drawn over the conversation that stands there by then, so what comes next waits for it.
const CHANGES = ["open_chat", "undo_message", "show_branch", "give_thumb", "keep_side"];
const begin = (name, action) => {
  if (CHANGES.includes(name)) document.body.dataset.changing = name;
  window.guanacoAction = action;
  trigger(name);
};
const unsettled = () => document.body.dataset.answering === "true" || "changing" in document.body.dataset;

// What changes a conversation waits for the end of an answer or of another change under way, which would undo it.
const whenEnded = (then, meanwhile) => {
  if (!unsettled()) return then();
  meanwhile?.();
  const observer = new MutationObserver(() => {
    if (unsettled()) return;
    observer.disconnect();
    setTimeout(() => whenEnded(then, meanwhile), 150);
  });
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-answering", "data-changing"] });
};

// An answer under way belongs to the conversation on the screen: it is stopped, and kept, before another one is shown. What is
// typed meanwhile waits in its box.
const whenIdle = (then) => {
  if (!unsettled()) return then();
  document.body.dataset.leaving = "true";
  const left = () => {
    then();
    setTimeout(() => delete document.body.dataset.leaving, 50);
  };
  whenEnded(left, () => document.body.dataset.answering === "true" && document.querySelector("#stop").click());
};
