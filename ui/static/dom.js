// What the page's scripts share: an element with a class and a text. It stands before each script that uses it.

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

