// What the page's scripts share: an element with a class and a text, and waiting for the chat. It stands before each of them.

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

// An answer under way belongs to the conversation on the screen: it is stopped, and kept, before another one is shown.
const whenIdle = (then) => {
  if (document.body.dataset.answering !== "true") return then();
  const observer = new MutationObserver(() => {
    if (document.body.dataset.answering === "true") return;
    observer.disconnect();
    setTimeout(then, 150);
  });
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-answering"] });
  document.querySelector("#stop").click();
};
