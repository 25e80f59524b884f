// Pictures of the qualitative rows in full size. Arrow keys and buttons go to neighbours: left and right within
// a row, so that one place can be compared, up and down through the rows of a column.

function openableRows(section) {
  return [...section.querySelectorAll(".picture .panels")].map((row) => [...row.querySelectorAll("img")]);
}

function zoomViewer() {
  const state = { rows: [], row: 0, caption: "", scale: 1, x: 0, y: 0, back: null };
  const shown = make("img", { alt: "", draggable: "false" });
  const stage = make("div", { class: "stage-area" }, shown);
  const words = make("p", { role: "status" });
  const legend = make("div", { class: "zoom-legend" });
  const button = (label, sign, act) =>
    make("button", { type: "button", "aria-label": label, title: label, onclick: act }, sign);
  const bar = make(
    "div",
    { class: "zoom-bar" },
    button("previous column", "←", () => step(0, -1)),
    button("next column", "→", () => step(0, 1)),
    button("previous row", "↑", () => step(-1, 0)),
    button("next row", "↓", () => step(1, 0)),
    button("larger", "+", () => zoom(1.5)),
    button("smaller", "−", () => zoom(1 / 1.5)),
    button("whole picture", "1:1", () => reset()),
    button("close", "×", () => dialog.close()),
  );
  const dialog = make("dialog", { class: "zoom", "aria-label": "Picture in full size" }, bar, words, stage, legend);
  document.body.append(dialog);

  const captionOf = (image) => image.closest("figure").querySelector("figcaption").textContent;

  function place() {
    shown.style.transform = `translate(${state.x}px, ${state.y}px) scale(${state.scale})`;
  }
  function reset() {
    Object.assign(state, { scale: 1, x: 0, y: 0 });
    place();
  }
  function zoom(factor, x = 0, y = 0) {
    const scale = clamp(state.scale * factor, 1, 16);
    // what lies under the pointer stays there
    state.x = scale === 1 ? 0 : x - ((x - state.x) * scale) / state.scale;
    state.y = scale === 1 ? 0 : y - ((y - state.y) * scale) / state.scale;
    state.scale = scale;
    place();
  }
  function show() {
    const images = state.rows[state.row];
    const image = images.find((one) => captionOf(one) === state.caption) || images[0];
    state.caption = captionOf(image);
    shown.src = image.src;
    shown.alt = image.alt;
    shown.className = image.src.startsWith("data:image/png") ? "flat" : "";
    words.textContent = image.alt;
  }
  function step(down, right) {
    state.row = clamp(state.row + down, 0, state.rows.length - 1);
    const images = state.rows[state.row];
    const at = Math.max(0, images.findIndex((one) => captionOf(one) === state.caption));
    state.caption = captionOf(images[clamp(at + right, 0, images.length - 1)]);
    show();
  }
  const keys = {
    ArrowLeft: () => step(0, -1), ArrowRight: () => step(0, 1), ArrowUp: () => step(-1, 0),
    ArrowDown: () => step(1, 0), "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset,
  };
  dialog.addEventListener("keydown", (event) => {
    if (keys[event.key]) {
      keys[event.key]();
      event.preventDefault();
    }
  });
  dialog.addEventListener("close", () => state.back && state.back.focus());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  const middle = () => {
    const box = stage.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  stage.addEventListener("wheel", (event) => {
    const [x, y] = middle();
    zoom(Math.exp(-event.deltaY / 400), event.clientX - x, event.clientY - y);
    event.preventDefault();
  }, { passive: false });
  stage.addEventListener("pointermove", (event) => {
    if (!event.buttons || state.scale === 1) return;
    state.x += event.movementX;
    state.y += event.movementY;
    place();
  });
  stage.addEventListener("dblclick", () => (state.scale === 1 ? zoom(3) : reset()));

  return (image, opener) => {
    const section = image.closest("section.pictured");
    state.rows = openableRows(section);
    state.row = state.rows.findIndex((row) => row.includes(image));
    state.caption = captionOf(image);
    state.back = opener;
    const classes = section.querySelector(".classes");
    legend.replaceChildren(...(classes ? [classes.cloneNode(true)] : []));
    reset();
    show();
    dialog.showModal();
  };
}

function startZoom() {
  const images = document.querySelectorAll("section.pictured .panels img");
  if (!images.length) return;
  const open = zoomViewer();
  for (const image of images) {
    const label = `Enlarge ${image.alt}`;
    const button = make("button", { type: "button", class: "enlarge", "aria-label": label });
    button.addEventListener("click", () => open(image, button));
    image.replaceWith(button);
    button.append(image);
  }
}

startZoom();
