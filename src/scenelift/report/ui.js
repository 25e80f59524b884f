// Small helpers that every widget of the page uses. Text goes in as text, never as markup.

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// The JSON of a data block, or null where the page has none of this name.
function dataOf(id) {
  const block = document.getElementById(id);
  return block && JSON.parse(block.textContent);
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// A labelled drop-down; `choose` gets the place of the chosen option.
function chooser(label, options, chosen, choose) {
  const select = make("select", { onchange: () => choose(select.selectedIndex) });
  options.forEach((words, place) => select.append(make("option", { selected: place === chosen }, words)));
  return make("label", { class: "choice" }, label, " ", select);
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
