// How messages are drawn, in whichever tab: blocks of the server's HTML that are patched as they grow, everything else as
// text; buttons, copying, a view that follows its end. It stands before each script that uses it.

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

// `bar` makes the row of buttons under a message, null where it has none.
const drawMessage = (article, turn, bar) => {
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
  else patchBlocks(body, Object.values(turn.blocks));
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
    if (bar) under.append(bar());
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

// The rows of a log from number `kept` on; what stands there already is patched, and what is not drawn anew keeps its focus.
const patchTurns = (log, rows, kept, draw) => {
  rows.forEach((turn, index) => {
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
  while (log.children.length > kept + rows.length) log.lastChild.remove();
};

// A place that scrolls with `nodes` in it: it stays at the end of its messages as long as nobody scrolled up.
const makeScroller = (label, ...nodes) => {
  const scroller = make("div", "scroller");
  scroller.tabIndex = 0;
  scroller.setAttribute("role", "region");
  scroller.setAttribute("aria-label", label);
  scroller.append(...nodes);
  const toEnd = make("button", "to-end", "↓");
  toEnd.type = "button";
  toEnd.setAttribute("aria-label", "Go to the end of the conversation");
  toEnd.hidden = true;
  const begun = () => Boolean(scroller.querySelector(".message"));
  const follower = {
    nodes: [scroller, toEnd],
    follow: true,
    grown() {
      if (follower.follow && begun()) scroller.scrollTop = scroller.scrollHeight;
    },
    top() {
      scroller.scrollTop = 0;
      toEnd.hidden = true;
    },
  };
  scroller.addEventListener("scroll", () => {
    follower.follow = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
    toEnd.hidden = follower.follow || !begun();
  }, { passive: true });
  toEnd.addEventListener("click", () => {
    follower.follow = true;
    follower.grown();
  });
  // What grew while its tab was hidden.
  new ResizeObserver(() => follower.grown()).observe(scroller);
  copiesCode(scroller);
  return follower;
};

const makeLog = (label) => {
  const node = make("div", "turns");
  node.setAttribute("role", "log");
  node.setAttribute("aria-label", label);
  return node;
};

// The host is gone while an answer is on its way: what stands there stays.
const brokeOff = (article) => {
  article.classList.remove("live");
  article.querySelector(".line")?.remove();
  const line = make("div", "line failed", "The answer broke off: the host does not answer. Your messages are kept in this browser; reload the page when it is back.");
  line.setAttribute("role", "alert");
  article.append(line);
};

// Where focus was lost with the Stop button it goes on to the box; not on phones, whose keyboard would cover the answer.
const backToBox = (stop, box) => {
  const lost = document.activeElement === document.body || document.activeElement?.closest(stop);
  if (lost && matchMedia("(hover: hover)").matches) document.querySelector(`${box} textarea`)?.focus();
};

// Gradio does not end an event whose host is gone, so the page asks while `document.body.dataset[flag]` says that one is
// under way; and Enter in the box waits meanwhile, so that what was typed stays.
const whileAnswering = (flag, box, ended) => {
  const underWay = () => document.body.dataset[flag] === "true";
  setInterval(() => {
    if (underWay() || unsettled()) fetch("./", { method: "HEAD", cache: "no-store" }).catch(ended);
  }, 3000);
  document.addEventListener("keydown", (event) => {
    const waits = underWay() || document.body.dataset.leaving;
    if (event.key === "Enter" && !event.shiftKey && waits && event.target.closest?.(box)) {
      event.preventDefault();
      event.stopPropagation();
    }
  }, true);
};

