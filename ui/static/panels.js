// On narrow screens the side panels come over the conversation: a button opens one, Escape or a press beside it closes it.

const buttons = [...element.querySelectorAll("[data-opens]")];
const show = (name) => {
  if (!name) delete document.body.dataset.panel;
  else {
    document.body.dataset.panel = name;
    // The panel itself takes the focus: a dropdown would open at once.
    const panel = document.querySelector(`#${name}-panel`);
    panel.tabIndex = -1;
    setTimeout(() => panel.focus({ preventScroll: true }), 200);
  }
  for (const button of buttons) button.setAttribute("aria-expanded", String(button.dataset.opens === name));
};
for (const button of buttons) {
  button.addEventListener("click", (event) => {
    event.stopPropagation();
    show(document.body.dataset.panel === button.dataset.opens ? null : button.dataset.opens);
  });
}
document.addEventListener("keydown", (event) => event.key === "Escape" && show(null));
document.addEventListener("click", (event) => {
  const open = document.body.dataset.panel;
  if (!open) return;
  const path = event.composedPath();  // what was pressed may be gone already
  const panel = document.querySelector(`#${open}-panel`);
  const chosen = open === "chats" && event.target.closest(".open, .new-chat");
  // A menu of a dropdown is drawn outside its panel.
  if (chosen || (!path.includes(panel) && !path.some((node) => node.matches?.("ul, .options")))) show(null);
});

// Gradio opens a picker's list at any key, Tab included, and may do so after Tab has left it: the list then stays over the page.
document.addEventListener("keydown", (event) => {
  if (event.key === "Tab" && event.target.closest?.("input[role=combobox]")) event.stopPropagation();
}, true);
