// The parts of a run's live view that stand by themselves: answers by step, findings, the log, commands, the numbers as a table. Each has
// a `node` and a `draw`, and changes its nodes only where what it shows has changed.

const LOG_LINES = 200;
const TABLE_ROWS = 200;

const section = (className, title) => {
  const node = make("section", className);
  node.append(make("h3", "", title));
  return node;
};
const changedTo = (node, state) => {
  if (node.dataset.of === state) return false;
  node.dataset.of = state;
  return true;
};

// The answers to each prompt before training and after the step that a slider stands at; the slider stays at its end as answers come.
const makeWatching = () => {
  const node = section("watching", "Watch it learn");
  const at = make("input");
  at.type = "range";
  at.min = 0;
  at.setAttribute("aria-label", "Answers after which step");
  const said = make("output");
  const pick = make("div", "at-step");
  pick.append(at, said);
  const answers = make("div", "watched");
  node.append(pick, answers);
  node.hidden = true;
  let samples = new Map();
  let follows = true;

  const called = (step) => step ? `After step ${step.toLocaleString("en")}` : "Before training";
  const cardOf = (prompt, byStep, step) => {
    const card = make("article");
    const sides = make("div", "sides");
    const first = Math.min(...byStep.keys());
    for (const each of first < step ? [first, step] : [step]) {
      const side = make("div");
      const text = byStep.get(each);
      side.append(make("small", "", called(each)), text ? make("p", "", text) : make("p", "none", text === undefined ? "Not asked at this step." : "It said nothing."));
      sides.append(side);
    }
    card.append(make("h4", "", prompt), sides);
    return card;
  };
  const draw = (what) => {
    samples = what;
    const steps = [...new Set([...samples.values()].flatMap((byStep) => [...byStep.keys()]))].sort((one, two) => one - two);
    node.hidden = !steps.length;
    if (!steps.length) return;
    at.max = steps.length - 1;
    if (follows) at.value = steps.length - 1;
    at.disabled = steps.length < 2;
    const step = steps[Number(at.value)];
    said.textContent = called(step);
    at.setAttribute("aria-valuetext", called(step));
    answers.replaceChildren(...[...samples].filter(([, byStep]) => byStep.size).map(([prompt, byStep]) => cardOf(prompt, byStep, step)));
  };
  at.addEventListener("input", () => {
    follows = at.value === at.max;
    draw(samples);
  });
  return { node, draw, follow: () => { follows = true; } };
};

const makeFindings = () => {
  const node = section("findings", "What the curves say");
  const list = make("ul");
  node.append(list);
  const draw = (findings) => {
    node.hidden = !findings.length;
    if (!changedTo(list, JSON.stringify(findings))) return;
    list.replaceChildren(...findings.map((each) => {
      const item = make("li", each.severity);
      item.append(make("b", "", each.severity === "problem" ? "Problem" : "Hint"), make("p", "", each.text), make("p", "advice", each.advice));
      return item;
    }));
  };
  return { node, draw };
};

const makeLog = () => {
  const node = make("details", "log");
  const head = make("summary");
  const list = make("ol");
  node.append(head, list);
  const draw = (name, lines, count) => {
    node.hidden = !count;
    if (!changedTo(list, `${name} ${count}`)) return;
    head.textContent = `Log: ${asCount(count, "line")}`;
    list.replaceChildren(...lines.map((line) => make("li", line.kind, line.text)));
  };
  return { node, draw };
};

const makeCommands = () => {
  const node = make("details", "commands");
  const list = make("div");
  node.append(make("summary", "", "In a terminal"), list);
  const draw = (commands) => {
    node.hidden = !commands.length;
    if (!changedTo(list, JSON.stringify(commands))) return;
    list.replaceChildren(...commands.map(({ what, command }) => {
      const row = make("div", "command");
      row.append(make("span", "", what), make("code", "", command), button("copy", "Copy", (pressed) => copied(pressed, command)));
      return row;
    }));
  };
  return { node, draw };
};

// All tests, and so many steps that the table stays short; made while it is open.
const makeNumbers = (ofRun) => {
  const node = make("details", "numbers");
  const table = make("table", "figures");
  node.append(make("summary", "", "The numbers"), table);
  const rowOf = (kind, cells) => {
    const row = make("tr");
    row.append(...cells.map((cell) => make(kind, "", cell)));
    return row;
  };
  const draw = () => {
    if (!node.open) return;
    const { step, loss, grad_norm: norm, learning_rate: rate } = ofRun().steps;
    const tests = new Map(ofRun().tests);
    const stride = Math.ceil(step.length / TABLE_ROWS);
    const rows = new Map();
    step.forEach((each, at) => {
      if (tests.has(each) || at % stride === 0 || at === step.length - 1) rows.set(each, [loss[at], rate[at], norm[at]]);
    });
    for (const each of tests.keys()) if (!rows.has(each)) rows.set(each, []);
    table.replaceChildren(
      rowOf("th", ["Step", "Loss", "Held-out loss", "Learning rate", "Gradient norm"]),
      ...[...rows.keys()].sort((one, two) => one - two).map((each) => {
        const [one, two, three] = rows.get(each);
        return rowOf("td", [each.toLocaleString("en"), asNumber(one), tests.has(each) ? asNumber(tests.get(each)) : "", asNumber(two), asNumber(three)]);
      }),
    );
  };
  node.addEventListener("toggle", draw);
  return { node, draw };
};
